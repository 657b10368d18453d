"""What all pages share: titles, the filter, and errors on threads."""

from __future__ import annotations

from consoles import console, drive, shown, until

from cfm_tui.console.screens.base import KeyLine, Panel, TabLine


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
        line = page.query_one(TabLine)
        line.refresh = lambda *_, **__: painted.append(line.render().plain)
        page.set_title("here", "FINISHED", "finished")
        page.set_title("here", "FINISHED", "finished")
        assert len(painted) == 1
        assert painted[0].startswith(" Runs  New Monitor ")
        assert painted[0].endswith(" here  ✓ FINISHED")


def test_a_long_subject_is_cut_before_the_state(runs):
    async def script(pilot):
        await until(pilot, "gone")
        pilot.app.screen.set_title(
            "a-run-with-a-name-that-is-rather-long", "RUNNING in process 12", "running"
        )
        await until(pilot, "…  ● RUNNING in process 12")

    drive(console(runs), script)


def test_tabs_lead_to_their_pages_by_keys_and_clicks(runs):
    async def script(pilot):
        await until(pilot, "gone")
        await pilot.press("greater_than_sign")
        await until(pilot, lambda: pilot.app.screen.TAB == "New")
        await pilot.press("less_than_sign")
        await until(pilot, lambda: pilot.app.screen.TAB == "Runs")
        await pilot.click(TabLine, (shown(pilot).splitlines()[0].index("Monitor"), 0))
        await until(pilot, "open a run first")
        await pilot.press("g", "enter")
        await until(pilot, lambda: pilot.app.screen.TAB == "Monitor")
        await pilot.click(TabLine, (shown(pilot).splitlines()[0].index("Gallery"), 0))
        await until(pilot, lambda: pilot.app.screen.TAB == "Gallery")
        await pilot.press("greater_than_sign")
        await until(pilot, "mark two runs or more")

    drive(console(runs), script)


def test_the_footer_has_the_keys_of_the_page_and_those_that_always_work(runs):
    async def script(pilot):
        await until(pilot, "gone")
        own, everywhere = shown(pilot).splitlines()[-2:]
        assert "/ query" in own
        assert everywhere == " n new   ^p commands   q quit   ? help"
        await pilot.click(KeyLine, (everywhere.index("?"), 1))
        await until(pilot, "type to find a command")

    drive(console(runs), script)

    drive(console(runs), script)
