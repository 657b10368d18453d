"""Running a sweep: each point is a `cfm run` in a separate process, several at a time.

A sweep can be killed at any time; the next one reads from its folder which points are finished, interrupted
or still running. Not here: the order of points (see `engine.sweep.schedule`), progress output (see
`cfm_tui.display.sweep_progress`).
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cfm_tui.process.detach import start_program
from engine.errors import UserError
from engine.store import ACTIVE, StoredRun, control, is_run
from engine.store.lock import alive
from engine.store.sweeps import StoredSweep
from engine.sweep.points import Point
from engine.sweep.schedule import Schedule, State


class SweepDisplay(Protocol):
    """Shows the progress of a sweep."""

    def on_state_change(self, name: str, state: State, message: str = "") -> None:
        """Show a change of a point's state."""

    def refresh(self, sweeper: Sweeper) -> None:
        """Update the display; called regularly."""


@dataclass
class Child:
    """A running point. process: None if it was started by an earlier sweep that was killed."""

    name: str
    slot: int
    process: subprocess.Popen[bytes] | None


class Sweeper:
    """Runs the points of a sweep.

    devices: one per slot, and thus the number of points that run at once; None uses the device in the
    settings. threads: of each process; None uses the default.
    """

    def __init__(
        self,
        stored: StoredSweep,
        points: Sequence[Point],
        devices: Sequence[str | None],
        display: SweepDisplay,
        threads: int | None = None,
    ) -> None:
        self.stored = stored
        self.messages: dict[str, str] = {}
        self.stopping: str | None = None
        self._devices = devices
        self._display = display
        self._threads = threads
        self._children: list[Child] = []
        self.schedule = Schedule(points, [point.name for point in points if stored.begun(point.name)])
        for point in points:
            if is_finished(stored.run(point.name), point.config.repeats):
                self._set_state(point.name, "done", "already finished")

    def step(self) -> bool:
        """Check the running points and start others in free slots; return whether any point is left."""
        for child in list(self._children):
            self._poll_child(child)
        while self.stopping is None and len(self._children) < len(self._devices):
            name = self.schedule.next()
            if name is None:
                break
            self._start_point(name)
        self._display.refresh(self)
        return bool(self._children) or (self.stopping is None and bool(self.schedule.named("waiting")))

    def stop(self, by: str) -> None:
        """Make every running point write a checkpoint and stop. by: the signal's name."""
        self.stopping = by
        self._signal(signal.SIGINT if by == "SIGINT" else signal.SIGTERM)
        for child in self._children:
            if child.process is None:
                with suppress(UserError):
                    control.request(self.stored.folder / child.name, "stop")

    def checkpoint(self) -> None:
        """Make every running point write a checkpoint and continue."""
        self._signal(signal.SIGUSR1)

    def _signal(self, number: int) -> None:
        for child in self._children:
            if child.process is not None and child.process.poll() is None:
                child.process.send_signal(number)

    def status(self, name: str) -> dict[str, Any]:
        """Return the latest heartbeat of a point's run; empty if there is none."""
        try:
            return self.stored.run(name).status()
        except UserError:  # the status is being written
            return {}

    # --- one point --------------------------------------------------------------------------------

    def _start_point(self, name: str) -> None:
        slot = min({*range(len(self._devices))} - {child.slot for child in self._children})
        run = self.stored.run(name)
        if is_running(run):
            self._children.append(Child(name, slot, None))
            self._set_state(name, "running", "still running from an earlier sweep")
            return
        message = "resumed" if self.stored.begun(name) else ""
        arguments = build_command(self.schedule.points[name], self.stored.folder / name, self._devices[slot])
        environment = dict(os.environ)
        if self._threads is not None:
            environment.setdefault("OMP_NUM_THREADS", str(self._threads))
        with self.stored.log(name) as log:
            process = start_program(arguments, log, environment)
        self._children.append(Child(name, slot, process))
        self._set_state(name, "running", message)

    def _poll_child(self, child: Child) -> None:
        run, process = self.stored.run(child.name), child.process
        code = None if process is None else process.poll()
        is_at_work = is_running(run) if process is None else code is None
        if is_at_work:
            status = self.status(child.name)
            if "stage" in status and (process is None or status.get("pid") == process.pid):
                self.schedule.reached(child.name, status["stage"])
            return
        self._children.remove(child)
        if is_running(run):  # another process, which an earlier sweep started, has taken the run
            self._children.append(Child(child.name, child.slot, None))
        elif is_finished(run, self.schedule.points[child.name].config.repeats):
            self._set_state(child.name, "done")
        elif code is None:
            self._set_state(child.name, "waiting")
        elif self.stopping is not None or code in (130, 143):
            self._set_state(child.name, "stopped")
        else:
            self._set_state(child.name, "failed", failure_reason(run, code))

    def _set_state(self, name: str, state: State, message: str = "") -> None:
        self.schedule.states[name] = state
        self.messages[name] = message
        self._display.on_state_change(name, state, message)


def build_command(point: Point, folder: Path, device: str | None) -> list[str]:
    """Return the arguments of `cfm` that start or resume a point."""
    sets = [word for text in point.sets() for word in ("--set", text)]
    on_device = ["--device", device] if device else []
    return ["run", "--preset", point.preset, *sets, *on_device, "--out", str(folder)]


def is_finished(run: StoredRun, repeats: int) -> bool:
    """Return whether a run has the results of all repeats; False if it cannot be read.

    `cfm run` will report why.
    """
    try:
        return run.is_finished(repeats)
    except UserError:
        return False


def is_running(run: StoredRun) -> bool:
    """Return whether a process owns the run, or is about to."""
    owner = run.owner()
    is_owned = owner is not None and alive(owner) is True
    return is_owned or (is_run(run.folder) and run.state() in ACTIVE)


def has_failed(run: StoredRun) -> bool:
    """Return whether a point failed, or its process ended before its run began."""
    if is_running(run):
        return False
    return run.state() == "failed" if is_run(run.folder) else bool(run.log())


def failure_reason(run: StoredRun, code: int) -> str:
    """Return why a point failed: its run's message, else the end of its log."""
    if code < 0:
        return f"its process was killed by {signal.Signals(-code).name}"
    message = None
    with suppress(UserError):
        message = run.status().get("message")
    log_end = " / ".join(run.log().splitlines()[-3:])
    return str(message or log_end or f"its process ended with code {code}")
