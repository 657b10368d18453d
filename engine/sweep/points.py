"""The points of a sweep: each an ordinary experiment with a name, all checked before any of them runs."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.config import Config, settings, yaml_io
from engine.errors import UserError
from engine.sweep.description import Column, Options, Sweep, columns

#: What `budget` multiplies, at least 1 being left: whatever else costs time stays as it is, seeds above all.
SCALED = ("squeeze.epochs", "recover.iterations", "validate.epochs", "relabel.stored_epochs")
SEED = "seed"
LONGEST = 100  #: characters of a point's name
SHOWN = 8  #: problems that a message tells


@dataclass(frozen=True)
class Point:
    """One experiment of a sweep.

    name: of its folder. says: the keys that are its own. row, column: where tables put it.
    scaled: dotted key → its value before and after the budget.
    """

    name: str
    row: str
    column: str
    preset: str
    says: dict[str, Any]
    config: Config
    scaled: dict[str, list[int]]

    def record(self) -> dict[str, Any]:
        """The point as plain data, as a sweep's manifest keeps it."""
        config = self.config.model_dump(mode="json", by_alias=True)
        told = {name: getattr(self, name) for name in ("name", "row", "column", "preset", "says", "scaled")}
        return {**told, "config": config}

    def sets(self, environ: Mapping[str, str] = os.environ) -> list[str]:
        """`key=value`: what must be set beside its preset to arrive at its settings."""
        return settings.as_sets(settings.changes(self.preset, self.config, environ))


def from_record(record: Mapping[str, Any]) -> Point:
    """The point that a manifest keeps."""
    config = Config.model_validate_json(json.dumps(record["config"]), strict=True)
    return Point(**{**record, "config": config})


def expand(sweep: Sweep, options: Options, environ: Mapping[str, str] | None = None) -> list[Point]:
    """All points, resolved and named.

    Raises UserError("config") with everything that is wrong with any of them.
    """
    grid = {**sweep.grid, **{key: tuple(values) for key, values in options.grid.items()}}
    there = columns(sweep, options)
    cases: dict[str, dict[str, Any]] = sweep.cases or {"": {}}
    names = _Names(len(there) > 1, grid)
    found: list[Point] = []
    problems = Problems()
    for column, (case, own) in itertools.product(there, cases.items()):
        for values in itertools.product(*grid.values()):
            at = dict(zip(grid, values, strict=True))
            name = names.of(column.name, case, at)
            says = {**column.sets, **own, **at}
            with problems.of(name):
                config, scaled = _resolved(sweep, column, says, options, environ)
                row = case or names.row(at) or config.objective.method
                where = names.column(config, at, case)
                found.append(Point(name, row, where, column.preset, says, config, scaled))
    _refuse_twins(found, problems)
    problems.tell()
    return found


def _resolved(
    sweep: Sweep, column: Column, says: Mapping[str, Any], options: Options, environ: Mapping[str, str] | None
) -> tuple[Config, dict[str, list[int]]]:
    sets = [*settings.as_sets({**sweep.common, **says}), *options.sets]
    told: dict[str, Any] = {"preset": column.preset, "environ": environ, "label": "the sweep"}
    told["overrides"] = options.overrides
    config = settings.resolve(sets=sets, **told).config
    if options.budget is None:
        return config, {}
    before = {key: value for key, value in settings.flat(config).items() if key in SCALED and value}
    scaled = {key: [value, max(1, round(value * options.budget))] for key, value in before.items()}
    small = [f"{key}={after}" for key, (_, after) in scaled.items()]
    return settings.resolve(sets=[*sets, *small], **told).config, scaled


