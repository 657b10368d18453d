"""`cfm run` and `cfm resume`: one experiment from its data, or from where it was left, to its numbers."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cfm_tui.cli.common import ConfigFile, DataRoot, Device, Json, Preset, Quiet, Sets, Teacher, print_json

if TYPE_CHECKING:
    from cfm_tui.display.progress import Display
    from engine.config.settings import Resolved

Detach = Annotated[
    bool, typer.Option("--detach", help="Go on in a process of its own that outlives this terminal.")
]
JOIN_SECONDS = 0.2  # how often the main thread tells of signals while the engine works


def run(
    preset: Preset = None,
    config: ConfigFile = None,
    sets: Sets = None,
    data_root: DataRoot = None,
    teacher: Teacher = None,
    out: Annotated[
        Path | None, typer.Option(help="The run's folder.", show_default="a new one in runs/")
    ] = None,
    device: Device = None,
    detach: Detach = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Distil a data set and measure what the images are worth: squeeze, recover, relabel, validate.

    Without arguments: the embedded digits, in about a minute or two. With --out of a run that was
    cut, goes on with it.
    """
    from engine.config import settings

    given = {"data.root": data_root, "backbone.teacher": teacher, "device": device}
    resolved = settings.resolve(
        preset=preset, file=config, sets=sets or (), overrides=given, environ=os.environ
    )
    name = config.stem if config is not None else preset or settings.DEFAULT_PRESET
    begin(resolved, out, name, detach=detach, as_json=as_json, quiet=quiet)


def resume(
    run: Annotated[str, typer.Argument(help="A run's folder, or its name.")],
    sets: Sets = None,
    data_root: DataRoot = None,
    teacher: Teacher = None,
    device: Device = None,
    detach: Detach = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Go on with a run from its last save point, with the settings that it was begun with.

    A setting may be changed as long as the stages that read it have left nothing yet.
    """
    from engine import store
    from engine.runs.resume import stored_config

    stored = store.find(run)
    given = {"data.root": data_root, "backbone.teacher": teacher, "device": device}
    resolved = stored_config(stored, sets or (), given)
    begin(resolved, stored.folder, stored.name, detach=detach, as_json=as_json, quiet=quiet)


def begin(
    resolved: Resolved, folder: Path | None, name: str, *, detach: bool, as_json: bool, quiet: bool
) -> None:
    """Compute a run, or hand it to a process of its own, and print what came out."""
    from cfm_tui.display.progress import open_display
    from engine.config import settings

    command, results = ["cfm", *sys.argv[1:]], None
    with open_display(quiet) as display:
        if brought := settings.by_method(resolved):
            display.say(f"method {resolved.config.objective.method}: {' '.join(settings.as_sets(brought))}")
        display.say("loading")
        from engine.runs import launch

        if detach:
            _, owned = launch.prepare_run(resolved, folder, name, command, display.reading)
            owned.release()
            place = owned.folder
        else:
            results, place = _compute(resolved, folder, name, command, display)
    if results is None:
        _detach(place, as_json)
    elif as_json:
        print_json({**results, "folder": str(place)})
    else:
        from cfm_tui.display.tables import results_table

        typer.echo(results_table(results) + f"\n\n{place}")


def _compute(
    resolved: Resolved, folder: Path | None, name: str, command: list[str], display: Display
) -> tuple[dict[str, Any], Path]:
    """The run's results and its folder; signals steer it, which is why it has a thread of its own.

    All of it is on that one thread: OpenMP gives each thread that computes threads of its own, and where
    there are more of those than processors, small networks take almost twice as long.
    """
    from cfm_tui.process import signals
    from engine.runs import launch
    from engine.runs.control import Control
    from engine.runs.thread import Engine

    control, places = Control(), list[Path]()
    opened, heard = threading.Event(), threading.Event()

    def at_work(place: Path) -> None:
        places.append(place)
        opened.set()
        heard.wait()  # from its first moment on, signals reach the run

    engine = Engine(
        launch.run_experiment(resolved, folder, name, command, control, display.reading, at_work),
        display.hear,
    )
    engine.start()
    while engine.is_alive() and not opened.wait(JOIN_SECONDS):
        pass  # there is nothing to save yet: a signal ends the process
    with signals.handled(control, display.say) as came:
        heard.set()
        while engine.is_alive():
            engine.join(JOIN_SECONDS)
            came.tell()
    return engine.result(), places[0]


def _detach(folder: Path, as_json: bool) -> None:
    from cfm_tui.process.detach import detached

    pid = detached(folder)
    if as_json:
        print_json({"folder": str(folder), "pid": pid})
    else:
        typer.echo(f"{folder}\n→ `cfm watch {folder}` follows it; `cfm stop {folder}` stops it")
