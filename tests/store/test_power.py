"""What was reported saved is there after a power loss at any call of the store, and nothing is mixed."""

import contextlib
from pathlib import Path

import numpy as np
import pytest
from lossy_disk import LossyDisk, PowerLoss

from engine.store import checkpoints, files, images, json_file, labels

SHAPE = (6, 1, 2, 2)
IMAGES = np.random.default_rng(0).random(SHAPE).astype(np.float32)
LABELS = np.arange(6) % 2
CONFIDENCE = np.linspace(0, 1, 6, dtype=np.float32)
LOGITS = np.random.default_rng(0).standard_normal((3, 6, 2)).astype(np.float16)


def work(folder, told):
    """A small recovery with its checkpoints, then labels; `told` gets what was reported."""
    files.make_folder(folder)
    if not images.is_complete(folder / "images"):
        done = taken_up(folder, "recover") if images.is_begun(folder / "images") else 0
        writer = images.ImageWriter(folder / "images", SHAPE, ("a", "b"), 2 * done)
        for batch in range(done, 3):
            rows = slice(2 * batch, 2 * batch + 2)
            writer.add(IMAGES[rows], LABELS[rows], batch + 1, 0.1, CONFIDENCE[rows])
            saved(folder, "recover", batch + 1, told)
        writer.finish()
        told["images"] = True
    checkpoints.forget(folder / "checkpoints", "recover")
    if labels.open_labels(folder / "labels", "x") is None:
        done = taken_up(folder, "relabel") if labels.is_begun(folder / "labels", "x") else 0
        writer = labels.LabelWriter(folder / "labels", "x", LOGITS.shape, done)
        for epoch in range(done, 3):
            writer.put(epoch, LOGITS[epoch])
            writer.sync()
            saved(folder, "relabel", epoch + 1, told)
        writer.finish()
        told["labels"] = True
    json_file.write_json(folder / "results.json", {"done": True})
    told["results"] = True


def saved(folder, stage, done, told):
    checkpoints.write(folder / "checkpoints", stage, {"x": np.full(2, done, np.float32)}, {"done": done})
    told[stage] = done


def taken_up(folder, stage):
    found, messages = checkpoints.newest(folder / "checkpoints", stage)
    assert messages == []
    if found is None:
        return 0
    assert found.arrays["x"].tolist() == [found.facts["done"]] * 2
    return found.facts["done"]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files are looked up there")
@pytest.mark.parametrize("seed", [None, 0])
def test_nothing_that_was_reported_is_lost_and_the_rest_is_made_again(tmp_path, monkeypatch, seed):
    number, cut = 0, True
    while cut:
        number += 1
        root, after, told = tmp_path / f"{number}", tmp_path / f"{number}-after", {}
        root.mkdir()
        disk = LossyDisk(root, number)
        with monkeypatch.context() as patch:
            patch.setattr(files, "disk", disk)
            with contextlib.suppress(PowerLoss):
                work(root / "run", told)
        cut = disk.lost
        disk.leave(after, seed if seed is None else 1000 * number + seed)
        folder = after / "run"
        if "images" in told:
            assert images.is_complete(folder / "images")
        elif "recover" in told:
            assert taken_up(folder, "recover") >= told["recover"]
        if "labels" in told:
            assert labels.open_labels(folder / "labels", "x") is not None
        elif "relabel" in told:
            assert taken_up(folder, "relabel") >= told["relabel"]
        assert ("results" in told) <= (folder / "results.json").is_file()
        work(folder, {})
        assert images.check(folder / "images") == []
        assert checkpoints.check(folder / "checkpoints") == []
        assert np.array_equal(images.read(folder / "images").images_NCHW, IMAGES)
        stored = labels.open_labels(folder / "labels", "x")
        assert np.array_equal([stored.epoch(epoch) for epoch in range(3)], LOGITS)
        assert json_file.read_json(folder / "results.json") == {"done": True}
    assert number > 100
