"""The state of the form of a new experiment: a preset, overrides, and their problems.

The form has a field for common settings, with types and choices from `engine.config`; all others are entered
as free lines. Not here: how the form looks (see `screens.configure`), what the experiment would do (see
`preflight`).
"""

from __future__ import annotations

import math
import re
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from cfm_tui.display.progress import format_count
from engine.config import Config, settings, yaml_io
from engine.config.settings import Resolved
from engine.environment import user_folder
from engine.errors import UserError
from engine.store import files
from engine.store.json_file import read_json, write_json

DATA, BACKBONE, OBJECTIVE, BUDGET, LAUNCH = 1, 2, 3, 4, 5
PANELS = dict(enumerate(("Data", "Network", "Objective", "Budget", "Launch"), start=1))


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
    def choices(self) -> tuple[str, ...]:
        """The allowed values; empty where they cannot be enumerated."""
        if self.key == "objective.method":
            return tuple(settings.method_names())
        return tuple(map(str, get_args(self._type))) if get_origin(self._type) is Literal else ()

    @property
    def _type(self) -> Any:
        """The setting's type, without its bounds and without None."""
        current: Any = Config
        for name in self.key.split("."):
            current = current.fields_by_key()[name].annotation
        members = [each for each in get_args(current) if each is not type(None)]
        if get_origin(current) in (Union, types.UnionType) and len(members) == 1:
            current = members[0]
        return get_args(current)[0] if hasattr(current, "__metadata__") else current

    def text(self, value: object) -> str:
        """Return a value as the text that is shown and typed."""
        if value is None or value == []:
            return ""
        if isinstance(value, list):
            return ", ".join(map(str, value))
        return value if isinstance(value, str) else yaml_io.inline(value)

    def set(self, text: str) -> str:
        """Return typed text as `key=value`; `null` means no value, and 3,000 is the whole number 3000."""
        text = text.strip()
        if self._type is int and re.fullmatch(r"[1-9]\d{0,2}(,\d{3})+", text):
            text = text.replace(",", "")
        elif get_origin(self._type) is tuple and not text.startswith("["):
            text = f"[{text}]"
        elif self._type is str and not self.choices and text not in ("null", "~"):
            text = yaml_io.inline(text)
        return f"{self.key}={text}"


