"""Shutting down the console on request, by a signal, or with its terminal, without losing an active run.

SIGHUP and a closed terminal hand the run to a separate process. SIGTERM and SIGINT stop it with a
checkpoint, and exit after `GRACE_SECONDS` at the latest. SIGUSR1 and SIGUSR2 write a checkpoint. An ignored
SIGHUP (nohup) stays ignored.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from cfm_tui.process.signals import CHECKPOINT_SIGNALS, EXIT_CODES, GRACE_SECONDS, install_handlers
from engine.errors import UserError

if TYPE_CHECKING:
    from cfm_tui.console.session import Session

RESTORE_SECONDS = 3.0  #: for the application to restore the terminal


class Shutdown:
    """The end of the console, after its run was stopped or handed over.

    get_session: returns the session of this process, if any. leave: ends the application with a text to
    print and an exit code; it is called on any thread.
    """

    def __init__(self, get_session: Callable[[], Session | None], leave: Callable[[str, int], None]) -> None:
        self._get_session = get_session
        self._leave = leave
        self._received: list[str] = []

    def install_handlers(self) -> None:
        """Handle the process's signals; call it on the main thread."""
        install_handlers((*EXIT_CODES, *CHECKPOINT_SIGNALS), self.handle_signal)

    def handle_signal(self, name: str) -> None:
        """React to a signal by its name; a closed terminal counts as SIGHUP."""
        if name in CHECKPOINT_SIGNALS:
            session = self._live_session()
            if session is not None:
                session.ask("checkpoint", name)
        elif name not in self._received:
            self._received.append(name)
            _start_thread(lambda: self._leave_on_signal(name))

    def leave_on_request(self, action: Literal["stop", "detach"]) -> None:
        """Stop the run or hand it to a separate process, then end the console; return at once."""
        _start_thread(lambda: self._leave_on_request(action))

    def _live_session(self) -> Session | None:
        session = self._get_session()
        return session if session is not None and session.live else None

    def _leave_on_signal(self, name: str) -> None:
        code = EXIT_CODES[name]
        if name != "SIGHUP":
            _exit_after(GRACE_SECONDS, code)
        session = self._live_session()
        try:
            if session is not None and name == "SIGHUP":
                session.hand_over(name)
            elif session is not None:
                session.stop(name)
        finally:  # a run that cannot be handed over keeps its last checkpoint
            _exit_after(RESTORE_SECONDS, code)
            self._leave("" if session is None else session.format_farewell(), code)

    def _leave_on_request(self, action: Literal["stop", "detach"]) -> None:
        session = self._live_session()
        if session is None:
            self._leave("", 0)
            return
        try:
            (session.stop if action == "stop" else session.hand_over)("the console")
        except (UserError, OSError) as error:
            self._leave(f"{error}\n{session.format_farewell()}", 1)
        else:
            self._leave(session.format_farewell(), 0)


def _start_thread(work: Callable[[], None]) -> None:
    threading.Thread(target=work, name="shutdown", daemon=True).start()


def _exit_after(seconds: float, code: int) -> None:
    """Exit immediately after `seconds`, if the process is still running then."""
    timer = threading.Timer(seconds, os._exit, [code])
    timer.daemon = True
    timer.start()
