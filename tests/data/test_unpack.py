"""CIFAR in its official archives, and the ImageNets in the layouts that people have."""

import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from picture_trees import make_tree
from PIL import Image

import engine.data
from engine.config import Data, Views
from engine.data import augmentation
from engine.data.catalogue import CIFAR10_CLASSES
from engine.data.stream import StreamedImages
from engine.errors import UserError
from engine.rng import generator

RNG = np.random.default_rng(0)
BATCHES = {f"data_batch_{index}": RNG.permutation(np.arange(20) % 10) for index in range(1, 6)}
BATCHES["test_batch"] = np.arange(20) % 10
PIXELS = {name: RNG.integers(0, 256, (20, 3072), dtype=np.uint8) for name in BATCHES}


def cifar_binary(root: Path) -> Path:
    folder = root / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for name, labels in BATCHES.items():
        records = np.concatenate([labels[:, None].astype(np.uint8), PIXELS[name]], axis=1)
        (folder / f"{name}.bin").write_bytes(records.tobytes())
    return folder


def cifar_python(root: Path, protocol: int) -> Path:
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name, labels in BATCHES.items():
        content = {"data": PIXELS[name], "labels": labels.tolist()}
        (folder / name).write_bytes(pickle.dumps(content, protocol=protocol))
    return folder


def cifar_tree(root: Path) -> Path:
    seen: dict[str, int] = {}
    for name, labels in BATCHES.items():
        for label, flat in zip(labels, PIXELS[name], strict=True):
            folder = root / "cifar10" / ("test" if name == "test_batch" else "train") / CIFAR10_CLASSES[label]
            folder.mkdir(parents=True, exist_ok=True)
            seen[str(folder)] = seen.get(str(folder), -1) + 1
            Image.fromarray(flat.reshape(3, 32, 32).transpose(1, 2, 0)).save(
                folder / f"{seen[str(folder)]}.png"
            )
    return root / "cifar10"


def load(name: str, root: Path, **settings: object) -> engine.data.DataSet:
    return engine.data.load(Data(name=name, root=str(root), **settings))


def test_every_form_of_cifar10_gives_the_same_data_set(tmp_path: Path) -> None:
    forms = [cifar_binary(tmp_path / "a"), cifar_tree(tmp_path / "b")]
    forms += [cifar_python(tmp_path / f"p{protocol}", protocol) for protocol in (2, 4, 5)]
    sets = [load("cifar10", path.parent) for path in forms] + [load("cifar10", path) for path in forms]
    assert len({data.fingerprint for data in sets}) == 1
    train = sets[0].train
    assert (len(train), len(sets[0].test), train.classes, train.size) == (100, 20, CIFAR10_CLASSES, 32)
    assert train.std == (0.2470, 0.2435, 0.2616)
    first_bird = next(index for index, label in enumerate(BATCHES["data_batch_1"]) if label == 2)
    where = train.labels_N.tolist().index(2)
    assert train.pixels([where]).numpy().tobytes() == PIXELS["data_batch_1"][first_bird].tobytes()


def test_python_2_pickles_are_read(tmp_path: Path) -> None:
    """Protocol 0 text as Python 2 wrote it: integer flags in the dtype, byte strings everywhere."""
    folder = cifar_python(tmp_path, 2)
    for name, labels in BATCHES.items():
        data = PIXELS[name].tobytes()
        stream = b"(dp0\nS'labels'\n(l" + b"".join(b"I%d\na" % label for label in labels) + b"sS'data'\n"
        stream += b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
        stream += b"(I1\n(I20\nI3072\ntcnumpy\ndtype\n(S'u1'\nI0\nI1\ntR"
        stream += b"(I3\nS'|'\nNNNI-1\nI-1\nI0\ntbI00\nT" + len(data).to_bytes(4, "little") + data + b"tbs."
        (folder / name).write_bytes(stream)
    assert load("cifar10", folder).fingerprint == load("cifar10", cifar_binary(tmp_path / "a")).fingerprint


class Hostile:
    def __init__(self, *call: object) -> None:
        self.call = call

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call[0], self.call[1:]


@pytest.mark.parametrize(
    "call", [(os.system, "touch owned"), (eval, "1"), (np.ndarray, (10**9,)), (getattr, 1, "x")]
)
def test_a_hostile_pickle_runs_nothing(
    tmp_path: Path, call: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = cifar_python(tmp_path, 4)
    content = {"data": Hostile(*call), "labels": [0] * 20}
    (folder / "data_batch_3").write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match="data_batch_3 cannot be read safely"):
        load("cifar10", tmp_path)
    assert not (tmp_path / "owned").exists()