_FIELDS = (
    Field(DATA, "data.name", "data set", "which images are distilled"),
    Field(DATA, "data.root", "data root", "the folder that holds the data set", none="your data folder"),
    Field(DATA, "data.image_size", "image size", "side length in pixels", none="the set's own"),
    Field(DATA, "data.test", "test split", "the test split, or held-out training images"),
    Field(BACKBONE, "backbone.name", "network", "what the images are distilled through"),
    Field(BACKBONE, "backbone.depth", "depth", "number of blocks", none="3; 4 from 64 px", convnet=True),
    Field(BACKBONE, "backbone.width", "width", "channels per block", convnet=True),
    Field(BACKBONE, "backbone.norm", "norm", "normalisation of each block", convnet=True),
    Field(
        BACKBONE,
        "backbone.teacher",
        "teacher",
        "a checkpoint file, or torchvision:WEIGHTS; empty: one is trained first (squeeze)",
        none="trained first",
    ),
    Field(OBJECTIVE, "objective.method", "method", "which terms the images are optimised for"),
    Field(
        OBJECTIVE,
        "objective.beta",
        "β",
        "initial β_b of the ridge filter f(λ) = 1/(λ + β): directions with λ below β weigh about the same",
    ),
    Field(OBJECTIVE, "objective.schedule.kind", "schedule", "how β_b decreases over the batches"),
    Field(OBJECTIVE, "objective.schedule.origin", "origin", "1: ends at 0, as in the paper; 0: starts at β"),
    Field(
        OBJECTIVE, "objective.schedule.per", "step", "β_b changes after a round of all classes, or each batch"
    ),
    Field(OBJECTIVE, "objective.schedule.beta_min", "β_min", "lower bound of β_b"),
    Field(
        OBJECTIVE,
        "objective.signal",
        "signal",
        "what f(Ψ) is applied to before it is compared: nothing, or means of the features",
    ),
    Field(
        OBJECTIVE,
        "objective.taps",
        "taps",
        "the layers whose features are compared, and on which side of them these are taken",
    ),
    Field(OBJECTIVE, "objective.ce", "CE weight", "weight of the cross-entropy"),
    Field(BUDGET, "protocol", "protocol", "whose rules the experiment follows"),
    Field(BUDGET, "ipc", "IPC", "images per class"),
    Field(BUDGET, "recover.iterations", "iterations", "optimisation steps of each batch of images"),
    Field(BUDGET, "recover.lr", "image learning rate", "learning rate of the images"),
    Field(BUDGET, "recover.classes_per_batch", "classes per batch", "each contributes one image"),
    Field(
        BUDGET,
        "validate.students",
        "students",
        "networks trained on the images, separated by commas",
        none="the backbone",
    ),
    Field(BUDGET, "validate.seeds", "seeds", "training runs of each student"),
    Field(BUDGET, "validate.epochs", "epochs", "training epochs of a student"),
    Field(
        BUDGET, "repeats", "repeats", "times that everything is computed, with the next seed; ± is over them"
    ),
    Field(BUDGET, "device", "device", "auto, cpu, cuda, cuda:N or mps"),
    Field(BUDGET, "seed", "seed", "another seed changes all random numbers"),
)
FIELDS = {field.key: field for field in _FIELDS}
#: What choices of some fields mean; methods, protocols and data sets have descriptions of their own.
GLOSSES: dict[str, dict[str, str]] = {
    "data.test": {"test": "the test images of the data set", "holdout": "held-out training images"},
    "objective.schedule.kind": {
        "cosine": "β_b falls slowly at first and at the end (Eq. 19)",
        "linear": "β_b falls evenly",
        "constant": "β_b is β for all batches",
    },
    "objective.schedule.per": {
        "round": "one β_b per image of a class: all classes take part before it changes",
        "batch": "each batch has its own β_b",
    },
    "objective.signal": {
        "none": "f(Ψ) itself is compared",
        "class": "the mean features of each class",
        "mean": "the mean features of all classes",
    },
    "objective.taps": {
        "conv-input": "inputs of convolutions, but for shortcuts",
        "conv-output": "outputs of the same convolutions",
        "all-conv-output": "outputs of all convolutions, with shortcuts",
        "batchnorm": "inputs of BatchNorm layers: means and variances only, no Ψ",
        "bn-conv": "inputs of BatchNorm layers and convolutions: means and variances only, no Ψ",
    },
}


@dataclass(frozen=True)
class Checked:
    """The result of validating a form.

    resolved: None where there is a problem. problems: by field, or `Form.ELSEWHERE`. changes: settings that
    differ from the preset. before: the preset's values of these settings.
    """

    resolved: Resolved | None
    problems: dict[str, str] = field(default_factory=dict)
    changes: dict[str, object] = field(default_factory=dict)
    before: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PresetSummary:
    """What a preset was tuned for. problem: why it cannot be used; its numbers are unknown then."""

    name: str
    description: str
    dataset: str = ""
    ipc: int = 0
    backbone: str = ""
    problem: str = ""


def list_presets() -> list[PresetSummary]:
    """Return the shipped presets and those of the user, by data set, images per class and backbone."""
    datasets = FIELDS["data.name"].choices
    entries = [(name, settings.describe(name), "") for name in settings.preset_names()]
    entries += [(each.name, f"yours: {each.description}", each.problem) for each in settings.user_presets()]
    summaries = []
    for name, description, problem in entries:
        try:
            config = settings.resolve(preset=name).config
        except UserError as error:
            summaries.append(PresetSummary(name, description, problem=problem or error.message))
            continue
        setting = (config.data.name, config.ipc, config.backbone.name)
        summaries.append(PresetSummary(name, description, *setting))
    return sorted(
        summaries,
        key=lambda each: (
            datasets.index(each.dataset) if each.dataset else len(datasets),
            each.ipc,
            each.backbone,
        ),
    )


