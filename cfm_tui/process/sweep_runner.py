"""A sweep at work: every point a `cfm run` in a process of its own, so many at a time.

Killed at any moment, it finds in its folder what is finished, what was cut, and what still runs.
Not here: which point may start (see `engine.sweep.schedule`), what of it is shown (see `sweep_progress`).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from engine.errors import UserError
from engine.store import AT_WORK, StoredRun, control, is_run
from engine.store.process import alive
from engine.store.sweeps import StoredSweep
from engine.sweep.points import Point
from engine.sweep.schedule import Schedule, State

POLL_SECONDS = 0.2
LAST_LINES = 3  #: of a failed point's log
_FORWARD = {"SIGINT": signal.SIGINT}  # all others that end a run: SIGTERM


class Display(Protocol):
    """Shows a sweep while it goes."""

    def told(self, name: str, state: State, message: str = "") -> None:
        """A point is in another state."""

    def look(self, sweeper: Sweeper) -> None:
        """Some time has passed."""


@dataclass
class Child:
    """A point's process. process: None where it is another sweep's that was killed: it is waited for."""

    name: str
    slot: int
    process: subprocess.Popen[bytes] | None
    asked: bool = field(default=False)


class Sweeper:
    """Runs the points of a sweep.

    devices: of each slot, None for what the settings say; as many points run at once. threads: of each
    process; None leaves that to it.
    """

    def __init__(
        self,
        stored: StoredSweep,
        points: Sequence[Point],
        devices: Sequence[str | None],
        display: Display,
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
            if finished(stored.run(point.name)):
                self._enter(point.name, "done", "finished before")

    def step(self) -> bool:
        """Look after those that run, and start others where there is room; whether any is left."""
        for child in list(self._children):
            self._look_after(child)
        while self.stopping is None and len(self._children) < len(self._devices):
            name = self.schedule.next()
            if name is None:
                break
            self._start(name)
        self._display.look(self)
        return bool(self._children) or (self.stopping is None and bool(self.schedule.named("waiting")))

    def stop(self, by: str) -> None:
        """Let every point that runs write a checkpoint and end. by: the signal's name."""
        self.stopping = by
        self._signal(_FORWARD.get(by, signal.SIGTERM))
        for child in self._children:
            if child.process is None:
                with suppress(UserError):
                    control.request(self.stored.folder / child.name, "stop")

    def checkpoint(self) -> None:
        """Let every point that runs write a checkpoint and go on."""
        self._signal(signal.SIGUSR1)

    def _signal(self, number: int) -> None:
        for child in self._children:
            if child.process is not None and child.process.poll() is None:
                child.process.send_signal(number)

    def status(self, name: str) -> dict[str, Any]:
        """The latest heartbeat of a point's run; empty where there is none."""
        try:
            return self.stored.run(name).status()
        except UserError:  # being written
            return {}

    # --- one point --------------------------------------------------------------------------------

    def _start(self, name: str) -> None:
        slot = next(
            number
            for number in range(len(self._devices))
            if all(child.slot != number for child in self._children)
        )
        run = self.stored.run(name)
        if at_work(run):
            self._children.append(Child(name, slot, None))
            self._enter(name, "running", "still at work from an earlier sweep")
            return
        begun = "begun before" if self.stored.begun(name) else ""
        words = command(self.schedule.points[name], self.stored.folder / name, self._devices[slot])
        program = [sys.executable, "-P", "-m", "cfm_tui", *words]  # -P: the current folder holds no modules
        with self.stored.log(name) as log:
            process = subprocess.Popen(
                program,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment(),
                start_new_session=True,  # a terminal's Ctrl-C comes once, through this process
            )
        self._children.append(Child(name, slot, process))
        self._enter(name, "running", begun)

    def _environment(self) -> Mapping[str, str]:
        if self._threads is None or "OMP_NUM_THREADS" in os.environ:
            return os.environ
        return {**os.environ, "OMP_NUM_THREADS": str(self._threads)}

    def _look_after(self, child: Child) -> None:
        run = self.stored.run(child.name)
        if child.process is None:
            if not at_work(run):
                self._children.remove(child)
                self._enter(child.name, "done" if finished(run) else "waiting")
            else:
                self._follow(child)
            return
        code = child.process.poll()
        if code is None:
            self._follow(child)
            return
        self._children.remove(child)
        if code == 0 and finished(run):
            self._enter(child.name, "done")
        elif at_work(run):  # another process was quicker
            self._children.append(Child(child.name, child.slot, None))
        elif self.stopping is not None or code in (130, 143):
            self._enter(child.name, "stopped")
        else:
            self._enter(child.name, "failed", why(run, code))

    def _follow(self, child: Child) -> None:
        status = self.status(child.name)
        if "stage" in status and (child.process is None or status.get("pid") == child.process.pid):
            self.schedule.reached(child.name, status["stage"])

    def _enter(self, name: str, state: State, message: str = "") -> None:
        self.schedule.states[name] = state
        self.messages[name] = message
        self._display.told(name, state, message)


def command(point: Point, folder: Path, device: str | None) -> list[str]:
    """`cfm` and these words begin a point, or go on with it."""
    words = ["run", "--preset", point.preset]
    for text in point.sets():
        words += ["--set", text]
    return [*words, *(["--device", device] if device else []), "--out", str(folder)]


def finished(run: StoredRun) -> bool:
    """Whether a run has its results. One that cannot be read has none; `cfm run` will say so."""
    try:
        return run.results() is not None
    except UserError:
        return False


def at_work(run: StoredRun) -> bool:
    """Whether a process has the run, or has just taken it."""
    owner = run.owner()
    if owner is not None and alive(owner) is True:
        return True
    return is_run(run.folder) and run.state() in AT_WORK


def why(run: StoredRun, code: int) -> str:
    """Why a point failed: what its run says, else the end of its log."""
    if code < 0:
        return f"its process was killed by {signal.Signals(-code).name}"
    try:
        said = run.status().get("message")
    except UserError:
        said = None
    last = " / ".join(run.log().splitlines()[-LAST_LINES:])
    return str(said or last or f"its process ended with code {code}")
