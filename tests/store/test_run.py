import json
import os
import shutil

import numpy as np
import pytest
from faulty_disk import each_failure
from recorded import CLASSES, IDENTITY, layout, logits, opened, pixels, progress, record_recovery

from engine import events, store
from engine.errors import UserError
from engine.store import control, files, images, journal, lock, metrics


@pytest.fixture(autouse=True)
def no_thread(monkeypatch):
    monkeypatch.setattr(lock.Heartbeat, "THREAD", False)


def table(folder):
    return metrics.read(folder / "metrics" / "recover.f32")


def test_a_run_records_events_metrics_and_a_heartbeat(tmp_path):
    run = opened(tmp_path / "r")
    run.record(events.StageStarted("recover", 4, "iterations"))
    run.record(events.RecoverLayout(["conv0", "conv1"], ["ridge/none"], [0.1]))
    for start in (0, 2):
        values = [[[1.0 + start, 2.0]], [[3.0, float("nan")]]]
        run.record(events.RecoverProgress(1, 1, 0.1, [start, start + 1], 4, [0.5, 0.25], values, 7.0))
    run.record(events.BatchRecovered(1, 1, 0.1, 10))
    run.close("finished")
    run.close("failed")  # twice is once
    records = list(journal.read(tmp_path / "r" / "journal.jsonl"))
    assert [record.kind for record in records][:3] == ["StageStarted", "RecoverLayout", "RecoverProgress"]
    told = [record.payload for record in records if record.kind == "RecoverProgress"]
    assert [payload["rows"] for payload in told] == [[0, 2], [2, 4]]
    columns, rows = table(tmp_path / "r")
    assert columns == ["batch", "iteration", "beta", "ce", "ridge/none @ conv0", "ridge/none @ conv1"]
    assert rows[2].tolist() == pytest.approx([1, 2, 0.1, 0.5, 3, 2])
    assert np.isnan(rows[1, 5])
    assert [payload["crc32"] for payload in told] == [
        metrics.Chunk.of(0, rows[:2]).crc32,
        metrics.Chunk.of(2, rows[2:]).crc32,
    ]
    status = json.loads((tmp_path / "r" / "status.json").read_text())
    assert status["state"] == "finished"
    assert status["pid"] == os.getpid()


def test_the_heartbeat_says_what_is_being_done(tmp_path):
    run = opened(tmp_path / "r")
    stored = store.StoredRun(tmp_path / "r")
    assert stored.status()["state"] == "running"
    run.record(events.StageStarted("recover", 8, "iterations", 4))
    assert {"stage": "recover", "total": 8, "done": 4}.items() <= stored.status().items()
    run.record(layout())
    run.record(progress(1, 0))
    run.set_state("paused")
    wanted = {"state": "paused", "stage": "recover", "batch": 1, "batches": 2, "beta": 0.5, "rate": 7.0}
    assert {**wanted, "done": 2, "iteration": 2}.items() <= stored.status().items()
    run.record(events.StageStarted("relabel", 3, "epochs"))
    assert stored.status()["state"] == "paused"
    assert "batch" not in stored.status()
    run.close("failed", "why")
    assert {"state": "failed", "stage": "relabel", "message": "why"}.items() <= stored.status().items()


def test_the_heartbeat_tells_the_latest_measured_accuracy(tmp_path):
    run, stored = opened(tmp_path / "r"), store.StoredRun(tmp_path / "r")

    def told(epoch, accuracy):
        run.record(events.EpochFinished("validate", "convnet", "random", 0, epoch, 9, 0.5, accuracy))
        run.set_state("running")
        return stored.status().get("accuracy")

    assert [told(1, None), told(2, 25.0), told(3, None), told(4, 0.0)] == [None, 25.0, 25.0, 0.0]
    run.close("stopped")


def test_the_heartbeat_counts_the_epochs_of_all_networks_from_where_a_stage_goes_on(tmp_path):
    run, stored = opened(tmp_path / "r"), store.StoredRun(tmp_path / "r")
    run.record(events.StageStarted("squeeze", 6, "epochs", 2))
    counted = []
    for network, epoch in [("convnet", 3), ("resnet18", 1), ("resnet18", 2)]:
        run.record(events.EpochFinished("squeeze", network, "teacher", 0, epoch, 3, 0.5))
        run.set_state("running")
        counted.append(stored.status()["done"])
    assert counted == [3, 4, 5]
    run.close("stopped")


