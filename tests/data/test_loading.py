"""A folder of pictures: order, splits, sizes, and everything that can be wrong with it."""

import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from picture_trees import make_tree
from PIL import Image
from torchvision import transforms

import engine.data
from engine.config import Data, Views
from engine.data import augmentation
from engine.errors import UserError
from engine.rng import generator

COUNTS = {"train/cat": 12, "train/ant": 5, "test/ant": 3, "test/cat": 2}


def load(root: Path, **settings: object) -> engine.data.DataSet:
    return engine.data.load(Data(name="folder", root=str(root), **settings))


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


def test_a_class_order_gives_the_same_set_as_folders_that_sort_that_way(tmp_path: Path) -> None:
    pictures = make_tree(tmp_path / "a", {f"train/{name}": 12 for name in ("one", "two", "ten")})
    assert pictures
    for name, sorted_name in (("one", "1"), ("two", "2"), ("ten", "3")):
        shutil.copytree(tmp_path / "a" / "train" / name, tmp_path / "b" / "train" / sorted_name)
    (tmp_path / "order.txt").write_text("one\ntwo\n\nten\n")
    expected = load(tmp_path / "b")
    for order in (("one", "two", "ten"), str(tmp_path / "order.txt")):
        found = load(tmp_path / "a", class_order=order)
        assert found.train.classes == ("one", "two", "ten")
        for split in ("train", "test"):
            mine, theirs = getattr(found, split), getattr(expected, split)
            everything = range(len(theirs))
            assert torch.equal(mine.labels_N, theirs.labels_N)
            assert torch.equal(mine.pixels(everything), theirs.pixels(everything))
        assert found.train.mean == pytest.approx(expected.train.mean)
    assert found.fingerprint != load(tmp_path / "a").fingerprint
    sorted_order = load(tmp_path / "a", class_order=("one", "ten", "two"))
    assert sorted_order.fingerprint == load(tmp_path / "a").fingerprint


def test_a_class_order_keeps_the_pixels_of_a_set_with_a_test_split(tmp_path: Path) -> None:
    pictures = make_tree(tmp_path, COUNTS)
    data = load(tmp_path, class_order=("cat", "ant"))
    assert torch.bincount(data.train.labels_N).tolist() == [12, 5]
    assert torch.bincount(data.test.labels_N).tolist() == [2, 3]
    assert np.array_equal(data.train.pixels([0])[0], pictures["train/cat/0"].transpose(2, 0, 1))
    assert np.array_equal(data.test.pixels([2])[0], pictures["test/ant/0"].transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("order", "said", "hint"),
    [
        (("cat", "aunt"), "missing: ant; unknown: aunt", "did you mean ant?"),
        (("cat",), "missing: ant", "give each class of the data set once: ant, cat"),
        ("absent.txt", "absent.txt) cannot be read: No such file", "a text file with one class name a line"),
        ("order.txt", "listed twice: cat", "once: ant, cat"),
    ],
)
def test_a_class_order_that_is_not_of_these_classes_is_refused(tmp_path, monkeypatch, order, said, hint):
    monkeypatch.chdir(tmp_path)
    make_tree(tmp_path, COUNTS)
    (tmp_path / "order.txt").write_text("cat\nant\ncat\n")
    with pytest.raises(UserError) as refused:
        load(tmp_path, class_order=order)
    assert refused.value.kind == "config"
    assert said in refused.value.message
    assert hint in refused.value.hint


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


def test_fingerprint_is_of_content_not_of_place(tmp_path: Path) -> None:
    make_tree(tmp_path / "one", COUNTS)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    assert load(tmp_path / "one").fingerprint == load(tmp_path / "two").fingerprint
    assert load(tmp_path / "one").fingerprint != load(tmp_path / "one", std=(1, 1, 1)).fingerprint


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


def test_progress_counts_up_to_all_pictures(tmp_path: Path) -> None:
    make_tree(tmp_path, COUNTS)
    calls: list[tuple[int, int]] = []
    settings = Data(name="folder", root=str(tmp_path))
    engine.data.load(settings, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(17, 17), (17, 17), (5, 5)]


