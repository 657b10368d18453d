"""Runs beside each other: every key and flow, on runs that are finished, at work and damaged."""

from __future__ import annotations

import csv
import io

import pytest
from consoles import SIZES, console, drive, golden, shown, until
from images_run import finished
from monitored import made, recovering
from recorded import layout, opened, progress

from cfm_tui.console.engine_link import CompareRuns
from cfm_tui.console.screens import compare
from cfm_tui.console.screens.compare import (
    Cell,
    ComparePage,
    compare_curves,
    make_setting_cell,
    sort_rows,
)
from cfm_tui.console.screens.monitor import MonitorPage
from cfm_tui.console.widgets.chart import Chart
from cfm_tui.display.charts import letter
from cfm_tui.display.progress import format_duration
from cfm_tui.display.run_state import RunModel
from engine import events
from engine.store import StoredRun, lock

TEXTS = {
    "plain": "seed: 0\nipc: 1\nobjective: {beta: 0.1}\n",
    "strong": "seed: 0\nipc: 2\nobjective: {beta: 0.5}\n",
    "other": "seed: 3\nipc: 1\nobjective: {beta: 0.1, terms: [{filter: ridge, signal: class}]}\n",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Three finished runs."""
    place = tmp_path_factory.mktemp("runs")
    for accuracy, (name, text) in zip((50.0, 62.0, 41.0), TEXTS.items(), strict=True):
        finished(place / name, accuracy, text)
    return place


def comparing(place, *names, **options):
    return console(place, opening=CompareRuns([place / name for name in names or TEXTS]), **options)


async def read(pilot):
    """Wait until records and settings are shown."""
    await until(pilot, lambda: isinstance(pilot.app.screen, ComparePage))
    page = pilot.app.screen
    await until(pilot, lambda: len(page._shown) == 2 and page._settings is not None and not page._stale)
    await until(pilot, lambda: not any(model.behind for model in page._models))


def table(page) -> list[list[str]]:
    return list(csv.reader(io.StringIO(page.csv())))


def test_curves_lie_over_each_other(place):
    async def script(pilot):
        await read(pilot)
        text = shown(pilot)
        assert "CE by iteration, 1 of 5" in text
        for name in ("A plain", "B strong", "C other"):
            assert name in text
        found = []
        for _ in ComparePage.CURVES:
            found.append(next(line for line in shown(pilot).splitlines() if " of 5" in line))
            await pilot.press("v")
        for line, what in zip(found, ComparePage.CURVES, strict=True):
            assert what in line
        assert "accuracy by epoch" in found[3]
        await pilot.press("V")
        assert "control by epoch, 5 of 5" in shown(pilot)
        await pilot.press("V")
        assert "accuracy by epoch, 4 of 5" in shown(pilot)
        rows = table(pilot.app.screen)
        assert rows[0][:2] == ["line", "epoch"]
        assert ["A plain (convnet)", "3", "50.5", "50", "51"] in rows
        assert {row[0] for row in rows[1:]} == {
            f"{mark} {name} (convnet)" for mark, name in zip("ABC", TEXTS, strict=True)
        }
        await pilot.press("y", "plus", "right", "0", "minus")
        assert pilot.app.screen.query_one(Chart).log_axis

    drive(comparing(place), script, (120, 40))


def test_settings_that_differ_are_filtered_and_sorted(place):
    async def script(pilot):
        await read(pilot)
        page = pilot.app.screen
        await pilot.press("2")
        rows = table(page)
        assert rows[0] == ["setting", "A", "B", "C"]
        assert ["objective.beta", "0.1", "0.5", "0.1"] in rows
        assert ["ipc", "1", "2", "1"] in rows
        assert len(rows) == 5
        assert "Settings that differ: 4" in shown(pilot)
        await pilot.press("slash", *"BETA", "enter")
        assert table(page)[1:] == [["objective.beta", "0.1", "0.5", "0.1"]]
        assert "1 of 4" in shown(pilot)
        await pilot.press("slash", *["backspace"] * 4, "enter", "s", "s")
        assert "by B ↑" in shown(pilot)
        values = [row[2] for row in table(page)[1:4]]
        assert values == ["0", "0.5", "2"]
        await pilot.press("S")
        assert [row[2] for row in table(page)[2:]] == ["2", "0.5", "0"]
        assert not page.query_one("#filter").has_class("-open")

    drive(comparing(place), script)


def test_results_are_sorted_and_a_run_is_opened_from_them(place):
    async def script(pilot):
        await read(pilot)
        await pilot.press("3")
        page = pilot.app.screen
        rows = table(page)
        assert rows[0] == list(ComparePage.RESULTS)
        assert rows[1][:6] == [
            "A plain",
            "finished",
            "50.00 (1)",
            "40.00 (1)",
            "51.00 (1)",
            "92.50",
        ]
        assert rows[1][6:] == ["—", *["1 min 01 s"] * 4, "4 min 04 s"]
        await pilot.press("s", "s")
        assert "by distilled ↓" in shown(pilot)
        assert [row[0] for row in table(page)[1:]] == ["B strong", "A plain", "C other"]
        await pilot.press("S")
        assert [row[0] for row in table(page)[1:]] == ["C other", "A plain", "B strong"]
        await pilot.press("g", "j", "enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, MonitorPage) and "plain" in shown(pilot))
        await pilot.press("escape")
        assert pilot.app.screen is page

    drive(comparing(place), script, (200, 60))


def test_a_click_on_a_header_sorts(place):
    async def script(pilot):
        await read(pilot)
        page = pilot.app.screen
        await pilot.click("#outcome", offset=(2, 0))
        assert page._order[3] == (0, True)
        await pilot.click("#differing", offset=(2, 0))
        assert page._order[2] == (0, True)

    drive(comparing(place), script)


def test_a_run_at_work_is_followed(tmp_path, place):
    run = opened(tmp_path / "live", text=TEXTS["strong"])
    run.record(events.StageStarted("recover", 8, "iterations"))
    run.record(layout())
    run.record(progress(1, 0))

    async def script(pilot):
        await read(pilot)
        page = pilot.app.screen
        before = len(table(page))
        await until(pilot, "running")
        run.record(progress(1, 2))
        await until(pilot, lambda: len(table(page)) == before + 2)
        run.close("failed", "no room")
        await until(pilot, "failed")

    folders = [tmp_path / "live", place / "plain"]
    drive(console(place, opening=CompareRuns(folders)), script)


def test_a_run_whose_settings_are_damaged_is_told(tmp_path):
    for name in ("plain", "strong", "other"):
        finished(tmp_path / name, 50.0, TEXTS[name])
    (tmp_path / "strong" / "config.yaml").write_text("seed: 7\n")

    async def script(pilot):
        await read(pilot)
        await pilot.press("2")
        assert ["seed", "0", "?", "3"] in table(pilot.app.screen)
        await until(pilot, "damaged")

    drive(comparing(tmp_path), script)


def test_runs_with_the_same_settings_say_so(tmp_path):
    for name in ("one", "two"):
        finished(tmp_path / name, 50.0, TEXTS["plain"])

    async def script(pilot):
        await read(pilot)
        assert "Settings that differ: none" in shown(pilot)
        await pilot.press("2", "s", "S", "slash", "x", "enter", "3", "f", "1", "v", "f")

    drive(comparing(tmp_path, "one", "two"), script)


def test_many_runs_and_all_sizes_break_nothing(place):
    async def script(pilot):
        await read(pilot)
        for size in ((20, 6), (3, 2), (200, 60), (40, 12), (80, 24)):
            await pilot.resize_terminal(*size)
            await pilot.pause()
            await pilot.press("v", "2", "3", "f", "f")
        assert letter(9) in shown(pilot)

    drive(comparing(place, *[*TEXTS, *TEXTS, *TEXTS, "plain"]), script)


@pytest.mark.parametrize("size", SIZES)
def test_the_screen_at_every_size(place, size):
    async def script(pilot):
        await read(pilot)
        golden(f"compare-{size[0]}x{size[1]}", shown(pilot))
        if size == (40, 12):
            for number, name in ((2, "settings"), (3, "results")):
                await pilot.press(str(number))
                await pilot.pause()
                golden(f"compare-{name}-40x12", shown(pilot))

    drive(comparing(place), script, size)


def test_cells_are_sorted_as_what_they_mean():
    known = [3.44, 3.36, 123.0, 3900.0, None, 59.9, 7200.0]
    rows = [(Cell() if each is None else Cell(format_duration(each), each),) for each in known]
    ordered = [value for ((_, value),) in sort_rows(rows, 0, False)]
    assert ordered == [3.36, 3.44, 59.9, 123.0, 3900.0, 7200.0, None]
    assert sort_rows(rows, 0, True)[-1] == (Cell("—"),)
    values = [(make_setting_cell(each),) for each in ("stored", 10, "5 min 01 s", 9.5, True, None)]
    ordered = [text for ((text, _),) in sort_rows(values, 0, False)]
    assert ordered == ["9.5", "10", "5 min 01 s", "stored", "true", "—"]


def test_runs_with_different_students_say_so(tmp_path):
    for name, students in (("one", ["resnet18", "convnet"]), ("two", ["convnet"])):
        run = opened(tmp_path / name)
        for student in students:
            run.record(events.EpochFinished("validate", student, "distilled", 0, 1, 3, 1.0, 50.0))
        run.close("stopped")
    models = [RunModel(StoredRun(tmp_path / name)) for name in ("one", "two")]
    for model in models:
        model.read(9)
    assert [line.name for line in compare_curves(models, "accuracy")] == [
        "one (resnet18)",
        "two (convnet)",
    ]


def test_settings_that_cannot_be_compared_are_told(tmp_path, monkeypatch):
    def fail(folder):
        raise RuntimeError("no such luck")

    monkeypatch.setattr(lock.Heartbeat, "THREAD", False)
    monkeypatch.setattr(compare, "read_settings", fail)
    folders = [made(tmp_path / name, recovering) for name in "ab"]

    async def script(pilot):
        await until(pilot, lambda: isinstance(pilot.app.screen, ComparePage))
        await until(pilot, "no such luck")
        await until(pilot, lambda: "Settings that differ: reading" not in shown(pilot))

    drive(console(tmp_path, opening=CompareRuns(folders)), script)
