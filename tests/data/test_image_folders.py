"""Trees of pictures: any folder, and the ImageNets in the layouts that people have."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from picture_trees import IDS, make_tiny_imagenet, make_tree
from PIL import Image

import engine.data
from engine.config import Data
from engine.errors import UserError


def load(name: str, root: Path, **settings: object) -> engine.data.DataSet:
    return engine.data.load(Data(name=name, root=str(root), **settings))


def test_classes_are_sorted_and_files_in_natural_order(tmp_path: Path) -> None:
    made = make_tree(tmp_path, {"train/cat": 12, "train/ant": 5, "test/ant": 3, "test/cat": 2})
    train = load("folder", tmp_path).train
    assert train.classes == ("ant", "cat")
    assert train.labels_N.tolist() == [0] * 5 + [1] * 12
    expected = [
        made[f"train/{name}/{index}"] for name, count in (("ant", 5), ("cat", 12)) for index in range(count)
    ]
    np.testing.assert_array_equal(train.pixels(range(17)).numpy(), np.stack(expected).transpose(0, 3, 1, 2))


@pytest.mark.parametrize("name", ["val", "test"])
def test_test_split_by_either_name(tmp_path: Path, name: str) -> None:
    made = make_tree(tmp_path, {"train/a": 2, "train/b": 2, f"{name}/a": 1, f"{name}/b": 1})
    test = load("folder", tmp_path).test
    assert len(test) == 2
    np.testing.assert_array_equal(test.pixels([1])[0].numpy(), made[f"{name}/b/0"].transpose(2, 0, 1))


def reorganised(raw: Path, target: Path, inner: str) -> Path:
    shutil.copytree(raw, target)
    for index in range(6):
        folder = target / "val" / IDS[index % 3] / inner
        folder.mkdir(parents=True, exist_ok=True)
        (target / "val" / "images" / f"{index}.JPEG").rename(folder / f"{index}.JPEG")
    shutil.rmtree(target / "val" / "images")
    return target


def test_every_layout_of_tiny_imagenet_gives_the_same_data_set(tmp_path: Path) -> None:
    raw = make_tiny_imagenet(tmp_path)
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
    raw = make_tiny_imagenet(tmp_path)
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


@pytest.mark.parametrize("data", [b"\xff\xfe", b"0.JPEG\0\tn00000001\n", b"\x1b[2J.JPEG n00000001\n"])
def test_a_table_of_pictures_that_is_no_text_is_refused(tmp_path: Path, data: bytes) -> None:
    for folder in ("train/n00000001", "val"):
        (tmp_path / folder).mkdir(parents=True)
        Image.new("RGB", (16, 16)).save(tmp_path / folder / "0.JPEG")
    (tmp_path / "LOC_val_solution.csv").write_bytes(data)
    with pytest.raises(UserError, match="LOC_val_solution") as caught:
        load("imagenet", tmp_path)
    assert caught.value.kind == "data"


NFC, NFD = "caf\u00e9", "cafe\u0301"


def test_names_that_differ_by_composition_are_one_class(tmp_path: Path) -> None:
    make_tree(tmp_path / "set", {f"train/{NFC}": 2, "train/tea": 2, f"val/{NFD}": 1, "val/tea": 1})
    data = load("folder", tmp_path / "set")
    assert data.train.classes == data.test.classes == (NFC, "tea")
    make_tree(tmp_path / "set", {f"train/{NFD}": 2})
    with pytest.raises(UserError, match="differ only in how their characters are composed"):
        load("folder", tmp_path / "set")


def test_names_that_are_not_utf8_are_text(tmp_path: Path) -> None:
    byte = os.fsdecode(b"caf\xe9")
    make_tree(tmp_path, {f"train/{byte}": 2, "train/tea": 2, f"test/{byte}": 1, "test/tea": 1})
    picture = tmp_path / "train" / "tea" / "0.png"
    picture.rename(picture.with_name(os.fsdecode(b"\xe9.png")))
    assert load("folder", tmp_path).train.classes == ("caf\\xe9", "tea")
    picture.write_bytes(b"")
    (tmp_path / "test" / byte / os.fsdecode(b"\xff.png")).write_bytes(b"")
    with pytest.raises(UserError, match=r"train/tea/0\.png"):
        load("folder", tmp_path)
    skipping = load("folder", tmp_path, on_bad_image="skip")
    assert skipping.test.skipped == ("test/caf\\xe9/\\xff.png",)
