"""ImageSet: indexing, normalisation, views, images decoded on demand; and the embedded digits."""

from pathlib import Path

import numpy as np
import pytest
import torch
from picture_trees import make_tiny_imagenet, make_tree

import engine.data
from engine.config import Data, Views
from engine.data import ImageSet, augmentation, denormalise, normalise
from engine.data.image_set import StreamedImages
from engine.errors import UserError
from engine.rng import generator


@pytest.fixture
def images() -> ImageSet:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 3, 16, 16), dtype=np.uint8)
    return ImageSet.from_arrays(pixels, [0, 0, 1, 1, 2, 2], "abc", (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


def test_indices_of_any_kind_pick_the_same_images(images: ImageSet) -> None:
    expected = images.pixels([4, 0])
    for indices in (np.array([4, 0]), torch.tensor([4, 0]), range(4, -1, -4)):
        assert torch.equal(images.pixels(indices), expected)
    assert images.pixels([]).shape == (0, 3, 16, 16)


def test_a_batch_is_normalised_and_denormalising_gives_the_pixels_back(images: ImageSet) -> None:
    x = images.batch([1, 5], "cpu")
    back = denormalise(x, images.mean, images.std) * 255
    torch.testing.assert_close(back, images.pixels([1, 5]).float(), atol=1e-4, rtol=0)
    assert x.dtype == torch.float32


def test_views_are_applied_to_pixels_before_normalising(images: ImageSet) -> None:
    drawn = augmentation.draw(Views(padding=4), 16, 3, generator(0, "views"))
    x01 = augmentation.apply(drawn, images.pixels([0, 1, 2]).float() / 255)
    expected = normalise(x01, images.mean, images.std)
    torch.testing.assert_close(images.batch([0, 1, 2], "cpu", drawn), expected)


def test_on_another_device_the_whole_set_moves_once(images: ImageSet) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "meta")
    first = images.batch([3], device)
    assert first.device.type == device.type
    (resident,) = images._resident.values()
    images.batch(torch.tensor([0, 1]), device)
    assert next(iter(images._resident.values())) is resident
    assert resident.shape == (6, 3, 16, 16)
    if device.type == "cuda":
        torch.testing.assert_close(first.cpu(), images.batch([3], "cpu"))


def test_digits_are_split_once_and_for_all_by_class() -> None:
    data = engine.data.load(Data())
    assert (len(data.train), len(data.test)) == (1438, 359)
    assert (data.train.channels, data.train.size) == (1, 16)
    share = torch.bincount(data.test.labels_N) / (
        torch.bincount(data.test.labels_N) + torch.bincount(data.train.labels_N)
    )
    torch.testing.assert_close(share, torch.full((10,), 0.2), atol=0.005, rtol=0)
    assert data.train.labels_N.tolist() == sorted(data.train.labels_N.tolist())
    x = data.train.batch(range(len(data.train)), "cpu")
    assert abs(float(x.mean())) < 1e-5
    assert abs(float(x.std(correction=0)) - 1) < 1e-5


def test_digits_hold_out_training_images_without_the_test_split() -> None:
    data, held = engine.data.load(Data()), engine.data.load(Data(test="holdout", holdout=0.25))
    assert len(held.train) + len(held.test) == len(data.train)
    test = {x.numpy().tobytes() for x in data.test.pixels(range(len(data.test)))}
    assert not test & {x.numpy().tobytes() for x in held.test.pixels(range(len(held.test)))}


def load(name: str, root: Path, **settings: object) -> engine.data.DataSet:
    return engine.data.load(Data(name=name, root=str(root), **settings))


def test_imagenet_streams_the_same_pixels_that_memory_would_hold(tmp_path: Path) -> None:
    raw = make_tiny_imagenet(tmp_path)
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
    raw = make_tiny_imagenet(tmp_path)
    drawn = augmentation.draw(Views(padding=8), 64, 3, generator(1, "views"))
    settings = {"mean": (0, 0, 0), "std": (1, 1, 1)}
    held = load("tiny-imagenet", raw, **settings).train.batch([0, 1, 2], "cpu", drawn)
    streamed = load("imagenet", raw, image_size=64, **settings).train.batch([0, 1, 2], "cpu", drawn)
    torch.testing.assert_close(held, streamed)


def test_a_streamed_set_names_unreadable_files_or_leaves_them_out(tmp_path: Path) -> None:
    raw = make_tiny_imagenet(tmp_path)
    (raw / "train" / "n00000001" / "images" / "2.JPEG").write_bytes(b"")
    with pytest.raises(UserError, match=r"n00000001/images/2\.JPEG is unreadable"):
        load("imagenet", raw, image_size=16).train.pixels([1, 2])
    train = load("imagenet", raw, image_size=16, on_bad_image="skip").train
    assert train.skipped == ("train/n00000001/images/2.JPEG",)
    assert len(train) == 35
    assert train.pixels(range(35)).shape == (35, 3, 16, 16)
