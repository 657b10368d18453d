"""Trees of pictures with a folder for each class: any folder, ImageNet and Tiny-ImageNet.

Any folder: train/CLASS/*, and test/CLASS/* or val/CLASS/* if there is a test split. The ImageNets have
classes named by WordNet ids, and several layouts of the validation split: all pictures in one folder with a
table of their classes (``val_annotations.txt`` of the Tiny-ImageNet archive, or ``LOC_val_solution.csv``),
val/WNID/*, and val/WNID/images/*. Class ids are always sorted, unlike in ``wnids.txt``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from engine.data.pictures import (
    DataSetSource,
    Files,
    PictureEntry,
    list_images,
    list_subfolders,
    natural_sort_key,
)
from engine.errors import format_names, raise_data_error

_TABLES = ("val_annotations.txt", "LOC_val_solution.csv")


def read_folder(path: Path, want_test: bool) -> DataSetSource:
    """List the pictures of a tree; the test split only if `want_test`. Raises UserError("data")."""
    classes = _list_classes(path, "CLASS")
    train = _list_split(path, "train", classes)
    names = ("test", "val", "valid", "validation") if want_test else ()
    test_name = next((name for name in names if (path / name).is_dir()), None)
    if test_name is None:
        return DataSetSource(path, "folder: train/CLASS/*", tuple(classes), train, None)
    _require_same_classes(classes, list_subfolders(path / test_name), path)
    test = _list_split(path, test_name, classes)
    return DataSetSource(path, f"folder: train/CLASS/*, {test_name}/CLASS/*", tuple(classes), train, test)


def read_imagenet(path: Path, want_test: bool) -> DataSetSource:
    """List the pictures; the validation split only if `want_test`. Raises UserError("data")."""
    classes = _list_classes(path, "WNID")
    table = path / "wnids.txt"
    if table.is_file():
        listed = sorted(set(read_text(table).split()))
        missing, unlisted = sorted(set(listed) - set(classes)), sorted(set(classes) - set(listed))
        if missing:
            message = f"{path / 'train'} lacks classes of wnids.txt: {format_names(missing)}"
            raise_data_error(message, "unpack the whole archive")
        if unlisted:
            raise_data_error(
                f"{path / 'train'} has classes that wnids.txt does not list: {format_names(unlisted)}",
                "remove these folders, or remove wnids.txt to use all folders as classes",
            )
    train = _list_split(path, "train", classes)
    layout = f"train/{_describe_files(train)}"
    if not want_test:
        return DataSetSource(path, layout, tuple(classes), train, None)
    test, test_layout = _list_validation(path, classes)
    return DataSetSource(path, f"{layout}, {test_layout}", tuple(classes), train, test)


def _list_classes(path: Path, placeholder: str) -> list[str]:
    classes = list_subfolders(path / "train")
    if not classes:
        message = f"{path / 'train'} has no class folders"
        raise_data_error(message, f"put the pictures of each class in train/{placeholder}/")
    return classes


def _list_split(path: Path, name: str, classes: Sequence[str]) -> Files:
    """List the pictures in `path`/`name`/CLASS for every class, including subfolders.

    Raises UserError("data") if a class has no pictures.
    """
    groups = [list_images(path, f"{name}/{label}") for label in classes]
    _require_images(groups, [path / name / label for label in classes])
    return Files.join(path, groups)


def _describe_files(files: Files) -> str:
    return "WNID/images/*" if files.entries[0].name.count("/") > 2 else "WNID/*"


def _list_validation(path: Path, classes: list[str]) -> tuple[Files, str]:
    name = next((name for name in ("val", "test") if (path / name).is_dir()), None)
    if name is None:
        raise_data_error(f"{path} has no folder `val`", "unpack the whole archive, or set data.test=holdout")
    folders = [label for label in list_subfolders(path / name) if label != "images"]
    if folders:
        _require_same_classes(classes, folders, path)
        files = _list_split(path, name, classes)
        return files, f"{name}/{_describe_files(files)}"
    # LOC_val_solution.csv is in the folder that contains ILSVRC/Data/CLS-LOC
    tables = [
        place / table for place in (path / "val", path, *path.resolve().parents[:3]) for table in _TABLES
    ]
    table = next((table for table in tables if table.is_file()), None)
    if table is None:
        message = f"{path / name} has no class folders, and there is no {' or '.join(_TABLES)}"
        raise_data_error(message, f"move the pictures to {name}/WNID/, or put one of these tables there")
    return _list_from_table(path, name, classes, table), f"{name}/* with {table.name}"


def _list_from_table(path: Path, name: str, classes: list[str], table: Path) -> Files:
    """List the pictures in a table of file names and classes, ordered by class and name."""
    image_folder = f"{name}/images" if (path / name / "images").is_dir() else name
    groups: dict[str, list[PictureEntry]] = {label: [] for label in classes}
    labels = _parse_table(table)
    _require_same_classes(classes, sorted(set(labels.values())), table)
    for file in sorted(labels, key=natural_sort_key):
        groups[labels[file]].append(PictureEntry.read(path, f"{image_folder}/{file}"))
    _require_images(list(groups.values()), [table] * len(groups))
    return Files.join(path, list(groups.values()))


def _parse_table(table: Path) -> dict[str, str]:
    """Return the class id of each file name in a table; lines without a class id (headers) are skipped."""
    labels = {}
    for line in read_text(table).splitlines():
        fields = re.split(r"[\t, ]+", line.strip())
        if len(fields) >= 2 and re.fullmatch(r"n[0-9]{8}", fields[1]):
            file = fields[0] if "." in fields[0] else f"{fields[0]}.JPEG"
            if "/" in file or "\\" in file or file.startswith("..") or not file.isprintable():
                raise_data_error(
                    f"{table} names {file!r}, which is not a plain file name", "download it again"
                )
            labels[file] = fields[1]
    if not labels:
        raise_data_error(f"{table} lists no pictures", "download it again")
    return labels


def _require_images(groups: Sequence[Sequence[PictureEntry]], places: Sequence[Path]) -> None:
    """Raise UserError("data") if a class has no pictures, naming the empty folders."""
    empty = [str(place) for group, place in zip(groups, places, strict=True) if not group]
    if empty:
        hint = "put JPEG, PNG, BMP, GIF, WebP, PPM or TIFF files there, or remove the folder"
        raise_data_error(f"no pictures in {format_names(empty)}", hint)


def _require_same_classes(train: Sequence[str], test: Sequence[str], where: Path) -> None:
    """Raise UserError("data") if the splits have different classes, naming the differences."""
    differences = [
        f"{kind}: {format_names(sorted(names))}"
        for kind, names in (
            ("without test images", set(train) - set(test)),
            ("without training images", set(test) - set(train)),
        )
        if names
    ]
    if differences:
        raise_data_error(
            f"the training and test classes in {where} differ; {'; '.join(differences)}",
            "give every class a folder of pictures in both splits, or set data.test=holdout to use only "
            "train",
        )


def read_text(path: Path) -> str:
    """Return the text of a table or list of names. Raises UserError("data") if it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise_data_error(f"{path} is not UTF-8 text", "download it again")
