"""A sweep as it is written in YAML: what its experiments share, and what they vary.

Points are all settings × all cases × the whole grid. A sweep names a `preset`, or `settings`: image sets,
images per class and backbones, for each of which the preset that fits it best is taken.
Not here: what the points are (see `points`), in which order they run (see `schedule`).
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator

from engine.config import BackboneName, Data, Node, Positive, settings, yaml_io
from engine.config.messages import format_validation_error, unknown_name_error
from engine.config.presets import paper_names, shipped, sweep_names
from engine.errors import UserError

DataName = Data.model_fields["name"].annotation
T = TypeVar("T", bound=Node)
HINT = "`cfm sweep NAME --dry-run` shows what a sweep comes to; docs/sweeps.md has its keys."
NAME = re.compile(r"\w([\w.+-]{0,58}[\w+])?")  #: of a sweep and of a case: they name folders


def _listed(value: object) -> object:
    return tuple(value) if isinstance(value, (list, tuple)) else (value,)


class Setting(Node):
    """Columns of a table: every image set with every number of images and every backbone."""

    dataset: Annotated[tuple[DataName, ...], BeforeValidator(_listed), Field(min_length=1)]  # type: ignore[valid-type]
    ipc: Annotated[tuple[Positive, ...], BeforeValidator(_listed), Field(min_length=1)]
    backbone: Annotated[tuple[BackboneName, ...], BeforeValidator(_listed), Field(min_length=1)]


class Sweep(Node):
    """The description of a sweep."""

    description: str = ""
    preset: str | None = None  #: what every point starts from; None: `settings` say so
    settings: tuple[Setting, ...] = ()  #: columns, each with the preset that fits
    common: dict[str, Any] = Field(default={}, alias="set")  #: key → value for all points
    cases: dict[str, dict[str, Any]] = Field(default={})  #: name → its own keys and values; table rows
    grid: dict[str, tuple[Any, ...]] = Field(default={})  #: key → values, of which every combination is taken
    order: tuple[str, ...] = ()  #: rows from the least accurate on, as somebody claims
    against: str | None = None  #: the row that tables compare the others with
    paper: str | None = None  #: the file in presets/paper with the paper's numbers

    @field_validator("cases")
    @classmethod
    def _cases_name_folders(cls, cases: dict[str, Any]) -> dict[str, Any]:
        for name in cases:
            if not NAME.fullmatch(name):
                raise ValueError(f"{name[:60]!r} cannot name a case: use letters, digits, - + and .")
        return cases

    @field_validator("grid")
    @classmethod
    def _axes_have_values(cls, grid: dict[str, tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
        for key, values in grid.items():
            if not values:
                raise ValueError(f"{key} has no values")
            if any(value in values[:index] for index, value in enumerate(values)):
                raise ValueError(f"{key} has a value twice")
        return grid

    @field_validator("paper")
    @classmethod
    def _paper_has_it(cls, paper: str | None) -> str | None:
        if paper is not None and paper not in paper_names():
            raise ValueError(f"{paper[:60]!r} is none of {', '.join(paper_names())}")
        return paper

    @model_validator(mode="after")
    def _begins_somewhere(self) -> Sweep:
        if (self.preset is None) == (not self.settings):
            raise ValueError("a sweep has either a preset or settings")
        for key, names in (("order", self.order), ("against", (self.against,) if self.against else ())):
            for name in names:
                if self.cases and name not in self.cases:
                    known = ", ".join(self.cases)
                    raise ValueError(f"{key} names {name!r}, which is no case; there are {known}")
        return self


@dataclass(frozen=True)
class Options:
    """What is asked of a sweep besides its description; empty: as it is written.

    sets: `key=value` for all points, above everything. grid: axes instead of, or besides, its own.
    overrides: dotted key → value of a dedicated flag. budget: see `points.SCALED`.
    """

    datasets: Sequence[str] = ()
    backbones: Sequence[str] = ()
    ipcs: Sequence[int] = ()
    budget: float | None = None
    sets: Sequence[str] = ()
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    overrides: Mapping[str, object] = field(default_factory=dict)

    def nothing(self) -> bool:
        """Whether nothing is asked."""
        asked = (self.datasets, self.backbones, self.ipcs, self.sets, self.grid)
        given = (self.budget, *self.overrides.values())
        return not any(asked) and all(value is None for value in given)


@dataclass(frozen=True)
class Column:
    """One image set, number of images and backbone: a preset, and what differs from it."""

    name: str
    preset: str
    sets: dict[str, Any]


def read(target: str) -> tuple[str, Sweep]:
    """A sweep by its name or its YAML file: what it is called, and what it says.

    Raises UserError("config"): unknown, unreadable, or with keys and values that no sweep has.
    """
    path = Path(target)
    if target.endswith((".yaml", ".yml")) or path.is_file():
        values, name = yaml_io.read(path), path.stem
        if not NAME.fullmatch(name):
            raise UserError("config", f"{name[:60]!r} cannot name a sweep", "Rename the file.")
    elif path.is_dir():
        raise UserError(
            "usage", f"{target} is a folder, but no sweep's", "Give a sweep's name, file or folder."
        )
    elif target in sweep_names():
        values, name = shipped("sweeps", target), target
    else:
        raise unknown_name_error("sweep", target, sweep_names())
    return name, parsed(values, target)


def parsed(values: Mapping[str, Any], where: str = "") -> Sweep:
    """Plain data as a sweep. where: its file. Raises UserError("config") with all that is wrong."""
    return _checked(Sweep, values, where)


def _checked(model: type[T], values: Mapping[str, Any], where: str = "") -> T:
    try:
        return model.model_validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        raise format_validation_error(error, model, {}, where=where, hint=HINT) from None


def columns(sweep: Sweep, options: Options) -> list[Column]:
    """What the sweep is computed for. Raises UserError: a choice that there is not."""
    if sweep.preset is not None:
        return _of_preset(sweep.preset, options)
    found: dict[str, Column] = {}
    for dataset, ipc, backbone in _chosen(sweep.settings, options):
        column = fitting(dataset, ipc, backbone)
        found[column.name] = column
    return list(found.values())


def _of_preset(preset: str, options: Options) -> list[Column]:
    if options.datasets:
        raise UserError(
            "usage", f"this sweep's images are those of its preset {preset}", "change `preset` in its file"
        )
    config = settings.resolve(preset=preset).config
    found = []
    for ipc, backbone in itertools.product(
        options.ipcs or [config.ipc], options.backbones or [config.backbone.name]
    ):
        sets: dict[str, Any] = {} if ipc == config.ipc else {"ipc": ipc}
        sets |= {} if backbone == config.backbone.name else {"backbone.name": backbone}
        found.append(Column(f"{preset}-{ipc}-{backbone}", preset, sets))
    return found


def _chosen(written: Sequence[Setting], options: Options) -> Iterator[tuple[str, int, str]]:
    """The settings of the options; those that are written, where the options leave that open."""
    asked = options.datasets or list(dict.fromkeys(name for each in written for name in each.dataset))
    for dataset in asked:
        fitting = [each for each in written if dataset in each.dataset] or [written[0]]
        for each in fitting:
            values = {
                "dataset": [dataset],
                "ipc": list(options.ipcs or each.ipc),
                "backbone": list(options.backbones or each.backbone),
            }
            setting = _checked(Setting, values)
            yield from itertools.product(setting.dataset, setting.ipc, setting.backbone)


def fitting(dataset: str, ipc: int, backbone: str) -> Column:
    """The shipped preset that is nearest to a setting, and what differs from it.

    Raises UserError("usage") where no preset has that image set.
    """
    known = {name: settings.resolve(preset=name).config for name in settings.preset_names()}
    near = {name: config for name, config in known.items() if config.data.name == dataset}
    if not near:
        names = sorted({config.data.name for config in known.values()})
        raise UserError(
            "usage",
            f"no preset has the images of {dataset}",
            f"choose one of {', '.join(names)}, or write a sweep with a preset of your own",
        )

    def distance(name: str) -> tuple[bool, bool, int]:
        config = near[name]
        return config.ipc != ipc, config.backbone.name != backbone, abs(config.ipc - ipc)

    preset = min(near, key=distance)
    sets: dict[str, Any] = {} if near[preset].ipc == ipc else {"ipc": ipc}
    sets |= {} if near[preset].backbone.name == backbone else {"backbone.name": backbone}
    return Column(f"{dataset}-{ipc}-{backbone}", preset, sets)
