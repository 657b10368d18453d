import errno
import hashlib
import re
from io import BytesIO

import numpy as np
import pytest
from faulty_disk import FaultyDisk, each_failure
from PIL import Image
from torchvision.datasets import ImageFolder

from engine.errors import UserError
from engine.store import files, images
from engine.store.rows import Rows, partial

CLASSES = ("a", "b", "c")
CONFIDENCE = np.linspace(0, 1, 12, dtype=np.float32)


def distilled(count=12, channels=3, size=8):
    rng = np.random.default_rng(0)
    pixels = rng.uniform(-0.1, 1.1, (count, channels, size, size)).astype(np.float32)
    return pixels, np.arange(count, dtype=np.int64) % 3


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("classes", [("ant", "bee", "cat"), ("10", "9", "a/b")])
def test_images_load_elsewhere_with_the_same_labels_and_pixels(tmp_path, channels, classes):
    pixels, labels = distilled(channels=channels)
    writer = images.ImageWriter(tmp_path / "images", pixels.shape, classes)
    writer.add(pixels[:6], labels[:6], 1, 0.1, CONFIDENCE[:6])
    assert not images.is_complete(tmp_path / "images")
    writer.add(pixels[6:], labels[6:], 2, 0.05, CONFIDENCE[6:])
    writer.finish()
    found = images.read(tmp_path / "images")
    assert np.array_equal(found.images_NCHW, pixels)
    assert np.array_equal(found.labels_N, labels)
    assert found.batch_N.tolist() == [1] * 6 + [2] * 6
    assert found.beta_N.tolist() == pytest.approx([0.1] * 6 + [0.05] * 6)
    assert np.array_equal(found.confidence_N, CONFIDENCE)
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
    writer.add(pixels, labels, 1, 0.1, CONFIDENCE)
    writer.finish()
    found = images.read(tmp_path, first)
    assert np.array_equal(found.images_NCHW, pixels[:count])
    assert np.array_equal(found.labels_N, labels[:count])
    assert len(found.batch_N) == len(found.beta_N) == count


def test_an_unfinished_set_keeps_its_batches_and_is_not_taken_for_finished(tmp_path):
    pixels, labels = distilled()
    writer = images.ImageWriter(tmp_path, pixels.shape, ("a", "b", "c"))
    writer.add(pixels[:6], labels[:6], 1, 0.1, CONFIDENCE[:6])
    writer.close()
    assert len(list(tmp_path.glob("*/*.png"))) == 6
    assert images.is_begun(tmp_path)
    assert not images.is_complete(tmp_path)
    with pytest.raises(UserError, match="no finished images"):
        images.read(tmp_path)


def test_a_full_disk_is_met_before_the_first_image(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "disk", FaultyDisk(1, errno.ENOSPC, ("allocate",)))
    with pytest.raises(UserError, match=r"[\d,]+ bytes are needed") as caught:
        images.ImageWriter(tmp_path, (1000, 3, 32, 32), ("a",))
    assert caught.value.kind == "disk"
    needed = int(re.search(r"([\d,]+) bytes", caught.value.message)[1].replace(",", ""))
    assert 0 < needed - 1000 * 3 * 32 * 32 * 4 < 100_000


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_files_are_rounded_down_and_what_they_decode_to_is_what_is_read(tmp_path, channels):
    pixels, labels = distilled(channels=channels, size=16)
    writer = images.ImageWriter(tmp_path, pixels.shape, CLASSES, form="jpeg75")
    writer.add(pixels[:6], labels[:6], 1, 0.1, CONFIDENCE[:6])
    writer.add(pixels[6:], labels[6:], 2, 0.05, CONFIDENCE[6:])
    writer.finish()
    found = images.read(tmp_path)
    assert np.array_equal(found.images_NCHW, pixels)  # the float images stay as they are
    assert found.lossy
    reader = images.Reader(tmp_path)
    read_pixels, _ = images.read_pixels(tmp_path, chunk=5)
    for index in range(12):
        levels = (np.clip(pixels[index], 0, 1) * 255).astype(np.uint8)
        expected = BytesIO()
        mode = levels[0] if channels == 1 else levels.transpose(1, 2, 0)
        Image.fromarray(np.ascontiguousarray(mode)).save(expected, "JPEG", quality=75)
        path = tmp_path / CLASSES[labels[index]] / f"{index // 3:04d}.jpg"
        assert path.read_bytes() == expected.getvalue()
        with Image.open(path) as image:
            decoded = np.atleast_3d(np.asarray(image)).transpose(2, 0, 1)
        for read in (found.pixels_NCHW[index], read_pixels[index], reader.pixels(index)):
            assert np.array_equal(read, decoded)
    assert not np.array_equal(found.pixels_NCHW, images.to_bytes(pixels))
    assert images.check(tmp_path) == []
    path.write_bytes(path.read_bytes() + b"more")
    assert images.check(tmp_path) == [f"{path} is damaged: its content does not match its checksum"]


