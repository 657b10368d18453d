"""What the console knows of a run, held against what the run itself told, while it was computed and after."""

import errno
import os
import time

import numpy as np
import pytest
import tiny
from recorded import layout, opened, progress, record_recovery

from cfm_tui.display import run_state as console_model
from cfm_tui.display.run_state import RunModel
from engine import events, store
from engine.errors import UserError
from engine.store import lock
from engine.store.preview import Preview


@pytest.fixture(autouse=True)
def no_thread(monkeypatch):
    monkeypatch.setattr(lock.Heartbeat, "THREAD", False)
    monkeypatch.setattr(console_model.RunModel, "LOOK_SECONDS", 0.0)


def read(model):
    """Read to the end of what is there."""
    model.read(9)
    while model.behind:
        model.read(9)
    return model


def of(folder):
    return read(RunModel(store.StoredRun(folder)))


def course(model, column):
    """A column's values, as long as each has a bucket of its own."""
    _, low, high = model.curves.envelope(column, 10**6)
    assert np.array_equal(low, high, equal_nan=True)
    return low


def test_a_run_is_followed_while_it_is_computed(tmp_path):
    """After each event the model says what that event said."""
    work = tiny.begun(tmp_path)
    model = RunModel(store.StoredRun(tmp_path / "run"))
    assert not model.read() or model.state == "running"
    told = []
    for event in work:
        told.append(event)
        assert model.read()
        if isinstance(event, events.StageStarted):
            assert model.stage == event.stage
            view = model.stages[event.stage]
            assert (view.state, view.total, view.done, view.unit) == ("running", event.total, 0, event.unit)
        elif isinstance(event, events.RecoverProgress):
            assert (model.batch, model.batches) == (event.batch, event.batches)
            assert (model.iteration, model.iterations) == (event.iterations[-1] + 1, event.total_iterations)
            assert (model.beta, model.rate) == (event.beta, event.rate)
            assert model.ce == pytest.approx(event.ce[-1], rel=1e-6)
            assert np.allclose(model.values_TL, event.terms[-1], rtol=1e-6)
            assert model.stages["recover"].done == (event.batch - 1) * 3 + event.iterations[-1] + 1
            assert model.state == "running"
            assert model.memory_bytes > 10**6
            assert model.seconds_left >= 0
        elif isinstance(event, events.StageFinished):
            assert model.stage is None
    read(model)
    assert (model.state, model.stage, model.seconds_left, model.damage) == ("finished", None, None, "")
    assert model.results == store.StoredRun(tmp_path / "run").results()
    assert_knows(model, told)
    assert_knows(of(tmp_path / "run"), told)
    assert not model.read()


def assert_knows(model, told):
    """The model of a finished run knows what was told, by whoever it was told."""
    rows = [event for event in told if isinstance(event, events.RecoverProgress)]
    ce = [value for event in rows for value in event.ce]
    assert np.allclose(course(model, 3), ce, rtol=1e-6)
    terms = np.array([value for event in rows for value in event.terms])
    for tap in range(terms.shape[2]):
        assert np.allclose(course(model, 4 + tap), terms[:, 0, tap], rtol=1e-6)
    ended = {event.stage: event for event in told if isinstance(event, events.StageFinished)}
    for stage, event in ended.items():
        view = model.stages[stage]
        assert (view.state, view.seconds) == ("reused" if event.reused else "done", event.seconds)
        assert view.done == view.total
    epochs = [event for event in told if isinstance(event, events.EpochFinished)]
    for key, training in model.trainings.items():
        own = [each for each in epochs if (each.stage, each.architecture, each.source, each.seed) == key]
        _, losses, _ = training.loss.envelope(0, 99)
        assert np.allclose(losses, [each.loss for each in own], rtol=1e-6)
        measured = [(each.epoch, each.accuracy) for each in own if each.accuracy is not None]
        assert training.accuracy == measured
        assert training.last == (measured[-1][1] if measured else None)
        assert training.best == (max(value for _, value in measured) if measured else None)
        assert training.epoch == training.epochs == own[-1].epochs
    assert len(model.trainings) == len({(e.stage, e.architecture, e.source, e.seed) for e in epochs}) == 4
    assert model.preview.batch == model.batches == model.batch


