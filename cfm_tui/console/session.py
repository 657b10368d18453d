"""A run on this process's engine thread, from its settings to its end or its handing over."""

from __future__ import annotations

import os
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from engine.errors import Stopped, UserError
from engine.settings import Resolved
from engine.store import StoredRun

if TYPE_CHECKING:
    from engine.steering import Control
    from engine.store.control import Command

State = Literal["loading", "running", "ended"]
NICE = 5  #: how much the engine's threads give way to the one that draws


class Session:
    """Begins a run, or goes on with the one in `folder`, and computes it on a thread of its own.

    resolved: its settings; None for those that the run in `folder` has. name: what a new folder's name
    begins with. folder: where the run is, once that is known.
    Nothing here may be asked to wait, but `wait`.
    """

    def __init__(self, resolved: Resolved | None, name: str, folder: Path | None = None) -> None:
        self.name = name
        self.folder = folder
        self.state: State = "loading"
        self.read = (0, 0)  #: images read, of how many
        self.error: BaseException | None = None
        self._resolved = resolved
        self._asked: list[tuple[Command, str]] = []
        self._control: Control | None = None
        self._thread = threading.Thread(target=self._compute, name="session", daemon=True)
        self._thread.start()

    @property
    def live(self) -> bool:
        """Whether it is at work, or about to be."""
        return self._thread.is_alive()

    def ask(self, command: Command, by: str) -> None:
        """Ask the run to pause, continue, stop or checkpoint at its next save point."""
        self._asked.append((command, by))
        if self._control is not None:
            self._control.ask(command, by)

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for its end; whether that came."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def failure(self) -> tuple[str, str, str] | None:
        """What went wrong: message, hint and traceback. None where nothing did, or it was stopped."""
        error = self.error
        if error is None or isinstance(error, Stopped):
            return None
        whole = "".join(traceback.format_exception(error))
        if isinstance(error, UserError):
            return error.message, error.hint, whole
        return f"{type(error).__name__}: {error}", "the traceback says where", whole

    def _compute(self) -> None:
        _give_way()
        try:
            self._pull()
        except BaseException as error:
            self.error = error
        finally:
            self.state = "ended"

    def _pull(self) -> None:
        from engine import launch
        from engine.resume import stored_config
        from engine.steering import Control

        self._control = control = Control()
        for command, by in self._asked:  # asked while the program was still loading
            control.ask(command, by)
        resolved = self._resolved
        if resolved is None:
            assert self.folder is not None
            resolved = stored_config(StoredRun(self.folder))
        work = launch.experiment(
            resolved, self.folder, self.name, ["cfm-tui", *sys.argv[1:]], control, self._reading, self._opened
        )
        for _ in work:  # the record is what everybody reads
            pass

    def _reading(self, done: int, total: int) -> None:
        self.read = (done, total)

    def _opened(self, folder: Path) -> None:
        self.folder = folder
        self.state = "running"


def _give_way() -> None:
    """Lower this thread's priority, and that of those it starts, where the system has one for threads."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)


def handed_over(session: Session, by: str, told: Callable[[str], Any]) -> int | None:
    """Stop the session at its next save point and let a process of its own go on with the run.

    by: who asks. told: is given what happens meanwhile. Returns that process's number; None where there was
    nothing left to go on with. Waits; raises UserError where that process did not come up.
    """
    session.ask("stop", by)
    told("waiting for the next save point")
    session.wait()
    if session.folder is None or not isinstance(session.error, Stopped):
        return None
    from cfm_tui.detach import detached

    told("starting a process that goes on")
    return detached(session.folder)
