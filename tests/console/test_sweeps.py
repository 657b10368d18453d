"""The page of sweeps: their points as a grid, and the processes that it starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from consoles import SIZES, becomes, console, drive, shown, until
from listed import make_sweep
from monitored import frozen
from swept import GRID, file

from cfm_tui.console import sweeps
from cfm_tui.console.screens.dialogs import Choice, Pick
from cfm_tui.console.screens.monitor import MonitorPage
from cfm_tui.console.screens.sweeps import SweepsPage
from cfm_tui.process import detach
from engine.errors import UserError
from engine.store.lock import Owner
from engine.store.sweeps import StoredSweep
from engine.sweep.description import Options
from engine.sweep.folder import load_points


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
        await pilot.press("o", "R", "b")
        await until(pilot, "read-only: cannot begin a sweep")

    drive(console(place, read_only=True), script)


@pytest.fixture
def begun(monkeypatch):
    """The folders whose points a process was started for."""
    folders = []
    monkeypatch.setattr(detach, "start_sweep", lambda folder, failed_only: folders.append(folder))
    return folders


def test_a_sweep_of_a_file_begins_after_a_look_at_it(place, tmp_path, begun):
    file(tmp_path, GRID, "mine")

    async def script(pilot):
        await opened(pilot)
        await pilot.press("b")
        await until(pilot, "Methods on both CIFAR sets")
        await pilot.press("enter")
        await until(pilot, "YAML file:")
        await pilot.press(*"mine.yaml", "enter")
        await until(pilot, "budget is the fraction")
        await pilot.press(*"budget=0.5 seed=3", "enter")
        await until(pilot, "cannot begin")  # two points of one experiment
        assert "the same experiment" in shown(pilot)
        await pilot.press("escape", "b", "enter", *"mine.yaml", "enter", *"budget=0.5", "enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, Choice))
        for text in ("mine-budget0.5", "4 points: 2 rows × 1 column of digits", "iterations of recovery"):
            assert text in shown(pilot)
        await pilot.press("n", "b", "enter", *"mine.yaml", "enter", *"budget=0.5", "enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, Choice))
        assert not begun
        assert not (place / "mine-budget0.5").exists()
        await pilot.press("s")
        await until(pilot, lambda: begun == [place / "mine-budget0.5"])
        await until(pilot, "0/4")

    drive(console(place), script, (120, 40))
    stored = StoredSweep(place / "mine-budget0.5")
    assert [point.column for point in load_points(stored)] == ["digits ipc 1 convnet"] * 4
    assert stored.owner() is None


def test_an_included_sweep_that_cannot_run_says_why(place, begun, monkeypatch):
    monkeypatch.setenv("CFM_DATA_ROOT", "nowhere")

    async def script(pilot):
        await opened(pilot)
        await pilot.press("b", *["j"] * 3, "enter")
        await until(pilot, "table2: budget is the fraction")
        await pilot.press(*"dataset=cifar10 backbone=convnet ipc=10", "enter")
        await until(pilot, "table2 cannot begin")
        assert "10 points: 10 rows × 1 column of cifar10" in shown(pilot)
        assert "cfm data get" in shown(pilot)
        await pilot.press("escape", "b", "enter", *"gone.yaml", "enter", "enter")
        await until(pilot, "gone.yaml cannot begin")

    drive(console(place), script, (120, 40))
    assert not begun


@pytest.mark.parametrize(
    ("text", "problem"),
    [("ipc=ten", "ten"), ("budget=2", "fraction"), ("budget=half", "half"), ("'", "quotation")],
)
def test_wrong_options_of_a_sweep_are_refused(text, problem):
    with pytest.raises(UserError, match=problem):
        sweeps.parse_options(text)


def test_options_of_a_sweep_are_those_of_the_command():
    options = sweeps.parse_options("dataset=cifar10,cifar100 ipc=1,10 budget=0.1 recover.lr=0.2 'a=[1, 2]'")
    assert options == Options(["cifar10", "cifar100"], [], [1, 10], 0.1, ["recover.lr=0.2", "a=[1, 2]"])
    assert sweeps.parse_options("") == Options([], [], [], None, [])


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
