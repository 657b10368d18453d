"""A run on a thread of its own, so that whoever started it stays free to listen, draw and steer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from typing import Generic, TypeVar

from engine.events import Event, drain

T = TypeVar("T")


class Engine(threading.Thread, Generic[T]):
    """Pulls a run, from `start` to its end.

    work: the run's events, such as `pipeline.run`. hear: is given each event, on this thread.
    To pause, stop or save it, ask the `steering.Control` that the run was given.
    """

    def __init__(self, work: Generator[Event, None, T], hear: Callable[[Event], None]) -> None:
        super().__init__(name="engine", daemon=True)
        self._work = work
        self._hear = hear
        self._found: list[T] = []
        self._error: BaseException | None = None

    def run(self) -> None:
        """Called by the thread: pull until the end, or until something is raised."""
        try:
            self._found.append(drain(self._work, self._hear))
        except BaseException as error:
            self._error = error

    def result(self) -> T:
        """What the run returned, or what it raised; waits for its end."""
        self.join()
        if self._error is not None:
            raise self._error
        return self._found[0]
