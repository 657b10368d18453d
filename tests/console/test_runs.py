"""The console's frame and its list of runs: every key, on runs in every state."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from consoles import SIZES, console, drive, golden, shown, until

from cfm_tui.console.screens.base import Table
from cfm_tui.console.screens.dialogs import Choice
from engine import store
from engine.errors import UserError


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
        assert "configure a run" in shown(pilot)

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
        assert pilot.app.screen.find_chosen().name == "gone"
        await pilot.press("k")
        assert pilot.app.screen.find_chosen().name == "ended"
        await pilot.press("g", "j")
        assert pilot.app.screen.find_chosen().name == "done"

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


def test_a_deletion_that_fails_is_told(runs, monkeypatch):
    def fail(folder):
        raise UserError("disk", f"cannot delete {folder}", "ask")

    monkeypatch.setattr(store, "delete_run", fail)

    async def script(pilot):
        await until(pilot, "gone")
        await pilot.press("G", "space", "G", "d", "d")
        await until(pilot, "cannot delete")
        assert "* done" in names(pilot)

    drive(console(runs), script)


def test_a_long_deletion_does_not_keep_the_console(runs, monkeypatch):
    go = threading.Event()
    truly = store.delete_run

    def slow(folder):
        assert go.wait(20)
        truly(folder)

    monkeypatch.setattr(store, "delete_run", slow)

    async def script(pilot):
        await until(pilot, "gone")
        await pilot.press("G", "d", "d", "S")
        assert names(pilot)[0] == "done"
        go.set()
        await until(pilot, lambda: "done" not in names(pilot))

    drive(console(runs), script)


def test_the_run_at_work_here_is_not_deleted(runs, monkeypatch):
    monkeypatch.chdir(runs.parent)

    class Here:
        live, state, name, folder = (
            True,
            "running",
            "ended",
            runs / "ended",
        )  # it says stopped; its end is being written

    async def script(pilot):
        await until(pilot, "gone")
        pilot.app.session = Here
        await pilot.press("g", "j", "j", "d")
        assert not isinstance(pilot.app.screen, Choice)
        await until(pilot, "ended is running here")
        pilot.app.session = None

    drive(console(Path("runs")), script)
    assert (runs / "ended").exists()