def test_a_run_that_is_cut_and_resumed_is_one_run(tmp_path):
    (tmp_path / "straight").mkdir()
    whole = tiny.finish(tiny.begun(tmp_path / "straight"))
    work = tiny.begun(tmp_path)
    model = RunModel(store.StoredRun(tmp_path / "run"))
    for event in work:
        if isinstance(event, events.RecoverProgress) and event.batch == 2:
            break
    work.close()
    read(model)
    assert (model.state, model.stage, model.batch, model.iteration) == ("stopped", "recover", 2, 1)
    assert model.seconds_left is None
    assert model.memory_bytes == 0
    for event in tiny.begun(tmp_path):
        model.read()
        if isinstance(event, events.StageStarted) and event.stage == "recover":
            assert model.stages["recover"].done == event.done == 3
        if isinstance(event, events.RecoverLayout):
            assert model.curves.rows == event.done
    for found in (read(model), of(tmp_path / "run")):
        straight = of(tmp_path / "straight" / "run")
        assert found.state == "finished"
        assert [view.state for view in found.stages.values()] == ["done"] * 5
        for column in range(straight.curves.columns):
            assert np.array_equal(course(found, column), course(straight, column))
        assert found.trainings.keys() == straight.trainings.keys()
        assert any("resumes from its checkpoint" in line.text for line in found.log)
    assert len(whole) > 20


def test_a_run_that_failed_says_why(tmp_path, monkeypatch):
    def fails(*_):
        raise UserError("numeric", "the images ran away", "")
        yield

    monkeypatch.setattr("engine.runs.pipeline.relabel", fails)
    with pytest.raises(UserError):
        tiny.finish(tiny.begun(tmp_path))
    model = of(tmp_path / "run")
    assert (model.state, model.stage) == ("failed", "relabel")
    assert model.status["message"] == "the images ran away"
    assert model.stages["recover"].state == "done"
    assert model.results is None


def test_a_run_whose_process_is_gone_is_lost_though_no_file_changes(tmp_path, monkeypatch):
    opened(tmp_path / "r")
    model = of(tmp_path / "r")
    assert (model.state, model.memory_bytes > 0) == ("running", True)
    monkeypatch.setattr("engine.store.reader.alive", lambda _: False)
    assert model.read()
    assert model.state == "lost"
    assert not model.read()


def test_damage_is_told_and_gone_when_it_is_mended(tmp_path):
    run = opened(tmp_path / "r")
    record_recovery(run)
    run.close("stopped")
    model, path = of(tmp_path / "r"), tmp_path / "r" / "config.yaml"
    whole = path.read_bytes()
    path.write_bytes(b"?")
    model.read()
    assert model.state == "damaged"
    assert "config.yaml is damaged" in model.damage
    path.write_bytes(whole)
    model.read()
    assert (model.state, model.damage) == ("stopped", "")
    path = tmp_path / "r" / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b"rate", b"late")
    path.write_bytes(b"".join(lines)[:-5])
    model = of(tmp_path / "r")
    model.read()
    assert "line 3 does not match its checksum" in model.damage


def test_a_record_that_cannot_be_read_is_told(tmp_path):
    run = opened(tmp_path / "r")
    record_recovery(run)
    run.close("stopped")
    path = tmp_path / "r" / "journal.jsonl"
    path.rename(tmp_path / "kept")
    path.mkdir()
    model = RunModel(store.StoredRun(tmp_path / "r"))
    assert model.read()
    assert "cannot read" in model.damage
    assert not model.behind
    path.rmdir()
    (tmp_path / "kept").rename(path)
    read(model)
    assert (model.damage, model.curves.rows) == ("", 8)


def test_what_is_computed_again_is_forgotten_first(tmp_path):
    run = opened(tmp_path / "r")
    record_recovery(run)
    model = of(tmp_path / "r")
    assert model.curves.rows == 8
    run.record(layout(done=2))
    read(model)
    assert model.curves.rows == 2
    run.record(progress(1, 2, 2))
    read(model)
    assert np.array_equal(course(model, 1), [0, 1, 2, 3])
    assert (model.batch, model.iteration) == (1, 4)
    run.close("stopped")


def test_files_that_do_not_change_are_not_read_again(tmp_path, monkeypatch):
    tiny.finish(tiny.begun(tmp_path))
    model, count = of(tmp_path / "run"), []
    for name in ("require_whole", "status", "preview", "results"):
        real = getattr(store.StoredRun, name)
        monkeypatch.setattr(store.StoredRun, name, lambda run, r=real: count.append(1) or r(run))
    for _ in range(3):
        assert not model.read()
    assert not count
    os.utime(tmp_path / "run" / "status.json")
    assert model.read()
    assert len(count) == 2


