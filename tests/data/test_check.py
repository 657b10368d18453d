"""The report on a data set agrees with the set that is loaded."""

import os
from pathlib import Path

import numpy as np
import pytest
from picture_trees import make_tiny_imagenet, make_tree
from PIL import Image

import engine.data
from engine.config import Data
from engine.data.check import check


@pytest.mark.parametrize("test", ["test", "holdout"])
@pytest.mark.parametrize("name", ["digits", "folder"])
def test_the_report_counts_what_is_loaded(tmp_path: Path, name: str, test: str) -> None:
    make_tree(tmp_path, {"train/cat": 12, "train/ant": 5, "test/ant": 3, "test/cat": 2})
    settings = Data(name=name, root=str(tmp_path), test=test)
    report, data = check(settings), engine.data.load(settings)
    assert report["ok"]
    assert report["class_names"] == list(data.train.classes)
    assert (report["channels"], report["image_size"]) == (data.train.channels, data.train.size)
    assert [split["images"] for split in report["splits"].values()] == [len(data.train), len(data.test)]
    assert report["splits"]["test"]["held_out"] == (test == "holdout")
    if test == "test":
        assert (report["mean"], report["std"]) == (list(data.train.mean), list(data.train.std))


def test_the_report_counts_what_is_converted_and_what_is_not_read(tmp_path: Path) -> None:
    make_tree(tmp_path, {"train/a": 6, "train/b": 2, "test/a": 1, "test/b": 1})
    folder = tmp_path / "train" / "a"
    exif = Image.Exif()
    exif[0x0112] = 3
    picture = Image.open(folder / "0.png")
    picture.save(folder / "0.png", exif=exif)
    picture.convert("RGBA").save(folder / "1.png")
    picture.convert("CMYK").save(folder / "2.tif")
    Image.fromarray(np.full((16, 16), 65535, np.uint16)).save(folder / "3.png")
    for name in ("a/notes.txt", "a/more.TXT", "b/list", "b/._0.png", os.fsdecode(b"b/x.\xe9"), "c.png"):
        (tmp_path / "train" / name).touch()
    (folder / ".cache").mkdir()
    report = check(Data(name="folder", root=str(tmp_path)))
    assert report["conversions"] == {
        "16 bits per channel scaled to 8": 1,
        "CMYK converted to RGB": 1,
        "transparency ignored": 1,
        "turned upright (EXIF)": 1,
    }
    assert report["not_read"] == {".txt": 2, "hidden": 2, "no ending": 1, ".\\xe9": 1, ".png": 1}
    assert report["ok"]


def test_tables_of_the_classes_are_read(tmp_path: Path) -> None:
    path = make_tiny_imagenet(tmp_path)
    (path / "train" / "n00000001" / "n00000001_boxes.txt").touch()
    assert check(Data(name="tiny-imagenet", root=str(path)))["not_read"] == {".txt": 1}


def test_classes_without_images_are_a_problem(tmp_path: Path) -> None:
    make_tree(tmp_path, {"train/a": 2, "train/b\n": 2, "test/a": 1, "test/b\n": 1})
    settings = Data(name="folder", root=str(tmp_path), on_bad_image="skip")
    (tmp_path / "test" / "b\n" / "0.png").write_bytes(b"")
    report = check(settings)
    assert report["problems"] == ["the test split has no readable images of b\\n"]
    assert not report["ok"]
    make_tree(tmp_path / "few", {"train/a": 2, "train/b": 1})
    (problem,) = check(Data(name="folder", root=str(tmp_path / "few")))["problems"]
    assert "cannot hold out images of classes with fewer than two: b" in problem
