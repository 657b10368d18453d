"""Runs beside each other: every key and flow, on runs that are finished, at work and damaged."""

from __future__ import annotations

import csv
import io

import pytest
from consoles import SIZES, console, drive, golden, shown, until
from images_run import finished
from listed import make_runs, repeated
from monitored import made, recovering
from recorded import layout, opened, progress

from cfm_tui.console.columns import Column, sort_rows
from cfm_tui.console.engine_link import CompareRuns
from cfm_tui.console.screens import compare
from cfm_tui.console.screens.compare import (
    CURVES,
    Cell,
    ComparePage,
    compare_curves,
    compare_differences,
    describe_test,
    make_setting_cell,
)
from cfm_tui.console.screens.monitor import MonitorPage
from cfm_tui.display.charts import letter
from cfm_tui.display.run_state import RunModel
from engine import events
from engine.report import tables
from engine.runs.results import read_results
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
    await until(pilot, lambda: page._models and page._settings is not None and not page._stale)
    await until(pilot, lambda: not any(model.behind for model in page._models))
    finished = all(model.results is not None for model in page._models)
    await until(pilot, lambda: not finished or any(page._comparisons))


def table(page) -> list[list[str]]:
    return list(csv.reader(io.StringIO(page.csv())))


def test_curves_lie_over_each_other(place):
    async def script(pilot):
        await read(pilot)
        text = shown(pilot)
        assert "accuracy by epoch · 1 of 5" in text
        for name in ("A plain", "B strong", "C other"):
            assert name in text
        await pilot.press("2")
        rows = table(pilot.app.screen)
        assert rows[0][:2] == ["line", "epoch"]
        assert ["A plain (convnet)", "3", "50.5", "50", "51"] in rows
        assert {row[0] for row in rows[1:]} == {
            f"{mark} {name} (convnet)" for mark, name in zip("ABC", TEXTS, strict=True)
        }
        for what in CURVES:
            assert f"─2 {what} by" in shown(pilot)
            await pilot.press("v")
        await pilot.press("V", "V", "V")
        assert "CE by iteration · 3 of 5" in shown(pilot)
        assert pilot.app.screen._chart().log_axis
        await pilot.press("2", "y", "plus", "right", "0", "minus")
        assert not pilot.app.screen._chart().log_axis

    drive(comparing(place), script, (120, 40))


def test_numbers_are_those_of_the_table(tmp_path):
    runs = make_runs(tmp_path / "runs")
    folders = [runs / "cifar10-sre2l", runs / "cifar10-cfm"]
    document = tables.table(list(map(str, folders)), against="sre2l")
    cell = next(each for each in document["cells"] if each["row"] == "cfm")
    documents = [read_results(StoredRun(folder)) for folder in folders]
    for comparison, expected in (
        (compare_differences(documents, against_control=False)[1], cell["versus"]),
        (compare_differences(documents, against_control=True)[1], cell["versus_control"]),
    ):
        assert comparison == {key: value for key, value in expected.items() if key != "row"}
        assert comparison["p"] is not None

    async def script(pilot):
        await read(pilot)
        assert "Δ against A cifar10-sre2l" in shown(pilot)
        rows = {row[0]: row for row in table(pilot.app.screen)}
        versus = cell["versus"]
        assert rows["B cifar10-cfm"][2:7] == [
            f"{versus['difference']:+.2f}",
            f"{versus['p']:.2g}",
            f"{versus['p_adjusted']:.2g}",
            "3",
            "better",
        ]
        assert rows["A cifar10-sre2l"][6] == "reference"
        await pilot.press("a")
        await until(pilot, "−3.23")
        assert "each run's random control" in shown(pilot)
        assert "p (Holm) is corrected for 2 runs" in shown(pilot)

    drive(console(runs, opening=CompareRuns(folders)), script)


def test_one_repeat_is_not_tested():
    one = repeated("one", (50.0,), (40.0,), seeds=(0,), planned=1)
    versus = compare_differences([one, one, None], against_control=False)
    assert versus[0] is None
    assert versus[1]["verdict"] == "not tested"
    assert versus[2] is None
    assert describe_test(versus).startswith("not tested")


def test_bookkeeping_is_folded(tmp_path):
    for name, device in (("one", "cpu"), ("two", "auto")):
        finished(tmp_path / name, 50.0, f"device: {device}\nseed: {len(device)}\n")

    async def script(pilot):
        await read(pilot)
        await pilot.press("3")
        assert [row[0] for row in table(pilot.app.screen)] == ["setting", "seed"]
        assert "Settings that differ · 1 · 1 of bookkeeping hidden (h)" in shown(pilot)
        await pilot.press("h")
        assert [row[0] for row in table(pilot.app.screen)] == ["setting", "seed", "device"]

    drive(comparing(tmp_path, "one", "two"), script)


