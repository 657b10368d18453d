"""To come."""

from __future__ import annotations

from pathlib import Path

from cfm_tui.console.screens.base import Page


class GalleryPage(Page):
    """To come."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
