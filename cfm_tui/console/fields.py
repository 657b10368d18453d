"""The fields of the form of a new experiment; all other settings are entered as free lines.

Types and choices come from `engine.config`; this module adds labels and help texts.
"""

from __future__ import annotations

import types
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

from engine.config import Config, yaml_io
from engine.config.settings import method_names

Kind = Literal["choice", "text", "value", "names"]
DATA, BACKBONE, OBJECTIVE, BUDGET, LAUNCH = 1, 2, 3, 4, 5
PANELS = {
    DATA: "Data set",
    BACKBONE: "Backbone & teacher",
    OBJECTIVE: "Objective & β",
    BUDGET: "Budget",
    LAUNCH: "Launch",
}


@dataclass(frozen=True)
class Field:
    """A setting in the form. none: text shown for no value; convnet: whether only ConvNets have it."""

    panel: int
    key: str
    label: str
    help: str
    none: str = ""
    convnet: bool = False

    @property
    def kind(self) -> Kind:
        """How the setting is edited."""
        if self.choices:
            return "choice"
        setting_type = _setting_type(self.key)
        if get_origin(setting_type) is tuple:
            return "names"
        return "text" if setting_type is str else "value"

    @property
    def choices(self) -> tuple[str, ...]:
        """The allowed values; empty where they cannot be enumerated."""
        if self.key == "objective.method":
            return tuple(method_names())
        setting_type = _setting_type(self.key)
        return tuple(map(str, get_args(setting_type))) if get_origin(setting_type) is Literal else ()

    def text(self, value: object) -> str:
        """Return a value as the text that is shown and typed."""
        if value is None or value == []:
            return ""
        if isinstance(value, list):
            return ", ".join(map(str, value))
        return value if isinstance(value, str) else yaml_io.inline(value)

    def set(self, text: str) -> str:
        """Return typed text as `key=value`; `null` means no value."""
        text = text.strip()
        if self.kind == "names" and not text.startswith("["):
            text = f"[{text}]"
        elif self.kind == "text" and text not in ("null", "~"):
            text = yaml_io.inline(text)
        return f"{self.key}={text}"


def _setting_type(key: str) -> Any:
    """Return the type of a setting, without its bounds and without None."""
    current: Any = Config
    for name in key.split("."):
        current = current.fields_by_key()[name].annotation
    members = [each for each in get_args(current) if each is not type(None)]
    if get_origin(current) in (Union, types.UnionType) and len(members) == 1:
        current = members[0]
    return get_args(current)[0] if hasattr(current, "__metadata__") else current


FIELDS = (
    Field(DATA, "data.name", "data set", "which images are distilled"),
    Field(DATA, "data.root", "folder", "the folder that holds the data set", none="your data folder"),
    Field(DATA, "data.image_size", "image size", "side length in pixels", none="the set's own"),
    Field(DATA, "data.test", "measured on", "the test split, or held-out training images"),
    Field(BACKBONE, "backbone.name", "network", "what the images are distilled through"),
    Field(BACKBONE, "backbone.depth", "depth", "number of blocks", none="3; 4 from 64 px", convnet=True),
    Field(BACKBONE, "backbone.width", "width", "channels per block", convnet=True),
    Field(BACKBONE, "backbone.norm", "norm", "normalisation of each block", convnet=True),
    Field(
        BACKBONE,
        "backbone.teacher",
        "teacher",
        "a checkpoint file, or torchvision:WEIGHTS; empty: one is trained first",
        none="trained first",
    ),
    Field(OBJECTIVE, "objective.method", "method", "which terms the images are optimised for"),
    Field(OBJECTIVE, "objective.beta", "β", "initial β_b; the ridge of f(λ) = 1/(λ + β)"),
    Field(OBJECTIVE, "objective.schedule.kind", "schedule", "how β_b decreases over the batches"),
    Field(OBJECTIVE, "objective.schedule.origin", "origin", "1: ends at 0, as in the paper; 0: starts at β"),
    Field(
        OBJECTIVE, "objective.schedule.per", "step", "β_b changes after a round of all classes, or each batch"
    ),
    Field(OBJECTIVE, "objective.schedule.beta_min", "β_min", "lower bound of β_b"),
    Field(OBJECTIVE, "objective.signal", "signal", "signal of terms that do not fix one"),
    Field(OBJECTIVE, "objective.taps", "taps", "where features are taken from the network"),
    Field(OBJECTIVE, "objective.ce", "CE weight", "weight of the cross-entropy"),
    Field(BUDGET, "protocol", "protocol", "whose rules the experiment follows"),
    Field(BUDGET, "ipc", "IPC", "images per class"),
    Field(BUDGET, "recover.iterations", "iterations", "optimisation steps of each batch of images"),
    Field(BUDGET, "recover.lr", "rate", "learning rate of the images"),
    Field(BUDGET, "recover.classes_per_batch", "batch", "classes in a batch, one image of each"),
    Field(
        BUDGET,
        "validate.students",
        "students",
        "networks trained on the images, separated by commas",
        none="the backbone",
    ),
    Field(BUDGET, "validate.seeds", "seeds", "training runs of each student"),
    Field(BUDGET, "validate.epochs", "epochs", "training epochs of a student"),
    Field(BUDGET, "device", "device", "auto, cpu, cuda, cuda:N or mps"),
    Field(BUDGET, "seed", "seed", "another seed changes all random numbers"),
)
BY_KEY = {field.key: field for field in FIELDS}
