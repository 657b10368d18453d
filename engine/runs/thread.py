"""Run an experiment on a background thread, so that the caller stays free to show and control it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from typing import Generic, TypeVar

from engine.events import Event, drain

T = TypeVar("T")


class Engine(threading.Thread, Generic[T]):
    """A thread that runs an experiment to its end once `start` is called.

    work: a generator of events, such as `pipeline.run`. on_event: called with each event, on this thread.
    To pause, stop or save the run, use the `control.Control` that was passed to it.
    """

    def __init__(self, work: Generator[Event, None, T], on_event: Callable[[Event], None]) -> None:
        super().__init__(name="engine", daemon=True)
        self._work = work
        self._on_event = on_event
        self._returned: list[T] = []
        self._error: BaseException | None = None

    def run(self) -> None:
        """Consume all events; called by the thread itself."""
        try:
            self._returned.append(drain(self._work, self._on_event))
        except BaseException as error:
            self._error = error

    def result(self) -> T:
        """Wait for the end of the run; return what it returned, or raise what it raised."""
        self.join()
        if self._error is not None:
            raise self._error
        return self._returned[0]
