"""The page of sweeps: their points as a grid, and the processes that it starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from consoles import SIZES, becomes, console, drive, shown, until
from listed import make_sweep
from monitored import frozen

from cfm_tui.console import sweeps
from cfm_tui.console.screens.dialogs import Pick
from cfm_tui.console.screens.monitor import MonitorPage
from cfm_tui.console.screens.sweeps import SweepsPage
from cfm_tui.process import detach
from engine.store.lock import Owner


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with one sweep; the working folder is above it."""
    frozen(monkeypatch)
    monkeypatch.chdir(tmp_path)
    make_sweep(tmp_path / "runs" / "tiny")
    return Path("runs")


async def opened(pilot):
    await pilot.press("W")
    await until(pilot, lambda: isinstance(pilot.app.screen, SweepsPage) and "tiny" in shown(pilot))


def cells(summary):
    return [
        [sweeps.format_cell(summary.find_points(row, column)) for column in summary.columns()]
        for row in summary.rows()
    ]


def test_points_are_a_grid_over_their_seeds(place):
    (summary,) = sweeps.SweepListing(place).read()
    assert summary.rows() == ["cfm", "hfm", "lfm"]
    assert sweeps.shorten_columns(summary.columns()) == ("digits ipc convnet", ["1 ipc=1", "10 ipc=10"])
    assert cells(summary) == [
        ["51.0 ± 1.4", "51.0 ± 1.4"],
        ["51.0 ± 1.4", "███░░ 64% ✗"],
        ["· ✗", "·2"],
    ]
    assert summary.state == "failed"
    assert (summary.count("finished"), summary.count("failed"), summary.count("waiting")) == (6, 2, 3)


def test_a_point_that_is_reread_is_the_same_if_nothing_changed(place):
    listing = sweeps.SweepListing(place)
    assert listing.read() == listing.read()


def test_a_damaged_sweep_hides_no_other(place):
    (place / "torn").mkdir()
    (place / "torn" / "sweep.json").write_text("{")
    found = {sweep.name: sweep.state for sweep in sweeps.SweepListing(place).read()}
    assert found == {"tiny": "failed", "torn": "damaged"}


@pytest.mark.parametrize("size", SIZES)
def test_the_screen_at_every_size(place, size):
    async def script(pilot):
        await pilot.press("W")
        await until(pilot, lambda: isinstance(pilot.app.screen, SweepsPage) and "tiny" in shown(pilot))
        await pilot.pause(0.5)
        await becomes(pilot, f"sweeps-{size[0]}x{size[1]}")
        if size == (40, 12):
            await pilot.press("2")
            await becomes(pilot, "sweeps-grid-40x12")

    drive(console(place), script, size)


def test_a_point_is_opened_from_the_grid(place):
    async def script(pilot):
        await opened(pilot)
        await pilot.press("enter", "j", "right", "enter")
        assert isinstance(pilot.app.screen, Pick)
        await pilot.press("j", "enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, MonitorPage))
        await pilot.press("escape")
        assert isinstance(pilot.app.screen, SweepsPage)
        await pilot.press("j", "enter")
        assert isinstance(pilot.app.screen, Pick)
        await pilot.press("enter")
        await until(pilot, "not started yet")

    drive(console(place), script)


def test_a_sweep_is_continued_and_its_failed_points_are_retried(place, monkeypatch):
    started = []
    monkeypatch.setattr(
        detach, "start_sweep", lambda folder, failed_only: started.append((folder.name, failed_only))
    )

    async def script(pilot):
        await opened(pilot)
        await pilot.press("o")
        await until(pilot, lambda: started == [("tiny", False)])
        await pilot.press("R")
        await until(pilot, lambda: started == [("tiny", False), ("tiny", True)])
        owner = Owner(place / "tiny")
        await until(pilot, "1 running")
        await pilot.press("o", "R")
        await until(pilot, "tiny is running")
        owner.release()
        assert len(started) == 2

    drive(console(place), script)


def test_a_console_that_is_read_only_starts_nothing(place, monkeypatch):
    monkeypatch.setattr(detach, "start_sweep", lambda *_, **__: pytest.fail("started"))

    async def script(pilot):
        await opened(pilot)
        await pilot.press("o", "R")
        await until(pilot, "read-only: cannot continue a sweep")

    drive(console(place, read_only=True), script)


def test_an_empty_folder_says_how_to_begin(tmp_path):
    async def script(pilot):
        await pilot.press("W")
        await until(pilot, "No sweeps in this folder")
        await pilot.press("o", "R", "enter", "2")
        assert "cfm sweep table2" in shown(pilot)

    drive(console(tmp_path), script)


def test_columns_without_names_of_their_own_keep_all_words():
    assert sweeps.shorten_columns(["digits ipc 1"]) == ("", ["digits ipc 1"])
    assert sweeps.shorten_columns(["a b", "a"]) == ("", ["a b", "a"])