class Form:
    """A preset and the settings that override it.

    preset: a name; None for the default of `cfm run`. environ: its CFM_* variables apply as in `cfm run`.
    name: after which the run is called; of the preset, unless the settings came from a file. config: the last
    valid configuration; the defaults if there was none.
    """

    ELSEWHERE = ""  #: key of problems that belong to no field

    def __init__(self, preset: str | None, environ: Mapping[str, str]) -> None:
        self.preset = self.name = preset or settings.DEFAULT_PRESET
        self.environ = dict(environ)
        self.texts: dict[str, str] = {}
        self.lines: list[str] = []
        self.config = Config()
        self._preset_dataset = ""
        self._accepted: set[tuple[str, str]] = set()  # presets and data sets
        self.origins: dict[str, str] = {}
        self.checked = Checked(None)
        self.check()

    @classmethod
    def from_config(cls, preset: str | None, config: Config, environ: Mapping[str, str]) -> Form:
        """Return the form over a preset that has the settings of `config`."""
        form = cls(preset, environ)
        for key, value in settings.changes(form.preset, config, environ).items():
            text = FIELDS[key].text(value) if key in FIELDS else ""
            if text:
                form.texts[key] = text
            else:
                form.lines.append(f"{key}={yaml_io.inline(value)}")
        form.check()
        return form

    @classmethod
    def from_draft(cls, draft: Mapping[str, Any], environ: Mapping[str, str]) -> Form:
        """Return the form of a `draft`. Raises UserError, KeyError, TypeError or ValueError if it is none."""
        form = cls(draft["preset"], environ)
        settings.resolve(preset=form.preset, environ=environ)  # the preset may have been deleted
        form.name = str(draft["name"])
        form.texts = {key: str(text) for key, text in draft["texts"].items() if key in FIELDS}
        form.lines = [str(line) for line in draft["lines"]]
        form._accepted = {(preset, dataset) for preset, dataset in draft["accepted"]}
        form.check()
        return form

    def draft(self) -> dict[str, Any]:
        """Return all that was entered, as plain data."""
        accepted = sorted(map(list, self._accepted))
        return {
            "preset": self.preset,
            "name": self.name,
            "texts": dict(self.texts),
            "lines": list(self.lines),
            "accepted": accepted,
        }

    @staticmethod
    def line_name(number: int) -> str:
        """Return the name by which a free line is addressed like a field."""
        return f"line {number}"

    def start(self, preset: str, *, keep: bool = False) -> None:
        """Reset the form to a preset. keep: whether to keep what was typed."""
        self.preset = self.name = preset
        if not keep:
            self.texts, self.lines = {}, []
        self.check()

    def adopt(self, preset: str) -> None:
        """Reset the form to a preset, but for files and devices of this machine."""
        kept = ("data.root", "backbone.teacher", "device")
        self.texts = {key: text for key, text in self.texts.items() if key in kept}
        self.lines = []
        self.start(preset, keep=True)

    def write(self, name: str, text: str) -> None:
        """Set the text of a field or a free line; a text equal to the default removes the override."""
        if name in FIELDS:
            self.texts.pop(name, None)
            default = self._default_text(FIELDS[name])
            if text.strip() and (default is None or FIELDS[name].set(text) != FIELDS[name].set(default)):
                self.texts[name] = text
            return
        number = int(name.split()[-1])
        self.lines += [""] * (number + 1 - len(self.lines))
        self.lines[number] = text

    def _default_text(self, each: Field) -> str | None:
        """Return a field's text without its override; None where the form has a problem."""
        try:
            return each.text(self._resolve().config.flatten()[each.key])
        except UserError:
            return None

    def _resolve(self) -> Resolved:
        sets = self.list_overrides()
        return settings.resolve(preset=self.preset, sets=sets, environ=self.environ, label="form")

    def list_overrides(self) -> list[str]:
        """Return all overrides as `key=value`; free lines come last and override fields."""
        typed = [FIELDS[key].set(text) for key, text in self.texts.items()]
        return typed + [line.strip() for line in self.lines if line.strip()]

    def check(self) -> Checked:
        """Validate the form, and store and return the outcome."""
        try:
            preset = settings.resolve(preset=self.preset, environ=self.environ)
            self._preset_dataset = preset.config.data.name
            typed = self._resolve()
            changed = settings.changes(self.preset, typed.config, self.environ)
        except UserError as error:
            self.checked = Checked(None, self._assign_problems(error))
            return self.checked
        sets = settings.format_sets(changed)  # so that origins are those of the command line
        resolved = settings.resolve(preset=self.preset, sets=sets, environ=self.environ)
        before = preset.config.flatten()
        self.config = typed.config
        # Presets whose names start with an underscore are shared bases that cannot be chosen.
        self.origins = {
            key: re.sub(r"^preset _[^,]+", lambda _: f"preset {self.preset}", origin)
            for key, origin in resolved.origins.items()
        }
        self.checked = Checked(resolved, {}, changed, {key: before[key] for key in changed})
        return self.checked

    def shown(self, each: Field) -> str:
        """Return a field's text: what was typed, else the current value."""
        return self.texts.get(each.key) or each.text(self.config.flatten()[each.key])

    def applies(self, each: Field) -> bool:
        """Return whether a field applies to the chosen networks."""
        networks = (self.config.backbone.name, *self.config.validate_.students)
        return not each.convnet or "convnet" in networks

    @property
    def foreign_dataset(self) -> str:
        """The chosen data set, if the preset was tuned for another one and the user did not accept that."""
        chosen = self.texts.get("data.name", self.config.data.name)
        is_own = chosen == self._preset_dataset or (self.preset, chosen) in self._accepted
        return "" if is_own or not self._preset_dataset else chosen

    def accept_foreign_dataset(self) -> None:
        """Keep the settings of the preset for the chosen data set, and suggest no other."""
        self._accepted.add((self.preset, self.foreign_dataset))

    def find_matching_preset(self) -> str | None:
        """Return the preset for the chosen data set whose backbone and images per class are the nearest."""
        dataset = self.foreign_dataset
        matches = [each for each in list_presets() if each.dataset == dataset] if dataset else []

        def distance(each: PresetSummary) -> tuple[bool, float]:
            return each.backbone != self.config.backbone.name, abs(math.log(each.ipc / self.config.ipc))

        return min(matches, key=distance).name if matches else None

    def summarise(self, panel: int) -> str:
        """Return the main settings of a panel on one line."""
        config = self.config
        if panel == DATA:
            return ", ".join(filter(None, [config.data.name, config.data.root, f"{config.data.test} split"]))
        if panel == BACKBONE:
            width = f"-{config.backbone.width}" if config.backbone.name == "convnet" else ""
            teacher = "teacher given" if config.backbone.teacher else "train teacher"
            return f"{config.backbone.name}{width}, {teacher}"
        if panel == OBJECTIVE:
            beta = f", β {config.objective.beta:g} {config.objective.schedule.kind}"
            return config.objective.method + (beta if config.uses_beta else "")
        if panel == BUDGET:
            students = f"{config.validate_.seeds} × {format_count(config.validate_.epochs, 'epochs')}"
            repeats = f", {config.repeats} repeats" if config.repeats > 1 else ""
            return f"{config.ipc}/class, {config.recover.iterations:,} it, {students}{repeats}"
        if self.checked.problems:
            labels = map(self._label, self.checked.problems)
            return f"fix {', '.join(filter(None, labels)) or 'the problem below'}"
        return format_count(len(self.checked.changes), "changes") if self.checked.changes else "as the preset"

    def count_problems(self, panel: int) -> int:
        """Return the number of fields of a panel with a problem; free lines belong to the last."""
        return sum(
            (FIELDS[name].panel if name in FIELDS else LAUNCH) == panel for name in self.checked.problems
        )

    def list_problems(self) -> list[str]:
        """Return a text for every problem of a field or a free line: its step, its label and the problem."""
        return [
            f"{step} {PANELS[step]}, {self._label(name)}:\n! {problem}"
            for name, problem in self.checked.problems.items()
            if name != self.ELSEWHERE
            for step in [FIELDS[name].panel if name in FIELDS else LAUNCH]
        ]

    def _label(self, name: str) -> str:
        """Return the label of a field, or the text of a free line; empty for `Form.ELSEWHERE`."""
        if name in FIELDS:
            return FIELDS[name].label
        return self.lines[int(name.split()[-1])].strip() if name else ""

    def format_command(self) -> str:
        """Return the equivalent `cfm run` command line, given the same environment."""
        return settings.format_command(self.preset, settings.format_sets(self.checked.changes))

    def list_differences(self) -> list[str]:
        """Return a line for every setting that differs from the preset."""
        return [
            f"{key}: {_format_setting(key, self.checked.before[key])} → {_format_setting(key, value)}"
            for key, value in self.checked.changes.items()
        ]

    def save(self, name: str, *, replace: bool = False) -> None:
        """Save the form as a user preset and reset it to that. Raises UserError as `save_preset` does."""
        assert self.checked.resolved is not None
        text = settings.format_preset(name, self.preset, self.config)
        settings.save_preset(name, text, replace=replace)
        self.start(name)

    # --- problems ---------------------------------------------------------------------------------

    def _assign_problems(self, error: UserError) -> dict[str, str]:
        """Return the sentences of an error by the field whose key they name."""
        problems: dict[str, str] = {}
        sentences = _split_problems(error.message)
        for sentence in sentences:
            name = self._find_field(sentence)
            hint = error.hint if len(sentences) == 1 or sentence == sentences[-1] else ""
            text = f"{sentence}\n→ {hint}" if hint else sentence
            problems[name] = f"{problems[name]}\n{text}" if name in problems else text
        return problems

    def _find_field(self, sentence: str) -> str:
        """Return the field or line that a problem is about; `Form.ELSEWHERE` if there is none."""
        for number, line in enumerate(self.lines):
            key = line.partition("=")[0].strip()
            if key and (_mentions(sentence, key) or line.strip()[:60] in sentence):
                return self.line_name(number)
        named = [each.key for each in FIELDS.values() if _mentions(sentence, each.key)]
        if not named and ":" in sentence:  # about a whole section: it has its fields' short names
            section, _, rest = sentence.partition(":")
            named = [
                each.key
                for each in FIELDS.values()
                if each.key.startswith(f"{section}.")
                and _mentions(rest, each.key.removeprefix(f"{section}."))
            ]
        typed = [key for key in named if key in self.texts]
        return (typed or named or [self.ELSEWHERE])[-1 if typed else 0]


