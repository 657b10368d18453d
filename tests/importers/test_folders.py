"""Folders of pictures: which class a folder is, and what is none."""

import os
from pathlib import Path

import numpy as np
import pytest
from picture_trees import make_tree

from engine.data import ImageSet
from engine.errors import UserError
from engine.importers import folders


@pytest.mark.parametrize(
    ("name", "label"),
    [("bee", 1), ("1", 1), ("002", 2), ("new00", 0), ("1_bee", 1), ("3", None), ("dog", None)],
)
def test_which_class_a_folder_is(name: str, label: int | None) -> None:
    assert folders.fit_label(name, ("ant", "bee", "cat")) == label


@pytest.mark.parametrize(
    ("classes", "names"),
    [
        (
            ["class_1", "class_10", *(f"class_{n}" for n in range(2, 10))],
            [f"class_{n:02d}" for n in range(1, 11)],
        ),
        (["1", "10", *"23456789"], [f"{n:03d}" for n in range(1, 11)]),
        (["cat", "dog", "ant"], ["0_cat", "1_dog", "2_ant"]),
        (["ant", "cat", "dog"], ["0_cat", "1_dog", "2_ant"]),
    ],
)
def test_folders_named_by_class_are_not_taken_by_number(tmp_path: Path, classes, names) -> None:
    made = make_tree(tmp_path, dict.fromkeys(names, 1), mode="L")
    like = ImageSet.from_arrays(np.zeros((1, 1, 16, 16), np.uint8), [0], classes, (0.5,), (0.5,))
    found = folders.read_images(tmp_path, like)
    for index, label in enumerate(found.labels_N.tolist()):
        (name,) = [n for n in names if np.array_equal(found.pixels([index])[0, 0], made[f"{n}/0"])]
        assert classes[label].split("_")[-1] == name.split("_")[-1].lstrip("0")


def test_numbers_that_are_not_the_classes_are_labels(tmp_path: Path) -> None:
    names = [f"{n:02d}" for n in range(3)]
    make_tree(tmp_path, dict.fromkeys(names, 1), mode="L")
    like = ImageSet.from_arrays(np.zeros((1, 1, 16, 16), np.uint8), [0], ["1", "2", "3"], (0.5,), (0.5,))
    assert folders.read_images(tmp_path, like).labels_N.tolist() == [0, 1, 2]


@pytest.mark.parametrize("name", ["pipe.png", "x" * 5000, "nowhere.png"])
def test_what_is_neither_file_nor_folder_is_not_scored(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(UserError, match=r"neither|does not exist"):
        folders.require_images(tmp_path / name)
