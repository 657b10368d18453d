"""Signal handling for a run that is computed on a separate thread.

SIGINT: stop at the next checkpoint; a second one exits immediately. SIGTERM, SIGHUP: stop at the next save
point, and exit after `GRACE_SECONDS` at the latest. SIGUSR1, SIGUSR2: write a checkpoint and continue. An
immediate exit only loses the work since the last checkpoint. An ignored SIGHUP (nohup) stays ignored.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from engine.runs.control import Control

GRACE_SECONDS = 50.0  #: most schedulers wait at least 60 s between SIGTERM and SIGKILL
CODES = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 143}
_CHECKPOINT = ("SIGUSR1", "SIGUSR2")


class Signals:
    """The received signals. say: shows a line to the user. leave: ends the process with an exit code."""

    def __init__(self, control: Control, say: Callable[[str], None], leave: Callable[[int], None]) -> None:
        self._control = control
        self._say = say
        self._leave = leave
        self._received: list[str] = []
        self._reported = 0

    def handle(self, number: int, _: FrameType | None = None) -> None:
        """Handle a signal. Nothing is printed here, because writing to the terminal may block."""
        name = signal.Signals(number).name
        if name in _CHECKPOINT:
            self._control.ask("checkpoint", name)
            return
        if name == "SIGINT" and name in self._received:
            self._leave(CODES[name])
        if name not in self._received:
            self._received.append(name)
            self._control.ask("stop", name)
            if name != "SIGINT":
                grace = threading.Timer(GRACE_SECONDS, self._leave, [CODES[name]])
                grace.daemon = True
                grace.start()

    def report(self) -> None:
        """Report the signals since the last call to the user."""
        while self._reported < len(self._received):
            name = self._received[self._reported]
            self._reported += 1
            hint = "; press Ctrl-C again to exit immediately" if name == "SIGINT" else ""
            self._say(f"{name}: stopping at the next checkpoint{hint}")


@contextmanager
def handled(control: Control, say: Callable[[str], None]) -> Iterator[Signals]:
    """Forward signals to `control` while the block runs, then restore the previous handlers.

    Only for the main thread.
    """
    signals = Signals(control, say, os._exit)
    previous_handlers = {}
    for name in (*CODES, *_CHECKPOINT):
        number = getattr(signal, name, None)  # some systems lack some signals
        if number is not None and not (name == "SIGHUP" and signal.getsignal(number) == signal.SIG_IGN):
            previous_handlers[number] = signal.signal(number, signals.handle)
    try:
        yield signals
    finally:
        for number, handler in previous_handlers.items():
            signal.signal(number, handler)
