"""What a sweep shows while it goes, and with which words it starts its runs."""

import io
import time
from types import SimpleNamespace

import pytest
from rich.console import Console
from rich.live import Live
from swept import expanded

from cfm_tui.cli import sweep as command
from cfm_tui.display import progress, sweep_progress
from engine.sweep.schedule import Schedule

VALIDATING = {"stage": "validate", "total": 12, "unit": "epochs", "architecture": "convnet", "seed": 1}
STATUSES = {
    "seed=0": {"stage": "recover", "total": 1000, "done": 250, "unit": "iterations", "rate": 25.0},
    "seed=1": {**VALIDATING, "source": "distilled", "epoch": 3, "epochs": 6, "rate": 0.5, "done": 9}
    | {"seconds_left": 66.0},
}
PLACES = {
    "seed=0": ("recover 25%", "30.0 s left", "250 of 1,000 iterations, 25 it/s"),
    "seed=1": (
        "validate 75%",
        "6.0 s left (run 1 min 06 s)",
        "convnet, distilled, seed 1, epoch 3 of 6, 0.5 epochs/s",
    ),
}


def sweeper():
    """Four points: two that run, one that failed, one that waits."""
    schedule = Schedule(expanded({"preset": "smoke", "grid": {"seed": [0, 1, 2, 3]}}))
    schedule.states |= {"seed=0": "running", "seed=1": "running", "seed=2": "failed"}
    messages = {"seed=2": "it broke"}
    return SimpleNamespace(schedule=schedule, messages=messages, status=lambda name: STATUSES.get(name, {}))


def test_a_running_point_says_where_it_is():
    for name, said in PLACES.items():
        assert progress.format_heartbeat(STATUSES[name]) == said
    started = {"stage": "squeeze", "total": 8, "unit": "epochs", "repeat": 2, "repeats": 3}
    assert progress.format_heartbeat(started, 75.0) == ("repeat 2/3 squeeze", "run 1 min 15 s left", "")


def test_a_point_without_a_stage_is_loading_and_a_first_one_tells_of_the_others(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    lines = sweep_progress.Lines(2, io.StringIO())
    lines.on_state_change("seed=0", "running")
    now[0] += 4.0
    loading = SimpleNamespace(status=lambda _: {})
    assert lines.place(loading, "seed=0") == ("loading for 4.0 s", "", "")
    ending = SimpleNamespace(status=lambda _: {"state": "finished"})
    assert lines.place(ending, "seed=0") == ("finishing", "", "")
    lines.pace.record("other", "running")
    now[0] += 10.0
    lines.pace.record("other", "done")
    lines.on_state_change("seed=1", "running")
    now[0] += 3.0
    _, left, _ = lines.place(SimpleNamespace(status=lambda _: STATUSES["seed=0"]), "seed=1")
    assert left == "30.0 s left (run 7.0 s)"
    lines.on_state_change("seed=3", "running", "resumed")  # how much of it was done is not known
    assert lines.pace.point_left("seed=3") is None


def test_lines_tell_what_begins_and_ends_and_now_and_then_what_runs(monkeypatch):
    stream = io.StringIO()
    lines = sweep_progress.Lines(2, stream)
    lines.on_state_change("seed=2", "failed", "it broke")
    lines.refresh(sweeper())
    assert stream.getvalue() == "seed=2: failed, it broke\n"
    monkeypatch.setattr(sweep_progress.Lines, "REFRESH_SECONDS", 0.0)
    lines.refresh(sweeper())
    shown = stream.getvalue().splitlines()[1:]
    assert shown == [
        f"seed=0: {'  '.join(PLACES['seed=0'])}",
        f"seed=1: {'  '.join(PLACES['seed=1'])}",
        "seed=2: failed, it broke",
        "0 of 4 done, 2 running, 1 waiting, 1 failed",
    ]


def test_what_is_left_is_told_by_what_was_done(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    pace = sweep_progress.Pace()
    pace.record("before", "done")  # finished by an earlier sweep: it says nothing of the pace
    assert pace.left(3, [], 1) is None
    pace.record("cut", "running", whole=False)
    now[0] += 1.0
    pace.record("cut", "done")
    assert pace.mean() is None
    pace.record("a", "running")
    now[0] += 10.0
    pace.record("a", "done")
    pace.record("b", "running")
    now[0] += 4.0
    assert pace.mean() == 10.0
    assert pace.left(2, ["b"], 1) == 26.0  # two of 10 s and the other 6 s of b
    assert pace.left(2, ["b"], 2) == 13.0


def test_the_board_has_a_line_for_every_point_and_keeps_to_the_screen():
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=100, height=24, color_system=None)
    with Live(console=console, auto_refresh=False, transient=True) as live:
        board = sweep_progress.Board(2, live)
        board.on_state_change("seed=2", "failed", "it broke")
        board.refresh(sweeper())
    shown = stream.getvalue()
    assert "seed=2: failed, it broke" in shown
    assert "running   seed=0  recover 25%   30.0 s left                  250 of 1,000 iterations" in shown
    assert "running   seed=1  validate 75%  6.0 s left (run 1 min 06 s)  convnet, distilled" in shown
    assert "waiting   seed=3" in shown
    small = io.StringIO()
    console = Console(file=small, force_terminal=True, width=40, height=8, color_system=None)
    with Live(console=console, auto_refresh=False, transient=True) as live:
        sweep_progress.Board(2, live).refresh(sweeper())
    assert "… and 2 more" in small.getvalue()
    assert "seed=3" not in small.getvalue()


def test_quiet_tells_failures_alone():
    stream = io.StringIO()
    silent = sweep_progress.Silent(1, stream)
    silent.on_state_change("a", "running")
    silent.refresh(sweeper())
    silent.on_state_change("a", "failed", "it broke")
    assert stream.getvalue() == "a: failed, it broke\n"


def test_devices_are_dealt_out_in_turn():
    assert command._assign_devices(None, None) == [None]
    assert command._assign_devices(3, None) == [None] * 3
    assert command._assign_devices(None, "cuda:0,cuda:1") == ["cuda:0", "cuda:1"]
    assert command._assign_devices(3, "cuda:0 cuda:1") == ["cuda:0", "cuda:1", "cuda:0"]


@pytest.mark.parametrize("text", ["seed", "seed=1", "seed=[]"])
def test_an_axis_is_a_key_with_values(text):
    with pytest.raises(command.typer.BadParameter, match="KEY="):
        command._parse_axes([text])