def test_it_looks_at_files_only_now_and_then(tmp_path, monkeypatch):
    monkeypatch.setattr(console_model.RunModel, "LOOK_SECONDS", 60.0)
    run = opened(tmp_path / "r")
    model = of(tmp_path / "r")
    run.close("stopped")
    model.read()
    assert model.state == "running"
    model._last_refresh -= 60
    model.read()
    assert model.state == "stopped"


def test_the_preview_of_the_latest_repeat_is_read_with_its_record(tmp_path, monkeypatch):
    monkeypatch.setattr(console_model.RunModel, "LOOK_SECONDS", 60.0)
    run = opened(tmp_path / "r")
    for repeat in (1, 2):
        run.record(events.RepeatStarted(repeat, 2, repeat - 1))
    second = opened(tmp_path / "r" / "repeats" / "2")
    second.save_preview(Preview(1, 7, 0.1, np.zeros((1, 1, 4, 4), np.uint8), np.zeros(1, int), {}, 0.0))
    model = RunModel(store.StoredRun(tmp_path / "r"))
    model.read(9)
    assert model.repeat == 2
    assert model.preview is not None
    assert model.preview.iteration == 7
    run.close("stopped")
    second.close("stopped")


def test_many_accuracies_and_lines_are_thinned_out(tmp_path, monkeypatch):
    monkeypatch.setattr(console_model.Training, "MAX_ACCURACIES", 8)
    run = opened(tmp_path / "r")
    run.record(events.StageStarted("validate", 100, "epochs"))
    for epoch in range(1, 101):
        accuracy = 50.0 if epoch == 41 else epoch / 10
        run.record(events.EpochFinished("validate", "net", "random", 0, epoch, 100, 1 / epoch, accuracy, 2.0))
    for number in range(1100):
        run.record(events.Notice("warning", str(number)))
    run.close("stopped")
    model = of(tmp_path / "r")
    training = model.trainings["validate", "net", "random", 0]
    assert len(training.accuracy) <= 8
    assert training.accuracy[-1] == (100, 10.0)
    assert (training.last, training.best) == (10.0, 50.0)
    assert len(model.log) == 1000
    assert model.log[-1].text == "1099"
    assert model.log[-1].level == "warning"
    assert abs(model.log[-1].time - time.time()) < 60


def test_reading_takes_no_longer_than_it_may(tmp_path):
    run = opened(tmp_path / "r")
    for number in range(5000):
        run._journal.append("Notice", {"level": "info", "message": str(number)})
    run.close("stopped")
    model, count = RunModel(store.StoredRun(tmp_path / "r")), 0
    while model.behind:
        began = time.perf_counter()
        model.read(0.002)
        assert time.perf_counter() - began < 0.5
        count += 1
    assert count > 3
    assert model.log[-1].text == "4999"


def test_a_status_that_cannot_be_looked_at_is_told_as_damage_and_comes_back(tmp_path, monkeypatch):
    run = opened(tmp_path / "run")
    record_recovery(run)
    run.close("stopped")
    model = of(tmp_path / "run")

    def fail(_):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    with monkeypatch.context() as patch:
        patch.setattr(store.StoredRun, "status", fail)
        os.utime(tmp_path / "run" / "status.json")
        assert model.read()
        assert model.state == "damaged"
        assert os.strerror(errno.ESTALE) in model.damage
    assert model.read()
    assert (model.state, model.damage) == ("stopped", "")


def test_accuracies_on_a_part_of_the_test_images_are_a_series_of_their_own(tmp_path):
    def epoch(number, accuracy=None):
        return events.EpochFinished("validate", "convnet", "distilled", 0, number, 9, 1.0, accuracy)

    def subset(number, accuracy):
        return events.SubsetEvaluated("validate", "convnet", "distilled", 0, number, 250, accuracy)

    run = opened(tmp_path / "run")
    run.record(events.StageStarted("validate", 9, "epochs"))
    recorded = [epoch(1), epoch(2), subset(2, 40.0), epoch(3), epoch(4), subset(4, 50.0)]
    recorded += [epoch(4), epoch(5), subset(5, 60.0), epoch(6, 70.0)]  # from 4 on again, after a resume
    for event in recorded:
        run.record(event)
    run.close("stopped")
    model = of(tmp_path / "run")
    (training,) = model.trainings.values()
    assert training.preview_accuracy == [(2, 40.0), (5, 60.0)]
    assert training.preview_images == 250
    assert training.accuracy == [(6, 70.0)]
    assert (training.last, training.best) == (70.0, 70.0)
    assert model.position["accuracy"] == 70.0
