"""`cfm run` and `cfm resume`: run an experiment from its data, or from its last checkpoint."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cfm_tui.cli.common import (
    ConfigFile,
    DataRoot,
    Detach,
    Device,
    ExecutionPlanSource,
    Json,
    Out,
    Paused,
    Preset,
    Quiet,
    Repeats,
    RunName,
    Sets,
    Teacher,
    echo,
    name_experiment,
    print_json,
)  # fmt: skip

if TYPE_CHECKING:
    from cfm_tui.display.progress import Display
    from engine.config.settings import Resolved
    from engine.runs.execution import ExecutionPlan


def run(
    preset: Preset = None,
    config: ConfigFile = None,
    sets: Sets = None,
    data_root: DataRoot = None,
    teacher: Teacher = None,
    out: Out = None,
    repeats: Repeats = None,
    device: Device = None,
    plan: ExecutionPlanSource = None,
    detach: Detach = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Distil a data set and evaluate the images: squeeze, recover, relabel, validate.

    Without arguments, distil the embedded digits in a minute or two. If --out is an interrupted run,
    resume it.
    """
    from engine.config import settings

    given = {"data.root": data_root, "backbone.teacher": teacher, "repeats": repeats, "device": device}
    resolved = settings.resolve(
        preset=preset, file=config, sets=sets or (), overrides=given, environ=os.environ
    )
    name = name_experiment(preset, config)
    begin(resolved, out, name, plan=plan, detach=detach, as_json=as_json, quiet=quiet)


def resume(
    run: RunName,
    sets: Sets = None,
    data_root: DataRoot = None,
    teacher: Teacher = None,
    repeats: Repeats = None,
    device: Device = None,
    detach: Detach = False,
    paused: Paused = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Resume a run from its last checkpoint with its original settings.

    A setting may be changed until a stage that reads it has saved something.
    """
    from engine import store
    from engine.runs.resume import stored_config

    stored = store.find_run(run)
    given = {"data.root": data_root, "backbone.teacher": teacher, "repeats": repeats, "device": device}
    resolved = stored_config(stored, sets or (), given)
    begin(resolved, stored.folder, stored.name, detach=detach, paused=paused, as_json=as_json, quiet=quiet)


def begin(
    resolved: Resolved,
    folder: Path | None,
    name: str,
    *,
    plan: str | None = None,
    detach: bool,
    paused: bool = False,
    as_json: bool,
    quiet: bool,
) -> None:
    """Compute a run and print its results, or start it in a separate process with `detach`.

    plan: the source of an execution plan. paused: pause it at once.
    """
    from cfm_tui.display.progress import Live, open_display
    from engine.config import settings

    command, results = ["cfm", *sys.argv[1:]], None
    with open_display(quiet) as display:
        if set_by_method := resolved.settings_from_method():
            assignments = " ".join(settings.format_sets(set_by_method))
            display.say(f"method {resolved.config.objective.method}: {assignments}")
        display.say("loading")
        from engine.runs import launch
        from engine.runs.control import Control
        from engine.runs.execution import read_execution_plan

        execution = None if plan is None else read_execution_plan(plan)
        if detach:
            prepared, locked_run = launch.prepare_run(
                resolved, folder, name, command, display.reading, execution
            )
            estimated = launch.estimate_stages(
                prepared, locked_run, Control(), anew=isinstance(display, Live)
            )
            if estimated is not None:
                locked_run.record(estimated)
            locked_run.release()
            run_folder = locked_run.folder
        else:
            results, run_folder = _compute(resolved, folder, name, command, display, execution, paused=paused)
    if results is None:
        from cfm_tui.process.detach import start_detached
        from engine.errors import quote_command

        pid = start_detached(run_folder, paused=paused)
        if as_json:
            print_json({"folder": str(run_folder), "pid": pid})
        else:
            follow, stop = (quote_command(word, run_folder) for word in ("watch", "stop"))
            hint = f"{follow} follows it; {stop} stops it"
            echo(f"{run_folder}\n→ {hint}")
    elif as_json:
        print_json({**results, "folder": str(run_folder)})
    else:
        from cfm_tui.display.tables import results_table

        echo(results_table(results) + f"\n\n{run_folder}")


def _compute(
    resolved: Resolved,
    folder: Path | None,
    name: str,
    command: list[str],
    display: Display,
    execution: ExecutionPlan | None,
    *,
    paused: bool,
) -> tuple[dict[str, Any], Path]:
    """Compute a run on an engine thread while this one handles signals; return its results and folder.

    Everything is computed on that one thread: OpenMP gives each computing thread its own worker threads,
    and with more of these than processors, small networks take almost twice as long.
    """
    from cfm_tui.display.progress import Live
    from cfm_tui.process import signals
    from engine.runs import launch
    from engine.runs.control import Control
    from engine.runs.thread import Engine

    control, opened_folders = Control(), list[Path]()
    if paused:
        control.ask("pause", "cfm resume --paused")
    opened, signals_handled = threading.Event(), threading.Event()

    def on_open(run_folder: Path) -> None:
        opened_folders.append(run_folder)
        opened.set()
        signals_handled.wait()  # so that the run receives signals from its start

    work = launch.run_experiment(
        resolved,
        folder,
        name,
        command,
        control,
        display.reading,
        on_open,
        estimate="first"
        if isinstance(display, Live)
        else None,  # it takes seconds, which is worth it where a person waits
        execution=execution,
    )
    engine = Engine(work, display.show_event)
    engine.start()
    while engine.is_alive() and not opened.wait(0.2):
        pass  # nothing to save yet: a signal ends the process
    with signals.handle_signals(control, display.say) as received:
        signals_handled.set()
        while engine.is_alive():
            engine.join(0.2)
            received.report()
    return engine.result(), opened_folders[0]
