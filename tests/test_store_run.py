import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from engine import events, store
from engine.errors import UserError
from engine.store import images, journal, lock, metrics

IDENTITY = {"config": "c" * 64, "data": "d" * 64, "teacher": "squeezed"}


def opened(folder, **changes):
    manifest = {"name": "x", "identity": {**IDENTITY, **changes}}
    return store.open_run(folder, manifest, "seed: 0\n")


def distilled(count=12, channels=3, size=8):
    rng = np.random.default_rng(0)
    pixels = rng.uniform(-0.1, 1.1, (count, channels, size, size)).astype(np.float32)
    return pixels, np.arange(count, dtype=np.int64) % 3


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("classes", [("ant", "bee", "cat"), ("10", "9", "a/b")])
def test_images_load_elsewhere_with_the_same_labels_and_pixels(tmp_path, channels, classes):
    pixels, labels = distilled(channels=channels)
    writer = images.ImageWriter(tmp_path / "images", pixels.shape, classes)
    writer.add(pixels[:6], labels[:6], 1, 0.1)
    assert not images.is_complete(tmp_path / "images")
    writer.add(pixels[6:], labels[6:], 2, 0.05)
    writer.finish()
    found = images.read(tmp_path / "images")
    assert np.array_equal(found.images_NCHW, pixels)
    assert np.array_equal(found.labels_N, labels)
    assert found.batch_N.tolist() == [1] * 6 + [2] * 6
    assert found.beta_N.tolist() == pytest.approx([0.1] * 6 + [0.05] * 6)
    assert found.classes == classes
    shown, same_labels = images.read_pixels(tmp_path / "images", chunk=5)
    assert np.array_equal(shown, images.to_bytes(pixels))
    assert np.array_equal(same_labels, labels)
    elsewhere = ImageFolder(str(tmp_path / "images"))
    order = np.argsort(labels, kind="stable")
    assert [label for _, label in elsewhere.samples] == labels[order].tolist()
    for (path, _), wanted in zip(elsewhere.samples, images.to_bytes(pixels)[order], strict=True):
        with Image.open(path) as image:
            shown = np.atleast_3d(np.asarray(image)).transpose(2, 0, 1)
        assert np.array_equal(shown, wanted)


@pytest.mark.parametrize(("first", "count"), [(None, 12), (5, 5), (0, 0), (99, 12)])
def test_the_first_images_alone_can_be_read(tmp_path, first, count):
    pixels, labels = distilled()
    writer = images.ImageWriter(tmp_path, pixels.shape, ("a", "b", "c"))
    writer.add(pixels, labels, 1, 0.1)
    writer.finish()
    found = images.read(tmp_path, first)
    assert np.array_equal(found.images_NCHW, pixels[:count])
    assert np.array_equal(found.labels_N, labels[:count])
    assert len(found.batch_N) == len(found.beta_N) == count


def test_an_unfinished_set_keeps_its_batches_and_is_not_taken_for_finished(tmp_path):
    pixels, labels = distilled()
    writer = images.ImageWriter(tmp_path, pixels.shape, ("a", "b", "c"))
    writer.add(pixels[:6], labels[:6], 1, 0.1)
    writer.close()
    assert len(list(tmp_path.glob("*/*.png"))) == 6
    with pytest.raises(UserError, match="no finished images"):
        images.read(tmp_path)


