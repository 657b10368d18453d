"""`cfm watch`, `pause`, `continue`, `stop`, `checkpoint`, `check`: a run from another terminal or host."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cfm_tui.cli.common import Json, Quiet, print_json

if TYPE_CHECKING:
    from engine.store import StoredRun
    from engine.store.control import Command

RunName = Annotated[str, typer.Argument(metavar="RUN", help="A run's folder, or its name.")]
Wait = Annotated[
    float, typer.Option("--wait", min=0, metavar="SECONDS", help="How long to wait for the run's answer.")
]
POLL_SECONDS = 0.2


def pause(run: RunName, wait: Wait = 60.0) -> None:
    """Let a run wait at its next save point, until `cfm continue` or `cfm stop`."""
    _ask(run, "pause", wait, "paused")


def go_on(run: RunName, wait: Wait = 60.0) -> None:
    """Let a paused run go on."""
    _ask(run, "continue", wait, "running")


def stop(run: RunName, wait: Wait = 60.0) -> None:
    """Let a run write a checkpoint and end; `cfm resume` goes on with it later."""
    _ask(run, "stop", wait, "stopped", "finished", "failed")


def checkpoint(run: RunName, wait: Wait = 60.0) -> None:
    """Let a run write a checkpoint at its next save point, and go on."""
    _ask(run, "checkpoint", wait)


def _ask(name: str, command: Command, wait: float, *states: str) -> None:
    """Leave a request and wait until the run is in one of the states, or else has written a checkpoint."""
    from engine import store
    from engine.errors import UserError
    from engine.store import control

    found = store.find(name)
    if (state := found.state()) not in store.AT_WORK:
        raise UserError("usage", f"{found.folder} is {state}, so it cannot be asked", _way_on(found, state))
    before = found.checkpoints()
    request = control.request(found.folder, command)
    until = time.monotonic() + wait
    while time.monotonic() < until:
        state = found.state()
        done = state in states if states else state == "paused" or found.checkpoints() > before
        if done and not request.exists():
            typer.echo(_ended(found, state) if command == "stop" else _done(found, command))
            return
        if state not in store.AT_WORK:
            raise UserError("usage", f"{found.folder} is {state} now", _way_on(found, state))
        time.sleep(POLL_SECONDS)
    typer.echo(f"{found.folder}: asked to {command}; it has not come to a save point in {wait:g} s")
    raise typer.Exit(1)


def _done(found: StoredRun, command: Command) -> str:
    return f"{found.folder}: {command} done; {_place(found)}"


def _ended(found: StoredRun, state: str) -> str:
    """What became of a run, and what can be done with it now."""
    stage = found.status().get("stage")
    where = f" in its stage {stage}" if stage and state != "finished" else ""
    return f"{found.folder} {'has' if state == 'failed' else 'is'} {state}{where}; {_way_on(found, state)}"


def _place(found: StoredRun) -> str:
    from cfm_tui.display.tables import status_line

    return status_line(found.status(), found.state())


def _way_on(found: StoredRun, state: str) -> str:
    if state == "finished":
        return f"`cfm show {found.folder}` shows its results"
    return f"`cfm resume {found.folder}` goes on with it"


def watch(run: RunName, quiet: Quiet = False) -> None:
    """Follow a run as text until it ends; leaving (Ctrl-C) does not touch the run.

    Exits with 0 where it finished or was stopped, with 1 where it failed or was lost.
    """
    from cfm_tui.display.progress import open_display
    from cfm_tui.display.tables import results_table
    from engine import store

    found = store.find(run)
    with open_display(quiet) as display:
        for event in found.follow(lambda: found.state() not in store.AT_WORK):
            display.hear(event)
    state, results = found.state(), found.results()
    typer.echo(f"{found.folder}: {_place(found)}")
    if results is not None:
        typer.echo("\n" + results_table(results))
    elif state != "finished":
        typer.echo(f"→ {_way_on(found, state)}")
    if state in ("failed", "lost", "damaged"):
        raise typer.Exit(1)


def check(run: RunName, as_json: Json = False) -> None:
    """Hold every file of a run against the digest with which it was written; exits with 1 on damage."""
    from engine import store

    found = store.find(run)
    damage = store.check(found.folder)
    if as_json:
        document: dict[str, Any] = {"folder": str(found.folder), "ok": not damage, "damage": damage}
        print_json(document)
    else:
        typer.echo("\n".join(damage) if damage else f"{found.folder}: every file is as it was written")
    if damage:
        raise typer.Exit(1)
