"""The sweeps of a folder: their points, how far each is, and their accuracies as a grid.

Read from small files; neither torch nor the sweep's settings are needed to list them.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cfm_tui.console.columns import Column, draw_bar
from cfm_tui.console.listing import BAR, Summaries
from cfm_tui.console.preflight import locate_images
from cfm_tui.display.progress import format_age, format_count
from cfm_tui.display.run_summary import RunSummary, parse_age
from engine.config.presets import list_shipped, load_shipped
from engine.data.catalogue import KNOWN
from engine.errors import UserError
from engine.runs.results import average_students, mean_std, read_results
from engine.spectral.schedules import batch_count
from engine.store import AT_WORK, StoredRun, is_run
from engine.store.sweeps import StoredSweep, is_sweep
from engine.sweep.description import Options
from engine.sweep.folder import PlannedSweep

#: The mark of a point in the grid by its state; a finished one has its accuracy, an active one a bar.
MARKS = {"waiting": "·", "failed": "✗", "damaged": "✗", "newer": "✗", "lost": "○", "stopped": "■"}
LEGEND = "· waiting   ● running   ✗ failed   ■ stopped   ○ lost   mean ± SD over seeds, %"


@dataclass(frozen=True)
class PointSummary:
    """A point of a sweep.

    row, column: its place in the grid. state: of its run; "waiting" before it starts, "failed" also where its
    process ended before that. done: completed fraction of an active run's stage. accuracies: of its finished
    repeats, in percent.
    """

    name: str
    folder: Path
    row: str
    column: str
    state: str
    done: float | None = None
    accuracies: tuple[float, ...] = ()


@dataclass(frozen=True)
class SweepSummary:
    """A sweep. is_active: whether a process runs its points. problem: why it cannot be read."""

    folder: Path
    name: str
    created: str = ""
    points: tuple[PointSummary, ...] = ()
    is_active: bool = False
    problem: str = ""

    def count(self, *states: str) -> int:
        """Return the number of points in one of these states."""
        return sum(point.state in states for point in self.points)

    @property
    def state(self) -> str:
        """The state of the sweep as a whole, one of those of a run."""
        if self.problem:
            return "damaged"
        if self.is_active:
            return "running"
        if self.count("finished") == len(self.points):
            return "finished"
        return "failed" if self.count("failed", "damaged", "newer") else "stopped"

    def rows(self) -> list[str]:
        """Return the names of the grid's rows."""
        return list(dict.fromkeys(point.row for point in self.points))

    def columns(self) -> list[str]:
        """Return the names of the grid's columns."""
        return list(dict.fromkeys(point.column for point in self.points))

    def find_points(self, row: str, column: str) -> list[PointSummary]:
        """Return the points in a cell of the grid, which differ in their seeds."""
        return [point for point in self.points if (point.row, point.column) == (row, column)]