def test_a_full_disk_is_met_before_the_first_image(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(UserError, match=r"[\d,]+ bytes are needed") as caught:
        images.ImageWriter(tmp_path, (1000, 3, 32, 32), ("a",))
    assert caught.value.kind == "disk"
    needed = int(re.search(r"([\d,]+) bytes", caught.value.message)[1].replace(",", ""))
    assert 1000 * 3 * 32 * 32 * 4 < needed < 1000 * 3 * 32 * 32 * 4 + 25_000


def test_a_run_records_events_metrics_and_a_heartbeat(tmp_path):
    run = opened(tmp_path / "r")
    run.record(events.StageStarted("recover", 4, "iterations"))
    run.record(events.RecoverLayout(["conv0", "conv1"], ["ridge/none"], [0.1]))
    for start in (0, 2):
        values = [[[1.0 + start, 2.0]], [[3.0, float("nan")]]]
        run.record(events.RecoverProgress(1, 1, 0.1, [start, start + 1], 4, [0.5, 0.25], values, 7.0))
    run.record(events.BatchRecovered(1, 1, 0.1, 10))
    run.close("finished")
    records = list(journal.read(tmp_path / "r" / "journal.jsonl"))
    assert [record.kind for record in records][:3] == ["StageStarted", "RecoverLayout", "RecoverProgress"]
    assert [record.payload["rows"] for record in records if record.kind == "RecoverProgress"] == [
        [0, 2],
        [2, 4],
    ]
    columns, rows = metrics.read(tmp_path / "r" / "metrics" / "recover.f32")
    assert columns == ["batch", "iteration", "beta", "ce", "ridge/none @ conv0", "ridge/none @ conv1"]
    assert rows[2].tolist() == pytest.approx([1, 2, 0.1, 0.5, 3, 2])
    assert np.isnan(rows[1, 5])
    status = json.loads((tmp_path / "r" / "status.json").read_text())
    assert status["state"] == "finished"
    assert status["pid"] == os.getpid()


def test_a_recovery_that_begins_anew_begins_its_numbers_anew(tmp_path):
    path = tmp_path / "r" / "metrics" / "recover.f32"
    for begun, taps in enumerate((["conv0"], ["conv0", "conv1"])):
        run = opened(tmp_path / "r")
        for cut in range(2):
            run.record(events.RecoverLayout(taps, ["ridge/none"], [0.1]))
            count = 3 - cut
            values = [[[float(begun)] * len(taps)]] * count
            iterations = list(range(count))
            run.record(events.RecoverProgress(1, 1, 0.1, iterations, 9, [0.5] * count, values, 7.0))
        run.close("interrupted")
        columns, rows = metrics.read(path)
        assert len(columns) == 4 + len(taps)
        assert rows[:, 1].tolist() == [0, 1]
        assert rows[:, 4:].tolist() == [[begun] * len(taps)] * 2
    told = [record.payload for record in journal.read(tmp_path / "r" / "journal.jsonl")]
    assert told[-1]["rows"] == [0, 2]


def test_the_heartbeat_says_what_is_being_done(tmp_path, monkeypatch):
    monkeypatch.setattr("engine.store.run.HEARTBEAT_SECONDS", 0.0)
    run = opened(tmp_path / "r")
    run.record(events.StageStarted("recover", 4, "iterations"))
    run.record(events.RecoverLayout(["conv0"], ["ridge/none"], [0.1]))
    run.record(events.RecoverProgress(1, 2, 0.1, [0], 2, [0.5], [[[1.0]]], 7.0))
    status = store.StoredRun(tmp_path / "r").status()
    wanted = {"state": "running", "stage": "recover", "batch": 1, "batches": 2, "beta": 0.1, "rate": 7.0}
    assert wanted.items() <= status.items()
    run.close("interrupted")


def test_the_same_run_is_taken_up_and_another_refused(tmp_path):
    opened(tmp_path / "r").close("interrupted")
    opened(tmp_path / "r").close("finished")
    before = {path.name: path.read_bytes() for path in (tmp_path / "r").iterdir()}
    with pytest.raises(UserError, match="another run, with another config and data"):
        opened(tmp_path / "r", config="e" * 64, data="f" * 64)
    assert {path.name: path.read_bytes() for path in (tmp_path / "r").iterdir()} == before


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("dear")
    with pytest.raises(UserError, match="no run"):
        opened(tmp_path)
    with pytest.raises(UserError, match="no run"):
        opened(tmp_path / "thesis.tex")
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


OWNER = """
import sys
from pathlib import Path
from engine.store.lock import Owner
owner = Owner(Path(sys.argv[1]))
print("mine", flush=True)
sys.stdin.read()
"""


def test_a_second_owner_is_told_who_has_the_run(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(store.__file__).parents[2],
    ) as other:
        assert other.stdout.readline() == "mine\n"
        with pytest.raises(UserError, match=rf"process {other.pid} on \S+ since \d{{4}}-\d\d-\d\dT"):
            lock.Owner(tmp_path)
        other.kill()
    lock.Owner(tmp_path).release()  # a dead owner's lock is free


def test_runs_are_found_by_path_and_by_name(tmp_path, monkeypatch):
    monkeypatch.setenv("CFM_RUNS", str(tmp_path))
    opened(tmp_path / "digits-1").close("finished")
    assert store.find(str(tmp_path / "digits-1")).name == store.find("digits-1").name == "digits-1"
    assert [run.name for run in store.list_runs()] == ["digits-1"]
    with pytest.raises(UserError, match="no run digit-1") as caught:
        store.find("digit-1")
    assert "digits-1" in caught.value.hint


def test_runs_are_listed_by_when_they_were_begun_whatever_is_missing(tmp_path):
    def listed():
        return [run.name for run in store.list_runs(tmp_path)]

    for name, created in (("c", "2024-01-02T00:00:00Z"), ("a", "2024-01-03T00:00:00Z"), ("b", None)):
        manifest = {"identity": IDENTITY, **({"created": created} if created else {})}
        store.open_run(tmp_path / name, manifest, "").close("finished")
    os.utime(tmp_path / "b" / "manifest.json", (0, 0))
    os.utime(tmp_path / "a" / "config.yaml", (0, 0))
    assert listed() == ["b", "c", "a"]
    (tmp_path / "c" / "config.yaml").unlink()
    (tmp_path / "b" / "manifest.json").write_bytes(b"{")
    assert listed() == ["c", "a", "b"]


def test_fresh_folders_differ(tmp_path):
    environ = {"CFM_RUNS": str(tmp_path)}
    for _ in range(3):
        folder = store.fresh_folder("digits", "abcdef012", environ)
        folder.mkdir()
        assert folder.name.startswith("digits-")
        assert "-abcdef" in folder.name
