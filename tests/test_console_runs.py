"""The console's frame and its list of runs: every key, on runs in every state."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import tiny
from consoles import SIZES, console, drive, golden, shown, until
from recorded import layout, opened, record_recovery

from cfm_tui.console.screens.base import Table
from cfm_tui.console.screens.dialogs import Choice, Reading
from engine import events
from engine.store import StoredRun
from engine.store.json_file import read_json, write_json


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    tiny.finish(tiny.begun(folder))
    return folder / "run"


@pytest.fixture
def runs(tmp_path, finished):
    """One run each: done, stopped, failed, lost; begun a minute after each other."""
    place = tmp_path / "runs"
    shutil.copytree(finished, place / "done")
    for name, state in (("ended", "stopped"), ("broken", "failed"), ("gone", "running")):
        run = opened(place / name)
        record_recovery(run)
        run.close("stopped" if state == "running" else state, "no room" if state == "failed" else "")
    lost = place / "gone" / "status.json"
    write_json(lost, {**read_json(lost), "state": "running", "stage": "recover", "pid": 2**22 + 1})
    for minute, name in enumerate(("done", "ended", "broken", "gone")):
        path = place / name / "manifest.json"
        write_json(path, {**read_json(path), "created": f"2026-03-04T05:{10 + minute}:00Z"})
    return place


def names(pilot):
    table = pilot.app.screen.query_one("#table", Table)
    return [str(table.get_row_at(row)[0]) for row in range(table.row_count)]


def told(text, *words):
    """Whether a line has all the words."""
    return any(all(word in line for word in words) for line in text.splitlines())


def test_every_state_is_named(runs):
    async def script(pilot):
        await until(pilot, "gone")
        text = shown(pilot)
        states = {"done": "finished", "ended": "stopped", "broken": "failed", "gone": "lost"}
        for name, state in states.items():
            assert told(text, name, state)

    drive(console(runs), script)


@pytest.mark.parametrize("size", SIZES)
def test_the_screen_at_every_size(runs, size, monkeypatch):
    monkeypatch.chdir(runs.parent)

    async def script(pilot):
        await until(pilot, "gone")
        golden(f"runs-{size[0]}x{size[1]}", shown(pilot))

    drive(console(Path("runs")), script, size)


def test_an_empty_folder_says_how_to_begin(tmp_path):
    async def script(pilot):
        await until(pilot, "No runs in")
        assert "configures one" in shown(pilot)

    drive(console(tmp_path / "none"), script)


def test_filter_sort_turn_and_letters(runs):
    async def script(pilot):
        await until(pilot, "gone")
        assert names(pilot) == ["gone", "broken", "ended", "done"]  # the newest first
        await pilot.press("S")
        assert names(pilot) == ["done", "ended", "broken", "gone"]
        await pilot.press("s")  # by name
        assert names(pilot) == ["broken", "done", "ended", "gone"]
        await pilot.press("slash", *"fail", "enter")
        assert names(pilot) == ["broken"]
        await pilot.press("slash", "backspace", "backspace", "backspace", "backspace", "enter", "G")
        assert len(names(pilot)) == 4
        assert pilot.app.screen.chosen().name == "gone"
        await pilot.press("k")
        assert pilot.app.screen.chosen().name == "ended"
        await pilot.press("g", "j")
        assert pilot.app.screen.chosen().name == "done"

    drive(console(runs), script)


def test_letters_are_text_inside_the_filter(runs):
    async def script(pilot):
        await until(pilot, "gone")
        await pilot.press("slash", *"qsdn")
        assert pilot.app.is_running
        assert pilot.app.screen.query_one("#filter").value == "qsdn"
        await pilot.press("escape")

    drive(console(runs), script)


def test_delete_asks_first(runs):
    async def script(pilot):
        await until(pilot, "gone")
        await pilot.press("G", "d")
        assert isinstance(pilot.app.screen, Choice)
        await pilot.press("j", "k", "enter")
        await pilot.press("d", "escape")
        assert (runs / "done").exists()
        await pilot.press("d", *"d")
        await until(pilot, lambda: not (runs / "done").exists())
        await until(pilot, lambda: "done" not in names(pilot))

    drive(console(runs), script)


def test_a_console_that_looks_on_touches_nothing(runs):
    async def script(pilot):
        await until(pilot, "gone")
        for key in ("d", "o", "n"):
            await pilot.press(key)
            assert not isinstance(pilot.app.screen, Choice)
        await until(pilot, "read-only")
        assert len(list(runs.iterdir())) == 4

    drive(console(runs, read_only=True), script)


def test_only_what_can_go_on_is_gone_on_with(runs):
    async def script(pilot):
        await until(pilot, "gone")
        await pilot.press("G", "o")  # done
        await until(pilot, "is finished;")
        await pilot.press("g", "o")  # lost
        assert isinstance(pilot.app.screen, Choice)

    drive(console(runs), script)


def test_comparing_needs_two_marks(runs):
    async def script(pilot):
        await until(pilot, "gone")
        await pilot.press("x")
        await until(pilot, "mark two runs")
        await pilot.press("space")
        assert names(pilot)[0] == "* gone"

    drive(console(runs), script)


def test_help_names_the_actions(runs):
    async def script(pilot):
        await until(pilot, "gone")
        await pilot.press("question_mark")
        assert isinstance(pilot.app.screen, Reading)
        for name in ("runs.sort", "app.quit", "runs.delete", "table.down"):
            assert name in str(pilot.app.screen._text)
        await pilot.press("escape")
        assert not isinstance(pilot.app.screen, Reading)

    drive(console(runs), script)


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
        await pilot.press(*"turn")
        await until(pilot, "Turn")
        await pilot.press("enter")
        await until(pilot, lambda: names(pilot) == ["done", "ended", "broken", "gone"])

    drive(console(runs), script)


def test_a_run_that_appears_or_changes_is_seen(runs):
    async def script(pilot):
        await until(pilot, "gone")
        run = opened(runs / "fresh")
        run.record(events.StageStarted("recover", 8, "iterations"))
        run.record(layout())
        await until(pilot, "fresh")
        await until(pilot, lambda: told(shown(pilot), "fresh", "running"))
        run.close("finished")
        await until(pilot, lambda: told(shown(pilot), "fresh", "finished"))

    drive(console(runs), script)


def test_every_theme_draws(runs):
    from cfm_tui.console import themes

    async def script(pilot):
        await until(pilot, "gone")
        for name in themes.NAMES:
            pilot.app.theme = name
            await pilot.pause()
            assert "gone" in shown(pilot)

    drive(console(runs), script)


def test_a_damaged_run_is_listed_as_such(runs):
    (runs / "ended" / "manifest.json").write_text("{")

    async def script(pilot):
        await until(pilot, "damaged")

    drive(console(runs), script)
    assert StoredRun(runs / "ended").state() == "damaged"
