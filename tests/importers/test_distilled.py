"""Pictures of every layout are the same set, in the order of recovery."""

from types import SimpleNamespace

import numpy as np
import pytest
from interchanged import labels, levels, pictures
from stages import small

from engine.data import ImageSet
from engine.errors import UserError
from engine.importers import distilled
from engine.importers.distilled import fingerprint, order_of_recovery
from engine.store.images import ImageWriter

PIXELS, LABELS = levels(2), labels(2)


def read(digits, path, **given):
    (found,) = distilled.read(small(given={"images": str(path), **given}), digits)
    return found


@pytest.mark.parametrize(
    "name",
    [
        "{label}/{rank:04d}.png",
        "new{label:03d}/class{label:03d}_id{rank:03d}.png",
        "{label:05d}/class{label:05d}_id{rank:05d}.png",
        "class_{label}/{rank}.png",
        "class{label:03d}_id{rank:03d}.png",
        "train/{label}/{rank}.png",
    ],
)
def test_pictures_of_every_layout_are_the_same_set(tmp_path, digits, name):
    found = read(digits, pictures(tmp_path / "set", PIXELS, LABELS, name))
    assert np.array_equal(found.pixels_NCHW, PIXELS)
    assert np.array_equal(found.labels_N, LABELS)
    assert found.fingerprint == fingerprint(PIXELS, LABELS)
    assert found.facts["layout"] == "pictures"


def test_the_order_of_recovery_takes_classes_in_turn_and_moves_nothing_within_one():
    labels_N = np.array([2, 0, 0, 1, 2, 1, 0])
    assert order_of_recovery(labels_N).tolist() == [1, 3, 0, 2, 5, 4, 6]


def test_a_distilled_set_follows_the_names_of_the_classes(tmp_path, digits):
    order = tuple("9876543210")
    shape = (len(PIXELS), *PIXELS.shape[1:])
    writer = ImageWriter(tmp_path / "images", shape, order)
    nothing = np.zeros(len(PIXELS), np.float32)
    writer.add(PIXELS.astype(np.float32) / np.float32(255), LABELS, 1, 0.1, nothing)
    writer.finish()
    for path in (tmp_path / "images" / "distilled.safetensors", tmp_path / "images"):
        found = read(digits, path)
        expected = distilled._sort(PIXELS, 9 - LABELS, {})
        assert found.fingerprint == expected.fingerprint
    with pytest.raises(UserError, match="have other classes"):
        read(
            SimpleNamespace(name="", train=other(digits.train)), tmp_path / "images" / "distilled.safetensors"
        )


def other(train):
    """The images with another name for a class."""
    arrays = train.pixels([0]), train.labels_N[:1]
    return ImageSet.from_arrays(*arrays, ["zero", *"123456789"], train.mean, train.std)
