"""What signals mean to a run that is computed on its own thread.

SIGINT: stop at the next save point; a second one leaves at once. SIGTERM, SIGHUP: stop likewise, and
leave at once after `GRACE_SECONDS`. SIGUSR1, SIGUSR2: write a checkpoint and go on. Leaving at once
loses what came after the last checkpoint, never the run. SIGHUP that was ignored (nohup) stays ignored.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from engine.steering import Control

GRACE_SECONDS = 50.0  #: schedulers commonly kill 60 s or more after SIGTERM
CODES = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 143}
_CHECKPOINT = ("SIGUSR1", "SIGUSR2")


class Signals:
    """The signals that came. say: tells the person at the terminal; leave: ends the process at once."""

    def __init__(self, control: Control, say: Callable[[str], None], leave: Callable[[int], None]) -> None:
        self._control = control
        self._say = say
        self._leave = leave
        self._came: str | None = None
        self._since = 0.0

    def handle(self, number: int, _: FrameType | None = None) -> None:
        """A signal came."""
        name = signal.Signals(number).name
        if name in _CHECKPOINT:
            self._control.ask("checkpoint", name)
            return
        if name == self._came == "SIGINT":
            self._leave(CODES[name])
        if self._came is None or CODES[name] > CODES[self._came]:
            self._came, self._since = name, time.monotonic()
            self._control.ask("stop", name)
            again = "; once more leaves at once" if name == "SIGINT" else ""
            self._say(f"{name}: stopping at the next save point{again}")

    def check(self) -> None:
        """Leave where a signal that does not wait has waited long enough."""
        if self._came in ("SIGTERM", "SIGHUP") and time.monotonic() - self._since >= GRACE_SECONDS:
            self._leave(CODES[self._came])


@contextmanager
def handled(control: Control, say: Callable[[str], None]) -> Iterator[Signals]:
    """Signals reach `control` while the block runs; on the main thread only. Former handlers come back."""
    signals = Signals(control, say, os._exit)
    former = {}
    for name in (*CODES, *_CHECKPOINT):
        number = getattr(signal, name, None)  # not every system has all
        if number is not None and not (name == "SIGHUP" and signal.getsignal(number) == signal.SIG_IGN):
            former[number] = signal.signal(number, signals.handle)
    try:
        yield signals
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
