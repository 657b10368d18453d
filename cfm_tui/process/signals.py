"""What signals mean to a run that is computed on its own thread.

SIGINT: stop at the next save point; a second one leaves at once. SIGTERM, SIGHUP: stop likewise, and
leave at once after `GRACE_SECONDS`. SIGUSR1, SIGUSR2: write a checkpoint and go on. Leaving at once
loses what came after the last checkpoint, never the run. SIGHUP that was ignored (nohup) stays ignored.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from engine.runs.control import Control

GRACE_SECONDS = 50.0  #: schedulers commonly kill 60 s or more after SIGTERM
CODES = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 143}
_CHECKPOINT = ("SIGUSR1", "SIGUSR2")


class Signals:
    """The signals that came. say: tells the person at the terminal; leave: ends the process at once."""

    def __init__(self, control: Control, say: Callable[[str], None], leave: Callable[[int], None]) -> None:
        self._control = control
        self._say = say
        self._leave = leave
        self._came: list[str] = []
        self._said = 0

    def handle(self, number: int, _: FrameType | None = None) -> None:
        """A signal came. Nothing is printed here: whoever reads may have stopped reading."""
        name = signal.Signals(number).name
        if name in _CHECKPOINT:
            self._control.ask("checkpoint", name)
            return
        if name == "SIGINT" and name in self._came:
            self._leave(CODES[name])
        if name not in self._came:
            self._came.append(name)
            self._control.ask("stop", name)
            if name != "SIGINT":
                grace = threading.Timer(GRACE_SECONDS, self._leave, [CODES[name]])
                grace.daemon = True
                grace.start()

    def tell(self) -> None:
        """Tell the person at the terminal of signals that came since the last call."""
        while self._said < len(self._came):
            name = self._came[self._said]
            self._said += 1
            again = "; once more leaves at once" if name == "SIGINT" else ""
            self._say(f"{name}: stopping at the next save point{again}")


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
