"""To come."""

from __future__ import annotations

from cfm_tui.console.screens.base import Page


class ConfigurePage(Page):
    """To come."""

    def __init__(self, preset: str | None = None) -> None:
        super().__init__()
