"""To come."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cfm_tui.console.screens.base import Page


class ComparePage(Page):
    """To come."""

    def __init__(self, folders: Sequence[Path]) -> None:
        super().__init__()
