"""A run on this process's engine thread, from its start to its end or its handover to another process."""

from __future__ import annotations

import gc
import os
import sys
import threading
import traceback
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from engine.config.settings import Resolved
from engine.errors import Stopped, UserError, quote_command
from engine.events import Event
from engine.runs.thread import Engine
from engine.store import RunFile, StoredRun

if TYPE_CHECKING:
    from engine.runs.control import Control
    from engine.store.control import Command


class Session:
    """A run that is started, or resumed from `folder`, and computed on a separate thread.

    resolved: its settings; None to use those stored in `folder`. name: prefix of a new folder's name.
    folder: the run's folder, None until it is known. heir: process id of the process that takes over.
    Only `wait`, `stop` and `hand_over` block.
    """

    def __init__(self, resolved: Resolved | None, name: str, folder: Path | None = None) -> None:
        self.name = name
        self.folder = folder
        self.state: Literal["loading", "running", "ended"] = "loading"
        self.read = (0, 0)  #: images read, of how many
        self.error: BaseException | None = None
        self._resolved = resolved
        self.heir: int | None = None
        self._traceback = ""
        self._is_stop_requested = False
        self._is_paused = False  # when it was handed over
        self._handover_lock = threading.Lock()
        self._requests: list[tuple[Command, str]] = []
        self._control: Control | None = None
        self._engine = Engine(self._events(), lambda _: None)  # the console reads the run's record instead
        self._engine.start()

    @property
    def live(self) -> bool:
        """Whether the run is being computed or loaded."""
        return self._engine.is_alive()

    def ask(self, command: Command, by: str) -> None:
        """Request the run to pause, continue, stop, or write a checkpoint."""
        self._is_stop_requested |= command == "stop"
        self._send(command, by)

    def _send(self, command: Command, by: str) -> None:
        self._requests.append((command, by))
        if self._control is not None:
            self._control.ask(command, by)

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for the run's end; return whether it ended within `seconds`."""
        self._engine.join(seconds)
        return not self._engine.is_alive()

    def stop(self, by: str) -> None:
        """Stop the run at its next checkpoint, and wait until it has ended."""
        self.ask("stop", by)
        self.wait()

    def hand_over(self, by: str) -> int | None:
        """Stop the run after its current step and start a separate process that resumes it, paused if it was.

        by: who requests it. Returns the id of that process, which takes over the run once it has loaded; None
        where there is nothing to resume or a stop was requested. A second call does not start a second
        process. Blocks until the process is started. Raises UserError or OSError where it is not. This
        process keeps the memory of the run, so it should end.
        """
        from cfm_tui.process.detach import launch_detached

        with self._handover_lock:
            if self.heir is not None or self._is_stop_requested:
                self.wait()
                return self.heir
            self._is_paused = self.folder is not None and StoredRun(self.folder).state() == "paused"
            self._send("stop", by)
            self.wait()
            was_stopped_by_us = isinstance(self.error, Stopped) and self.error.by == by
            if self._is_stop_requested or self.folder is None or not was_stopped_by_us:
                return None
            self.heir = launch_detached(self.folder, paused=self._is_paused).pid
            return self.heir

    def describe_failure(self) -> tuple[str, str, str] | None:
        """Return message, hint and traceback of the error; None where the run did not fail."""
        error = self.error
        if error is None or isinstance(error, Stopped):
            return None
        if isinstance(error, UserError):
            return error.message, error.hint, self._traceback
        return f"{type(error).__name__}: {error}", "see the traceback for the cause", self._traceback

    def format_farewell(self) -> str:
        """Return the text to print about the run after the console closes."""
        failure = self.describe_failure()
        if failure is not None:
            return f"{failure[0]}\n→ {failure[1]}"
        if self.folder is None:
            return ""
        show, attach, stop, resume = (
            quote_command(word, self.folder) for word in ("show", "attach", "stop", "resume")
        )
        advice = f"{show} shows its results"
        if self.heir is not None:
            what = "stays paused" if self._is_paused else "continues"
            advice = (
                f"it {what} in process {self.heir}, which is loading; its output is in {RunFile.LOG}\n"
                f"to follow it:\n{attach}\nto stop it:\n{stop}"
            )
        elif self.live or isinstance(self.error, Stopped):
            advice = f"{resume} resumes it"
        return f"{self.folder}\n→ {advice}"

    def _events(self) -> Generator[Event, None, None]:
        """Run the experiment; store its error without references to what it had loaded."""
        try:
            _lower_priority()
            yield from self._run_experiment()
        except BaseException as error:
            self._traceback = "".join(traceback.format_exception(error))
            error.__traceback__ = error.__context__ = error.__cause__ = None  # they hold all that is loaded
            self.error = error
        finally:
            self.state = "ended"

    def _run_experiment(self) -> Generator[Event, None, Any]:
        from engine.runs import launch
        from engine.runs.control import Control
        from engine.runs.resume import stored_config

        self._control = run_control = Control()
        for command, by in self._requests:  # made while the program was still loading
            run_control.ask(command, by)
        resolved = self._resolved
        if resolved is None:
            assert self.folder is not None
            resolved = stored_config(StoredRun(self.folder))

        def on_reading(done: int, total: int) -> None:
            self.read = (done, total)

        def on_open(folder: Path) -> None:
            gc.freeze()  # garbage collection of all loaded modules would block the screen
            self.folder = folder
            self.state = "running"

        words = ["cfm-tui", *sys.argv[1:]]
        return launch.run_experiment(
            resolved, self.folder, self.name, words, run_control, on_reading, on_open, estimate="late"
        )


def _lower_priority() -> None:
    """Let drawing go before this thread and its future children, on systems with thread priorities."""
    sys.setswitchinterval(0.001)  # longest wait of the drawing thread for the interpreter lock
    if sys.platform == "linux":
        thread = threading.get_native_id()
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, thread, max(5, os.getpriority(os.PRIO_PROCESS, thread)))
