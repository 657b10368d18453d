"""The console's frame and its list of runs: every key, on runs in every state."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from consoles import SIZES, console, drive, golden, shown, until
from listed import make_runs
from monitored import frozen

from cfm_tui.console import preferences
from cfm_tui.console.screens.base import Table
from cfm_tui.console.screens.column_table import ColumnTable
from cfm_tui.console.screens.compare import ComparePage
from cfm_tui.console.screens.dialogs import Choice
from engine import store
from engine.errors import UserError
from engine.store.json_file import read_json, write_json


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


@pytest.fixture
def many(tmp_path, monkeypatch):
    """Runs in nine states, at one moment; the working folder is above them."""
    frozen(monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(preferences, "user_folder", lambda kind: tmp_path / kind)
    make_runs(tmp_path / "runs")
    return Path("runs")


@pytest.mark.parametrize("size", SIZES)
def test_the_screen_at_every_size(many, size):
    async def script(pilot):
        await until(pilot, "broken")
        await pilot.press("j")
        if size[0] >= 120:
            await until(pilot, "better than random")
            await until(pilot, "ant")
        table = pilot.app.screen.query_one(ColumnTable)
        assert table.virtual_size.width <= table.size.width  # nothing to scroll to
        golden(f"runs-{size[0]}x{size[1]}", shown(pilot))

    drive(console(many), script, size)


def test_columns_follow_the_width(many):
    def headings(pilot):
        return shown(pilot).splitlines()[2].split()

    async def script(pilot):
        await until(pilot, "broken")
        assert {"run", "state", "method", "stage", "distilled", "Δ"} <= set(headings(pilot))
        assert "control" not in headings(pilot)
        await pilot.resize_terminal(40, 12)
        await until(pilot, lambda: headings(pilot) == ["run", "state", "distilled"])
        await pilot.resize_terminal(200, 60)
        await until(pilot, lambda: {"data", "IPC", "network", "control", "left"} <= set(headings(pilot)))

    drive(console(many), script)


def test_a_query_is_checked_while_it_is_typed(many):
    async def script(pilot):
        await until(pilot, "broken")
        await pilot.press("slash", *"method=sre2l")
        assert names(pilot) == ["cifar10-sre2l"]
        assert "Runs · 1 of 9 · 2 running · newest first" in shown(pilot)
        await pilot.press(*["backspace"] * 5)
        assert "method= has no value" in shown(pilot)
        assert names(pilot) == []  # by the last valid query, method=s
        await pilot.press(*"CFM")
        assert len(names(pilot)) == 5
        await pilot.press("space", "ctrl+a", *"acc>90", "space")
        assert "has no value" not in shown(pilot)
        assert "No run matches the query" in shown(pilot)
        await pilot.press("escape")
        assert len(names(pilot)) == 9
        await pilot.press("slash", *"IVE", "enter")
        assert names(pilot) == ["cifar10-live"]

    drive(console(many), script)


def test_queries_are_saved_and_used(many):
    file = Path("config/console.yaml")

    async def script(pilot):
        await until(pilot, "broken")
        await pilot.press("Q")
        await until(pilot, "no query is saved")
        await pilot.press("w")
        await until(pilot, "no query to save")
        await pilot.press("slash", *"state=finished", "enter", "w")
        await pilot.press(*["backspace"] * 14, *"good", "enter")
        await until(pilot, "saved good")
        assert 'queries:\n  "good": "state=finished"\n' in file.read_text()
        await pilot.press("escape")
        assert len(names(pilot)) == 9
        await pilot.press("Q", "j", "enter")
        assert len(names(pilot)) == 3
        await pilot.press("Q", "k", "enter")
        assert len(names(pilot)) == 9

    drive(console(many), script)
    assert preferences.Preferences.read(file, list).queries == {"good": "state=finished"}


def test_the_preview_is_of_the_run_under_the_cursor(many):
    async def script(pilot):
        await until(pilot, "no room on the disk")
        await pilot.press("j")
        await until(pilot, "▲ +4.37 points")
        assert "p 0.0011, n 3" in shown(pilot)
        assert "β 0.1" in shown(pilot)
        await until(pilot, "bee")
        await pilot.press("j", "j")
        await until(pilot, "18 min 42 s left")
        await pilot.press("G")
        await until(pilot, lambda: "torn\n" in str(pilot.app.screen.query_one("#about").render()))

    drive(console(many), script, (120, 40))


def test_a_run_whose_results_are_of_a_later_version_is_previewed_without_them(many):
    path = many / "cifar10-cfm" / "results.json"
    write_json(path, {**read_json(path), "schema_version": 99})

    async def script(pilot):
        await until(pilot, "broken")
        await pilot.press("j")
        await until(pilot, lambda: told(shown(pilot), "cifar10-cfm", "damaged"))
        assert len(names(pilot)) == 9

    drive(console(many), script, (120, 40))


def test_marks_keep_their_order(many):
    async def script(pilot):
        await until(pilot, "broken")
        await pilot.press("j", "j", "space", "k", "k", "space", "x")
        await until(pilot, lambda: isinstance(pilot.app.screen, ComparePage))
        folders = [folder.name for folder in pilot.app.screen._folders]
        assert folders == ["cifar10-cfm-resnet18-0.5", "cifar10-cfm"]

    drive(console(many), script)


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
        await pilot.press("slash", *"state=failed", "enter")
        assert names(pilot) == ["broken"]
        await pilot.press("escape", "G")
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
