"""A tree of pictures: train/CLASS/*, and test/CLASS/* or val/CLASS/* if there is a test split."""

from __future__ import annotations

from pathlib import Path

from engine.data.layout import DataSetSource, as_files, refuse, require_images, require_same_classes
from engine.data.pictures import Files, images_below, subfolders

TEST_NAMES = ("test", "val", "valid", "validation")


def matches(path: Path) -> bool:
    """Return whether `path` has this layout."""
    return (path / "train").is_dir()


def read(path: Path, want_test: bool) -> DataSetSource:
    """List the pictures of the tree; the test split only if `want_test`. Raises UserError("data")."""
    classes = subfolders(path / "train")
    if not classes:
        refuse(f"{path / 'train'} has no class folders", "put the pictures of each class in train/CLASS/")
    train = list_split(path, "train", classes)
    test_name = next((name for name in TEST_NAMES if (path / name).is_dir()), None) if want_test else None
    if test_name is None:
        return DataSetSource(path, "folder: train/CLASS/*", tuple(classes), train, None)
    require_same_classes(classes, subfolders(path / test_name), path)
    test = list_split(path, test_name, classes)
    return DataSetSource(path, f"folder: train/CLASS/*, {test_name}/CLASS/*", tuple(classes), train, test)


def list_split(path: Path, name: str, classes: list[str]) -> Files:
    """List the pictures in `path`/`name`/CLASS for every class, including subfolders.

    Raises UserError("data") if a class has no pictures.
    """
    groups = [images_below(path, f"{name}/{label}") for label in classes]
    require_images(groups, [path / name / label for label in classes])
    return as_files(path, groups)
