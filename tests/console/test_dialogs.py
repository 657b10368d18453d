"""Dialogs over a page."""

from __future__ import annotations

from consoles import console, drive, until

from cfm_tui.console.screens.dialogs import Reading


def test_help_names_the_actions(runs):
    async def script(pilot):
        await until(pilot, "gone")
        await pilot.press("question_mark")
        assert isinstance(pilot.app.screen, Reading)
        for name in ("runs.sort", "app.quit", "runs.delete", "table.down"):
            assert name in str(pilot.app.screen._text)
        assert "page.panel1" in str(pilot.app.screen._text)
        assert "page.panel2" not in str(pilot.app.screen._text)  # there is one
        await pilot.press("escape")
        assert not isinstance(pilot.app.screen, Reading)

    drive(console(runs), script)
