import io

import pytest

from cfm_tui.display import progress
from engine import events


def work():
    yield events.StageStarted("recover", 20, "iterations")
    yield events.RecoverLayout(["a", "b"], ["ridge/none", "ridge/mean"], [0.1, 0.05])
    yield events.RecoverProgress(
        2, 2, 0.05, [3, 4], 10, [2.0, 1.5], [[[0, 0], [0, 0]], [[1, 2], [3, 0.5]]], 5.0
    )
    yield events.Notice("warning", "mind the gap")
    yield events.StageFinished("recover", 75.0, 0.2667)
    return "done"


def followed(display_class):
    stream = io.StringIO()
    display = display_class(stream, seconds=0.0)
    assert display.follow(work()) == "done"
    return stream.getvalue().splitlines()


def test_lines_say_batch_beta_losses_rate_and_time_left():
    began, *_, line, warning, ended = followed(progress.Display)
    assert began == "recover: 20 iterations"
    assert "15 of 20 iterations" in line
    assert "5 it/s, 1.0 s left" in line
    assert "batch 2 of 2  β 0.05  CE 1.5  ridge/none 3  ridge/mean 3.5" in line
    assert warning == "warning: mind the gap"
    assert ended == "recover: 1 min 15 s (0.267 it/s)"


def test_lines_tell_the_time_left_of_the_run():
    stream = io.StringIO()
    display = progress.Display(stream, seconds=0.0)
    display.show_event(events.Estimated({**dict.fromkeys(events.STAGES, 0.0), "validate": 4000.0}))
    display.follow(work())
    lines = stream.getvalue().splitlines()
    assert lines[0] == "estimated: validate 1 h 06 min"
    assert "5 it/s, 1.0 s left (run 1 h 06 min)" in "\n".join(lines)


def tracked(repeats=1):
    """A tracker in the middle of the recovery of the second of some repeats."""
    tracker = progress.Tracker()
    for repeat in range(1, min(repeats, 2) + 1):
        if repeats > 1:
            tracker.update(events.RepeatStarted(repeat, repeats, repeat - 1))
        tracker.update(events.StageFinished("squeeze", 0.0, 0.0, reused=True))
        tracker.update(events.StageStarted("statistics", 10, "images"))
        tracker.update(events.StageFinished("statistics", 5.0, 2.0))
        for event in work():
            last = repeat == min(repeats, 2)
            if not isinstance(event, events.Notice) and not (last and event.kind == "StageFinished"):
                tracker.update(event)
        if not last:
            tracker.update(events.StageFinished("relabel", 0.0, 0.0, reused=True))
            tracker.update(events.StageStarted("validate", 100, "epochs"))
            tracker.update(events.StageFinished("validate", 7200.0, 0.01))
    return tracker


def test_all_stages_are_drawn_in_the_width():
    tracker = tracked()
    assert tracker.draw(80, unicode=True) == [
        "↺ squeeze  ✓ statistics  ▶ recover 75%  ○ relabel  ○ validate",
        "━━━━━━━━━━━━━━━━━━━━━━────────  15/20 it  1.0 s left",
        "5 it/s  batch 2 of 2  β 0.05  CE 1.5  ridge/none 3  ridge/mean 3.5",
    ]
    assert tracker.draw(80, unicode=False)[:2] == [
        "[=] squeeze  [x] statistics  [>] recover 75%  [ ] relabel  [ ] validate",
        "######################........  15/20 it  1.0 s left",
    ]


@pytest.mark.parametrize("width", [40, 60, 80, 120])
@pytest.mark.parametrize("unicode", [True, False])
def test_a_drawing_is_never_too_wide(width, unicode):
    tracker = tracked(3)
    tracker.update(events.Estimated(dict.fromkeys(events.STAGES, 3e6)))
    lines = tracker.draw(width, unicode=unicode)
    assert len(lines) == 3
    assert max(map(len, lines)) <= width
    assert width < 80 or "repeat 2/3  15/20 it  1.0 s left (run " in lines[1]


def test_one_is_told_in_the_singular():
    stream = io.StringIO()
    display = progress.Display(stream, seconds=0.0)
    for unit in ("epochs", "batches", "images", "iterations"):
        display.show_event(events.StageStarted("recover", 1, unit))
    said = stream.getvalue().split()
    assert [word for word in said if word.isalpha()] == ["epoch", "batch", "image", "iteration"]
    assert progress.format_count(2000, "epochs") == "2,000 epochs"


def test_quiet_says_warnings_alone():
    assert followed(progress.Quiet) == ["warning: mind the gap"]


def test_epochs_count_over_all_students():
    tracker = progress.Tracker()
    tracker.update(events.StageStarted("validate", 8, "epochs"))
    for seed in range(2):
        for epoch in (1, 2):
            accuracy = 50.0 if epoch == 2 else None
            tracker.update(
                events.EpochFinished("validate", "convnet", "random", seed, epoch, 2, 0.5, accuracy)
            )
    assert tracker.done == 4
    assert tracker.detail == "convnet (random, seed 1)  epoch 2 of 2  loss 0.5  50.0 %"


def test_a_bar_in_a_terminal_survives_a_whole_run(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr("sys.stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    with progress.open_display(quiet=False) as display:
        assert isinstance(display, progress.Live)
        display.reading(3, 10)
        assert display.follow(work()) == "done"


def test_a_reader_that_went_away_does_not_stop_the_work():
    class Broken(io.StringIO):
        def write(self, _):
            raise BrokenPipeError

    assert progress.Display(Broken(), seconds=0.0).follow(work()) == "done"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (59.0, "59.0 s"), (61, "1 min 01 s"), (7260, "2 h 01 min")]
)
def test_durations(seconds, text):
    assert progress.format_duration(seconds) == text


def test_a_status_without_beta_tells_none():
    status = {"stage": "recover", "batch": 1, "batches": 2, "time": "now"}
    assert (
        progress.format_status({**status, "beta": None}, "running")
        == "running — recover — batch 1 of 2 (now)"
    )
    assert "batch 1 of 2, β 0.05 (" in progress.format_status({**status, "beta": 0.05}, "running")