class _Names:
    """What points, rows and columns are called, by what they differ in."""

    def __init__(self, columns: bool, grid: Mapping[str, Sequence[Any]]) -> None:
        self._columns = columns
        last = [key.split(".")[-1] for key in grid]
        self._short = {
            key: short if last.count(short) == 1 else key for key, short in zip(grid, last, strict=True)
        }
        axes = [key for key in grid if key != SEED]
        self._row = next((key for key in axes if key in ("objective", "objective.method")), None)
        self._row = self._row or (axes[0] if axes else None)
        self._taken: set[str] = set()

    def of(self, column: str, case: str, at: Mapping[str, Any]) -> str:
        """A folder's name that no other point has."""
        parts = [column] if self._columns else []
        parts += [case] if case else []
        parts += [_told(self._short[key], value) for key, value in at.items()]
        first = name = (",".join(parts) or "point")[:LONGEST]
        number = 2
        while name.lower() in self._taken:
            name = f"{first}-{number}"
            number += 1
        self._taken.add(name.lower())  # some file systems know no capitals
        return name

    def row(self, at: Mapping[str, Any]) -> str:
        """The row of a point that is no case."""
        if self._row is None:
            return ""
        value = at[self._row]
        return (
            str(value)
            if self._row.startswith("objective") and isinstance(value, str)
            else _told(self._short[self._row], value)
        )

    def column(self, config: Config, at: Mapping[str, Any], case: str) -> str:
        """The column: images and backbone, and what of the grid is neither row nor seed."""
        rest = [key for key in at if key != SEED and (case or key != self._row)]
        told = (_told(self._short[key], at[key]) for key in rest)
        return " ".join([setting(config), *told])


def setting(config: Config) -> str:
    """What an experiment is made for, in words: images, how many of them, and the backbone."""
    return f"{config.data.name} ipc {config.ipc} {config.backbone.name}"


def _told(key: str, value: Any) -> str:
    text = value if isinstance(value, str) else yaml_io.inline(value)
    return f"{key}=" + re.sub(r"[^\w.+-]+", "-", text).strip("-")


def _refuse_twins(points: Sequence[Point], problems: Problems) -> None:
    first: dict[str, str] = {}
    for point in points:
        same = first.setdefault(point.config.model_dump_json(), point.name)
        if same != point.name:
            error = UserError("config", f"it is the same experiment as {same}", "Leave one of them out.")
            problems.add(point.name, error)


class Problems:
    """Collects what is wrong with points, to be told at once; the same complaint is told once."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str, str], list[str]] = {}

    def add(self, name: str, error: UserError) -> None:
        """Note what is wrong with a point."""
        self._found.setdefault((error.kind, error.message, error.hint), []).append(name)

    def of(self, name: str) -> _Noting:
        """A block in which a UserError is noted as the point's."""
        return _Noting(self, name)

    def tell(self) -> None:
        """Raise one UserError with everything that was noted, if anything was."""
        if not self._found:
            return
        wrong = len({name for names in self._found.values() for name in names})
        lines = list(_sentences(self._found))
        more = f"\n… and {len(lines) - SHOWN} other problems" if len(lines) > SHOWN else ""
        hints = list(dict.fromkeys(hint for _, _, hint in self._found if hint))
        kind = next(iter(self._found))[0]
        points = "1 point" if wrong == 1 else f"{wrong} points"
        raise UserError(
            kind,  # type: ignore[arg-type]
            f"{points} of the sweep cannot run, so none was begun:\n" + "\n".join(lines[:SHOWN]) + more,
            " ".join(hints[:3]),
        )


class _Noting:
    def __init__(self, problems: Problems, name: str) -> None:
        self._problems = problems
        self._name = name

    def __enter__(self) -> None:
        return None

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
        if isinstance(error, UserError):
            self._problems.add(self._name, error)
            return True
        return False


def _sentences(found: Mapping[tuple[str, str, str], Sequence[str]]) -> Iterator[str]:
    for (_, message, _), names in found.items():
        others = f" and {len(names) - 1} more" if len(names) > 1 else ""
        yield f"  {names[0]}{others}: {message}"


def check(
    points: Sequence[Point], progress: Callable[[int, int], None] | None = None
) -> dict[str, dict[str, str]]:
    """Look at images, teachers and devices of all points, as each run would before it begins.

    progress(done, total): called while image files are read. Returns, by point, the fingerprints of what it
    is given: data, teacher, and what else there is. Raises UserError with all that is wrong.
    """
    from engine.data import load
    from engine.runs import plan

    problems, found = Problems(), {}
    for _, group in itertools.groupby(points, key=lambda point: point.config.data):
        alike = list(group)
        data = None
        for point in alike:
            with problems.of(point.name):
                data = load(point.config.data, progress=progress) if data is None else data
                identity = plan.prepare(point.config, data=data).identity()
                found[point.name] = {part: text for part, text in identity.items() if part != "config"}
    problems.tell()
    return found