def test_a_set_of_jpeg_files_is_taken_up_and_its_files_are_mended(tmp_path):
    whole, folder = tmp_path / "whole", tmp_path / "cut"
    for target in (whole, folder):
        writer = images.ImageWriter(target, distilled()[0].shape, CLASSES, form="jpeg75")
        add(writer, (1, 2, 3))
        writer.close()
    (folder / "b" / "0001.jpg").unlink()
    for target, done in ((whole, 9), (folder, 6)):
        writer = images.ImageWriter(target, distilled()[0].shape, CLASSES, done, form="jpeg75")
        add(writer, range(done // 3 + 1, 5))
        writer.finish()
    assert writer.repaired == ["b/0001.jpg"]
    assert content(folder) == content(whole)
    assert len(list(folder.glob("*/*.jpg"))) == 12


def add(writer, batches, strange=()):
    """Three images a batch; those in `strange` are not what an uninterrupted recovery gives."""
    pixels, labels = distilled()
    for batch in batches:
        rows = slice(3 * batch - 3, 3 * batch)
        writer.add(
            pixels[rows] * (0.5 if batch in strange else 1.0), labels[rows], batch, 0.1, CONFIDENCE[rows]
        )


def written(folder, batches=(1, 2, 3, 4), done=0):
    """A set of four batches, of which these are added; finished if the last is in."""
    writer = images.ImageWriter(folder, distilled()[0].shape, CLASSES, done)
    add(writer, batches)
    if writer.done == 12:
        writer.finish()
    writer.close()
    return writer


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.*")}


@pytest.mark.parametrize("done", [0, 1, 2, 3, 4])
def test_a_set_taken_up_after_any_batch_ends_as_one_written_at_once(tmp_path, done):
    written(tmp_path / "whole")
    folder = tmp_path / "cut"
    writer = images.ImageWriter(folder, distilled()[0].shape, CLASSES)
    add(writer, range(1, min(done + 2, 4) + 1), strange=range(done + 1, 5))
    writer.close()
    (folder / "a" / ".0003.png.1.tmp").write_bytes(b"torn")
    writer = written(folder, range(done + 1, 5), done=3 * done)
    assert writer.repaired == []
    assert content(folder) == content(tmp_path / "whole")


def test_images_beyond_those_that_are_kept_are_taken_away_when_a_set_is_taken_up(tmp_path):
    written(tmp_path, (1, 2, 3))
    (tmp_path / "a" / "notes.png").write_bytes(b"a person's own")
    images.ImageWriter(tmp_path, distilled()[0].shape, CLASSES, 6).close()
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["0000.png", "0001.png", "notes.png"]


@pytest.mark.parametrize("harm", ["altered", "torn", "lost"])
def test_a_png_file_that_does_not_fit_is_mended_from_its_float_image(tmp_path, harm):
    written(tmp_path / "whole")
    written(tmp_path / "cut", (1, 2))
    path = tmp_path / "cut" / "b" / "0001.png"
    if harm == "lost":
        path.unlink()
    else:
        data = path.read_bytes()
        path.write_bytes(data[:-9] if harm == "torn" else data[:50] + bytes([data[50] ^ 1]) + data[51:])
    writer = written(tmp_path / "cut", (3, 4), done=6)
    assert writer.repaired == ["b/0001.png"]
    assert content(tmp_path / "cut") == content(tmp_path / "whole")


def test_a_png_file_mended_by_another_encoder_fits_again(tmp_path, monkeypatch):
    written(tmp_path, (1, 2))
    (tmp_path / "a" / "0000.png").unlink()
    real = images.png
    monkeypatch.setattr(images, "png", lambda pixels: real(pixels) + b"more")
    assert written(tmp_path, (), done=6).repaired == ["a/0000.png"]
    assert written(tmp_path, (), done=6).repaired == []
    assert images.check(tmp_path, 6) == []


def test_a_float_image_that_is_damaged_is_named_and_not_taken_up(tmp_path):
    written(tmp_path, (1, 2))
    table = partial(tmp_path / images.TENSORS)
    part = Rows(table).header.parts["images"]
    data = bytearray(table.read_bytes())
    data[part.start + 4 * part.size // 12 + 5] ^= 1
    table.write_bytes(data)
    with pytest.raises(UserError, match=r"distilled\.safetensors\.partial is damaged: image 4 ") as caught:
        written(tmp_path, (3, 4), done=6)
    assert "recovered again" in caught.value.hint
    assert images.check(tmp_path, 3) == []
    assert len(images.check(tmp_path, 6)) == 1
    written(tmp_path, (2, 3, 4), done=3)
    assert images.check(tmp_path) == []


def test_any_altered_byte_of_a_finished_set_is_noticed_by_all_readers_that_use_it(tmp_path):
    writer = images.ImageWriter(tmp_path, (2, 1, 2, 2), ("a", "b"))
    writer.add(np.zeros((2, 1, 2, 2), np.float32), np.array([0, 1]), 1, 0.5, CONFIDENCE[:2])
    writer.finish()
    assert images.check(tmp_path) == []
    for path in (tmp_path / images.TENSORS, tmp_path / "a" / "0000.png"):
        whole = path.read_bytes()
        for at in range(len(whole)):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 2]) + whole[at + 1 :])
            (message,) = images.check(tmp_path)
            assert message.startswith(f"{path} is damaged: ")
            if path.name == images.TENSORS:
                for reading in (images.read, images.read_pixels):
                    with pytest.raises(UserError, match="is damaged") as caught:
                        reading(tmp_path)
                    assert caught.value.kind == "data"
        path.write_bytes(whole)
    (tmp_path / "b" / "0000.png").unlink()
    assert images.check(tmp_path) == [f"{tmp_path / 'b' / '0000.png'} does not exist"]


