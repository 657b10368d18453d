"""`cfm sweep`: many experiments, told by what they share and what they vary, as one command."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cfm_tui.cli.common import DataRoot, Json, Quiet, Sets, Teacher, print_json

if TYPE_CHECKING:
    from cfm_tui.display.sweep_progress import Lines
    from cfm_tui.process.sweep_runner import Sweeper
    from engine.store.sweeps import StoredSweep
    from engine.sweep.description import Options
    from engine.sweep.points import Point

    Describe = Callable[[Sequence[Point]], dict[str, Any]]

Target = Annotated[
    str,
    typer.Argument(metavar="SWEEP", help="table2 … table5, figure2, figure6; a YAML file; a sweep's folder."),
]
Several = Annotated[str | None, typer.Option(metavar="A,B", help="Instead of what the sweep says.")]
Budget = Annotated[
    float | None,
    typer.Option(
        callback=lambda share: _share(share),
        help="Share of epochs and iterations to spend, e.g. 0.1 on a laptop.",
    ),
]
Grid = Annotated[
    list[str] | None,
    typer.Option("--grid", metavar="KEY=[…]", help="Another axis, e.g. seed=[0,1,2]; repeatable."),
]
Jobs = Annotated[
    int | None, typer.Option(min=1, max=1000, help="Points at once.", show_default="1, or one a device")
]
Devices = Annotated[
    str | None, typer.Option(metavar="A,B", help="Devices for the points, e.g. cuda:0,cuda:1.")
]
Out = Annotated[
    Path | None, typer.Option(help="The sweep's folder.", show_default="one in runs/ named by the sweep")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the points, and what they differ in.")]


def sweep(
    target: Target,
    dataset: Several = None,
    backbone: Several = None,
    ipc: Several = None,
    budget: Budget = None,
    grid: Grid = None,
    sets: Sets = None,
    data_root: DataRoot = None,
    teacher: Teacher = None,
    jobs: Jobs = None,
    devices: Devices = None,
    out: Out = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run every point of a sweep, or what is left of them; `cfm table` then compares them.

    Points that are finished are not run again, those that were cut go on. Exit code 1 where one failed.
    """
    from engine.sweep.description import Options

    ipcs, axes = [_whole(text) for text in _listed(ipc)], _axes(grid or ())
    given = {"data.root": data_root, "backbone.teacher": teacher}
    options = Options(_listed(dataset), _listed(backbone), ipcs, budget, sets or (), axes, given)
    slots = _slots(jobs, devices)
    folder, points, describe = _planned(target, options, out)
    if dry_run:
        _print_points(folder, points, as_json)
        return
    done = _run(folder, points, describe, slots, quiet)
    _tell(done, as_json)


def _share(budget: float | None) -> float | None:
    if budget is not None and not 0 < budget <= 1:
        raise typer.BadParameter(f"{budget:g} is no share: give more than 0 and at most 1")
    return budget


def _listed(text: str | None) -> list[str]:
    return [part for part in (text or "").replace(",", " ").split() if part]


