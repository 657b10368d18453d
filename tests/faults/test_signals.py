"""Signals to a run at work, while it loads, and while it comes to no checkpoint."""

from __future__ import annotations

import signal
import time

import numpy as np
import pytest
from bar import FULL, cases
from processes import until
from smallest import slow

from engine.events import STAGES
from engine.store import checkpoints

#: Checkpoints only where they are asked for, and at a batch's end.
UNASKED = "\nfrom engine.runs.control import Steering\nSteering._is_due = lambda self: False\n"
#: A stage that comes to no checkpoint any more, once it has come to three of them.
DEAF = """
import itertools, time
from engine.runs.control import Steering
def deaf(self, point, seconds=0.0, at=Steering.handle, count=itertools.count(1)):
    if next(count) > 3 and point.stage == {stage!r}:
        print("deaf", file=sys.stderr, flush=True)
        while True:
            time.sleep(0.01)
    yield from at(self, point, seconds)
Steering.handle = deaf
"""
GRACE = "\nfrom cfm_tui.process import signals\nsignals.GRACE_SECONDS = {seconds}\n"
IGNORED = "\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
#: Reading the data takes forever.
LOADING = """
import time
from engine.runs import plan
def prepare(*_):
    print("now", file=sys.stderr, flush=True)
    while True:
        time.sleep(0.01)
plan.prepare = prepare
"""
CODES = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 143}
SECONDS = 60.0  # within which a run has to be gone


def grid(few, *axes):
    """All combinations, or a few of them by chance."""
    every = [[]]
    for axis in axes:
        every = [[*row, value] for row in every for value in axis]
    chosen = cases(few, len(every))
    return [every[i] for i in np.random.default_rng(5).permutation(len(every))[: len(chosen)]]


def in_stage(case, stage, code=""):
    """A run that is at work in a stage."""
    process = case.start(code=code + slow())
    case.at(stage, process)
    time.sleep(0.3 * case.undisturbed.seconds[stage])
    return process


def require_stopped(case, process, name, code):
    """The run said who stopped it, has a checkpoint, and nobody owns it."""
    assert process.wait(SECONDS) == code, process.said()
    status = case.stored.status()
    assert status["state"] == "stopped", status
    assert name in status["message"]
    assert not (case.run / "owner.json").exists()
    assert "Traceback" not in process.err()
    assert any(case.run.glob("checkpoints/*.safetensors"))


@pytest.mark.parametrize(("name", "stage"), grid(3, CODES, STAGES))
def test_a_signal_stops_a_run_at_its_next_save_point(case, counted, name, stage):
    with counted(f"{name} once"):
        process = in_stage(case, stage)
        process.send(signal.Signals[name])
        require_stopped(case, process, name, CODES[name])
        found = case.stored.status()["stage"]
        assert checkpoints.Checkpoints(case.run / "checkpoints").newest(found)[0] is not None
        case.finish()


@pytest.mark.parametrize(("name", "stage"), grid(1, ("SIGUSR1", "SIGUSR2"), STAGES))
def test_a_warning_writes_a_checkpoint_and_the_run_goes_on(case, counted, name, stage):
    with counted(f"{name}"):
        process = case.start(code=UNASKED + slow())
        case.at(stage, process)
        process.send(signal.Signals[name])
        assert process.wait() == 0, process.said()
        told = [record.payload["stage"] for record in case.said_since() if record.kind == "Checkpointed"]
        assert [each for each in told if each != "recover"] == ([stage] if stage != "recover" else [])
        assert told.count("recover") == 3 + (stage == "recover")
        case.require_whole()


@pytest.mark.parametrize("stage", [*STAGES] if FULL else ["recover"])
def test_a_second_interrupt_leaves_at_once(case, counted, stage):
    with counted("SIGINT twice"):
        process = case.start(code=DEAF.format(stage=stage))
        until(lambda: "deaf" in process.err(), said=process.said)
        process.send(signal.SIGINT)
        until(lambda: "SIGINT" in process.err(), said=process.said)
        time.sleep(0.3)
        assert process.poll() is None
        process.send(signal.SIGINT)
        assert process.wait(5.0) == 130, process.said()
        assert case.stored.state() == "lost"
        case.finish()


@pytest.mark.parametrize(
    ("name", "stage"), grid(1, ("SIGTERM", "SIGHUP", "SIGINT, SIGTERM"), STAGES if FULL else ["validate"])
)
def test_a_stage_without_save_points_is_left_at_the_deadline(case, counted, name, stage):
    with counted(f"{name}, no checkpoint"):
        process = case.start(code=DEAF.format(stage=stage) + GRACE.format(seconds=1.0))
        until(lambda: "deaf" in process.err(), said=process.said)
        for each in name.split(", "):
            process.send(signal.Signals[each])
            until(lambda each=each: each in process.err(), said=process.said)
        since = time.monotonic()
        assert process.wait(10.0) == 143, process.said()
        assert time.monotonic() - since > 0.5
        assert case.stored.state() == "lost"
        case.finish()


def test_an_ignored_hangup_stays_ignored(case, counted):
    with counted("SIGHUP under nohup"):
        process = in_stage(case, "squeeze", code=IGNORED)
        process.send(signal.SIGHUP)
        assert process.wait() == 0, process.said()
        assert not case.heard("Checkpointed", by="SIGHUP")
        case.require_whole()


@pytest.mark.parametrize("name", CODES)
def test_a_signal_while_it_loads_ends_it_in_words(case, counted, name):
    with counted(f"{name} while loading"):
        process = loading(case)
        process.send(signal.Signals[name])
        assert process.wait(SECONDS) == CODES[name], process.said()
        assert "Traceback" not in process.err()
        assert "cfm: " in process.err()
        assert not case.run.exists()


@pytest.mark.parametrize("name", ["SIGUSR1", "SIGUSR2", "SIGHUP"])
def test_a_signal_that_asks_for_nothing_while_it_loads_is_passed_over(case, counted, name):
    with counted(f"{name} while loading, passed over"):
        process = loading(case, IGNORED)
        process.send(signal.Signals[name])
        time.sleep(0.2)
        assert process.poll() is None, process.said()
        process.send(signal.SIGTERM)
        assert process.wait(SECONDS) == 143


def loading(case, code=""):
    """A process that has begun to load, and will never come to its end."""
    process = case.start(code=code + LOADING)
    until(lambda: "now" in process.err(), said=process.said)
    return process
