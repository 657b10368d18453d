"""The application: keys, themes, commands, what it saves, and how often it draws."""

from __future__ import annotations

import time
from types import SimpleNamespace

from consoles import console, drive, shown, until
from forms import form

from cfm_tui.console.app import ConsoleApp, list_action_names
from cfm_tui.console.engine_link import Configure
from cfm_tui.console.form import load_draft, save_draft
from cfm_tui.console.screens.base import Table
from cfm_tui.console.screens.runs import RunsPage


def names(pilot):
    table = pilot.app.screen.query_one("#table", Table)
    return [str(table.get_row_at(row)[0]) for row in range(table.row_count)]


def test_keys_are_the_users(runs):
    async def script(pilot):
        await until(pilot, "gone")
        await pilot.press("z")
        assert names(pilot) == ["done", "ended", "broken", "gone"]
        await pilot.press("S")
        assert names(pilot) == ["done", "ended", "broken", "gone"]

    drive(console(runs, keys={"runs.turn": "z"}), script)


def test_what_is_on_screen_is_saved(runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    async def script(pilot):
        await until(pilot, "gone")
        for letter, suffix in (("t", "txt"), ("p", "svg")):
            await pilot.press("e", letter)
            await until(pilot, lambda suffix=suffix: any(tmp_path.glob(f"*.{suffix}")))

    drive(console(runs), script)
    assert "gone" in next(tmp_path.glob("*.txt")).read_text()
    assert next(tmp_path.glob("*.svg")).read_text().startswith("<svg")


def test_the_palette_finds_commands(runs):
    async def script(pilot):
        await until(pilot, "gone")
        await pilot.press("ctrl+p")
        await pilot.press(*"reverse")
        await until(pilot, "Reverse the sort order")
        await pilot.press("enter")
        await until(pilot, lambda: names(pilot) == ["done", "ended", "broken", "gone"])

    drive(console(runs), script)


def test_every_theme_draws(runs):
    from cfm_tui.console.preferences import THEMES

    async def script(pilot):
        await until(pilot, "gone")
        for name in THEMES:
            pilot.app.theme = name
            await pilot.pause()
            assert "gone" in shown(pilot)

    drive(console(runs), script)


def test_every_action_has_a_name_of_its_own():
    found = list_action_names()
    assert {"app.quit", "runs.sort", "page.fill", "table.down"} <= set(found)
    assert len(found) == len(set(found))


def test_a_page_that_cannot_be_drawn_is_told_and_nothing_ends(tmp_path, monkeypatch):
    async def script(pilot):
        monkeypatch.setattr(RunsPage, "tick", lambda page: 1 / 0)
        await until(pilot, "ZeroDivisionError")
        await pilot.press("t")
        await until(pilot, "Traceback")

    drive(console(tmp_path), script)


def test_while_somebody_types_a_run_here_is_drawn_less(tmp_path, monkeypatch):
    drawn = []
    app = console(tmp_path)
    monkeypatch.setattr(ConsoleApp, "LONGEST_SECONDS", 0.5)
    monkeypatch.setattr(app._governor, "may_draw", lambda written, sharing: True)
    monkeypatch.setattr(app, "draw", lambda: drawn.append(time.monotonic()))

    async def typed(pilot, seconds):
        drawn.clear()
        until_then = time.monotonic() + seconds
        while time.monotonic() < until_then:
            await pilot.press("j")
            await pilot.pause(0.05)
        return len(drawn)

    async def script(pilot):
        assert await typed(pilot, 1.2) > 5
        app.session = SimpleNamespace(live=True, state="running", folder=None, describe_failure=lambda: None)
        await pilot.pause(0.2)
        assert 1 <= await typed(pilot, 1.2) <= 4
        drawn.clear()
        await pilot.pause(1.7)  # of which the first second is quiet
        assert len(drawn) > 5
        app.session = None

    drive(app, script)


def test_an_edited_form_outlives_the_console(runs, settings_folder):
    from cfm_tui.console.form import FIELDS

    async def edit(pilot):
        await until(pilot, "gone")
        await pilot.press("n", "4", "down", "enter", *"7", "enter")
        await until(pilot, "draft, 1 change")
        await pilot.press("q")

    async def return_to_it(pilot):
        await until(pilot, "gone")
        await pilot.press("n")
        await until(pilot, "the draft of your last session")
        form = pilot.app.screen.form
        assert form.shown(FIELDS["ipc"]) == "7"
        assert form.checked.resolved.config.ipc == 7

    app = console(runs)
    drive(app, edit)
    assert "n in cfm-tui returns to it" in app.draft_notice
    drive(console(runs), return_to_it, (120, 40))
    assert [path.name for path in settings_folder.iterdir()] == ["draft.json"]


def test_a_form_that_was_not_edited_replaces_no_draft(runs, settings_folder):
    draft = form("smoke", ipc="3")
    save_draft(draft)

    async def look(pilot):
        await until(pilot, "draft, 1 change")

    drive(console(runs, opening=Configure(form("digits", seed="5"))), look)
    assert load_draft({}).draft() == draft.draft()


def test_a_draft_that_cannot_be_saved_is_no_secret(runs, settings_folder):
    settings_folder.write_text("a file")

    async def edit(pilot):
        await until(pilot, "gone")
        await pilot.press("n", "4", "down", "enter", *"7", "enter")
        await until(pilot, "draft, 1 change")

    app = console(runs)
    drive(app, edit)
    assert app.draft_notice.startswith("The draft of the form is lost")
    assert str(settings_folder) in app.draft_notice
