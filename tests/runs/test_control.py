"""A run that is steered from outside, taken up again, and refused where it is another one."""

import time
from contextlib import suppress

import pytest
import tiny

from engine import store
from engine.errors import Stopped
from engine.events import Checkpointed
from engine.runs import control as run_control
from engine.runs.control import Control
from engine.runs.thread import Engine
from engine.stages import recover, validate
from engine.store import StoredRun, control


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    tiny.finish(tiny.begun(folder))
    return tiny.outcome(folder)


def engine_on(folder, asked, prepared=None):
    """The tiny run on a thread of its own, and what it told."""
    events = []
    return Engine(tiny.begun(folder, prepared, asked), events.append), events


def until(condition, seconds=20.0):
    """Wait for something that another thread does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_stopped_run_is_saved_and_goes_on_bit_for_bit(tmp_path, whole):
    asked = Control()
    work = tiny.begun(tmp_path, tiny.plan(checkpoint_seconds=60), asked)
    while next(work).kind != "BatchRecovered":
        pass
    asked.ask("stop", "SIGTERM")
    with pytest.raises(Stopped, match="SIGTERM") as left:
        tiny.finish(work)
    assert "cfm resume" in left.value.hint
    assert StoredRun(tmp_path / "run").status()["message"].endswith("stopped by SIGTERM")
    assert StoredRun(tmp_path / "run").state() == "stopped"
    events = tiny.finish(tiny.begun(tmp_path))
    started = next(event for event in events if event.kind == "StageStarted" and event.stage == "recover")
    assert started.done == 3
    assert tiny.outcome(tmp_path) == whole


class Counting(Control):
    """Counts how often the run has looked for requests."""

    looked = 0

    def take(self):
        self.looked += 1
        return super().take()


@pytest.mark.parametrize("through", ["control", "files"])
def test_a_paused_run_waits_and_goes_on(tmp_path, whole, through, monkeypatch):
    monkeypatch.setattr(store.Run, "POLL_SECONDS", 0.0)
    asked, stored = Counting(), StoredRun(tmp_path / "run")

    def ask(command):
        if through == "control":
            asked.ask(command, "me")
        else:
            control.request(tmp_path / "run", command)

    engine, events = engine_on(tmp_path, asked)
    ask("pause")  # before it is pulled for the first time
    engine.start()
    until(lambda: stored.state() == "paused")
    count, looked = len(events), asked.looked
    until(lambda: asked.looked > looked + 2)
    assert len(events) == count
    assert [type(event).__name__ for event in events[-2:]] == ["Checkpointed", "Paused"]
    ask("continue")
    engine.result()
    assert [event.kind for event in events].count("Continued") == 1
    assert stored.state() == "finished"
    assert tiny.outcome(tmp_path) == whole


def test_a_paused_run_can_be_stopped(tmp_path, whole):
    asked = Control()
    engine, _ = engine_on(tmp_path, asked)
    asked.ask("pause", "me")
    engine.start()
    until(lambda: StoredRun(tmp_path / "run").state() == "paused")
    asked.ask("stop", "me")
    with pytest.raises(Stopped):
        engine.result()
    assert StoredRun(tmp_path / "run").state() == "stopped"
    tiny.finish(tiny.begun(tmp_path))
    assert tiny.outcome(tmp_path) == whole


def test_checkpoints_are_written_when_due_when_asked_and_at_a_batchs_end(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(run_control.time, "monotonic", lambda: clock[0])
    asked, written = Control(), []
    monkeypatch.setattr("engine.checkpoint.OFFER_SECONDS", 0.0)
    work = tiny.begun(tmp_path, tiny.plan(checkpoint_seconds=10), asked)
    for event in work:
        if event.kind == "RecoverProgress" and event.iterations == [0] and event.batch == 1:
            clock[0] += 11
        if event.kind == "RecoverProgress" and event.iterations == [1] and event.batch == 2:
            asked.ask("checkpoint", "me")
        if isinstance(event, Checkpointed):
            written.append(event.stage)
    assert written == ["recover"] * 4  # 11 seconds passed, a batch's end, asked for, a batch's end


def test_slow_checkpoints_are_written_less_often(tmp_path):
    class Slow:
        """A run whose checkpoints take half a second of a clock of its own."""

        def requests(self):
            return []

        def checkpoint(self, *_):
            clock[0] += 0.5
            return 1, 1

    clock = [0.0]

    def stage():
        from engine.checkpoint import Checkpoint, StageState

        for _ in range(4000):
            clock[0] += 0.25
            yield Checkpoint("recover", StageState)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_control.time, "monotonic", lambda: clock[0])
        patch.setattr(run_control.time, "perf_counter", lambda: clock[0])
        steering = run_control.Steering(Slow(), Control(), 5.0)
        points = [event for point in stage() for event in steering.handle(point)]
    spent = 0.5 * len(points)
    assert 0.005 < spent / clock[0] <= 0.011


@pytest.mark.parametrize("command", ["pause", "stop"])
def test_a_request_is_served_after_the_current_step(tmp_path, whole, command):
    """Long before a checkpoint is due, and at the iteration that the event names."""
    asked, stored = Control(), StoredRun(tmp_path / "run")
    steps = []

    def step(batch, **options):
        row = original(batch, **options)
        steps.append((batch.number, batch.iteration))
        if steps[-1] == (2, 1):
            asked.ask(command, "me")
        return row

    original = recover.RecoveryBatch.step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engine.checkpoint.OFFER_SECONDS", 60.0)
        patch.setattr(recover.RecoveryBatch, "step", step)
        work = tiny.begun(tmp_path, tiny.plan(checkpoint_seconds=60), asked)
        events = []
        with suppress(Stopped):
            for event in work:
                events.append(event)
                if event.kind == "Paused":
                    assert steps[-1] == (2, 1)
                    assert (event.stage, event.batch, event.iteration) == ("recover", 2, 1)
                    asked.ask("continue", "me")
        assert ("Paused" in [event.kind for event in events]) == (command == "pause")
        assert steps[-1] == ((2, 1) if command == "stop" else (2, 3))
    if command == "stop":
        assert stored.progress().iteration == 1
        tiny.finish(tiny.begun(tmp_path))
    assert tiny.outcome(tmp_path) == whole


def test_students_are_paused_between_two_batches(tmp_path, whole):
    asked, steps = Control(), []

    def student_loss(*arguments):
        steps.append(1)
        if len(steps) == 3:
            asked.ask("pause", "me")
        return original(*arguments)

    original = validate.student_loss
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engine.checkpoint.OFFER_SECONDS", 60.0)
        patch.setattr(validate, "student_loss", student_loss)
        for event in tiny.begun(tmp_path, tiny.plan(checkpoint_seconds=60), asked):
            if event.kind == "Paused":
                assert len(steps) == 3
                assert (event.stage, event.epoch, event.batch) == ("validate", 1, 1)
                asked.ask("continue", "me")
    assert tiny.outcome(tmp_path) == whole


def test_rates_leave_out_the_time_in_which_the_run_is_paused(tmp_path, monkeypatch):
    original = run_control.Steering.handle

    def pause(self, *arguments):
        time.sleep(0.4)
        yield from original(self, *arguments)

    monkeypatch.setattr(run_control.Steering, "handle", pause)
    recover_progress = [event for event in tiny.begun(tmp_path) if event.kind == "RecoverProgress"]
    assert len(recover_progress) > 2
    assert min(event.rate for event in recover_progress) > 10