def _whole(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < len(text) <= 9:
        raise typer.BadParameter(f"--ipc {text[:20]!r} is no whole number")
    return int(text)


def _axes(texts: Sequence[str]) -> dict[str, list[Any]]:
    from engine.config import yaml_io

    axes = {}
    for text in texts:
        key, equals, value = text.partition("=")
        values = yaml_io.parse(value, f"--grid {key}") if equals else None
        if not isinstance(values, list) or not values:
            raise typer.BadParameter(f"--grid {text[:60]!r} is not KEY=[…], as seed=[0,1,2]")
        axes[key.strip()] = values
    return axes


def _slots(jobs: int | None, devices: str | None) -> list[str | None]:
    """The device of each point that may run at once; None: what its settings say."""
    names: list[str | None] = [*_listed(devices)]
    names = names or [None]
    return [names[number % len(names)] for number in range(jobs or len(names))]


def _planned(target: str, options: Options, out: Path | None) -> tuple[Path, list[Point], Describe | None]:
    """The sweep's folder and points, and what tells what is to be written of it: None where it is there."""
    from engine import store
    from engine.errors import UserError
    from engine.store import sweeps
    from engine.sweep import description, folder, points

    given = Path(target)
    if sweeps.is_sweep(given):
        if not options.nothing():
            raise UserError(
                "usage",
                f"{target} is a sweep that was begun: its settings are those of its points",
                "leave the options out; --jobs and --devices may be given",
            )
        return given, folder.points_of(sweeps.StoredSweep(given)), None
    name, sweep = description.read(target)
    found = points.expand(sweep, options, os.environ)
    where = out or store.runs_folder() / _folder_name(name, options)
    return where, found, partial(folder.manifest, name, sweep, options)


def _folder_name(name: str, options: Options) -> str:
    parts = [name, *options.datasets, *options.backbones]
    parts += ["ipc" + "+".join(map(str, options.ipcs))] if options.ipcs else []
    parts += [f"budget{options.budget:g}"] if options.budget is not None else []
    return "-".join(parts)[:100]


def _print_points(folder: Path, points: list[Point], as_json: bool) -> None:
    if as_json:
        told = [
            {"name": point.name, "row": point.row, "column": point.column, "preset": point.preset}
            | {"says": point.says, "scaled": point.scaled}
            for point in points
        ]
        print_json({"folder": str(folder), "points": told})
        return
    from cfm_tui.display.progress import format_count
    from cfm_tui.display.tables import aligned
    from engine.config import settings

    common = _common(points)
    rows = [["point", "preset", "differs in"]]
    for point in points:
        said = {key: value for key, value in point.says.items() if key not in common}
        rows.append([point.name, point.preset, " ".join(settings.as_sets(said)) or "—"])
    typer.echo(aligned(rows) + f"\n\n{format_count(len(points), 'points')} in {folder}")
    for key, pair in sorted({(key, tuple(pair)) for point in points for key, pair in point.scaled.items()}):
        typer.echo(f"budget: {key} {pair[0]} → {pair[1]}")


def _common(points: Sequence[Point]) -> set[str]:
    """Keys that all points set alike."""
    first = points[0].says
    return {key for key in first if all(key in each.says and each.says[key] == first[key] for each in points)}


def _run(
    folder: Path,
    points: list[Point],
    describe: Describe | None,
    slots: list[str | None],
    quiet: bool,
) -> Sweeper:
    from cfm_tui.display import sweep_progress
    from cfm_tui.process.sweep_runner import Sweeper, finished
    from engine.device import choose
    from engine.runs.launch import with_absolute_paths
    from engine.store import sweeps
    from engine.sweep import folder as folders
    from engine.sweep.points import check

    points = [replace(point, config=with_absolute_paths(point.config)) for point in points]
    manifest = None if describe is None else describe(points)
    owner = sweeps.own_sweep(folder)
    try:
        stored = sweeps.StoredSweep(folder)
        with sweep_progress.opened(quiet, len(slots)) as display:
            if manifest is not None:
                folders.refuse_another(folder, manifest)
            left = [point for point in points if not finished(stored.run(point.name))]
            for device in filter(None, dict.fromkeys(slots)):
                choose(device)
            given = check([_placed(point, slots) for point in left])
            folders.refuse_other_things(folder, given)
            stored = folders.written(folder, manifest, given)
            sweeper = Sweeper(stored, points, slots, display, _threads(len(slots)))
            _follow(sweeper, display)
    finally:
        owner.release()
    return sweeper


def _placed(point: Point, slots: Sequence[str | None]) -> Point:
    """The point as it is computed on the first slot."""
    device = slots[0]
    return (
        point if device is None else replace(point, config=point.config.model_copy(update={"device": device}))
    )


def _threads(jobs: int) -> int | None:
    """Threads of each process, so that all together have as many as there are processors."""
    if jobs == 1:
        return None
    known = getattr(os, "sched_getaffinity", None)
    count = len(known(0)) if known is not None else os.cpu_count() or 1
    return max(1, count // jobs)


def _follow(sweeper: Sweeper, display: Lines) -> None:
    """All points; signals stop them as they stop a run."""
    from cfm_tui.process import signals
    from cfm_tui.process.sweep_runner import POLL_SECONDS
    from engine.errors import Stopped
    from engine.runs.control import Control

    control = Control()
    with signals.handled(control, display.say) as came:
        while sweeper.step():
            came.tell()
            for command, by in control.take():
                if command == "stop":
                    sweeper.stop(by)
                else:
                    sweeper.checkpoint()
            time.sleep(POLL_SECONDS)
    if sweeper.stopping is not None:
        folder = sweeper.stored.folder
        stopped = Stopped(sweeper.stopping, folder)
        stopped.hint = f"`cfm sweep {folder}` goes on with it"
        raise stopped


def _tell(sweeper: Sweeper, as_json: bool) -> None:
    """What came of it; exit code 1 where a point failed."""
    stored, states = sweeper.stored, sweeper.schedule.states
    failed = sweeper.schedule.named("failed", "stopped")
    if as_json:
        print_json(
            {"folder": str(stored.folder), "points": [_told(stored, sweeper, name) for name in states]}
        )
    else:
        typer.echo(f"{len(states) - len(failed)} of {len(states)} points are done; {stored.folder}")
        for name in failed:
            typer.echo(f"{name}: {states[name]}, {sweeper.messages[name] or 'by somebody else'}")
        again = f"`cfm sweep {stored.folder}` tries them again"
        typer.echo(f"→ {again if failed else f'`cfm table {stored.folder}` compares them'}")
    if failed:
        raise typer.Exit(1)


def _told(stored: StoredSweep, sweeper: Sweeper, name: str) -> dict[str, Any]:
    results = stored.run(name).results() if sweeper.schedule.states[name] == "done" else None
    summary = results["summary"] if results is not None else {}
    return {
        "name": name,
        "folder": str(stored.folder / name),
        "state": sweeper.schedule.states[name],
        "message": sweeper.messages[name] if sweeper.schedule.states[name] != "done" else "",
        "accuracy": summary.get("accuracy"),
        "control": summary.get("control"),
    }