def test_a_batch_is_there_or_not_whatever_fails(tmp_path, monkeypatch):
    """After any failing call the images that were reported as added are taken up, and all ends well."""
    written(tmp_path / "whole")
    number = 0

    def prepare():
        nonlocal number
        number += 1
        return tmp_path / str(number), []

    def work(place):
        folder, added = place
        writer = images.ImageWriter(folder, distilled()[0].shape, CLASSES)
        try:
            for batch in range(1, 5):
                add(writer, [batch])
                added.append(batch)
            writer.finish()
        finally:
            writer.close()

    for (folder, added), error in each_failure(monkeypatch, prepare, work):
        if error is not None:
            assert isinstance(error, UserError)
            if not images.is_complete(folder):
                written(folder, tuple(range(len(added) + 1, 5)), done=3 * len(added))
        assert images.check(folder) == []
        assert content(folder) == content(tmp_path / "whole")
    assert number > 60


def test_a_batch_costs_one_sync_a_file_and_each_folder_one_at_the_end(tmp_path, monkeypatch):
    disk = FaultyDisk()
    monkeypatch.setattr(files, "disk", disk)
    pixels, labels = distilled()
    writer = images.ImageWriter(tmp_path, pixels.shape, CLASSES)
    before = disk.calls["fsync"]
    writer.add(pixels, labels, 1, 0.1, CONFIDENCE)
    assert disk.calls["fsync"] - before == 12 + 1
    writer.finish()
    assert disk.calls["fsync"] - before == 12 + 1 + 3 + 2
    writer.sync()
    writer.close()


def test_the_digests_are_those_of_the_png_files(tmp_path):
    written(tmp_path)
    told = Rows(tmp_path / images.TENSORS).read(0, 12)["png_sha256"]
    assert told[4].tobytes() == hashlib.sha256((tmp_path / "b" / "0001.png").read_bytes()).digest()