def test_a_checkpoint_makes_all_else_durable_first(tmp_path, monkeypatch):
    run = opened(tmp_path / "r")
    record_recovery(run)
    run.image_writer((4, 1, 4, 4), CLASSES)
    synced, real = [], files.disk.fsync
    names = {os.stat(path).st_ino: path.name for path in (tmp_path / "r").rglob("*") if path.is_file()}

    def fsync(handle):
        synced.append(names.get(os.fstat(handle).st_ino, "other"))
        real(handle)

    monkeypatch.setattr(files.disk, "fsync", fsync)
    number, size = run.checkpoint("recover", {"x": np.ones(3)}, {"batch": 2})
    wanted = ["recover.f32", "journal.jsonl", "distilled.safetensors.partial"]
    assert [name for name in synced if name != "other"] == wanted
    assert synced[: len(wanted)] == wanted
    assert number == 1
    assert size == sum(path.stat().st_size for path in (tmp_path / "r" / "checkpoints").glob("recover-*"))
    run.close("stopped")


def test_states_come_back_and_damaged_ones_are_told(tmp_path):
    run = opened(tmp_path / "r")
    assert run.latest_checkpoint("recover") is None
    for batch in (1, 2):
        run.checkpoint("recover", {"x": np.full(3, batch)}, {"batch": batch})
    newest = sorted((tmp_path / "r" / "checkpoints").glob("recover-*"))[-1]
    newest.write_bytes(newest.read_bytes()[:-1])
    found = run.latest_checkpoint("recover")
    assert found.metadata == {"batch": 1}
    assert found.arrays["x"].tolist() == [1, 1, 1]
    assert newest.name in run.notices()[0]
    run.delete_checkpoints("recover")
    assert run.latest_checkpoint("recover") is None
    run.close("stopped")


def test_images_and_labels_are_closed_with_the_run_and_taken_up(tmp_path):
    run = opened(tmp_path / "r")
    writer = run.image_writer((4, 1, 4, 4), CLASSES)
    writer.add(pixels()[:2], np.array([0, 1]), 1, 0.5, np.ones(2))
    run.close("stopped")
    png = next((tmp_path / "r" / "images").glob("ant/*.png"))
    png.write_bytes(b"")
    run = opened(tmp_path / "r")
    writer = run.image_writer((4, 1, 4, 4), CLASSES, 2)
    assert png.name in run.notices()[0]
    writer.add(pixels()[2:], np.array([0, 1]), 2, 0.25, np.ones(2))
    writer.finish()
    run.checkpoint("relabel", {}, {})  # a finished set needs nothing any more
    assert np.array_equal(images.read(run.images).images_NCHW, pixels())
    writer = run.label_writer("random", (3, 4, 2))
    for epoch, logits_NK in enumerate(logits()):
        writer.put(epoch, logits_NK)
    assert run.labels("random") is None
    writer.finish()
    stored = run.labels("random")
    assert all(np.array_equal(stored.epoch(epoch), logits()[epoch]) for epoch in range(stored.epochs))
    assert store.StoredRun(run.folder).moving() is None
    run.save_moving({"x": np.arange(3)})
    assert store.StoredRun(run.folder).moving()["x"].tolist() == [0, 1, 2]
    run.close("finished")


def test_requests_reach_the_owner_at_its_pace(tmp_path, monkeypatch):
    control_folder = tmp_path / "r"
    opened(control_folder).close("stopped")
    control.request(control_folder, "stop")
    run = opened(control_folder)
    control.request(control_folder, "pause")
    assert [request.command for request in run.requests()] == ["pause"]
    control.request(control_folder, "continue")
    assert run.requests() == []
    monkeypatch.setattr("engine.store.run.Run.POLL_SECONDS", 0.0)
    assert [request.command for request in run.requests()] == ["continue"]
    (control_folder / "control" / "1.stop").write_text("{}")
    assert run.requests() == []
    assert "1.stop is damaged" in run.notices()[0]
    run.close("stopped")


