"""What others ask of a run while it is computed, and what it does about that: save, wait, leave.

Only at save points: between two of them a stage is never disturbed.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import suppress
from typing import TypeVar

from engine.errors import Stopped, UserError
from engine.events import Checkpointed, Continued, Event, Paused, map_events
from engine.checkpoint import Checkpoint
from engine.store import Run
from engine.store.control import Command

T = TypeVar("T")
SHARE = 0.01  #: of the run's time, at most, that is spent on checkpoints written unasked
LOOK_SECONDS = 2.0  #: between two glimpses, at least
LOOK_SHARE = 0.005  #: of the run's time, at most, that is spent on them
WAIT_SECONDS = 0.1  #: how often a paused run looks whether it may go on


class Control:
    """Requests from this process: other threads and signal handlers. Takes no lock, so both may ask."""

    def __init__(self) -> None:
        self._asked: deque[tuple[Command, str]] = deque()

    def ask(self, command: Command, by: str) -> None:
        """Ask the run to pause, continue, stop or checkpoint at its next save point. by: who asks."""
        self._asked.append((command, by))

    def take(self) -> list[tuple[Command, str]]:
        """What was asked since the last call, oldest first."""
        return [self._asked.popleft() for _ in range(len(self._asked))]


class Steering:
    """Drives a run's stages from save point to save point.

    seconds: between checkpoints written unasked; 0 for one, and a glimpse, at every save point, whatever it
    costs. Otherwise they are written less often where they would take more than 1 % of the time.
    """

    def __init__(self, run: Run, control: Control, seconds: float) -> None:
        self._run = run
        self._control = control
        self._seconds = seconds
        self._saved = time.monotonic()
        self._cost = 0.0
        self._looked = -math.inf
        self._look_cost = 0.0
        self._save = False
        self._pause: str | None = None
        self._continue = ""
        self._stop: str | None = None

    def steer(self, work: Generator[Event, None, T]) -> Generator[Event, None, T]:
        """The same stages, their save points used and left out. Raises Stopped where that was asked."""

        def tell(event: Event) -> Iterator[Event]:
            return self._at(event) if isinstance(event, Checkpoint) else iter((event,))

        return map_events(work, tell)

    def _at(self, point: Checkpoint) -> Iterator[Event]:
        self._listen()
        wanted = self._save or self._pause is not None or self._stop is not None
        if wanted or point.always or self._due():
            yield self._checkpoint(point)
        self._look(point)
        if self._pause is not None and self._stop is None:
            yield from self._wait(self._pause)
        if self._stop is not None:
            raise Stopped(self._stop, self._run.folder)

    def _listen(self) -> None:
        for command, by in (*self._control.take(), *self._run.requests()):
            if command == "checkpoint":
                self._save = True
            elif command == "pause":
                self._pause = by
            elif command == "continue":
                self._pause, self._continue = None, by
            else:
                self._stop = by

    def _due(self) -> bool:
        return time.monotonic() - self._saved >= (self._seconds and max(self._seconds, self._cost / SHARE))

    def _checkpoint(self, point: Checkpoint) -> Checkpointed:
        began = time.perf_counter()
        state = point.capture()
        arrays = {name: value.numpy() for name, value in state.tensors.items()}
        number, size = self._run.checkpoint(point.stage, arrays, state.metadata)
        self._cost = time.perf_counter() - began
        self._saved, self._save = time.monotonic(), False
        return Checkpointed(point.stage, number, size, self._cost)

    def _look(self, point: Checkpoint) -> None:
        """Let others see the work, now and then. A disk that refuses is met where it matters."""
        rest = self._seconds and max(LOOK_SECONDS, self._look_cost / LOOK_SHARE)
        if point.preview is None or not (point.always or time.monotonic() - self._looked >= rest):
            return
        began = time.perf_counter()
        with suppress(UserError, OSError):
            self._run.save_glimpse(point.preview())
        self._look_cost = time.perf_counter() - began
        self._looked = time.monotonic()

    def _wait(self, by: str) -> Iterator[Event]:
        yield Paused(by)
        self._run.state("paused")
        while self._pause is not None and self._stop is None:
            time.sleep(WAIT_SECONDS)
            self._listen()
            self._save = False  # it was saved when it was paused
        self._run.state("running")
        if self._stop is None:
            yield Continued(self._continue)