class SweepListing:
    """The sweeps of a folder. Only active points and points whose files changed are read again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._summaries = Summaries()
        self._accuracies: dict[Path, tuple[RunSummary, tuple[float, ...]]] = {}

    def read(self) -> list[SweepSummary]:
        """Return the sweeps, newest first."""
        try:
            folders = [entry for entry in self.folder.iterdir() if is_sweep(entry)]
        except OSError:
            return []
        sweeps = [self._read_sweep(folder) for folder in folders]
        return sorted(sweeps, key=lambda sweep: (sweep.created, sweep.name), reverse=True)

    def _read_sweep(self, folder: Path) -> SweepSummary:
        stored = StoredSweep(folder)
        try:
            manifest = stored.manifest()
            is_active = stored.owner() is not None
            points = tuple(self._read_point(stored, record, is_active) for record in manifest["points"])
            return SweepSummary(folder, stored.name, str(manifest.get("created", "")), points, is_active)
        except UserError as error:
            return SweepSummary(folder, stored.name, problem=error.message)
        except (KeyError, TypeError) as error:
            return SweepSummary(folder, stored.name, problem=f"{stored.MANIFEST} is damaged: {error!r}")

    def _read_point(self, stored: StoredSweep, record: dict[str, Any], is_active: bool) -> PointSummary:
        name, run = record["name"], stored.run(record["name"])
        place = name, run.folder, record["row"], record["column"]
        if not is_run(run.folder):
            return PointSummary(*place, "failed" if run.log() and not is_active else "waiting")
        summary = self._summaries.read(run.folder)
        state = "stopped" if summary.state == "new" else summary.state
        done = summary.done if summary.is_active else None
        return PointSummary(*place, state, done, self._read_accuracies(run, summary))

    def _read_accuracies(self, run: StoredRun, summary: RunSummary) -> tuple[float, ...]:
        known = self._accuracies.get(run.folder)
        if known is None or known[0] is not summary:
            accuracies: tuple[float, ...] = ()
            if summary.accuracy is not None and (document := read_results(run)) is not None:
                architecture = document["summary"]["architecture"]
                accuracies = tuple(average_students(document["repeats"], architecture, "distilled").values())
            known = self._accuracies[run.folder] = summary, accuracies
        return known[1]


def list_included() -> list[tuple[str, str]]:
    """Return name and description of each sweep that is included."""
    return [(name, str(load_shipped("sweeps", name)["description"])) for name in list_shipped("sweeps")]


def parse_options(text: str) -> Options:
    """Return the options of a sweep typed as `dataset=A,B backbone=A,B ipc=1,10 budget=0.1 KEY=VALUE`.

    Raises UserError("usage") where a number is wrong.
    """
    given, sets = dict.fromkeys(("dataset", "backbone", "ipc", "budget"), ""), []
    try:
        for word in shlex.split(text):
            key, equals, value = word.partition("=")
            if equals and key in given:
                given[key] = value
            else:
                sets.append(word)
        datasets, backbones, ipcs = (
            [part for part in given[key].split(",") if part] for key in list(given)[:3]
        )
        budget = None if given["budget"] in ("", "1") else float(given["budget"])
        return Options(datasets, backbones, [int(ipc) for ipc in ipcs], budget, sets)
    except ValueError as error:
        raise UserError(
            "usage", f"{text}: {error}", "for example dataset=cifar10 ipc=10 budget=0.1"
        ) from None


def describe_plan(planned: PlannedSweep) -> str:
    """Return the lines about what a sweep would compute, and where."""
    points = planned.points
    rows, columns = (len({getattr(point, name) for point in points}) for name in ("row", "column"))
    shape = f"{format_count(rows, 'rows')} × {format_count(columns, 'columns')}"
    configs = [point.config for point in points]
    epochs = sum(
        config.repeats
        * config.validate_.seeds
        * (len(config.validate_.students) or 1)
        * config.validate_.epochs
        for config in configs
    )
    iterations = sum(
        config.repeats * config.recover.iterations * batch_count(config.recover, config.ipc, classes)
        for config in configs
        if config.optimises and (classes := KNOWN[config.data.name].classes) is not None
    )
    datasets = ", ".join(dict.fromkeys(config.data.name for config in configs))
    lines = [f"{format_count(len(points), 'points')}: {shape} of {datasets}"]
    lines += [f"{iterations:,} iterations of recovery"] if iterations else []
    lines += [f"{epochs:,} epochs of students on distilled images, and as many on random ones"]
    lines += [f"in {planned.folder}"]
    if is_sweep(planned.folder):
        from cfm_tui.process.sweep_runner import is_finished  # imports torch

        stored = StoredSweep(planned.folder)
        finished = sum(is_finished(stored.run(point.name), point.config.repeats) for point in points)
        lines += [f"which exists, with {finished} of {len(points)} points finished"]
    return "\n".join(lines)


def find_problem(planned: PlannedSweep) -> UserError | None:
    """Return why a sweep cannot run, as far as it is known without reading images. Imports torch."""
    from engine.sweep.folder import require_same_sweep
    from engine.sweep.points import check_without_data

    try:
        require_same_sweep(planned.folder, planned.with_absolute_paths().manifest())
        for data in {
            point.config.data.model_dump_json(): point.config.data for point in planned.points
        }.values():
            locate_images(data)
        check_without_data(planned.points)
    except UserError as error:
        return error
    return None


def format_cell(points: Sequence[PointSummary]) -> str:
    """Return the text of a cell of the grid: the accuracy over its seeds, and what is not finished."""
    if not points:
        return ""
    accuracies = mean_std([accuracy for point in points for accuracy in point.accuracies])
    parts = []
    if accuracies is not None:
        deviation = "" if accuracies["std"] is None else f" ± {accuracies['std']:.1f}"
        parts.append(f"{accuracies['mean']:.1f}{deviation}")
    finished = sum(point.state == "finished" for point in points)
    if 0 < finished < len(points):
        parts.append(f"{finished}/{len(points)}")
    active = [point.done or 0.0 for point in points if point.state in AT_WORK]
    if active:
        share = sum(active) / len(active)
        parts.append(f"{draw_bar(share, BAR)} {share:.0%}")
    for state, mark in MARKS.items():
        count = sum(point.state == state for point in points)
        if count and not (state == "waiting" and parts):
            parts.append(mark if count == 1 else f"{mark}{count}")
    return " ".join(parts)


def shorten_columns(columns: Sequence[str]) -> tuple[str, list[str]]:
    """Return the words that all column names share, and the names without them."""
    if len(columns) < 2:
        return "", list(columns)
    split = [column.split() for column in columns]
    shared = [word for word in split[0] if all(word in words for words in split)]
    short = [" ".join(word for word in words if word not in shared) for words in split]
    if not all(short) or len(set(short)) < len(short):
        return "", list(columns)
    return " ".join(shared), short


def _number(read: Callable[[SweepSummary], int]) -> Callable[[SweepSummary], str]:
    return lambda sweep: str(read(sweep) or "")


def _show_progress(sweep: SweepSummary) -> str:
    share = sweep.count("finished") / max(len(sweep.points), 1)
    return f"{draw_bar(share, 2 * BAR)} {sweep.count('finished')}/{len(sweep.points)}"


def _count_failed(sweep: SweepSummary) -> int:
    return sweep.count("failed", "damaged", "newer", "lost")


def _count_running(sweep: SweepSummary) -> int:
    return sweep.count(*AT_WORK)


#: The columns of the list of sweeps.
COLUMNS: tuple[Column[SweepSummary], ...] = (
    Column("sweep", lambda sweep: sweep.name, lambda sweep: sweep.name, least=12),
    Column("state", lambda sweep: sweep.state, lambda sweep: sweep.state, rank=1),
    Column("finished", _show_progress, lambda sweep: sweep.count("finished")),
    Column("running", _number(_count_running), _count_running, 3, True),
    Column("failed", _number(_count_failed), _count_failed, 2, True),
    Column(
        "age",
        lambda sweep: "" if (age := parse_age(sweep.created)) is None else format_age(age),
        lambda sweep: sweep.created,
        4,
        True,
    ),
)
