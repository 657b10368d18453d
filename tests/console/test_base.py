"""What all pages share: titles, the filter, and errors on threads."""

from __future__ import annotations

from consoles import console, drive, shown, until
from textual.widgets import Static

from cfm_tui.console.screens.base import Panel


def test_letters_are_text_inside_the_filter(runs):
    async def script(pilot):
        await until(pilot, "gone")
        await pilot.press("slash", *"qsdn")
        assert pilot.app.is_running
        assert pilot.app.screen.query_one("#filter").value == "qsdn"
        await pilot.press("escape")

    drive(console(runs), script)


def test_whatever_goes_wrong_on_a_thread_is_told(runs, monkeypatch):
    from cfm_tui.process import detach

    def fail(folder):
        raise RuntimeError("no such luck")

    monkeypatch.setattr(detach, "start_detached", fail)

    async def script(pilot):
        await until(pilot, "gone")
        await pilot.press("g", "o", "d")
        await until(pilot, "no such luck")

    drive(console(runs), script)


def test_a_title_paints_its_own_line(runs):
    async def script(pilot):
        await until(pilot, "gone")
        panel = pilot.app.screen.query_one(Panel)
        await pilot.pause(0.2)
        painted = []
        panel.refresh, truly = lambda *regions, **_: painted.append(regions), panel.refresh
        panel.set_title("Runs: [1]")
        panel.set_title("Runs: [1]")
        assert [[region.height for region in regions] for regions in painted] == [[1]]
        truly(*painted[0])
        regions = panel._repaint_regions
        assert [(region.y, region.height) for region in regions] == [(0, 1)]
        await pilot.pause()
        assert "1 Runs: [1]" in shown(pilot)

    drive(console(runs), script)


def test_a_title_line_that_is_the_same_is_not_painted(runs):
    async def script(pilot):
        await until(pilot, "gone")
        page, painted = pilot.app.screen, []
        page.query_one("#title", Static).update = painted.append
        page.set_title("here", "now")
        page.set_title("here", "now")
        assert painted == [" cfm-tui · here · now"]

    drive(console(runs), script)
