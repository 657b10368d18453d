"""What was reported saved is there after a power loss at any call of the store, and nothing is mixed."""

import numpy as np
import pytest
from cases import chosen
from cut import emptied
from lossy_disk import cut_at, needs_open_files

from engine.store import checkpoints, files, images, json_file, labels

SHAPE = (6, 1, 2, 2)
IMAGES = np.random.default_rng(0).random(SHAPE).astype(np.float32)
LABELS = np.arange(6) % 2
CONFIDENCE = np.linspace(0, 1, 6, dtype=np.float32)
LOGITS = np.random.default_rng(0).standard_normal((3, 6, 2)).astype(np.float16)


def work(folder, told):
    """A small recovery with its checkpoints, then labels; `told` gets what was reported."""
    files.make_folders(folder)
    if not images.is_complete(folder / "images"):
        done = taken_up(folder, "recover") if images.is_begun(folder / "images") else 0
        writer = images.ImageWriter(folder / "images", SHAPE, ("a", "b"), 2 * done)
        for batch in range(done, 3):
            rows = slice(2 * batch, 2 * batch + 2)
            writer.add(IMAGES[rows], LABELS[rows], batch + 1, 0.1, CONFIDENCE[rows])
            saved(folder, "recover", batch + 1, told)
        writer.finish()
        told["images"] = True
    checkpoints.Checkpoints(folder / "checkpoints").delete("recover")
    if labels.Labels.open(folder / "labels", "x") is None:
        done = taken_up(folder, "relabel") if (folder / "labels" / "x.safetensors.partial").is_file() else 0
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
    checkpoints.Checkpoints(folder / "checkpoints").write(
        stage, {"x": np.full(2, done, np.float32)}, {"done": done}
    )
    told[stage] = done


def taken_up(folder, stage):
    found, messages = checkpoints.Checkpoints(folder / "checkpoints").newest(stage)
    assert messages == []
    if found is None:
        return 0
    assert found.arrays["x"].tolist() == [found.metadata["done"]] * 2
    return found.metadata["done"]


@needs_open_files
@pytest.mark.parametrize("seed", [None, 0])
def test_images_and_labels_that_were_reported_are_not_lost(quick_folder, monkeypatch, counted, seed):
    root, after = quick_folder / "case", quick_folder / "after"
    disk, _ = cut_at(monkeypatch, emptied(root), 0, work)
    disk.let_go()
    calls = disk.made
    assert calls > 100
    for number in chosen(range(1, calls + 2), few=12, seed=seed or 1):
        with counted("power loss, images and labels"):
            disk, told = cut_at(monkeypatch, emptied(root), number, work)
            assert disk.lost == (number <= calls)
            disk.leave(emptied(after), seed if seed is None else 1000 * number + seed)
            require_made_again(after / "run", told)


def require_made_again(folder, told):
    """What was reported is in a folder, and the rest is made."""
    if "images" in told:
        assert images.is_complete(folder / "images")
    elif "recover" in told:
        assert taken_up(folder, "recover") >= told["recover"]
    if "labels" in told:
        assert labels.Labels.open(folder / "labels", "x") is not None
    elif "relabel" in told:
        assert taken_up(folder, "relabel") >= told["relabel"]
    assert ("results" in told) <= (folder / "results.json").is_file()
    work(folder, {})
    assert images.check(folder / "images") == []
    assert checkpoints.Checkpoints(folder / "checkpoints").check() == []
    assert np.array_equal(images.read(folder / "images").images_NCHW, IMAGES)
    stored = labels.Labels.open(folder / "labels", "x")
    assert np.array_equal([stored.epoch(epoch) for epoch in range(3)], LOGITS)
    assert json_file.read_json(folder / "results.json") == {"done": True}
