"""How the console is left: by hand, by a signal, with its terminal. A run at work in it is never lost.

SIGHUP and a terminal that is gone hand the run to a process of its own; SIGTERM and SIGINT stop it with a
checkpoint, and leave after `AT_ONCE` seconds whatever it does; SIGUSR1 and SIGUSR2 write a checkpoint.
SIGHUP that was ignored (nohup) stays ignored.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from engine.errors import UserError

if TYPE_CHECKING:
    from cfm_tui.console.session import Session

AT_ONCE = 50.0  #: schedulers commonly kill 60 s or more after SIGTERM
LAST_SECONDS = 3.0  #: for the application to give the terminal back
CODES = {"SIGHUP": 143, "SIGTERM": 143, "SIGINT": 130}
_CHECKPOINT = ("SIGUSR1", "SIGUSR2")


class Leaving:
    """session: gives the run at work here, if any. leave: ends the application, from any thread, with what
    is to be printed and an exit code.
    """

    def __init__(self, session: Callable[[], Session | None], leave: Callable[[str, int], None]) -> None:
        self._session = session
        self._leave = leave
        self._came: list[str] = []

    def listen(self) -> None:
        """Take the process's signals; on the main thread only."""
        for name in (*CODES, *_CHECKPOINT):
            number = getattr(signal, name, None)  # not every system has all
            ignored = name == "SIGHUP" and number and signal.getsignal(number) == signal.SIG_IGN
            if number is not None and not ignored:
                signal.signal(number, lambda told, _: self.hear(signal.Signals(told).name))

    def hear(self, name: str) -> None:
        """A signal came, or the terminal went, which is SIGHUP too."""
        if name in _CHECKPOINT:
            session = self._live()
            if session is not None:
                session.ask("checkpoint", name)
        elif name not in self._came:
            self._came.append(name)
            _aside(lambda: self._signalled(name))

    def by_hand(self, way: Literal["stop", "detach"]) -> None:
        """Stop the run, or let a process of its own go on with it, and leave."""
        _aside(lambda: self._by_hand(way))

    def _live(self) -> Session | None:
        session = self._session()
        return session if session is not None and session.live else None

    def _signalled(self, name: str) -> None:
        code = CODES[name]
        if name != "SIGHUP":
            _later(AT_ONCE, code)
        session = self._live()
        try:
            if session is not None and name == "SIGHUP":
                session.hand_over(name)
            elif session is not None:
                session.stop(name)
        finally:  # what cannot be handed over stays on disk as it was saved
            _later(LAST_SECONDS, code)
            self._leave("" if session is None else session.farewell(), code)

    def _by_hand(self, way: Literal["stop", "detach"]) -> None:
        session = self._live()
        if session is None:
            self._leave("", 0)
            return
        try:
            if way == "stop":
                session.stop("the console")
            else:
                session.hand_over("the console")
        except (UserError, OSError) as error:
            self._leave(f"{error}\n{session.farewell()}", 1)
            return
        self._leave(session.farewell(), 0)


def _aside(work: Callable[[], None]) -> None:
    threading.Thread(target=work, name="leaving", daemon=True).start()


def _later(seconds: float, code: int) -> None:
    """Leave at once after so many seconds, should the process still be there."""
    timer = threading.Timer(seconds, os._exit, [code])
    timer.daemon = True
    timer.start()