def test_settings_that_differ_are_filtered_and_sorted(place):
    async def script(pilot):
        await read(pilot)
        page = pilot.app.screen
        await pilot.press("3")
        rows = table(page)
        assert rows[0] == ["setting", "A", "B", "C"]
        assert ["objective.beta", "0.1", "0.5", "0.1"] in rows
        assert ["ipc", "1", "2", "1"] in rows
        assert len(rows) == 5
        assert "Settings that differ · 4" in shown(pilot)
        await pilot.press("slash", *"BETA", "enter")
        assert table(page)[1:] == [["objective.beta", "0.1", "0.5", "0.1"]]
        assert "1 · filter beta" in shown(pilot)
        await pilot.press("slash", *["backspace"] * 4, "enter", "s", "s", "s")
        assert "B ↑" in shown(pilot)
        values = [row[2] for row in table(page)[1:4]]
        assert values == ["0", "0.5", "2"]
        await pilot.press("S")
        assert [row[2] for row in table(page)[2:]] == ["2", "0.5", "0"]
        assert not page.query_one("#filter").has_class("-open")

    drive(comparing(place), script)


def test_results_are_sorted_and_a_run_is_opened_from_them(place):
    async def script(pilot):
        await read(pilot)
        page = pilot.app.screen
        rows = table(page)
        assert rows[0][:6] == ["run", "distilled", "Δ", "p", "p (Holm)", "n"]
        assert rows[2][:7] == ["B strong", "62.00 (1)", "+12.00", "", "", "1", "not tested"]
        assert rows[2][7:12] == ["52.00 (1)", "finished", "4 min 04 s", "92.50 (1)", "63.00 (1)"]
        assert rows[2][12:] == ["", *["1 min 01 s"] * 4]
        await pilot.press("s", "s")
        assert "distilled ↓" in shown(pilot)
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
        assert page._order[1] == ("run", False)
        await pilot.click("#differing", offset=(2, 0))
        await pilot.click("#differing", offset=(2, 0))
        assert page._order[3] == ("setting", True)

    drive(comparing(place), script)


def test_a_run_at_work_is_followed(tmp_path, place):
    run = opened(tmp_path / "live", text=TEXTS["strong"])
    run.record(events.StageStarted("recover", 8, "iterations"))
    run.record(layout())
    run.record(progress(1, 0))

    async def script(pilot):
        await read(pilot)
        page = pilot.app.screen
        await until(pilot, "running")
        await pilot.press("v", "v", "2")
        before = len(table(page))
        run.record(progress(1, 2))
        await until(pilot, lambda: len(table(page)) == before + 2)
        run.close("failed", "no room")
        await until(pilot, "failed")

    folders = [tmp_path / "live", place / "plain"]
    drive(console(place, opening=CompareRuns(folders)), script, (120, 40))


def test_a_run_whose_settings_are_damaged_is_told(tmp_path):
    for name in ("plain", "strong", "other"):
        finished(tmp_path / name, 50.0, TEXTS[name])
    (tmp_path / "strong" / "config.yaml").write_text("seed: 7\n")

    async def script(pilot):
        await read(pilot)
        await pilot.press("3")
        assert ["seed", "0", "?", "3"] in table(pilot.app.screen)
        await until(pilot, "damaged")

    drive(comparing(tmp_path), script, (120, 40))


def test_runs_with_the_same_settings_say_so(tmp_path):
    for name in ("one", "two"):
        finished(tmp_path / name, 50.0, TEXTS["plain"])

    async def script(pilot):
        await read(pilot)
        assert "Settings that differ · none" in shown(pilot)
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
            for number, name in ((2, "curves"), (3, "settings")):
                await pilot.press(str(number))
                await pilot.pause()
                golden(f"compare-{name}-40x12", shown(pilot))

    drive(comparing(place), script, size)


def test_settings_are_sorted_as_what_they_mean():
    values = [make_setting_cell(each) for each in ("stored", 10, "5 min 01 s", 9.5, True, None)]
    column = Column("A", lambda cell: cell.text, lambda cell: cell.sort_key)
    ordered = [cell.text for cell in sort_rows(values, column, descending=False)]
    assert ordered == ["9.5", "10", "5 min 01 s", "stored", "true", "—"]
    assert sort_rows(values, column, descending=True)[-1] == Cell("—")


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
        "A one (resnet18)",
        "B two (convnet)",
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
        await until(pilot, lambda: "Settings that differ · reading" not in shown(pilot))

    drive(console(tmp_path, opening=CompareRuns(folders)), script)