def test_fingerprints_stay_the_same(tmp_path: Path) -> None:
    """Runs, teachers and statistics are found by them."""
    make_tree(tmp_path, {"train/cat": 5, "train/ant": 4, "test/cat": 2, "test/ant": 1})
    assert load(tmp_path).fingerprint == "024d56e3c1b13b3813982fd9e5b30156ca60966b90af575b614d4da5a423fb10"
    digits = engine.data.load(Data()).fingerprint
    assert digits == "4bdca4de6d7ec1405759d2196bfec296edf1f2452c3812d128358f413cae13a3"


def frame(path: Path, resize: int | None, crop: int) -> np.ndarray:
    with Image.open(path) as image:
        if resize is None:
            return np.asarray(image).transpose(2, 0, 1)
        resized = transforms.functional.resize(image, [resize])
        return np.asarray(transforms.functional.center_crop(resized, [crop, crop])).transpose(2, 0, 1)


@pytest.mark.parametrize("split", ["test", "holdout"])
def test_test_images_are_resized_and_cropped_and_training_images_are_not(tmp_path: Path, split: str) -> None:
    make_tree(tmp_path, COUNTS if split == "test" else {"train/ant": 4, "train/cat": 4}, size=(32, 32))
    plain, data = load(tmp_path, test=split), load(tmp_path, test=split, test_resize=36)
    assert torch.equal(data.train.pixels([0, 1]), plain.train.pixels([0, 1]))
    assert torch.equal(data.test.labels_N, plain.test.labels_N)
    assert data.test.mean == plain.test.mean
    assert data.fingerprint != plain.fingerprint
    folder = tmp_path / ("test" if split == "test" else "train") / "ant"
    (path,) = [
        path
        for path in sorted(folder.iterdir())
        if np.array_equal(frame(path, None, 32), plain.test.pixels([0])[0])
    ]
    assert np.array_equal(data.test.pixels([0])[0], frame(path, 36, 32))
    assert load(tmp_path, test=split).fingerprint == plain.fingerprint
    assert torch.equal(load(tmp_path, test=split).test.pixels([0]), plain.test.pixels([0]))  # another entry


def test_streamed_images_are_framed_and_their_views_are_of_the_square(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tree(tmp_path, {"train/a": 3, "train/b": 3, "test/a": 2, "test/b": 2}, size=(90, 60))
    normalisation = {"mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2)}
    monkeypatch.setattr(engine.data.loading, "is_streamed", lambda *_: True)
    plain = load(tmp_path, image_size=32, **normalisation)
    data = load(tmp_path, image_size=32, resize=40, test_resize=36, **normalisation)
    for images, split, resize in ((data.train, "train", 40), (data.test, "test", 36)):
        assert np.array_equal(images.pixels([0])[0], frame(tmp_path / split / "a" / "0.png", resize, 32))
    drawn = augmentation.draw(Views(crop_scale=(0.3, 0.5)), 32, 2, generator(0, "views"))
    assert torch.equal(data.train.batch([0, 1], "cpu", drawn), plain.train.batch([0, 1], "cpu", drawn))
    assert data.fingerprint != plain.fingerprint
    assert data.fingerprint != load(tmp_path, image_size=32, test_resize=36, **normalisation).fingerprint


def test_a_side_that_does_not_contain_the_crop_is_refused(tmp_path: Path) -> None:
    make_tree(tmp_path, COUNTS, size=(32, 32))
    with pytest.raises(
        UserError, match=r"data.test_resize = 20 is smaller than the images, which have 32 px"
    ):
        load(tmp_path, test_resize=20)
    with pytest.raises(ValueError, match="resize = 20 is smaller than image_size = 24"):
        Data(name="folder", image_size=24, resize=20)
    with pytest.raises(ValueError, match="no effect on the digits"):
        Data(name="digits", test_resize=72)