def test_the_same_run_is_taken_up_and_another_refused(tmp_path):
    opened(tmp_path / "r").close("stopped")
    opened(tmp_path / "r").close("finished")
    manifest = store.StoredRun(tmp_path / "r").manifest()
    assert len(manifest["sessions"]) == 2
    wanted = {"pid": os.getpid(), "execution": {"threads": 1}, "device": {"name": "cpu"}}
    assert all(wanted.items() <= session.items() for session in manifest["sessions"])
    before = {path.name: path.read_bytes() for path in (tmp_path / "r").iterdir() if path.is_file()}
    with pytest.raises(UserError, match="another run, with another config and data"):
        opened(tmp_path / "r", config="e" * 64, data="f" * 64)
    assert {path.name: path.read_bytes() for path in (tmp_path / "r").iterdir() if path.is_file()} == before


def test_settings_are_adopted_where_the_caller_says_so(tmp_path):
    opened(tmp_path / "r").close("stopped")
    run = opened(tmp_path / "r", lambda stored: stored.state() == "never", "seed: 1\n", config="e" * 64)
    run.close("stopped")
    stored = store.StoredRun(tmp_path / "r")
    assert stored.config_yaml() == "seed: 0\n"
    assert stored.manifest()["identity"] == IDENTITY
    run = opened(tmp_path / "r", lambda stored: True, "seed: 1\n", config="e" * 64)
    run.close("stopped")
    assert stored.config_yaml() == "seed: 1\n"
    assert stored.manifest()["identity"] == {**IDENTITY, "config": "e" * 64}
    assert "next" not in json.loads((tmp_path / "r" / "manifest.json").read_text())


def test_settings_are_the_old_or_the_new_ones_whatever_fails(tmp_path, monkeypatch):
    made, seen = iter(range(1000)), set()
    opened(tmp_path / "r").close("stopped")

    def prepare():
        return shutil.copytree(tmp_path / "r", tmp_path / str(next(made)))

    def adopt(folder):
        opened(folder, lambda stored: True, "seed: 1\n", config="e" * 64).close("stopped")

    for folder, _ in each_failure(monkeypatch, prepare, adopt):
        stored = store.StoredRun(folder)
        seen.add((stored.config_yaml(), stored.manifest()["identity"]["config"][0]))
        run = opened(folder, lambda stored: False)
        assert run.manifest["identity"] == stored.manifest()["identity"]
        run.close("stopped")
    assert seen == {("seed: 0\n", "c"), ("seed: 1\n", "e")}


def test_a_run_that_is_given_on_is_as_it_was_found(tmp_path):
    stored = store.StoredRun(tmp_path / "r")
    opened(tmp_path / "r").release()
    assert stored.state() == "new"
    assert stored.owner() is None
    for state in ("failed", "finished"):
        opened(tmp_path / "r").close(state, "why")
        run = opened(tmp_path / "r")
        assert stored.state() == "running"
        run.release()
        assert stored.state() == state
    assert "message" not in stored.status()


def test_a_damaged_status_hinders_nothing(tmp_path):
    opened(tmp_path / "r").close("stopped")
    (tmp_path / "r" / "status.json").write_text("{")
    run = opened(tmp_path / "r")
    assert "status.json is damaged" in run.notices()[0]
    run.close("finished")


def test_a_run_that_cannot_be_closed_is_let_go(tmp_path, monkeypatch):
    run = opened(tmp_path / "r")

    def refuse(*_):
        raise OSError(28, "full")

    with monkeypatch.context() as patch:
        patch.setattr(files.disk, "write", refuse)
        with pytest.raises(UserError, match="no room"):
            run.close("failed")
    opened(tmp_path / "r").close("finished")


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("dear")
    with pytest.raises(UserError, match="not a run"):
        opened(tmp_path)
    with pytest.raises(UserError, match="not a run"):
        opened(tmp_path / "thesis.tex")
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_folder_is_taken_up_whatever_failed_while_it_was_made(tmp_path, monkeypatch):
    made = iter(range(1000))
    for folder, error in each_failure(monkeypatch, lambda: tmp_path / str(next(made)), opened):
        opened(folder).close("finished") if error else None
        assert store.StoredRun(folder).config_yaml() == "seed: 0\n"
