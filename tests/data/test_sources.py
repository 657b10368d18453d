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
    assert "cfm data get" in caught.value.hint


def test_a_data_folder_that_is_not_utf8_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CFM_DATA_ROOT", str(tmp_path / "caf\udce9"))
    with pytest.raises(UserError, match=r"caf\\xe9 is not UTF-8"):
        engine.data.load(Data(name="cifar10"))


def relocated(tree: Path) -> dict[Path, Path | None]:
    """Wrong data roots of the set in DIR/set, and the folder that each message must name."""
    return {
        tree / "train": tree,
        tree / "train" / "a": tree,
        tree / "test": tree,
        tree.parent: tree,
    }


@pytest.mark.parametrize("number", range(4))
def test_a_root_on_another_level_names_the_folder_that_is_meant(tmp_path: Path, number: int) -> None:
    tree = tmp_path / "outer" / "set"
    make_tree(tree, {"train/a": 2, "train/b": 2, "test/a": 1, "test/b": 1})
    root, meant = list(relocated(tree).items())[number]
    with pytest.raises(UserError) as caught:
        load(root)
    assert caught.value.kind == "data"
    assert f"give {meant} as the data root" in caught.value.hint


@pytest.mark.parametrize("tests", ["test", "val", "valid", "validation"])
def test_splits_in_place_of_classes_are_refused(tmp_path: Path, tests: str) -> None:
    make_tree(tmp_path, {f"train/{split}/{name}": 2 for split in ("train", tests) for name in "ab"})
    with pytest.raises(UserError, match="contains splits instead of classes") as caught:
        load(tmp_path)
    assert f"give {tmp_path / 'train'} as the data root" in caught.value.hint
    data = load(tmp_path / "train")
    assert data.train.classes == ("a", "b")
    assert len(data.test) == 4


@pytest.mark.parametrize(
    ("folders", "said"),
    [
        (["train/set/a", "train/set/b"], "a single folder, set, which contains 2 folders: a, b"),
        (["train/a", "train/b", "test/test/a", "test/test/b"], "are one level deeper, in"),
        (["train/a", "train/b", "test"], "test has no class folders"),
        (["train/a", "train/b", "Test/a", "Test/b"], "no folder `test`, but Test"),
        (["training/a", "training/b"], "no folder `train`, but training"),
        (["a", "b"], "no folder `train`, but folders of pictures: a, b"),
        (["."], "contains pictures, but no folder `train`"),
    ],
)
def test_class_folders_on_another_level_are_refused(tmp_path: Path, folders: list[str], said: str) -> None:
    make_tree(tmp_path / "set", dict.fromkeys(folders, 2))
    with pytest.raises(UserError, match=said) as caught:
        load(tmp_path / "set")
    assert caught.value.hint


def test_classes_that_have_names_of_splits_or_subfolders_are_classes(tmp_path: Path) -> None:
    make_tree(tmp_path / "vehicles", {"train/train": 3, "train/car": 3})
    assert load(tmp_path / "vehicles").train.classes == ("car", "train")
    make_tree(tmp_path / "nested", {"train/a/1": 3, "train/a/2": 3, "train/b/1": 3})
    assert load(tmp_path / "nested").train.classes == ("a", "b")
