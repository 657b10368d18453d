"""`cfm sweep`: run many experiments that share some settings and vary others."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cfm_tui.cli.common import DataRoot, Json, Quiet, Sets, Teacher, echo, print_json

if TYPE_CHECKING:
    from cfm_tui.display.sweep_progress import Lines
    from cfm_tui.process.sweep_runner import Sweeper
    from engine.sweep.folder import PlannedSweep
    from engine.sweep.points import Point

Several = Annotated[str | None, typer.Option(metavar="A,B", help="Values that override the sweep's.")]


def sweep(
    target: Annotated[
        str,
        typer.Argument(
            metavar="SWEEP", help="table2 … table5, figure2, figure6; a YAML file; a sweep's folder."
        ),
    ],
    dataset: Several = None,
    backbone: Several = None,
    ipc: Several = None,
    budget: Annotated[
        float | None,
        typer.Option(help="Fraction of epochs and iterations to run, e.g. 0.1 on a laptop."),
    ] = None,
    grid: Annotated[
        list[str] | None,
        typer.Option("--grid", metavar="KEY=[…]", help="Another axis, e.g. seed=[0,1,2]; repeatable."),
    ] = None,
    sets: Sets = None,
    data_root: DataRoot = None,
    teacher: Teacher = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1, max=1000, help="Points that run at the same time.", show_default="1, or one per device"
        ),
    ] = None,
    devices: Annotated[
        str | None, typer.Option(metavar="A,B", help="Devices for the points, e.g. cuda:0,cuda:1.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The sweep's folder.", show_default="runs/NAME, named after the sweep")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check and print the points and their differing settings.")
    ] = False,
    failed: Annotated[bool, typer.Option("--failed", help="Run only the points that failed.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run every point of a sweep; `cfm table` then compares them.

    Finished points are skipped, interrupted ones are resumed. Exit with 1 if a point failed.
    """
    from engine.store import runs_folder
    from engine.sweep.description import Options
    from engine.sweep.folder import plan_sweep

    ipcs, axes = _parse_integers(ipc), _parse_axes(grid or ())
    overrides = {"data.root": data_root, "backbone.teacher": teacher}
    options = Options(_split_list(dataset), _split_list(backbone), ipcs, budget, sets or (), axes, overrides)
    slots = _assign_devices(jobs, devices)
    planned = plan_sweep(target, options, runs_folder(), out)
    if failed:  # the stored manifest has all points
        planned = replace(planned, points=_select_failed(planned), describe=None)
    if dry_run:
        from engine.sweep.points import check_without_data

        check_without_data(planned.points)
        _print_points(planned, as_json)
        return
    sweeper = _run_points(planned, slots, quiet)
    _report_outcome(sweeper, as_json)


def _split_list(text: str | None) -> list[str]:
    return [part for part in (text or "").replace(",", " ").split() if part]


def _parse_integers(ipc: str | None) -> list[int]:
    for text in _split_list(ipc):
        if not text.isascii() or not text.isdigit() or len(text) > 9:
            raise typer.BadParameter(f"--ipc {text[:20]!r} is not a whole number")
    return list(map(int, _split_list(ipc)))


def _parse_axes(texts: Sequence[str]) -> dict[str, list[Any]]:
    from engine.config import yaml_io

    axes = {}
    for text in texts:
        key, equals, value = text.partition("=")
        values = yaml_io.parse(value, f"--grid {key}") if equals else None
        if not isinstance(values, list) or not values:
            raise typer.BadParameter(f"--grid {text[:60]!r} is not KEY=[…], e.g. seed=[0,1,2]")
        axes[key.strip()] = values
    return axes


def _assign_devices(jobs: int | None, devices: str | None) -> list[str | None]:
    """Return the device of each slot, i.e. of each point that runs at the same time.

    None: the device of the point's settings.
    """
    names: list[str | None] = [*_split_list(devices)] or [None]
    return [names[slot % len(names)] for slot in range(jobs or len(names))]


def _select_failed(planned: PlannedSweep) -> list[Point]:
    """Return the points of an existing sweep that failed. Raises UserError("usage") if there is none."""
    from cfm_tui.process.sweep_runner import has_failed
    from engine.errors import UserError, quote_command
    from engine.store.sweeps import StoredSweep

    stored = StoredSweep(planned.folder)
    selected = [point for point in planned.points if has_failed(stored.run(point.name))]
    if not selected:
        hint = f"{quote_command('sweep', planned.folder)} runs all points that are not finished"
        raise UserError("usage", f"no point of {planned.folder} has failed", hint)
    return selected


