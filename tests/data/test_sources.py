"""Data sets that are missing are named, with what to do."""

from pathlib import Path

import pytest
from picture_trees import make_tree

import engine.data
from engine.config import Data
from engine.errors import UserError


def load(root: Path, **settings: object) -> engine.data.DataSet:
    return engine.data.load(Data(name="folder", root=str(root), **settings))


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="is empty"):
        load(tmp_path / "empty")
    (tmp_path / "wrong" / "cats").mkdir(parents=True)
    with pytest.raises(UserError, match="no folder `train`") as caught:
        load(tmp_path / "wrong")
    assert "train/CLASS" in caught.value.hint
    make_tree(tmp_path / "hole", {"train/a": 2, "train/b": 0})
    with pytest.raises(UserError, match=r"no pictures in .*train/b"):
        load(tmp_path / "hole")
    make_tree(tmp_path / "other", {"train/a": 2, "train/b": 2, "test/a": 1, "test/c": 1})
    with pytest.raises(UserError, match=r"without test images: b; without training images: c"):
        load(tmp_path / "other")
    with pytest.raises(UserError, match="needs a data root"):
        engine.data.load(Data(name="folder"))
    with pytest.raises(UserError) as caught:
        engine.data.load(Data(name="cifar10", root=str(tmp_path / "empty")))
    assert "cfm data get cifar10" in caught.value.hint
