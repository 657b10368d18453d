"""A folder of pictures: order, splits, sizes, and everything that can be wrong with it."""

import errno
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from faulty_disk import FaultyDisk
from picture_trees import make_tree
from PIL import Image

import engine.data
from engine.config import Data
from engine.data import cache as cache_module
from engine.data.pictures import Files
from engine.errors import UserError
from engine.store import files

COUNTS = {"train/cat": 12, "train/ant": 5, "test/ant": 3, "test/cat": 2}


def load(root: Path, **settings: object) -> engine.data.DataSet:
    return engine.data.load(Data(name="folder", root=str(root), **settings))


def test_classes_are_sorted_and_files_in_natural_order(tmp_path: Path) -> None:
    made = make_tree(tmp_path, COUNTS)
    train = load(tmp_path).train
    assert train.classes == ("ant", "cat")
    assert train.labels_N.tolist() == [0] * 5 + [1] * 12
    expected = [
        made[f"train/{name}/{index}"] for name, count in (("ant", 5), ("cat", 12)) for index in range(count)
    ]
    np.testing.assert_array_equal(train.pixels(range(17)).numpy(), np.stack(expected).transpose(0, 3, 1, 2))


def test_mean_and_std_are_those_of_the_training_pixels(tmp_path: Path) -> None:
    make_tree(tmp_path, COUNTS)
    data = load(tmp_path)
    pixels = data.train.pixels(range(len(data.train))).numpy() / 255
    np.testing.assert_allclose(data.train.mean, pixels.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(data.train.std, pixels.std(axis=(0, 2, 3)), rtol=1e-9)
    assert data.test.mean == data.train.mean


def test_own_mean_and_std_win_and_must_fit_the_channels(tmp_path: Path) -> None:
    make_tree(tmp_path, COUNTS)
    assert load(tmp_path, mean=(0.1, 0.2, 0.3), std=(1, 2, 3)).test.std == (1.0, 2.0, 3.0)
    with pytest.raises(UserError, match="3 channels"):
        load(tmp_path, mean=(0.5,))


@pytest.mark.parametrize("name", ["val", "test"])
def test_test_split_by_either_name(tmp_path: Path, name: str) -> None:
    made = make_tree(tmp_path, {"train/a": 2, "train/b": 2, f"{name}/a": 1, f"{name}/b": 1})
    test = load(tmp_path).test
    assert len(test) == 2
    np.testing.assert_array_equal(test.pixels([1])[0].numpy(), made[f"{name}/b/0"].transpose(2, 0, 1))


def test_without_a_test_split_one_is_held_out_of_each_class_and_the_same_each_time(tmp_path: Path) -> None:
    make_tree(tmp_path, {"train/a": 20, "train/b": 10})
    first, second = load(tmp_path, holdout=0.2), load(tmp_path, holdout=0.2)
    assert torch.bincount(first.test.labels_N).tolist() == [4, 2]
    assert torch.bincount(first.train.labels_N).tolist() == [16, 8]
    together = {
        x.numpy().tobytes() for part in (first.train, first.test) for x in part.pixels(range(len(part)))
    }
    assert len(together) == 30
    assert torch.equal(first.test.pixels(range(6)), second.test.pixels(range(6)))
    assert first.fingerprint == second.fingerprint != load(tmp_path, holdout=0.4).fingerprint


def test_holding_out_never_touches_the_test_split(tmp_path: Path) -> None:
    make_tree(tmp_path, {"train/a": 10, "train/b": 10})
    (tmp_path / "test" / "other").mkdir(parents=True)
    (tmp_path / "test" / "other" / "0.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="differ"):
        load(tmp_path)
    data = load(tmp_path, test="holdout")
    assert (len(data.train), len(data.test)) == (18, 2)


def test_normalisation_of_held_out_training_leaves_the_held_out_images_out(tmp_path: Path) -> None:
    make_tree(tmp_path, {"train/a": 6, "train/b": 6})
    train = load(tmp_path, test="holdout", holdout=0.5).train
    pixels = train.pixels(range(len(train))).numpy() / 255
    np.testing.assert_allclose(train.mean, pixels.mean(axis=(0, 2, 3)), rtol=1e-12)


def test_files_are_decoded_once_and_anew_when_they_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tree(tmp_path / "set", COUNTS)
    opened: list[str] = []
    original = Files.open
    monkeypatch.setattr(Files, "open", lambda self, i: opened.append(self.name(i)) or original(self, i))
    first = load(tmp_path / "set", image_size=16)
    assert len(opened) == 17 + 22  # training headers, then every picture
    opened.clear()
    assert load(tmp_path / "set", image_size=16).fingerprint == first.fingerprint
    assert not opened
    make_tree(tmp_path / "set", {"x": 0, "test/ant": 3})
    assert load(tmp_path / "set", image_size=16).fingerprint != first.fingerprint
    assert set(opened) == {f"test/{name}.png" for name in ("ant/0", "ant/1", "ant/2", "cat/0", "cat/1")}


def test_fingerprint_is_of_content_not_of_place(tmp_path: Path) -> None:
    make_tree(tmp_path / "one", COUNTS)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    assert load(tmp_path / "one").fingerprint == load(tmp_path / "two").fingerprint
    assert load(tmp_path / "one").fingerprint != load(tmp_path / "one", std=(1, 1, 1)).fingerprint


def test_a_damaged_cache_entry_is_made_anew(tmp_path: Path, cache: Path) -> None:
    make_tree(tmp_path / "set", COUNTS)
    before = load(tmp_path / "set").fingerprint
    for pixels in cache.glob("images/*/pixels.u8"):
        pixels.write_bytes(b"cut")
    assert load(tmp_path / "set").fingerprint == before
    lies = {"descr": "<i8", "fortran_order": False, "shape": (10**14, 2, 3)}
    for content in (
        b"",
        b"\x93NUMPY",
        _npy(lies),
        _npy({**lies, "descr": "|O"}),
        _npy({**lies, "shape": (17,)}),
    ):
        for sums in cache.glob("images/*/sums.npy"):
            sums.write_bytes(content)
        assert load(tmp_path / "set").fingerprint == before


def _npy(header: dict[str, object]) -> bytes:
    text = repr(header).encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(17 * 8)


def test_resizing_brings_the_short_side_to_size_and_crops_the_centre(tmp_path: Path) -> None:
    ramp = np.tile(np.linspace(0, 255, 96).astype(np.uint8), (32, 1))
    for label in "ab":
        (tmp_path / "train" / label).mkdir(parents=True)
        for index in range(2):
            Image.fromarray(ramp).save(tmp_path / "train" / label / f"{index}.png")
    x = load(tmp_path, image_size=16).train.pixels([0])[0, 0].numpy()
    middle = np.asarray(
        Image.fromarray(ramp).crop((32, 0, 64, 32)).resize((16, 16), Image.Resampling.BILINEAR)
    )
    assert x.shape == (16, 16)
    assert np.abs(x.astype(int) - middle).max() <= 4


def test_small_pictures_of_many_sizes_take_the_commonest_and_large_ones_must_be_told(tmp_path: Path) -> None:
    make_tree(tmp_path / "small", {"train/a": 3, "train/b": 3}, size=(40, 24))
    make_tree(tmp_path / "small", {"train/b": 1}, size=(50, 50))
    assert load(tmp_path / "small").train.size == 24
    make_tree(tmp_path / "large", {"train/a": 2, "train/b": 2}, size=(80, 70))
    with pytest.raises(UserError, match="70 px") as caught:
        load(tmp_path / "large")
    assert "data.image_size" in caught.value.hint
    assert load(tmp_path / "large", image_size=20).train.size == 20
    make_tree(tmp_path / "tiny", {"train/a": 2, "train/b": 2}, size=(8, 8))
    with pytest.raises(UserError, match="fewer than 16"):
        load(tmp_path / "tiny")


def test_grey_pictures_stay_grey_unless_one_is_coloured(tmp_path: Path) -> None:
    made = make_tree(tmp_path, {"train/a": 3, "train/b": 3}, mode="L")
    grey = load(tmp_path).train
    assert grey.channels == len(grey.mean) == 1
    np.testing.assert_array_equal(grey.pixels([0])[0, 0].numpy(), made["train/a/0"])
    make_tree(tmp_path, {"train/b": 1})
    assert load(tmp_path).train.channels == 3


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    for label in "ab":
        (tmp_path / "train" / label).mkdir(parents=True)
        for index in range(2):
            ramp = np.linspace(0, 65535, 256).reshape(16, 16).astype(np.uint16)
            Image.fromarray(ramp).save(tmp_path / "train" / label / f"{index}.png")
    x = load(tmp_path).train.pixels([0])[0, 0].numpy()
    np.testing.assert_array_equal(x.ravel(), np.arange(256))


def test_unreadable_pictures_are_refused_by_name_or_left_out_by_choice(tmp_path: Path) -> None:
    make_tree(tmp_path, COUNTS)
    whole = (tmp_path / "train/cat/3.png").read_bytes()
    (tmp_path / "train/cat/3.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "train/ant/1.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"2 of 17") as caught:
        load(tmp_path)
    assert "train/cat/3.png" in caught.value.message
    assert "train/ant/1.png" in caught.value.message
    assert "data.on_bad_image=skip" in caught.value.hint
    data = load(tmp_path, on_bad_image="skip")
    assert sorted(data.train.skipped) == ["train/ant/1.png", "train/cat/3.png"]
    assert torch.bincount(data.train.labels_N).tolist() == [4, 11]
    assert data.test.skipped == ()


def test_a_class_whose_pictures_are_all_unreadable_is_refused_even_when_skipping(tmp_path: Path) -> None:
    make_tree(tmp_path, {"train/a": 3, "train/b": 1, "test/a": 1, "test/b": 1})
    (tmp_path / "train/b/0.png").write_bytes(b"")
    with pytest.raises(UserError, match="for b"):
        load(tmp_path, on_bad_image="skip")


def test_a_decompression_bomb_is_an_unreadable_picture(tmp_path: Path) -> None:
    make_tree(tmp_path, COUNTS)
    (tmp_path / "train/ant/2.png").write_bytes(_png_header(60_000, 60_000))
    with pytest.raises(UserError, match=r"1 of 17.*ant/2\.png"):
        load(tmp_path)


def _png_header(width: int, height: int) -> bytes:
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"")),
        (b"IEND", b""),
    ]
    packed = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="is empty"):
        load(tmp_path / "empty")
    (tmp_path / "wrong" / "cats").mkdir(parents=True)
    with pytest.raises(UserError, match="no folder `train`") as caught:
        load(tmp_path / "wrong")
    assert "train/CLASS" in caught.value.hint
    make_tree(tmp_path / "hole", {"train/a": 2, "train/b": 0})
    with pytest.raises(UserError, match=r"no pictures in .*train/b"):
        load(tmp_path / "hole")
    make_tree(tmp_path / "other", {"train/a": 2, "train/b": 2, "test/a": 1, "test/c": 1})
    with pytest.raises(UserError, match=r"without test images: b; without training images: c"):
        load(tmp_path / "other")
    with pytest.raises(UserError, match="needs a data root"):
        engine.data.load(Data(name="folder"))
    with pytest.raises(UserError) as caught:
        engine.data.load(Data(name="cifar10", root=str(tmp_path / "empty")))
    assert "cfm data get cifar10" in caught.value.hint


def test_a_full_disk_is_reported_and_leaves_nothing_behind(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tree(tmp_path / "set", COUNTS)

    def full(file: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache_module, "_flush", full)
    with pytest.raises(UserError, match="no room left") as caught:
        load(tmp_path / "set")
    assert caught.value.kind == "disk"
    assert "CFM_CACHE" in caught.value.hint
    assert not [path for path in (cache / "images").iterdir() if path.is_dir()]
    monkeypatch.undo()


def test_a_cache_that_fills_up_with_the_last_file_names_its_variable(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tree(tmp_path / "set", COUNTS)
    disk = FaultyDisk(2, errno.ENOSPC, ("write",))  # the first writes the sums, the second the last file
    monkeypatch.setattr(files, "disk", disk)
    with pytest.raises(UserError, match="no room left") as caught:
        load(tmp_path / "set")
    assert "CFM_CACHE" in caught.value.hint
    assert "--out" not in caught.value.hint


def test_progress_counts_up_to_all_pictures(tmp_path: Path) -> None:
    make_tree(tmp_path, COUNTS)
    calls: list[tuple[int, int]] = []
    settings = Data(name="folder", root=str(tmp_path))
    engine.data.load(settings, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(17, 17), (17, 17), (5, 5)]
