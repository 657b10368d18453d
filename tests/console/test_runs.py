"""The console's frame and its list of runs: every key, on runs in every state."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from pathlib import Path

import pytest
import tiny
from consoles import SIZES, console, drive, golden, shown, until
from recorded import layout, opened, record_recovery
from textual.widgets import Static

from cfm_tui.console.listing import Listing
from cfm_tui.console.screens.base import Panel, Table
from cfm_tui.console.screens.dialogs import Choice, Reading
from engine import events, store
from engine.errors import UserError
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
        assert "page.panel1" in str(pilot.app.screen._text)
        assert "page.panel2" not in str(pilot.app.screen._text)  # there is one
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
    from cfm_tui.console.preferences import THEMES

    async def script(pilot):
        await until(pilot, "gone")
        for name in THEMES:
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


@pytest.mark.parametrize(
    ("name", "odd"),
    [
        ("results.json", {"summary": {"accuracy": {"n": 3}}}),
        ("results.json", {"summary": []}),
        ("results.json", {"summary": {"accuracy": {"mean": "much"}}}),
        ("status.json", {"state": "stopped", "accuracy": [1]}),
        ("status.json", {"state": "stopped", "beta": "small"}),
        ("status.json", {"state": ["stopped"]}),
    ],
)
def test_a_run_that_says_what_no_run_says_is_damaged(runs, name, odd):
    write_json(runs / "ended" / name, odd)
    rows = {row.name: row.state for row in Listing(runs).rows()}
    assert rows == {"done": "finished", "ended": "damaged", "broken": "failed", "gone": "lost"}


def fails_at(monkeypatch, place, code):
    """Let everything that looks at files in `place` fail."""
    truly = os.stat

    def look(path, *words, **options):
        if not isinstance(path, int) and Path(path).is_relative_to(place):
            raise OSError(code, os.strerror(code))
        return truly(path, *words, **options)

    monkeypatch.setattr(os, "stat", look)


@pytest.mark.parametrize("code", [errno.ESTALE, errno.EIO, errno.EACCES])
def test_a_run_that_cannot_be_looked_at_hides_no_other(runs, monkeypatch, code):
    listing = Listing(runs)
    assert len(listing.rows()) == 4
    with monkeypatch.context() as patch:
        fails_at(patch, runs / "ended", code)
        assert {row.name: row.state for row in listing.rows()}["ended"] == "damaged"
        assert len(Listing(runs).rows()) == 3  # whether it is a run cannot be seen
    assert {row.name: row.state for row in listing.rows()}["ended"] == "stopped"


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
        live, folder = True, runs / "ended"  # it says stopped; its end is being written

    async def script(pilot):
        await until(pilot, "gone")
        pilot.app.session = Here
        await pilot.press("g", "j", "j", "d")
        assert not isinstance(pilot.app.screen, Choice)
        await until(pilot, "ended is running here")
        pilot.app.session = None

    drive(console(Path("runs")), script)
    assert (runs / "ended").exists()


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
