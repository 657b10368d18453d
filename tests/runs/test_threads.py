"""The number of threads of a run: how it is measured, and followed; a stage that has become slow."""

import time

import pytest
import tiny
import torch

from engine.events import EpochFinished, RecoverProgress, StageProgress, StageStarted
from engine.runs import threads


@pytest.fixture(autouse=True)
def restored():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_sensible_numbers_are_tried():
    assert threads.list_thread_counts(1) == [1]
    assert threads.list_thread_counts(2) == [1, 2]
    assert threads.list_thread_counts(6) == [1, 2, 3, 4, 6]
    assert threads.list_thread_counts(16) == [1, 2, 4, 8, 16]


@pytest.mark.parametrize("fastest", [1, 2, 4])
def test_the_fastest_number_is_taken_and_the_one_in_force_is_restored(monkeypatch, fastest):
    def build_step(config, train):
        return lambda: time.sleep(0.001 if torch.get_num_threads() == fastest else 0.02)

    monkeypatch.setattr(threads, "_build_step", build_step)
    torch.set_num_threads(3)
    prepared = tiny.plan()
    state = torch.random.get_rng_state()
    assert threads.measure_threads(prepared.config, prepared.data.train, 4) == fastest
    assert torch.get_num_threads() == 3
    assert torch.equal(torch.random.get_rng_state(), state)


def test_steps_of_the_run_itself_are_timed():
    prepared = tiny.plan()
    state = torch.random.get_rng_state()
    assert threads.measure_threads(prepared.config, prepared.data.train, 2) in (1, 2)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_adaptive_threads_are_measured_again_but_seldom(monkeypatch):
    counts, now = [], [0.0]
    monkeypatch.setattr(threads, "measure_threads", lambda *_: counts.append(1) or 2)
    monkeypatch.setattr(threads.time, "monotonic", lambda: now[0])
    prepared = tiny.plan()
    adapter = threads.ThreadAdapter(prepared.config, prepared.data.train)
    for second in range(100):
        now[0] = float(second)
        adapter.adapt()
    assert len(counts) == 3


def chunk(rate):
    return RecoverProgress(1, 1, 0.1, [0], 10, [1.0], [[[1.0]]], rate)


def epoch(rate, accuracy=None, architecture="convnet"):
    return EpochFinished("validate", architecture, "distilled", 0, 1, 300, 1.0, accuracy, rate)


def warnings(events):
    """What a watch says of events that come every five seconds."""
    watch = threads.SlowdownWatch()
    told = [watch.watch(event, 5.0 * number) for number, event in enumerate(events)]
    return [notice.message for notices in told for notice in notices]


def test_a_stage_at_less_than_half_its_rate_for_a_minute_is_reported_once():
    started = StageStarted("recover", 100, "iterations")
    (message,) = warnings([started, *[chunk(100.0)] * 5, *[chunk(40.0)] * 50])
    assert "slowed down from 100 to 4" in message
    assert "iterations a second" in message
    assert "stop other programs" in message
    assert warnings([started, *[chunk(100.0)] * 5, *[chunk(40.0)] * 10, *[chunk(100.0)] * 50]) == []
    assert warnings([started, *[chunk(100.0)] * 5, *[chunk(60.0)] * 50]) == []


def test_measuring_accuracy_and_larger_networks_are_no_slowdown():
    started = StageStarted("validate", 300, "epochs")
    measured = [epoch(100.0 - n / 100) for n in range(9)] + [epoch(20.0), epoch(20.0), epoch(20.0, 50.0)]
    assert warnings([started, *measured * 10]) == []
    slower = [epoch(20.0 - n / 100, architecture="resnet18") for n in range(50)]
    assert warnings([started, *measured, *slower]) == []
    assert len(warnings([started, *measured, *(epoch(20.0 - n / 100) for n in range(50))])) == 1


def test_students_that_are_trained_together_become_slow_together():
    started = StageStarted("validate", 300, "epochs")
    rates = [100.0 - n / 100 for n in range(9)] + [20.0 - n / 100 for n in range(30)]
    pairs = [
        (EpochFinished("validate", "convnet", name, 0, 1, 300, 1.0, None, rate))
        for rate in rates
        for name in ("distilled", "random")
    ]
    assert len(warnings([started, *pairs])) == 1


def test_a_slower_network_of_the_same_pass_is_no_slowdown():
    started = StageStarted("statistics", 1000, "images")
    fast, slow = ([StageProgress("statistics", 1, rate)] * 50 for rate in (5000.0, 900.0))
    begins = StageProgress("statistics", 500, 0.0)
    assert warnings([started, *fast, begins, *slow]) == []
    assert len(warnings([started, *fast, *slow])) == 1
