"""ImageSet: indexing, normalisation, views; and the embedded digits."""

import numpy as np
import pytest
import torch

import engine.data
from engine.config import Data, Views
from engine.data import ImageSet, augmentation, denormalise, normalise
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
