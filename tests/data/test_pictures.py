"""Pictures of a folder: their order, what is none, and what must not be opened."""

import os
from pathlib import Path

import numpy as np
import pytest
from picture_trees import make_tree

from engine.data.decode import BadImage, open_picture
from engine.data.pictures import Files, PictureEntry, list_images, list_subfolders


def test_pictures_are_in_natural_order_and_hidden_ones_are_none(tmp_path: Path) -> None:
    make_tree(
        tmp_path, {"cat": 12, "cat/more": 1, ".cache": 1, "cat/.thumbnails": 1, "__MACOSX": 1, "ant": 1}
    )
    for name in ("._0.png", "notes.txt"):
        (tmp_path / "cat" / name).touch()
    names = [entry.name for entry in list_images(tmp_path, "cat")]
    assert names == [*(f"cat/{index}.png" for index in range(12)), "cat/more/0.png"]
    assert list_subfolders(tmp_path) == ["ant", "cat"]


def test_stamps_follow_times_and_places_and_contents_do_not(tmp_path: Path) -> None:
    make_tree(tmp_path / "a", {"cat": 2})
    make_tree(tmp_path / "b", {"cat": 2})
    first, second = (
        Files.join(root, [list_images(root, "cat")]) for root in (tmp_path / "a", tmp_path / "b")
    )
    assert first.contents() == second.contents()
    assert first.stamp() != second.stamp()
    os.utime(tmp_path / "a" / "cat" / "0.png", (1, 1))
    later = Files.join(tmp_path / "a", [list_images(tmp_path / "a", "cat")])
    assert later.contents() == first.contents()
    assert later.stamp() != first.stamp()


def test_what_is_no_plain_file_is_not_opened(tmp_path: Path) -> None:
    """A pipe would be waited for without end."""
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "lost.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "huge.png").write_bytes(b"RIFF\0\0\0\x80WEBPVP8X")  # WebP is read whole
    os.truncate(tmp_path / "huge.png", 2**40)
    said = {"lost.png": "no such file", "huge.png": "more than"}
    for path in tmp_path.iterdir():
        files = Files(tmp_path, (PictureEntry.read(tmp_path, path.name),), np.zeros(1, np.int64))
        with pytest.raises(BadImage, match=said.get(path.name, "not a plain file")):
            open_picture(files, 0)


def test_pictures_have_endings_in_any_case_and_lie_behind_links(tmp_path: Path) -> None:
    make_tree(tmp_path / "set", {"train/cat": 1, "train/dog": 1})
    make_tree(tmp_path / "elsewhere", {"cats": 2})
    folder = tmp_path / "set" / "train" / "cat"
    for name in ("1.JPEG", "2.jfif", "3.Jpe", "4.TIF", "5.pnm", "6.heic"):
        (folder / name).touch()
    (folder / "more").symlink_to(tmp_path / "elsewhere" / "cats")
    for name, target in (("self", "."), ("up", ".."), ("top", "/")):
        (folder / name).symlink_to(target)
    (tmp_path / "elsewhere" / "cats" / "back").symlink_to(tmp_path / "elsewhere" / "cats")
    names = [entry.name.removeprefix("train/cat/") for entry in list_images(tmp_path / "set", "train/cat")]
    assert names == ["0.png", "1.JPEG", "2.jfif", "3.Jpe", "4.TIF", "5.pnm", "more/0.png", "more/1.png"]
