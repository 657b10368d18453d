"""Folders of pictures: which class a folder is, and what is none."""

import os
from pathlib import Path

import pytest

from engine.errors import UserError
from engine.importers import folders


@pytest.mark.parametrize(
    ("name", "label"),
    [("bee", 1), ("1", 1), ("002", 2), ("new00", 0), ("1_bee", 1), ("3", None), ("dog", None)],
)
def test_which_class_a_folder_is(name: str, label: int | None) -> None:
    assert folders.fit_label(name, ("ant", "bee", "cat")) == label


@pytest.mark.parametrize("name", ["pipe.png", "x" * 5000, "nowhere.png"])
def test_what_is_neither_file_nor_folder_is_not_scored(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(UserError, match=r"neither|does not exist"):
        folders.require_images(tmp_path / name)
