"""The interface between pages and the application: a protocol, and messages that pages post."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from textual.message import Message

if TYPE_CHECKING:  # the first screen is drawn before these modules are imported
    from cfm_tui.console.preferences import ImageMode
    from cfm_tui.console.session import Session
    from cfm_tui.display.terminal import Terminal
    from engine.config.settings import Resolved


class Host(Protocol):
    """The application as seen by pages and widgets.

    runs: the folder whose runs are listed; None until it is known. session: the run that this process
    computes, if any.
    """

    terminal: Terminal
    image_mode: ImageMode
    runs: Path | None
    read_only: bool
    session: Session | None

    def refused(self, what: str) -> bool:
        """Return whether the console is read-only, and notify the user if it is."""

    def trouble(self, error: BaseException) -> None:
        """Notify the user of an error; a key shows its traceback."""


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
    """Compare several runs."""

    def __init__(self, folders: Sequence[Path]) -> None:
        super().__init__()
        self.folders = list(folders)


class Launch(Message):
    """Start a run, or resume the one in `folder`, on this process's engine thread.

    resolved: its settings; None to use those stored in `folder`. name: prefix of a new folder's name.
    """

    def __init__(self, resolved: Resolved | None, name: str, folder: Path | None = None) -> None:
        super().__init__()
        self.resolved, self.name, self.folder = resolved, name, folder


class Configure(Message):
    """Show the form of a new experiment, initialised from a preset."""

    def __init__(self, preset: str | None = None) -> None:
        super().__init__()
        self.preset = preset
