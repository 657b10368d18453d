"""The monitor of a run with repeats: what is of all that are finished, and what of the one at work."""

from __future__ import annotations

import pytest
from consoles import shown, until
from images_run import results
from monitored import TAPS, glimpse, made, recovering, train, validating, watch
from recorded import opened

from cfm_tui.console.screens.monitor_results import Numbers
from engine import events
from engine.runs.results import build_document
from engine.store import lock


@pytest.fixture(autouse=True)
def no_thread(monkeypatch):
    monkeypatch.setattr(lock.Heartbeat, "THREAD", False)


def save_results(run, repeats):
    """Write the results of the first repeats of three."""
    (entry,) = results("x", 50.0)["repeats"]
    entries = [{**entry, "seed": seed} for seed in range(repeats)]
    run.save_results(build_document("x", entries, 3, ["students"]))


def third_repeat(run):
    """Two repeats finished; in the third a student is trained."""
    run.record(events.RepeatStarted(1, 3, 0))
    validating(run)
    save_results(run, 2)
    run.record(events.RepeatStarted(3, 3, 2))
    run.record(events.StageStarted("validate", 24, "epochs"))
    train(run, "validate", "convnet", "distilled", 4)
    run.record(events.SubsetEvaluated("validate", "convnet", "distilled", 4, 5, 250, 61.0))


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
def test_the_result_is_of_the_finished_repeats_with_the_one_at_work_below(tmp_path, size):
    folder = made(tmp_path / "seen", third_repeat)

    async def script(pilot, page):
        await until(pilot, "4 Result of 2 of 3 repeats")
        await pilot.press("4", "f")
        await until(pilot, "repeat 3, accuracy: 250 test images, then all")
        text = shown(pilot)
        assert "no accuracies yet" not in text
        assert "distilled  50.00 ± 0.00 (2)" in text
        assert "1 more to come" in text
        lines = [line.split() for line in text.splitlines()]
        assert ["repeat", "3", "latest"] in lines
        assert ["distilled", "78.00", "convnet,", "seed", "4,", "epoch", "6", "of", "6"] in lines

    watch(folder, script, size)


@pytest.mark.parametrize(("size", "repeats"), [((80, 24), 3), ((120, 40), 3), ((80, 24), 1)])
def test_the_title_of_the_accuracies_fits_its_panel(tmp_path, size, repeats):
    def first_repeat(run):
        run.record(events.RepeatStarted(1, repeats, 0))
        run.record(events.StageStarted("validate", 24, "epochs"))
        train(run, "validate", "convnet", "distilled", 0)
        run.record(events.SubsetEvaluated("validate", "convnet", "distilled", 0, 5, 250, 61.0))

    folder = made(tmp_path / "seen", first_repeat)

    async def script(pilot, page):
        await until(pilot, "4 Result so far")
        repeat = "repeat 1, " if repeats > 1 else ""
        await until(pilot, f"{repeat}accuracy: 250 test images, then all")
        assert ("repeat 1, " in shown(pilot)) is (repeats > 1)

    watch(folder, script, size)


def test_trainings_say_of_which_repeat_they_are(tmp_path):
    folder = made(tmp_path / "seen", third_repeat)

    async def script(pilot, page):
        await until(pilot, "4 Result of 2 of 3 repeats")
        await pilot.press("4", "v")
        await until(pilot, "4 Trainings of repeat 3; best % is")
        table = page.query_one(Numbers)
        rows = [[str(cell) for cell in table.get_row_at(at)] for at in range(table.row_count)]
        assert (rows[0][:2], rows[0][4]) == (["distilled", "mean"], "2 repeats")  # all of one network
        assert [row[1] for row in rows] == ["mean", "mean", "4"]

    watch(folder, script)


def test_a_new_repeat_shows_nothing_of_the_one_before(tmp_path):
    run = opened(tmp_path / "seen")
    run.record(events.RepeatStarted(1, 3, 0))
    recovering(run)

    async def script(pilot, page):
        await until(pilot, "3 Images +7 · batch 3, it 20")
        name = TAPS[1].removeprefix("layers.")
        await until(pilot, name)
        page._history.preview = glimpse(2, 40)
        assert page._images._images
        run.record(events.RepeatStarted(2, 3, 1))
        await until(pilot, "3 Images · none yet")
        await until(pilot, "4 Trainings of repeat 2")
        assert page._images._images == []
        assert page._history.preview is None
        assert page.query_one(Numbers).row_count == 0
        assert name not in shown(pilot)

    watch(tmp_path / "seen", script)
    run.close("stopped")