def test_damaged_archives_are_named(tmp_path: Path) -> None:
    folder = cifar_binary(tmp_path)
    whole = (folder / "data_batch_2.bin").read_bytes()
    (folder / "data_batch_2.bin").write_bytes(whole[:-1])
    with pytest.raises(UserError, match=r"data_batch_2\.bin has 61,459 bytes"):
        load("cifar10", tmp_path)
    (folder / "data_batch_2.bin").write_bytes(b"\xff" + whole[1:])
    with pytest.raises(UserError, match="labels outside"):
        load("cifar10", tmp_path)
    (folder / "data_batch_2.bin").unlink()
    with pytest.raises(UserError, match=r"lacks data_batch_2\.bin"):
        load("cifar10", tmp_path)


def test_holding_out_does_not_read_the_test_file(tmp_path: Path) -> None:
    (cifar_binary(tmp_path) / "test_batch.bin").unlink()
    assert len(load("cifar10", tmp_path, test="holdout").test) == 10
    with pytest.raises(UserError, match=r"test_batch\.bin"):
        load("cifar10", tmp_path)


def test_cifar100_takes_fine_labels(tmp_path: Path) -> None:
    names = [f"fine{index:02}" for index in range(100)]
    for version in ("cifar-100-binary", "cifar-100-python"):
        (tmp_path / version).mkdir()
    (tmp_path / "cifar-100-binary" / "fine_label_names.txt").write_text("\n".join(names))
    (tmp_path / "cifar-100-python" / "meta").write_bytes(pickle.dumps({"fine_label_names": names}))
    fine, coarse = np.arange(100)[::-1].astype(np.uint8), np.zeros(100, np.uint8)
    pixels = RNG.integers(0, 256, (100, 3072), dtype=np.uint8)
    for split in ("train", "test"):
        records = np.concatenate([coarse[:, None], fine[:, None], pixels], axis=1)
        (tmp_path / "cifar-100-binary" / f"{split}.bin").write_bytes(records.tobytes())
        content = {"data": pixels, "fine_labels": fine.tolist(), "coarse_labels": coarse.tolist()}
        (tmp_path / "cifar-100-python" / split).write_bytes(pickle.dumps(content))
    binary = load("cifar100", tmp_path / "cifar-100-binary")
    assert binary.train.classes == tuple(names)
    assert binary.train.pixels([0]).numpy().tobytes() == pixels[99].tobytes()
    assert binary.fingerprint == load("cifar100", tmp_path / "cifar-100-python").fingerprint


IDS = ["n00000003", "n00000001", "n00000002"]


def tiny_raw(root: Path) -> Path:
    path = root / "tiny-imagenet-200"
    made = make_tree(path, {f"train/{wnid}/images": 12 for wnid in IDS}, size=(64, 64), ext="JPEG")
    assert len(made) == 36
    make_tree(path, {"val/images": 6}, size=(64, 64), ext="JPEG")
    (path / "wnids.txt").write_text("\n".join(IDS))
    lines = [f"{index}.JPEG\t{IDS[index % 3]}\t0\t0\t63\t63" for index in (5, 0, 3, 1, 4, 2)]
    (path / "val" / "val_annotations.txt").write_text("\n".join(lines))
    return path


def reorganised(raw: Path, target: Path, inner: str) -> Path:
    shutil.copytree(raw, target)
    for index in range(6):
        folder = target / "val" / IDS[index % 3] / inner
        folder.mkdir(parents=True, exist_ok=True)
        (target / "val" / "images" / f"{index}.JPEG").rename(folder / f"{index}.JPEG")
    shutil.rmtree(target / "val" / "images")
    return target


def test_every_layout_of_tiny_imagenet_gives_the_same_data_set(tmp_path: Path) -> None:
    raw = tiny_raw(tmp_path)
    layouts = [raw, reorganised(raw, tmp_path / "r1", ""), reorganised(raw, tmp_path / "r2", "images")]
    flat = reorganised(raw, tmp_path / "r3", "")
    (flat / "wnids.txt").unlink()
    for wnid in IDS:
        for file in (flat / "train" / wnid / "images").iterdir():
            file.rename(flat / "train" / wnid / file.name)
    sets = [load("tiny-imagenet", path) for path in (*layouts, flat, tmp_path)]
    assert len({data.fingerprint for data in sets}) == 1
    assert sets[0].train.classes == ("n00000001", "n00000002", "n00000003")
    assert sets[0].test.labels_N.tolist() == [0, 0, 1, 1, 2, 2]
    second_of_first = np.asarray(Image.open(raw / "val/images/4.JPEG"))
    np.testing.assert_array_equal(sets[0].test.pixels([1])[0].numpy(), second_of_first.transpose(2, 0, 1))


