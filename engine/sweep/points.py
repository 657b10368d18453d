"""The points of a sweep: ordinary experiments with names, all of which are checked before any is run."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from engine.config import Config, settings, yaml_io
from engine.errors import UserError, format_names
from engine.store.folders import free_name
from engine.sweep.description import Options, Sweep, SweepColumn

# Settings that `budget` multiplies. Other costs, such as seeds, are not changed.
_SCALED = (
    "squeeze.epochs",
    "squeeze.optimiser.warmup_epochs",
    "recover.iterations",
    "validate.epochs",
    "validate.optimiser.warmup_epochs",
    "relabel.stored_epochs",
)


@dataclass(frozen=True)
class Point:
    """One experiment of a sweep.

    name: of its folder. says: the settings that differ between points. row, column: its position in tables.
    scaled: dotted key → its values before and after applying the budget.
    """

    name: str
    row: str
    column: str
    preset: str
    says: dict[str, Any]
    config: Config
    scaled: dict[str, list[int]]

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Point:
        """Return the point of a record in a manifest."""
        return cls(**{**record, "config": Config.from_dict(record["config"])})

    def record(self) -> dict[str, Any]:
        """Return the point as plain data, for the manifest of the sweep."""
        keys = ("name", "row", "column", "preset", "says", "scaled")
        return {**{key: getattr(self, key) for key in keys}, "config": self.config.to_dict()}

    def sets(self, environ: Mapping[str, str] = os.environ) -> list[str]:
        """Return the `key=value` texts that turn its preset into its configuration."""
        return settings.format_sets(settings.changes(self.preset, self.config, environ))


def expand(sweep: Sweep, options: Options, environ: Mapping[str, str] | None = None) -> list[Point]:
    """Return all points of a sweep, with names and resolved settings.

    Raises UserError("config") with the problems of all points.
    """
    grid = {**sweep.grid, **{key: tuple(values) for key, values in options.grid.items()}}
    sweep_columns = sweep.columns(options)
    cases: dict[str, dict[str, Any]] = sweep.cases or {"": {}}
    names = _Names(grid, with_column=len(sweep_columns) > 1)
    points: list[Point] = []
    problems = _Problems()
    for column, (case, case_settings) in itertools.product(sweep_columns, cases.items()):
        for values in itertools.product(*grid.values()):
            grid_point = dict(zip(grid, values, strict=True))
            name = names.make_name(column.name, case, grid_point)
            says = {**column.sets, **case_settings, **grid_point}
            with problems.collect(name):
                config, scaled = _resolve_point(sweep, column, says, options, environ)
                row = case or names.format_row(grid_point) or config.objective.method
                column_label = names.format_column(config, grid_point, case)
                points.append(Point(name, row, column_label, column.preset, says, config, scaled))
    _add_duplicates(points, problems)
    problems.raise_all()
    return points


def _resolve_point(
    sweep: Sweep,
    column: SweepColumn,
    says: Mapping[str, Any],
    options: Options,
    environ: Mapping[str, str] | None,
) -> tuple[Config, dict[str, list[int]]]:
    sets = [*settings.format_sets({**sweep.common, **says}), *options.sets]
    layers: dict[str, Any] = {"preset": column.preset, "environ": environ, "label": "the sweep"}
    layers["overrides"] = options.overrides
    config = settings.resolve(sets=sets, **layers).config
    if options.budget is None:
        return config, {}
    before = {key: value for key, value in config.flatten().items() if key in _SCALED and value}
    scaled = {key: [value, max(1, round(value * options.budget))] for key, value in before.items()}
    scaled_sets = [f"{key}={after}" for key, (_, after) in scaled.items()]
    return settings.resolve(sets=[*sets, *scaled_sets], **layers).config, scaled


class _Names:
    """Names of points, rows and columns, made from the settings that vary."""

    def __init__(self, grid: Mapping[str, Sequence[Any]], *, with_column: bool) -> None:
        self._with_column = with_column
        last_parts = [key.split(".")[-1] for key in grid]
        self._short_keys = {
            key: last if last_parts.count(last) == 1 else key
            for key, last in zip(grid, last_parts, strict=True)
        }
        axes = [key for key in grid if key != "seed"]
        self._row_key = next((key for key in axes if key in ("objective", "objective.method")), None)
        self._row_key = self._row_key or (axes[0] if axes else None)
        self._used: set[str] = set()

    def make_name(self, column: str, case: str, grid_point: Mapping[str, Any]) -> str:
        """Return a folder name that no other point has."""
        parts = [column] if self._with_column else []
        parts += [case] if case else []
        parts += [_format_setting(self._short_keys[key], value) for key, value in grid_point.items()]
        first = (",".join(parts) or "point")[:100]
        name = free_name(first, lambda each: each.lower() in self._used)
        self._used.add(name.lower())  # some file systems ignore case
        return name

    def format_row(self, grid_point: Mapping[str, Any]) -> str:
        """Return the row of a point without a case; empty if the grid does not determine it."""
        if self._row_key is None:
            return ""
        value = grid_point[self._row_key]
        return (
            str(value)
            if self._row_key.startswith("objective") and isinstance(value, str)
            else _format_setting(self._short_keys[self._row_key], value)
        )

    def format_column(self, config: Config, grid_point: Mapping[str, Any], case: str) -> str:
        """Return the column: data set, ipc and backbone, and the axes that are neither row nor seed."""
        axes = [key for key in grid_point if key != "seed" and (case or key != self._row_key)]
        axis_texts = (_format_setting(self._short_keys[key], grid_point[key]) for key in axes)
        return " ".join([f"{config.data.name} ipc {config.ipc} {config.backbone.name}", *axis_texts])


def _format_setting(key: str, value: Any) -> str:
    text = value if isinstance(value, str) else yaml_io.inline(value)
    return f"{key}=" + re.sub(r"[^\w.+-]+", "-", text).strip("-")


def _add_duplicates(points: Sequence[Point], problems: _Problems) -> None:
    """Add a problem for every point with the same configuration as an earlier one."""
    first_names: dict[str, str] = {}
    for point in points:
        first_name = first_names.setdefault(point.config.model_dump_json(), point.name)
        if first_name != point.name:
            error = UserError("config", f"it is the same experiment as {first_name}", "Remove one of them.")
            problems.add(point.name, error)


class _Problems:
    """A collection of the errors of points, raised as one error that lists each message once."""

    def __init__(self) -> None:
        self._names: dict[tuple[str, str, str], list[str]] = {}  # kind, message, hint → points

    def add(self, name: str, error: UserError) -> None:
        """Add an error of a point."""
        self._names.setdefault((error.kind, error.message, error.hint), []).append(name)

    @contextmanager
    def collect(self, name: str) -> Iterator[None]:
        """Catch a UserError in the block and add it as an error of a point."""
        try:
            yield
        except UserError as error:
            self.add(name, error)

    def raise_all(self) -> None:
        """Raise one UserError with all errors, if there are any."""
        if not self._names:
            return
        lines = []
        for (_, message, _), names in self._names.items():
            lines.append(f"  {format_names(names, 1)}: {message}")
        listed, omitted = lines[:8], len(lines) - 8
        more = f"\n… and {omitted} other problems" if omitted > 0 else ""
        hints = list(dict.fromkeys(hint for _, _, hint in self._names if hint))
        kind = next(iter(self._names))[0]
        count = len({name for names in self._names.values() for name in names})
        points = "1 point" if count == 1 else f"{count} points"
        raise UserError(
            kind,  # type: ignore[arg-type]
            f"{points} of the sweep cannot run, so none was started:\n" + "\n".join(listed) + more,
            " ".join(hints[:3]),
        )


def check_without_data(points: Sequence[Point]) -> None:
    """Check what needs no images: the teacher files of all points, and the networks and taps of named sets.

    Raises UserError with the problems of all points.
    """

    groups: dict[Any, list[Point]] = {}
    for point in points:
        config = point.config
        key = (config.data, config.backbone, config.validate_.students, config.objective.taps, config.given)
        groups.setdefault(key, []).append(point)
    problems = _Problems()
    for group in groups.values():
        try:
            _check_networks(group[0].config)
        except UserError as error:
            for point in group:
                problems.add(point.name, error)
    problems.raise_all()


def _check_networks(config: Config) -> None:
    from engine.config.teacher_source import require_teacher_files
    from engine.data.catalogue import KNOWN
    from engine.runs.plan import check_networks

    require_teacher_files(config.backbone)
    known = KNOWN[config.data.name]
    if known.classes is not None and known.size is not None:  # the images of a folder decide its sizes
        channels = 1 if config.data.name == "digits" else 3
        check_networks(config, known.classes, channels, config.data.image_size or known.size)


def check(
    points: Sequence[Point], progress: Callable[[int, int], None] | None = None
) -> dict[str, dict[str, str]]:
    """Check the images, teachers and devices of all points, as each run does before it starts.

    progress(done, total): called while image files are read. Returns point → input (data, teacher and other
    given files) → fingerprint. Raises UserError with the problems of all points.
    """
    from engine.data import load
    from engine.runs import plan

    problems, fingerprints = _Problems(), {}
    for _, group in itertools.groupby(points, key=lambda point: point.config.data):
        data = None
        for point in group:
            with problems.collect(point.name):
                data = load(point.config.data, progress=progress) if data is None else data
                identity = plan.prepare(point.config, data=data).identity
                fingerprints[point.name] = {part: text for part, text in identity.items() if part != "config"}
    problems.raise_all()
    return fingerprints