def _print_points(planned: PlannedSweep, as_json: bool) -> None:
    folder, points = planned.folder, planned.points
    if as_json:
        entries = [
            {"name": point.name, "row": point.row, "column": point.column, "preset": point.preset}
            | {"says": point.says, "scaled": point.scaled}
            for point in points
        ]
        print_json({"folder": str(folder), "points": entries})
        return
    from cfm_tui.display.progress import format_count
    from cfm_tui.display.tables import align_columns
    from engine.config import settings

    common = {each[0] for each in points[0].says.items() if all(each in p.says.items() for p in points)}
    rows = [["point", "preset", "differing settings"]]
    for point in points:
        differing = {key: value for key, value in point.says.items() if key not in common}
        rows.append([point.name, point.preset, " ".join(settings.format_sets(differing)) or "—"])
    echo(align_columns(rows) + f"\n\n{format_count(len(points), 'points')} in {folder}")
    for key, pair in sorted({(key, tuple(pair)) for point in points for key, pair in point.scaled.items()}):
        echo(f"budget: {key} {pair[0]} → {pair[1]}")


def _run_points(planned: PlannedSweep, slots: list[str | None], quiet: bool) -> Sweeper:
    """Run the points that are not finished. slots: the device of each.

    Raises UserError where the folder holds another sweep or a device is missing, Stopped after a signal.
    """
    from cfm_tui.display import sweep_progress
    from cfm_tui.process.sweep_runner import Sweeper, is_finished
    from engine.device import choose, cpus
    from engine.store import sweeps
    from engine.sweep import folder as folders
    from engine.sweep.points import check

    planned = planned.with_absolute_paths()
    folder, points, manifest = planned.folder, planned.points, planned.manifest()
    stored = sweeps.StoredSweep(folder)
    owner = stored.acquire()
    try:
        with sweep_progress.open_display(quiet, len(slots)) as display:
            folders.require_same_sweep(folder, manifest)
            unfinished = [e for e in points if not is_finished(stored.run(e.name), e.config.repeats)]
            for device in filter(None, dict.fromkeys(slots)):
                choose(device)
            device_setting = {} if slots[0] is None else {"device": slots[0]}
            configs = [each.config.model_copy(update=device_setting) for each in unfinished]
            inputs = check([replace(e, config=config) for e, config in zip(unfinished, configs, strict=True)])
            folders.require_same_inputs(folder, inputs)
            stored = folders.write_manifest(folder, manifest, inputs)
            # All processes together use as many threads as there are processors; a single one chooses itself.
            threads = max(1, cpus() // len(slots)) if len(slots) > 1 else None
            sweeper = Sweeper(stored, points, slots, display, threads)
            _step_until_done(sweeper, display)
    finally:
        owner.release()
    return sweeper


def _step_until_done(sweeper: Sweeper, display: Lines) -> None:
    """Run all points, forwarding signals to them. Raises Stopped where a signal stopped the sweep."""
    from cfm_tui.process import signals
    from engine.errors import Stopped, quote_command
    from engine.runs.control import Control

    control = Control()
    with signals.handle_signals(control, display.say) as received:
        while sweeper.step():
            received.report()
            for command, by in control.take():
                if command == "stop":
                    sweeper.stop(by)
                else:
                    sweeper.checkpoint()
            time.sleep(0.2)
    if sweeper.stopping is not None:
        folder = sweeper.stored.folder
        stopped = Stopped(sweeper.stopping, folder)
        stopped.hint = f"{quote_command('sweep', folder)} resumes it"
        raise stopped


def _report_outcome(sweeper: Sweeper, as_json: bool) -> None:
    """Print the state of every point. Raises typer.Exit(1) where one failed."""
    from engine.errors import quote_command
    from engine.runs.results import SCHEMA_VERSION

    stored, states = sweeper.stored, sweeper.schedule.states
    failed = sweeper.schedule.named("failed", "stopped")
    if as_json:
        entries = [_summarise_point(sweeper, name) for name in states]
        print_json({"schema_version": SCHEMA_VERSION, "folder": str(stored.folder), "points": entries})
    else:
        echo(f"{len(states) - len(failed)} of {len(states)} points are done; {stored.folder}")
        for name in failed:
            echo(f"{name}: {states[name]}, {sweeper.messages[name] or 'by another process'}")
        command, effect = ("sweep", "retries") if failed else ("table", "compares")
        echo(f"→ {quote_command(command, stored.folder)} {effect} them")
    if failed:
        raise typer.Exit(1)


def _summarise_point(sweeper: Sweeper, name: str) -> dict[str, Any]:
    """Return a point's entry in the JSON output."""
    from engine.runs.results import read_results

    stored, state = sweeper.stored, sweeper.schedule.states[name]
    results = read_results(stored.run(name)) if state == "done" else None
    summary = results["summary"] if results is not None else {}
    return {
        "name": name,
        "folder": str(stored.folder / name),
        "state": state,
        "message": sweeper.messages[name] if state != "done" else "",
        "accuracy": summary.get("accuracy"),
        "control": summary.get("control"),
    }
