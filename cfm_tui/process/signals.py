"""Signal handlers, and those for a run that is computed on a separate thread.

SIGINT: stop at the next checkpoint; a second one exits immediately. SIGTERM, SIGHUP: stop at the next save
point, and exit after `GRACE_SECONDS` at the latest. SIGUSR1, SIGUSR2: write a checkpoint and continue. An
immediate exit only loses the work since the last checkpoint.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.runs.control import Control

GRACE_SECONDS = 50.0  #: most schedulers wait at least 60 s between SIGTERM and SIGKILL
EXIT_CODES = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 143}
CHECKPOINT_SIGNALS = ("SIGUSR1", "SIGUSR2")


def install_handlers(
    names: Iterable[str], handle: Callable[[str], None], keep_ignored: Collection[str] = ("SIGHUP",)
) -> dict[int, Any]:
    """Call `handle` with the name of each of these signals; return the previous handlers by signal number.

    Only for the main thread. keep_ignored: signals that stay ignored if they are, as SIGHUP under nohup.
    """
    previous_handlers = {}
    for name in names:
        number = getattr(signal, name, None)  # some systems lack some signals
        if number is not None and not (name in keep_ignored and signal.getsignal(number) == signal.SIG_IGN):
            previous_handlers[number] = signal.signal(number, lambda got, _: handle(signal.Signals(got).name))
    return previous_handlers


class Signals:
    """The received signals. say: shows a line to the user. leave: ends the process with an exit code."""

    def __init__(self, control: Control, say: Callable[[str], None], leave: Callable[[int], None]) -> None:
        self._control = control
        self._say = say
        self._leave = leave
        self._received: set[str] = set()
        self._unreported: deque[str] = deque()

    def handle(self, name: str) -> None:
        """Handle a signal. Nothing is printed here, because writing to the terminal may block."""
        if name in CHECKPOINT_SIGNALS:
            self._control.ask("checkpoint", name)
            return
        if name == "SIGINT" and name in self._received:
            self._leave(EXIT_CODES[name])
        if name not in self._received:
            self._received.add(name)
            self._unreported.append(name)
            self._control.ask("stop", name)
            if name != "SIGINT":
                grace = threading.Timer(GRACE_SECONDS, self._leave, [EXIT_CODES[name]])
                grace.daemon = True
                grace.start()

    def report(self) -> None:
        """Report the signals since the last call to the user."""
        while self._unreported:
            name = self._unreported.popleft()
            hint = "; press Ctrl-C again to exit immediately" if name == "SIGINT" else ""
            self._say(f"{name}: stopping at the next checkpoint{hint}")


@contextmanager
def handle_signals(control: Control, say: Callable[[str], None]) -> Iterator[Signals]:
    """Forward signals to `control` while the block runs, then restore the previous handlers.

    Only for the main thread.
    """
    signals = Signals(control, say, os._exit)
    previous_handlers = install_handlers((*EXIT_CODES, *CHECKPOINT_SIGNALS), signals.handle)
    try:
        yield signals
    finally:
        for number, handler in previous_handlers.items():
            signal.signal(number, handler)