def test_what_is_wrong_with_an_imagenet_folder_is_named(tmp_path: Path) -> None:
    raw = tiny_raw(tmp_path)
    table = raw / "val" / "val_annotations.txt"
    whole = table.read_text()
    table.write_text(whole + "\n../../secret.JPEG\tn00000001\t0\t0\t1\t1")
    with pytest.raises(UserError, match="not a plain file name"):
        load("tiny-imagenet", raw)
    table.write_text(whole + "\n9.JPEG\tn00000001\t0\t0\t1\t1")
    with pytest.raises(UserError, match=r"1 of 7 .*val/images/9\.JPEG \(no such file\)"):
        load("tiny-imagenet", raw)
    table.unlink()
    with pytest.raises(UserError, match="no class folders"):
        load("tiny-imagenet", raw)
    shutil.rmtree(raw / "train" / IDS[0])
    with pytest.raises(UserError, match="lacks classes"):
        load("tiny-imagenet", raw)


def test_imagenet_streams_the_same_pixels_that_memory_would_hold(tmp_path: Path) -> None:
    raw = tiny_raw(tmp_path)
    held, streamed = load("tiny-imagenet", raw).train, load("imagenet", raw, image_size=64).train
    assert isinstance(streamed, StreamedImages)
    indices = [35, 0, 7]
    assert torch.equal(held.pixels(indices), streamed.pixels(indices))
    assert streamed.batch(indices, "cpu").shape == (3, 3, 64, 64)
    assert torch.equal(held.labels_N, streamed.labels_N)


@pytest.mark.parametrize("shared", [False, True])
def test_streamed_crops_come_from_the_full_resolution(tmp_path: Path, shared: bool) -> None:
    """A quarter of a 64 px picture, seen at 32 px, is that quarter pixel for pixel."""
    made = make_tree(tmp_path, {"train/a": 2, "train/b": 2, "val/a": 1, "val/b": 1}, size=(96, 64))
    images = load("imagenet", tmp_path, image_size=32, mean=(0, 0, 0), std=(1, 1, 1)).train
    count = 1 if shared else 2
    boxes = np.tile([0, 16, 16, 16], (count, 1))
    drawn = augmentation.Draw(boxes, np.ones(count, bool), np.tile([0, 0], (count, 1)), 32)
    x = images.batch([0, 3], "cpu", drawn)
    for row, name in enumerate(("train/a/0", "train/b/1")):
        quarter = made[name][0:32, 48:80][:, ::-1].transpose(2, 0, 1) / 255
        np.testing.assert_allclose(x[row].numpy(), quarter, atol=1e-5)


def test_streamed_views_that_stick_out_are_padded(tmp_path: Path) -> None:
    raw = tiny_raw(tmp_path)
    drawn = augmentation.draw(Views(padding=8), 64, 3, generator(1, "views"))
    settings = {"mean": (0, 0, 0), "std": (1, 1, 1)}
    held = load("tiny-imagenet", raw, **settings).train.batch([0, 1, 2], "cpu", drawn)
    streamed = load("imagenet", raw, image_size=64, **settings).train.batch([0, 1, 2], "cpu", drawn)
    torch.testing.assert_close(held, streamed)


def test_a_streamed_set_names_unreadable_files_or_leaves_them_out(tmp_path: Path) -> None:
    raw = tiny_raw(tmp_path)
    (raw / "train" / "n00000001" / "images" / "2.JPEG").write_bytes(b"")
    with pytest.raises(UserError, match=r"n00000001/images/2\.JPEG is unreadable"):
        load("imagenet", raw, image_size=16).train.pixels([1, 2])
    train = load("imagenet", raw, image_size=16, on_bad_image="skip").train
    assert train.skipped == ("train/n00000001/images/2.JPEG",)
    assert len(train) == 35
    assert train.pixels(range(35)).shape == (35, 3, 16, 16)
