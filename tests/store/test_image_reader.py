"""Images read one by one, of sets that are finished or still grow."""

from __future__ import annotations

import numpy as np
import pytest

from engine.errors import UserError
from engine.store import images
from engine.store.rows import Rows

CLASSES = ("a", "b", "c")
CONFIDENCE = np.linspace(0, 1, 12, dtype=np.float32)


def distilled(count=12, channels=3, size=8):
    rng = np.random.default_rng(0)
    pixels = rng.uniform(-0.1, 1.1, (count, channels, size, size)).astype(np.float32)
    return pixels, np.arange(count, dtype=np.int64) % 3


def test_a_reader_sees_an_unfinished_set_grow_and_reads_single_images(tmp_path):
    pixels, labels = distilled()
    with pytest.raises(UserError):
        images.Reader(tmp_path)
    writer = images.ImageWriter(tmp_path, pixels.shape, CLASSES)
    reader = images.Reader(tmp_path)
    assert (reader.count, reader.total, reader.classes) == (0, 12, CLASSES)
    assert not reader.refresh()
    writer.add(pixels[:6], labels[:6], 1, 0.1, CONFIDENCE[:6])
    assert reader.refresh()
    assert not reader.refresh()
    assert (reader.count, reader.labels_N.tolist()) == (6, labels[:6].tolist())
    writer.add(pixels[6:], labels[6:], 2, 0.05, CONFIDENCE[6:])
    assert reader.refresh()
    assert np.array_equal(reader.pixels(7), images.to_bytes(pixels[7]))
    writer.finish()
    with pytest.raises(UserError, match="cannot read"):
        reader.pixels(0)
    reader = images.Reader(tmp_path)
    assert reader.count == 12
    assert reader.batch_N.tolist() == [1] * 6 + [2] * 6
    assert reader.beta_N.tolist() == pytest.approx([0.1] * 6 + [0.05] * 6)


def test_a_reader_refuses_a_damaged_image_alone(tmp_path):
    pixels, labels = distilled()
    writer = images.ImageWriter(tmp_path, pixels.shape, CLASSES)
    writer.add(pixels, labels, 1, 0.1, CONFIDENCE)
    writer.finish()
    path = tmp_path / images.TENSORS
    part = Rows(path).header.parts["images"]
    with path.open("r+b") as file:
        file.seek(part.start + 3 * part.size // 12)
        file.write(b"\x00\x01\x02")
    reader = images.Reader(tmp_path)
    assert np.array_equal(reader.pixels(2), images.to_bytes(pixels[2]))
    with pytest.raises(UserError, match="image 3 does not match its checksum"):
        reader.pixels(3)
    assert np.array_equal(reader.confidence_N, CONFIDENCE)
