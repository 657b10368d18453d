"""`cfm watch`, `pause`, `continue`, `stop`, `checkpoint`, `check`: control a run from another terminal."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from cfm_tui.cli.common import Json, Quiet, echo, print_json

if TYPE_CHECKING:
    from engine.store import StoredRun
    from engine.store.control import Command

RunName = Annotated[str, typer.Argument(metavar="RUN", help="A run's folder, or its name.")]
Wait = Annotated[
    float,
    typer.Option("--wait", min=0, metavar="SECONDS", help="Longest time to wait for the run to comply."),
]


def pause(run: RunName, wait: Wait = 60.0) -> None:
    """Pause a run at its next checkpoint, until `cfm continue` or `cfm stop`."""
    _ask(run, "pause", wait, "paused")


def continue_run(run: RunName, wait: Wait = 60.0) -> None:
    """Continue a paused run."""
    _ask(run, "continue", wait, "running")


def stop(run: RunName, wait: Wait = 60.0) -> None:
    """Write a checkpoint and stop a run; `cfm resume` resumes it."""
    _ask(run, "stop", wait, "stopped", "finished", "failed")


def checkpoint(run: RunName, wait: Wait = 60.0) -> None:
    """Let a run write a checkpoint as soon as it can, and continue."""
    _ask(run, "checkpoint", wait)


def _ask(name: str, command: Command, wait: float, *states: str) -> None:
    """Request a command, and wait until the run is in one of `states`.

    Without states, wait until the run has written a checkpoint. Exits with 1 after `wait` seconds. Raises
    UserError where the run is not active, is damaged or is of a newer version.
    """
    from engine import store
    from engine.errors import UserError
    from engine.store import control

    stored = store.find_run(name)
    if (state := stored.state()) not in store.AT_WORK:
        stored.require_whole()
        problem = f"cannot {command} {stored.folder}: it is {state}"
        raise UserError("usage", problem, _suggest_command(stored, state))
    checkpoints_before = stored.checkpoints()
    request = control.request(stored.folder, command)
    until = time.monotonic() + wait
    while time.monotonic() < until:
        state = stored.state()
        is_saved = not states and (state == "paused" or stored.checkpoints() > checkpoints_before)
        if (state in states or is_saved) and not request.exists():
            if command == "stop":
                echo(_describe_end(stored, state))
            else:
                echo(f"{stored.folder}: {command} done; {_format_status(stored)}")
            return
        if state not in store.AT_WORK:
            raise UserError("usage", f"{stored.folder} is now {state}", _suggest_command(stored, state))
        time.sleep(0.2)
    echo(f"{stored.folder}: requested {command}, but the run reached no checkpoint within {wait:g} s")
    raise typer.Exit(1)


def _describe_end(run: StoredRun, state: str) -> str:
    """Return a sentence with a run's final state and the command to use next."""
    stage = run.status().get("stage")
    where = f" in stage {stage}" if stage and state != "finished" else ""
    verb = "has" if state == "failed" else "is"
    return f"{run.folder} {verb} {state}{where}; {_suggest_command(run, state)}"


def _format_status(run: StoredRun) -> str:
    from cfm_tui.display.progress import format_status

    return format_status(run.status(), run.state())


def _suggest_command(run: StoredRun, state: str) -> str:
    from engine.errors import quote_command

    if state == "finished":
        return f"{quote_command('show', run.folder)} shows its results"
    if state == "starting":
        return "try again once its process has loaded, which takes some seconds"
    return f"{quote_command('resume', run.folder)} resumes it"


def watch(run: RunName, quiet: Quiet = False) -> None:
    """Follow a run as text until it ends; Ctrl-C stops watching, not the run.

    Exit with 0 if it finished or was stopped, with 1 if it failed or was lost.
    """
    from cfm_tui.display.progress import open_display
    from cfm_tui.display.tables import results_table
    from engine import store
    from engine.runs.results import read_results

    stored = store.find_run(run)
    with open_display(quiet) as display:
        for event in stored.follow(lambda: stored.state() not in store.ACTIVE):
            display.show_event(event)
    state, results = stored.state(), read_results(stored)
    echo(f"{stored.folder}: {_format_status(stored)}")
    if results is not None:
        echo("\n" + results_table(results))
    elif state != "finished":
        echo(f"→ {_suggest_command(stored, state)}")
    if state in ("failed", "lost", "damaged"):
        raise typer.Exit(1)


def check(run: RunName, as_json: Json = False) -> None:
    """Verify the checksums of all files of a run; exit with 1 if one is damaged."""
    from engine import store

    folder = store.find_run(run).folder
    damage = store.verify_run(folder)
    if as_json:
        print_json({"folder": str(folder), "ok": not damage, "damage": damage})
    else:
        echo("\n".join(damage) if damage else f"{folder}: all checksums match")
    if damage:
        raise typer.Exit(1)
