"""What the monitor says and draws, without a screen."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from images_run import results
from recorded import layout, opened, progress

from cfm_tui.console import formatting
from cfm_tui.console.formatting import draw_sparkline
from cfm_tui.console.screens.monitor_images import list_class_names
from cfm_tui.console.screens.monitor_log import Log
from cfm_tui.display.ascii_image import RAMP
from cfm_tui.display.progress import format_event
from cfm_tui.display.run_state import LogLine, RunModel
from cfm_tui.display.terminal import Terminal
from engine import events, store

FULL = Terminal(unicode=True, braille=True, blocks=True, colours=256)
ASCII = Terminal(unicode=False, braille=False, blocks=False, colours=0)


def test_the_place_on_the_schedule_is_marked():
    betas = [0.5, 0.25, 0.1]
    rows = [formatting.draw_schedule(betas, batch, 20, FULL) for batch in (1, 2, 3)]
    assert rows == ["[█]▅▁", "█[▅]▁", "█▅[▁]"]
    assert len(formatting.draw_schedule([0.9**n for n in range(500)], 500, 20, FULL)) == 22
    assert formatting.draw_schedule([0.1], 1, 20, FULL) == formatting.draw_schedule([], 0, 20, FULL) == ""


def test_a_bar_is_as_long_as_it_may_be():
    assert [formatting.draw_bar(share, 4) for share in (0, 0.5, 1, 2)] == ["░░░░", "██░░", "████", "████"]


def test_class_names_come_from_the_images_folders(tmp_path):
    for name in ("00_cat", "01_ant"):
        os.makedirs(tmp_path / "images" / name)
    assert list_class_names(tmp_path) == ["cat", "ant"]
    assert list_class_names(Path("nowhere")) == []


@pytest.mark.parametrize("method", ["cfm", "sre2l"])
def test_beta_is_shown_where_a_filter_uses_it(tmp_path, method):
    run = opened(tmp_path / "run", text=f"objective: {method}\n")
    run.record(events.StageStarted("recover", 8, "iterations"))
    run.record(layout())
    run.record(progress(1, 0))
    model = RunModel(store.StoredRun(tmp_path / "run"))
    model.read(9)
    position, *others = formatting.describe_progress(model, FULL)
    assert position == "batch 1/2  it 2/4"
    assert any(part.startswith("β") for part in others) == (method == "cfm")
    run.close("stopped")


def recovered(folder, batches, iterations, last=None):
    """A model of so many batches at one layer; a term is its batch's number, once 1000."""
    run = opened(folder)
    run.record(events.StageStarted("recover", batches * iterations, "iterations"))
    run.record(events.RecoverLayout(["conv"], ["ridge/none"], [0.5] * batches))
    for batch in range(1, batches + 1):
        made = list(range(iterations if batch < batches else last or iterations))
        terms = [[[1000.0 if i == 1 else float(batch)]] for i in made]
        run.record(
            events.RecoverProgress(batch, batches, 0.5, made, iterations, [1.0] * len(made), terms, 9.0)
        )
    run.close("stopped")
    return read(RunModel(store.StoredRun(folder)))


def read(model):
    model.read(9)
    while model.behind:
        model.read(9)
    return model


def course(model, points):
    (row,) = formatting.list_layers(model, lambda values: list(values), points)
    return row[2][0]


def test_a_sparkline_shows_spikes_as_high_as_they_are(tmp_path):
    assert course(recovered(tmp_path / "r", 1, 40), 4) == [1000.0, 1.0, 1.0, 1.0]


def test_a_sparkline_is_of_the_batch_at_work_alone_however_long_the_run(tmp_path):
    model = recovered(tmp_path / "r", 60, 1000, 10)
    assert course(model, 20) == [60.0, 1000.0, *[60.0] * 8]
    model = recovered(tmp_path / "s", 3, 3000)
    assert course(model, 5) == [1000.0, *[3.0] * (len(course(model, 5)) - 1)]


def test_all_stages_took_what_those_took_that_were_computed(tmp_path):
    run = opened(tmp_path / "x")
    found = results("x", 50.0)
    found["repeats"][0]["timings"]["squeeze"]["seconds"] = 30.0  # spent on looking for it
    run.save_results(found)
    run.close("finished")
    model = read(RunModel(store.StoredRun(tmp_path / "x")))
    assert formatting.sum_stage_seconds(model) == 4 * 61.0
    assert any("4 min 04 s in all" in line for line in formatting.describe_run(model, [], 80, FULL))
    assert formatting.sum_stage_seconds(RunModel(store.StoredRun(tmp_path / "x"))) is None


