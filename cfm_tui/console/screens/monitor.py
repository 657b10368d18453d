"""To come."""

from __future__ import annotations

from pathlib import Path

from cfm_tui.console.screens.base import Page
from cfm_tui.console.session import Session


class MonitorPage(Page):
    """To come."""

    def __init__(self, folder: Path | None, session: Session | None = None) -> None:
        super().__init__()