def draft_path() -> Path:
    """Return the path of the draft that the console keeps between its sessions."""
    return user_folder("config") / "draft.json"


def load_draft(environ: Mapping[str, str]) -> Form | None:
    """Return the form that was left unfinished; None if there is none, or it is of no use any more."""
    path = draft_path()
    try:
        return Form.from_draft(read_json(path), environ) if path.exists() else None
    except (UserError, KeyError, TypeError, ValueError, AttributeError):
        return None


def save_draft(form: Form) -> None:
    """Keep a form for the next session. Raises UserError("disk")."""
    path, hint = draft_path(), "make the file writable"
    files.make_folders(path.parent, hint=hint)
    write_json(path, form.draft(), hint)


def _split_problems(message: str) -> Sequence[str]:
    """Split a message "N problems: …; …" into its problems; one piece where that is ambiguous."""
    prefix = re.match(r"(\d+) problems: ", message)
    if prefix is None:
        return [message]
    problems = message[prefix.end() :].split("; ")
    return problems if len(problems) == int(prefix.group(1)) else [message]


def _mentions(sentence: str, key: str) -> bool:
    return re.search(rf"(?<![\w.]){re.escape(key)}(?![\w]|\.\w)", sentence) is not None


def _format_setting(key: str, value: object) -> str:
    return (FIELDS[key].text(value) or "none") if key in FIELDS else settings.format_sets({"": value})[0][1:]
