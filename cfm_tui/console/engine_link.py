"""What pages may ask of the application: what it holds, and messages to it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from textual.message import Message

if TYPE_CHECKING:  # the first screen is drawn before these are loaded
    from cfm_tui.console.preferences import ImageMode
    from cfm_tui.console.session import Session
    from cfm_tui.display.terminal import Terminal
    from engine.config.settings import Resolved


class Host(Protocol):
    """The application, as pages and widgets know it.

    runs: the folder whose runs are listed; None until it is known. session: the run that is computed in
    this process, if any.
    """

    terminal: Terminal
    image_mode: ImageMode
    runs: Path | None
    read_only: bool
    session: Session | None

    def refused(self, what: str) -> bool:
        """Whether this console only looks on, which is then said."""

    def trouble(self, error: BaseException) -> None:
        """Say what went wrong in place; a key shows its traceback."""


class OpenRun(Message):
    """Show a run's monitor."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder


class OpenGallery(Message):
    """Show a run's images."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder


class CompareRuns(Message):
    """Show several runs beside each other."""

    def __init__(self, folders: Sequence[Path]) -> None:
        super().__init__()
        self.folders = list(folders)


class Launch(Message):
    """Begin a run, or go on with the one in `folder`, on this process's engine thread.

    resolved: its settings; None for those that the run in `folder` has. name: what a new folder's name
    begins with.
    """

    def __init__(self, resolved: Resolved | None, name: str, folder: Path | None = None) -> None:
        super().__init__()
        self.resolved, self.name, self.folder = resolved, name, folder


class Configure(Message):
    """Show the form of a new experiment, beginning with a preset."""

    def __init__(self, preset: str | None = None) -> None:
        super().__init__()
        self.preset = preset
