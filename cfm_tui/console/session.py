"""A run on this process's engine thread, from its settings to its end or its handing over."""

from __future__ import annotations

import gc
import os
import shlex
import sys
import threading
import traceback
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from engine.config.settings import Resolved
from engine.errors import Stopped, UserError
from engine.events import Event
from engine.runs.thread import Engine
from engine.store import StoredRun, control

if TYPE_CHECKING:
    from engine.runs.control import Control
    from engine.store.control import Command

State = Literal["loading", "running", "ended"]
NICE = 5  #: how much the engine's threads give way to the one that draws
SWITCH_SECONDS = 0.001  #: how long that one waits for the engine's to let it work, at most


class Session:
    """Begins a run, or goes on with the one in `folder`, and computes it on a thread of its own.

    resolved: its settings; None for those that the run in `folder` has. name: what a new folder's name
    begins with. folder: where the run is, once that is known.
    Only `wait`, `stop` and `hand_over` wait.
    """

    def __init__(self, resolved: Resolved | None, name: str, folder: Path | None = None) -> None:
        self.name = name
        self.folder = folder
        self.state: State = "loading"
        self.read = (0, 0)  #: images read, of how many
        self.error: BaseException | None = None
        self._resolved = resolved
        self.heir: int | None = None  #: the process that goes on with it
        self._traceback = ""
        self._stop_wanted = False
        self._handing = threading.Lock()
        self._asked: list[tuple[Command, str]] = []
        self._control: Control | None = None
        self._engine = Engine(self._events(), lambda _: None)  # the record is what everybody reads
        self._engine.start()

    @property
    def live(self) -> bool:
        """Whether it is at work, or about to be."""
        return self._engine.is_alive()

    def ask(self, command: Command, by: str) -> None:
        """Ask the run to pause, continue, stop or checkpoint at its next save point."""
        self._stop_wanted |= command == "stop"
        self._tell(command, by)

    def _tell(self, command: Command, by: str) -> None:
        self._asked.append((command, by))
        if self._control is not None:
            self._control.ask(command, by)

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for its end; whether that came."""
        self._engine.join(seconds)
        return not self._engine.is_alive()

    def stop(self, by: str) -> None:
        """Stop it at its next save point, and wait for that."""
        self.ask("stop", by)
        self.wait()

    def hand_over(self, by: str) -> int | None:
        """Stop it at its next save point and let a process of its own go on, paused if it was.

        by: who asks. Returns that process's number; None where there is nothing to go on with, or somebody
        wanted it stopped. Asked twice, it is handed over once. Waits; raises UserError or OSError where that
        process did not come up.
        """
        from cfm_tui.process.detach import detached

        with self._handing:
            if self.heir is not None or self._stop_wanted:
                self.wait()
                return self.heir
            paused = self.folder is not None and StoredRun(self.folder).state() == "paused"
            self._tell("stop", by)
            self.wait()
            stopped = isinstance(self.error, Stopped) and self.error.by == by
            if self._stop_wanted or self.folder is None or not stopped:
                return None
            _free()
            self.heir = detached(self.folder)
            if paused:
                control.request(self.folder, "pause")
            return self.heir

    def failure(self) -> tuple[str, str, str] | None:
        """What went wrong: message, hint and traceback. None where nothing did, or it was stopped."""
        error = self.error
        if error is None or isinstance(error, Stopped):
            return None
        if isinstance(error, UserError):
            return error.message, error.hint, self._traceback
        return f"{type(error).__name__}: {error}", "the traceback says where", self._traceback

    def farewell(self) -> str:
        """What a person is told of it when the console is left."""
        failure = self.failure()
        if failure is not None:
            return f"{failure[0]}\n→ {failure[1]}"
        if self.folder is None:
            return ""
        name = shlex.quote(str(self.folder))
        way = f"`cfm show {name}` shows its results"
        if self.heir is not None:
            way = f"`cfm attach {name}` follows it; `cfm stop {name}` stops it"
        elif self.live or isinstance(self.error, Stopped):
            way = f"`cfm resume {name}` goes on with it"
        return f"{self.folder}\n→ {way}"

    def _events(self) -> Generator[Event, None, None]:
        """The run; what it raises is kept, without what it held."""
        try:
            _give_way()
            yield from self._begun()
        except BaseException as error:
            self._traceback = "".join(traceback.format_exception(error))
            error.__traceback__ = error.__context__ = error.__cause__ = None  # they hold all that was loaded
            self.error = error
        finally:
            self.state = "ended"

    def _begun(self) -> Generator[Event, None, Any]:
        from engine.runs import launch
        from engine.runs.control import Control
        from engine.runs.resume import stored_config

        self._control = steering = Control()
        for command, by in self._asked:  # asked while the program was still loading
            steering.ask(command, by)
        resolved = self._resolved
        if resolved is None:
            assert self.folder is not None
            resolved = stored_config(StoredRun(self.folder))
        return launch.run_experiment(
            resolved,
            self.folder,
            self.name,
            ["cfm-tui", *sys.argv[1:]],
            steering,
            self._reading,
            self._opened,
        )

    def _reading(self, done: int, total: int) -> None:
        self.read = (done, total)

    def _opened(self, folder: Path) -> None:
        gc.freeze()  # what was loaded for it stays: looking through it for garbage would halt the screen
        self.folder = folder
        self.state = "running"


def _give_way() -> None:
    """Lower this thread's priority, and that of those it starts, where the system has one for threads."""
    sys.setswitchinterval(SWITCH_SECONDS)
    if sys.platform == "linux":
        thread = threading.get_native_id()
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, thread, max(NICE, os.getpriority(os.PRIO_PROCESS, thread)))


def _free() -> None:
    """Give back what the run held: the process that goes on needs as much."""
    gc.unfreeze()
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
