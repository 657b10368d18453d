"""Trees of pictures with a folder for each class: any folder, ImageNet and Tiny-ImageNet.

Any folder: train/CLASS/*, and test/CLASS/* or val/CLASS/* if there is a test split. The ImageNets have
classes named by WordNet ids, and several layouts of the validation split: all pictures in one folder with a
table of their classes (``val_annotations.txt`` of the Tiny-ImageNet archive, or ``LOC_val_solution.csv``),
val/WNID/*, and val/WNID/images/*. Class ids are always sorted, unlike in ``wnids.txt``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from engine.data.pictures import (
    DataSetSource,
    Files,
    PictureEntry,
    decode_name,
    is_image,
    list_images,
    list_subfolders,
    name_key,
    natural_sort_key,
)
from engine.errors import format_names, raise_data_error

SPLITS = ("train", "test", "val", "valid", "validation")
TABLES = ("val_annotations.txt", "LOC_val_solution.csv")


def read_folder(path: Path, want_test: bool) -> DataSetSource:
    """List the pictures of a tree; the test split only if `want_test`. Raises UserError("data")."""
    folders = list_class_folders(path)
    classes = tuple(map(decode_name, folders))
    train = _list_split(path, "train", folders)
    test_name = _find_test_split(path) if want_test else None
    if test_name is None:
        return DataSetSource(path, "folder: train/CLASS/*", classes, train, None)
    test_folders = _match_folders(path, test_name, list_subfolders(path / test_name), classes)
    test = _list_split(path, test_name, test_folders)
    return DataSetSource(path, f"folder: train/CLASS/*, {test_name}/CLASS/*", classes, train, test)


def read_imagenet(path: Path, want_test: bool) -> DataSetSource:
    """List the pictures; the validation split only if `want_test`. Raises UserError("data")."""
    folders = list_class_folders(path, "WNID")
    classes = tuple(map(decode_name, folders))
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
    train = _list_split(path, "train", folders)
    layout = f"train/{_describe_files(train)}"
    if not want_test:
        return DataSetSource(path, layout, classes, train, None)
    test, test_layout = _list_validation(path, classes)
    return DataSetSource(path, f"{layout}, {test_layout}", classes, train, test)


def list_class_folders(path: Path, placeholder: str = "CLASS") -> list[str]:
    """Return the sorted names of the folders in `path`/train, one for each class.

    Raises UserError("data") if there are none, if they are on another level of the tree, or if two have
    names that differ only in how their characters are composed.
    """
    train = path / "train"
    folders = list_subfolders(train)
    if not folders:
        message = f"{train} has no class folders"
        raise_data_error(message, f"put the pictures of each class in train/{placeholder}/")
    splits = [name for name in folders if name.lower() in SPLITS and _has_only_subfolders(train / name)]
    if len(splits) == len(folders) or ("train" in splits and len(splits) > 1):
        whole = train if "train" in splits else path
        hint = f"give {whole} as the data root" if whole == train else f"move these folders to {path}"
        raise_data_error(f"{train} contains splits instead of classes: {format_names(splits)}", hint)
    if len(folders) == 1 and _has_only_subfolders(train / folders[0]):
        inner = list_subfolders(train / folders[0])
        if len(inner) > 1:
            raise_data_error(
                f"{train} has a single folder, {format_names(folders)}, which contains {len(inner)} folders:"
                f" {format_names(inner)}",
                f"if these are the classes, move them to {train}",
            )
    _group_by_class(folders, train)
    return folders


def _has_only_subfolders(folder: Path) -> bool:
    return bool(list_subfolders(folder)) and not any(map(is_image, os.listdir(folder)))


def describe_wrong_level(root: Path) -> tuple[str, str] | None:
    """Return what `root`, which has no folder `train`, is instead of a data set, and which folder is meant.

    None if it is not recognised.
    """
    folders = list_subfolders(root)
    misnamed = [name for name in folders if name.lower() in ("train", "training")]
    nested = [root / name for name in folders if (root / name / "train").is_dir()]
    pictures = any(map(is_image, os.listdir(root)))
    outer = root.resolve().parent
    if misnamed:
        return f"{root} has no folder `train`, but {format_names(misnamed)}", f"rename {misnamed[0]} to train"
    if nested:
        nested_names = format_names([str(folder) for folder in nested])
        return f"{root} has no folder `train`, but {nested_names} has", f"give {nested[0]} as the data root"
    if outer.name in SPLITS and (outer.parent / "train").is_dir() and (pictures or folders):
        return f"{root} is the folder of a single class", f"give {outer.parent} as the data root"
    if root.resolve().name in SPLITS and (outer / "train").is_dir() and folders:
        return f"{root} is one split of a data set", f"give {outer} as the data root"
    if not folders and pictures:
        hint = "give the folder that contains train, or put the pictures of each class in train/CLASS/"
        return f"{root} contains pictures, but no folder `train`", hint
    if folders and all(any(map(is_image, os.listdir(root / name))) for name in folders):
        message = f"{root} has no folder `train`, but folders of pictures: {format_names(folders)}"
        return message, f"if these are the classes, move them to {root / 'train'}"
    return None


def _find_test_split(path: Path) -> str | None:
    """Return the folder of the test split; None if there is none.

    Raises UserError("data") if a folder with a similar name would be left out.
    """
    for name in SPLITS[1:]:
        if (path / name).is_dir():
            return name
    similar = [name for name in list_subfolders(path) if name.lower() in (*SPLITS[1:], "testing", "eval")]
    if similar:
        raise_data_error(
            f"{path} has no folder `test`, but {format_names(similar)}",
            f"rename {similar[0]} to test, or leave it out with data.test=holdout",
        )
    return None


def _group_by_class(folders: Sequence[str], where: Path) -> dict[str, str]:
    """Return the folder of each `name_key`. Raises UserError("data") if two folders have the same."""
    groups: dict[str, str] = {}
    for name in folders:
        other = groups.setdefault(name_key(name), name)
        if other != name:
            raise_data_error(
                f"{where} has two folders {format_names([decode_name(name)])}, whose names differ only in how"
                " their characters are composed (Unicode normalisation)",
                "move the pictures of one into the other",
            )
    return groups


def _match_folders(path: Path, split: str, folders: Sequence[str], classes: Sequence[str]) -> list[str]:
    """Return the folder of each class among the `folders` of another split.

    Raises UserError("data") if the split has other classes, or if they are on another level of the tree.
    """
    if not folders:
        raise_data_error(
            f"{path / split} has no class folders",
            f"put the pictures of each class in {split}/CLASS/, or set data.test=holdout to use only train",
        )
    groups = _group_by_class(folders, path / split)
    keys = {name_key(name) for name in classes}
    if not keys & groups.keys():
        for inner in folders:
            if keys & {name_key(name) for name in list_subfolders(path / split / inner)}:
                raise_data_error(
                    f"the classes of {path / split} are one level deeper, in {path / split / inner}",
                    f"move them to {path / split}",
                )
    _require_same_classes(list(keys), list(groups), path)
    return [groups[name_key(name)] for name in classes]


def _list_split(path: Path, name: str, folders: Sequence[str]) -> Files:
    """List the pictures in `path`/`name`/FOLDER for the folder of every class, including subfolders.

    Raises UserError("data") if a class has no pictures.
    """
    groups = [list_images(path, f"{name}/{folder}") for folder in folders]
    _require_images(groups, [path / name / folder for folder in folders])
    return Files.join(path, groups)


def _describe_files(files: Files) -> str:
    return "WNID/images/*" if files.entries[0].name.count("/") > 2 else "WNID/*"


def _list_validation(path: Path, classes: Sequence[str]) -> tuple[Files, str]:
    name = next((name for name in ("val", "test") if (path / name).is_dir()), None)
    if name is None:
        raise_data_error(f"{path} has no folder `val`", "unpack the whole archive, or set data.test=holdout")
    folders = [label for label in list_subfolders(path / name) if label != "images"]
    if folders:
        files = _list_split(path, name, _match_folders(path, name, folders, classes))
        return files, f"{name}/{_describe_files(files)}"
    # LOC_val_solution.csv is in the folder that contains ILSVRC/Data/CLS-LOC
    tables = [
        place / table for place in (path / "val", path, *path.resolve().parents[:3]) for table in TABLES
    ]
    table = next((table for table in tables if table.is_file()), None)
    if table is None:
        message = f"{path / name} has no class folders, and there is no {' or '.join(TABLES)}"
        raise_data_error(message, f"move the pictures to {name}/WNID/, or put one of these tables there")
    return _list_from_table(path, name, classes, table), f"{name}/* with {table.name}"


def _list_from_table(path: Path, name: str, classes: Sequence[str], table: Path) -> Files:
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
