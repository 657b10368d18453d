"""Control a run while it computes: save, pause, continue or stop it on request.

Requests are served only at checkpoints of a stage, never between two of them.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from engine.checkpoint import Checkpoint
from engine.errors import Stopped, UserError
from engine.events import Checkpointed, Continued, Event, Paused
from engine.store import Run
from engine.store.control import Command

SHARE = 0.01  #: largest share of the run's time that periodic checkpoints take
PREVIEW_SECONDS = 2.0  #: least time between two previews
PREVIEW_SHARE = 0.005  #: largest share of the run's time that previews take
WAIT_SECONDS = 0.1  #: how often a paused run checks for requests


class Control:
    """Requests from threads and signal handlers of this process. It takes no lock, so both can use it."""

    def __init__(self) -> None:
        self._asked: deque[tuple[Command, str]] = deque()

    def ask(self, command: Command, by: str) -> None:
        """Ask the run to pause, continue, stop, or write a checkpoint. by: who asks."""
        self._asked.append((command, by))

    def is_asked(self) -> bool:
        """Return whether a request is pending."""
        return bool(self._asked)

    def take(self) -> list[tuple[Command, str]]:
        """Return and clear the pending requests, oldest first."""
        return [self._asked.popleft() for _ in range(len(self._asked))]


class Steering:
    """Serves requests and writes checkpoints and previews while a run's stages compute.

    seconds: time between periodic checkpoints. With 0, a checkpoint and a preview are written at every
    opportunity, whatever they cost; otherwise less often if they would take more than 1 % of the run's time.
    """

    def __init__(self, run: Run, control: Control, seconds: float) -> None:
        self._run = run
        self._control = control
        self._seconds = seconds
        self._saved = time.monotonic()
        self._cost = 0.0
        self._previewed = -math.inf
        self._preview_cost = 0.0
        self._save = False
        self._paused_at: tuple[Any, ...] = ()  # the position of the latest checkpoint, as in `Paused`
        self._pause: str | None = None  # who asked for it; so are the next two
        self._continue = ""
        self._stop: str | None = None

    def handle(self, point: Checkpoint, seconds: float = 0.0) -> Iterator[Event]:
        """Serve the pending requests at a checkpoint; yield what was done.

        seconds: how long the stage has worked, which is saved with its state. Raises Stopped if a stop was
        requested.
        """
        if self.has_requests() or point.always or self._is_due():
            yield self._write_checkpoint(point, seconds)
        self._write_preview(point)
        if self._pause is not None and self._stop is None:
            yield from self._wait(self._pause)
        if self._stop is not None:
            raise Stopped(self._stop, (self._run.parent or self._run).folder)

    def has_requests(self) -> bool:
        """Return whether a request waits for the next checkpoint; fast, so that each step can ask."""
        self._read_requests()
        return self._save or self._pause is not None or self._stop is not None

    def _read_requests(self) -> None:
        for command, by in (*self._control.take(), *self._run.requests()):
            if command == "checkpoint":
                self._save = True
            elif command == "pause":
                self._pause = by
            elif command == "continue":
                self._pause, self._continue = None, by
            else:
                self._stop = by

    def _is_due(self) -> bool:
        return time.monotonic() - self._saved >= (self._seconds and max(self._seconds, self._cost / SHARE))

    def _write_checkpoint(self, point: Checkpoint, seconds: float) -> Checkpointed:
        began = time.perf_counter()
        state = point.capture()
        arrays = {name: tensor.numpy() for name, tensor in state.tensors.items()}
        number, size = self._run.checkpoint(point.stage, arrays, {**state.metadata, "seconds": seconds})
        self._cost = time.perf_counter() - began
        self._saved, self._save = time.monotonic(), False
        position = state.metadata.get
        self._paused_at = point.stage, position("batch"), position("iteration"), position("epoch")
        return Checkpointed(point.stage, number, size, self._cost)

    def _write_preview(self, point: Checkpoint) -> None:
        """Write a preview if it is due. Disk errors are ignored here; writing a checkpoint raises them."""
        interval = self._seconds and max(PREVIEW_SECONDS, self._preview_cost / PREVIEW_SHARE)
        if point.preview is None or not (point.always or time.monotonic() - self._previewed >= interval):
            return
        began = time.perf_counter()
        with suppress(UserError, OSError):
            self._run.save_preview(point.preview())
        self._preview_cost = time.perf_counter() - began
        self._previewed = time.monotonic()

    def _wait(self, by: str) -> Iterator[Event]:
        yield Paused(by, *self._paused_at)
        self._run.set_state("paused")
        while self._pause is not None and self._stop is None:
            time.sleep(WAIT_SECONDS)
            self._read_requests()
            self._save = False  # the checkpoint written before the pause is still current
        self._run.set_state("running")
        if self._stop is None:
            yield Continued(self._continue)
