"""The settings that the form of a new experiment has a field for; every other one is a free line of it.

What may be chosen, and whether a value is text, comes from `engine.config`; here is what people call it.
"""

from __future__ import annotations

import types
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

from engine.config import Config, yaml_io
from engine.config.messages import fields as parts
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
    """A setting in the form. none: what is shown where it has no value; convnet: of a ConvNet alone."""

    panel: int
    key: str
    label: str
    help: str
    none: str = ""
    convnet: bool = False

    @property
    def kind(self) -> Kind:
        """How it is edited."""
        if self.choices:
            return "choice"
        plain = _plain(self.key)
        if get_origin(plain) is tuple:
            return "names"
        return "text" if plain is str else "value"

    @property
    def choices(self) -> tuple[str, ...]:
        """What it may be, where that is known."""
        if self.key == "objective.method":
            return tuple(method_names())
        plain = _plain(self.key)
        return tuple(str(each) for each in get_args(plain)) if get_origin(plain) is Literal else ()

    def text(self, value: object) -> str:
        """A value as it is shown and typed."""
        if value is None or value == []:
            return ""
        if isinstance(value, list):
            return ", ".join(map(str, value))
        return value if isinstance(value, str) else yaml_io.inline(value)

    def set(self, text: str) -> str:
        """What was typed as `key=value`; `null` is no value."""
        text = text.strip()
        if self.kind == "names" and not text.startswith("["):
            text = f"[{text}]"
        elif self.kind == "text" and text not in ("null", "~"):
            text = yaml_io.inline(text)
        return f"{self.key}={text}"


def _plain(key: str) -> Any:
    """The type of a setting without its bounds, and without None."""
    current: Any = Config
    for name in key.split("."):
        current = parts(current)[name].annotation
    members = [each for each in get_args(current) if each is not type(None)]
    if get_origin(current) in (Union, types.UnionType) and len(members) == 1:
        current = members[0]
    return get_args(current)[0] if hasattr(current, "__metadata__") else current


FIELDS = (
    Field(DATA, "data.name", "data set", "which images are distilled"),
    Field(DATA, "data.root", "folder", "the folder that holds the data set", none="your data folder"),
    Field(DATA, "data.image_size", "image size", "pixels a side", none="the set's own"),
    Field(DATA, "data.test", "measured on", "the test split, or training images that are held out"),
    Field(BACKBONE, "backbone.name", "network", "what the images are distilled through"),
    Field(BACKBONE, "backbone.depth", "depth", "blocks", none="3; 4 from 64 px", convnet=True),
    Field(BACKBONE, "backbone.width", "width", "channels of each block", convnet=True),
    Field(BACKBONE, "backbone.norm", "norm", "what normalises each block", convnet=True),
    Field(
        BACKBONE,
        "backbone.teacher",
        "teacher",
        "a checkpoint file, or torchvision:WEIGHTS; empty: one is trained first",
        none="trained first",
    ),
    Field(OBJECTIVE, "objective.method", "method", "which terms the images are optimised for"),
    Field(OBJECTIVE, "objective.beta", "β", "where β_b begins; the ridge of f(λ) = 1/(λ + β)"),
    Field(OBJECTIVE, "objective.schedule.kind", "schedule", "how β_b falls over the batches"),
    Field(OBJECTIVE, "objective.schedule.origin", "origin", "1: ends at 0, as in the paper; 0: starts at β"),
    Field(OBJECTIVE, "objective.schedule.per", "step", "a round of all classes shares β_b, or each batch"),
    Field(OBJECTIVE, "objective.schedule.beta_min", "β_min", "β_b falls no lower"),
    Field(OBJECTIVE, "objective.signal", "signal", "what terms with a chosen signal are filtered for"),
    Field(OBJECTIVE, "objective.taps", "taps", "where features are read in the network"),
    Field(OBJECTIVE, "objective.ce", "CE weight", "weight of the cross-entropy"),
    Field(BUDGET, "protocol", "protocol", "whose rules the experiment follows"),
    Field(BUDGET, "ipc", "IPC", "images per class"),
    Field(BUDGET, "recover.iterations", "iterations", "steps of optimising each batch of images"),
    Field(BUDGET, "recover.lr", "rate", "learning rate of the images"),
    Field(BUDGET, "recover.classes_per_batch", "batch", "classes in a batch, one image of each"),
    Field(
        BUDGET,
        "validate.students",
        "students",
        "networks that learn from the images, with commas between",
        none="the backbone",
    ),
    Field(BUDGET, "validate.seeds", "seeds", "times that each student is trained"),
    Field(BUDGET, "validate.epochs", "epochs", "of training a student"),
    Field(BUDGET, "device", "device", "auto, cpu, cuda, cuda:N or mps"),
    Field(BUDGET, "seed", "seed", "another one draws everything anew"),
)
BY_KEY = {field.key: field for field in FIELDS}
