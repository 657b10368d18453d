"""The description of a sweep in YAML: the settings that its experiments share, and those that vary.

The points are all settings × all cases × the whole grid. A sweep has a `preset`, or `settings`: data sets,
images per class and backbones, each combination of which uses the best matching preset.
Not here: the points (see `points`), the order in which they run (see `schedule`).
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

from engine.config import BackboneName, Config, Data, Node, Positive, settings, yaml_io
from engine.config.messages import format_validation_error, unknown_name_error
from engine.config.presets import list_shipped, load_shipped
from engine.errors import UserError

_DataName = Data.model_fields["name"].annotation
_T = TypeVar("_T", bound=Node)
_NAME = re.compile(r"\w([\w.+-]{0,58}[\w+])?")  # of a sweep and of a case, which are used as folder names


def _to_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, (list, tuple)) else (value,)


class Setting(Node):
    """Columns of a table: all combinations of data sets, images per class and backbones."""

    dataset: Annotated[tuple[_DataName, ...], BeforeValidator(_to_tuple), Field(min_length=1)]  # type: ignore[valid-type]
    ipc: Annotated[tuple[Positive, ...], BeforeValidator(_to_tuple), Field(min_length=1)]
    backbone: Annotated[tuple[BackboneName, ...], BeforeValidator(_to_tuple), Field(min_length=1)]


class Sweep(Node):
    """The description of a sweep."""

    description: str = ""
    preset: str | None = None  #: preset of every point; None: `settings` determine it
    settings: tuple[Setting, ...] = ()  #: columns, each with the best matching preset
    common: dict[str, Any] = Field(default={}, alias="set")  #: key → value, for all points
    cases: dict[str, dict[str, Any]] = Field(default={})  #: name → key → value; the rows of the table
    grid: dict[str, tuple[Any, ...]] = Field(default={})  #: key → values; all combinations are points
    order: tuple[str, ...] = ()  #: rows by claimed accuracy, lowest first
    against: str | None = None  #: row that tables compare the others with
    paper: str | None = None  #: file in presets/paper with the numbers of the paper

    @field_validator("cases")
    @classmethod
    def _require_valid_case_names(cls, cases: dict[str, Any]) -> dict[str, Any]:
        for name in cases:
            if not _NAME.fullmatch(name):
                raise ValueError(f"{name[:60]!r} is not a valid case name: use letters, digits, - + and .")
        return cases

    @field_validator("grid")
    @classmethod
    def _require_distinct_values(cls, grid: dict[str, tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
        for key, values in grid.items():
            if not values:
                raise ValueError(f"{key} has no values")
            if any(value in values[:index] for index, value in enumerate(values)):
                raise ValueError(f"{key} has a repeated value")
        return grid

    @field_validator("paper")
    @classmethod
    def _require_known_paper(cls, paper: str | None) -> str | None:
        if paper is not None and paper not in list_shipped("paper"):
            raise ValueError(f"{paper[:60]!r} is not one of {', '.join(list_shipped('paper'))}")
        return paper

    @model_validator(mode="after")
    def _require_base_and_known_rows(self) -> Sweep:
        if (self.preset is None) == (not self.settings):
            raise ValueError("a sweep has either a preset or settings")
        for key, names in (("order", self.order), ("against", (self.against,) if self.against else ())):
            for name in names:
                if self.cases and name not in self.cases:
                    known = ", ".join(self.cases)
                    raise ValueError(f"{key} names {name!r}, which is not a case; the cases are {known}")
        return self

    def columns(self, options: Options) -> list[SweepColumn]:
        """Return the columns of the sweep. Raises UserError if an option is not available."""
        if self.preset is None:
            combinations = _list_combinations(self.settings, options)
            by_name = {column.name: column for column in itertools.starmap(find_nearest_preset, combinations)}
            return list(by_name.values())
        if options.datasets:
            problem = f"this sweep uses the data set of its preset {self.preset}"
            raise UserError("usage", problem, "change `preset` in its file")
        config = settings.resolve(preset=self.preset).config
        ipcs, backbones = options.ipcs or [config.ipc], options.backbones or [config.backbone.name]
        return [
            _build_column(self.preset, self.preset, config, ipc, backbone)
            for ipc, backbone in itertools.product(ipcs, backbones)
        ]


@dataclass(frozen=True)
class Options:
    """Options that change a sweep's description; the defaults change nothing.

    sets: `key=value` for all points, with the highest precedence. grid: axes that replace or extend the grid.
    overrides: dotted key → value of a dedicated flag. budget: factor on epochs and iterations, above 0 and up
    to 1. Raises UserError("usage") for another budget.
    """

    datasets: Sequence[str] = ()
    backbones: Sequence[str] = ()
    ipcs: Sequence[int] = ()
    budget: float | None = None
    sets: Sequence[str] = ()
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    overrides: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.budget is not None and not 0 < self.budget <= 1:
            problem = f"the budget {self.budget:g} is not a fraction of the epochs and iterations"
            raise UserError("usage", problem, "give more than 0 and at most 1, e.g. 0.1")

    def nothing(self) -> bool:
        """Return whether no option is given."""
        collections = (self.datasets, self.backbones, self.ipcs, self.sets, self.grid)
        values = (self.budget, *self.overrides.values())
        return not any(collections) and all(value is None for value in values)


@dataclass(frozen=True)
class SweepColumn:
    """One data set, ipc and backbone: a preset, and the settings that differ from it."""

    name: str
    preset: str
    sets: dict[str, Any]


def load_sweep(target: str) -> tuple[str, Sweep]:
    """Return the name and description of a sweep. target: the name of a shipped sweep, or a YAML file.

    Raises UserError: "config" if it is unknown, unreadable or not a valid sweep, "usage" for a folder.
    """
    path = Path(target)
    if target.endswith((".yaml", ".yml")) or path.is_file():
        values, name = yaml_io.read(path), path.stem
        if not _NAME.fullmatch(name):
            raise UserError("config", f"{name[:60]!r} is not a valid sweep name", "Rename the file.")
    elif path.is_dir():
        raise UserError(
            "usage", f"{target} is a folder without a sweep", "Give the name, file or folder of a sweep."
        )
    elif target in list_shipped("sweeps"):
        values, name = load_shipped("sweeps", target), target
    else:
        raise unknown_name_error("sweep", target, list_shipped("sweeps"))
    return name, parse_sweep(values, target)


def parse_sweep(values: Mapping[str, Any], where: str = "") -> Sweep:
    """Return the sweep in plain data. where: its file. Raises UserError("config") with all problems."""
    return _validate_model(Sweep, values, where)


def _validate_model(model: type[_T], values: Mapping[str, Any], where: str = "") -> _T:
    hint = "`cfm sweep NAME --dry-run` shows the points of a sweep; docs/sweeps.md lists its keys."
    try:
        return model.model_validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        raise format_validation_error(error, model, {}, where=where, hint=hint) from None


def _list_combinations(written: Sequence[Setting], options: Options) -> Iterator[tuple[str, int, str]]:
    """Yield data set, images per class and backbone, from the options or else from the written settings.

    A data set that no written setting contains uses the first setting.
    """
    datasets = options.datasets or list(dict.fromkeys(name for each in written for name in each.dataset))
    for dataset in datasets:
        for each in [each for each in written if dataset in each.dataset] or [written[0]]:
            ipcs, backbones = list(options.ipcs or each.ipc), list(options.backbones or each.backbone)
            values = {"dataset": [dataset], "ipc": ipcs, "backbone": backbones}
            setting = _validate_model(Setting, values)
            yield from itertools.product(setting.dataset, setting.ipc, setting.backbone)


def find_nearest_preset(dataset: str, ipc: int, backbone: str) -> SweepColumn:
    """Return the shipped preset that is nearest to a combination, and the settings that differ from it.

    Raises UserError("usage") if no preset has that data set.
    """
    known = {name: settings.resolve(preset=name).config for name in settings.preset_names()}
    candidates = {name: config for name, config in known.items() if config.data.name == dataset}
    if not candidates:
        names = sorted({config.data.name for config in known.values()})
        raise UserError(
            "usage",
            f"no preset has the data set {dataset}",
            f"choose one of {', '.join(names)}, or write a sweep file with your own preset",
        )

    def distance(name: str) -> tuple[bool, bool, int]:
        config = candidates[name]
        return config.ipc != ipc, config.backbone.name != backbone, abs(config.ipc - ipc)

    preset = min(candidates, key=distance)
    return _build_column(dataset, preset, candidates[preset], ipc, backbone)


def _build_column(prefix: str, preset: str, config: Config, ipc: int, backbone: str) -> SweepColumn:
    sets: dict[str, Any] = {} if config.ipc == ipc else {"ipc": ipc}
    sets |= {} if config.backbone.name == backbone else {"backbone.name": backbone}
    return SweepColumn(f"{prefix}-{ipc}-{backbone}", preset, sets)
