"""The interface between pages and the application: a protocol, messages that pages post, and hidden keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from textual.binding import Binding
from textual.message import Message

if TYPE_CHECKING:  # the first screen is drawn before these modules are imported
    from cfm_tui.console.form import Form
    from cfm_tui.console.preferences import Preferences
    from cfm_tui.console.session import Session
    from cfm_tui.display.terminal import ImageMode, Terminal
    from engine.config.settings import Resolved


hidden = partial(Binding, show=False)  #: a key that the footer does not show


class Host(Protocol):
    """The application as seen by pages and widgets.

    runs: the folder whose runs are listed; None until it is known. session: the run that this process
    computes, if any.
    """

    preferences: Preferences
    terminal: Terminal
    image_mode: ImageMode
    runs: Path | None
    read_only: bool
    session: Session | None

    def refuse_if_read_only(self, what: str) -> bool:
        """Return whether the console is read-only, and notify the user if it is."""

    def save_query(self, name: str, text: str) -> None:
        """Save a query of runs under a name in the preferences, and notify the user."""

    def report_error(self, error: BaseException) -> None:
        """Notify the user of an error; a key shows its traceback."""


@dataclass
class OpenRun(Message):
    """Show a run's monitor."""

    folder: Path


@dataclass
class OpenGallery(Message):
    """Show a run's images.

    image: one to show large: its batch, from 1, or None for the whole set; its index there.
    """

    folder: Path
    image: tuple[int | None, int] | None = None


@dataclass
class CompareRuns(Message):
    """Compare several runs."""

    folders: Sequence[Path]


@dataclass
class Launch(Message):
    """Start a run, or resume the one in `folder`, on this process's engine thread.

    resolved: its settings; None to use those stored in `folder`. name: prefix of a new folder's name.
    """

    resolved: Resolved | None
    name: str
    folder: Path | None = None


@dataclass
class Configure(Message):
    """Show the form of a new experiment: this one, or else the draft."""

    form: Form | None = None