@pytest.mark.parametrize("verdict", ["better", "not shown", "worse", "not tested"])
def test_the_result_card_has_the_difference_the_test_and_what_the_spread_is(tmp_path, verdict):
    run = opened(tmp_path / "x")
    found = results("x", 50.0)
    pair = {"difference": -1.5, "standard_error": 0.5, "errors": -3.0, "p": 0.03, "p_adjusted": 0.03, "n": 3}
    found["summary"]["versus_control"] = pair | {"verdict": verdict}
    run.save_results(found)
    run.close("finished")
    model = read(RunModel(store.StoredRun(tmp_path / "x")))
    card = formatting.describe_results(model, 60)
    assert "▼ -1.50 points" in card[1]
    assert "p 0.03, n 3" in card[2]
    narrow = formatting.describe_results(model, 30)
    assert max(map(len, narrow)) <= 30
    assert "against random: ▼ -1.50 points, p 0.03, n 3" in " ".join(narrow)
    text = " ".join(card)
    assert formatting._VERDICTS[verdict] in text
    assert "teacher" in text


@pytest.mark.parametrize(
    ("difference", "words"),
    [(0.0, "0.00 points"), (-0.004, "0.00 points"), (0.01, "▲ +0.01 points"), (-0.01, "▼ -0.01 points")],
)
def test_an_arrow_is_beside_a_difference_alone(difference, words):
    found = results("x", 50.0)
    found["summary"]["versus_control"]["difference"] = difference
    card = formatting.describe_summary(found, {}, 60)
    assert card[1].endswith(f"  {words}")


@pytest.mark.parametrize("starts", [True, False])
def test_a_stage_that_never_started_is_not_called_cached(tmp_path, starts):
    run = opened(tmp_path / "x")
    for stage in ("statistics", "relabel"):
        if starts:
            run.record(events.StageStarted(stage, 8, "images"))
        run.record(events.StageFinished(stage, 0.0, 0.0, True))
    run.close("stopped")
    labels = formatting.describe_stages(read(RunModel(store.StoredRun(tmp_path / "x"))))
    words = ("cached", "cached") if starts else ("skipped", "online")
    assert labels[1] == f"↺ statistics {words[0]}"
    assert labels[3] == f"↺ relabel {words[1]}"


def test_the_result_card_has_the_papers_number_where_it_reports_the_setting(tmp_path):
    found = results("x", 50.0)
    for repeat in found["repeats"]:
        for student in repeat["students"]:
            student["architecture"] = "convnet"
    settings = {"data.name": "cifar10", "ipc": "10", "backbone.name": "convnet", "objective.method": "cfm"}
    card = formatting.describe_summary(found, settings, 60)
    assert "the paper  52.1 ± 0.5  UniDD Table 2" in card
    for key, other in {"objective.method": "sre2l", "ipc": "1", "backbone.name": "resnet18"}.items():
        assert "paper" not in " ".join(formatting.describe_summary(found, settings | {key: other}, 60))
    assert "paper" not in " ".join(formatting.describe_summary(found, {}, 60))
    found["repeats"][0]["students"][0]["architecture"] = "resnet18"
    assert "paper" not in " ".join(formatting.describe_summary(found, settings, 60))


def test_bytes_are_decimal_wherever_they_are_told(tmp_path):
    model = recovered(tmp_path / "r", 1, 4)
    model.memory_bytes = 1_500_000_000
    assert "1.5 GB" in formatting.describe_progress(model, FULL)[-1]


def test_a_checkpoint_fits_a_narrow_log():
    text = format_event(events.Checkpointed("recover", 30, 3_800_000, 0.04))
    told = Log.format_line(LogLine(time.time(), "info", text))
    assert told.endswith("checkpoint 30: 3.8 MB, 0.0 s")
    assert len(told) <= 38


def test_sparks():
    assert draw_sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8, FULL) == "▁▂▃▄▅▆▇█"
    assert draw_sparkline(range(10), 10, ASCII) == RAMP
    assert draw_sparkline([1, 1], 4, FULL) == "▁▁  "
    assert draw_sparkline([], 3, FULL) == "   "
    assert draw_sparkline([math.nan] * 3, 3, FULL) == "!!!"
    assert draw_sparkline([0, math.inf, 1], 3, FULL) == "▁!█"
    assert draw_sparkline([0] * 500 + [9] + [0] * 499, 10, FULL) == "▁▁▁▁▁█▁▁▁▁"


@given(st.lists(st.floats()), st.integers(0, 40), st.sampled_from([FULL, ASCII]))
def test_a_spark_is_as_wide_as_it_is_told(values, width, terminal):
    assert len(draw_sparkline(values, width, terminal)) == width
