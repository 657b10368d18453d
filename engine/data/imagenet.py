"""ImageNet and Tiny-ImageNet: training pictures by WordNet id, validation pictures in several layouts.

Supported layouts of the validation split: all pictures in one folder with a table of their classes
(``val_annotations.txt`` of the Tiny-ImageNet archive, or ``LOC_val_solution.csv``), val/WNID/*, and
val/WNID/images/*. Class ids are always sorted, unlike in ``wnids.txt``.
"""

from __future__ import annotations

import re
from pathlib import Path

from engine.data import folder
from engine.data.layout import (
    DataSetSource,
    as_files,
    listing,
    read_text,
    refuse,
    require_images,
    require_same_classes,
)
from engine.data.pictures import Files, PictureEntry, entry, natural, subfolders

TABLES = ("val_annotations.txt", "LOC_val_solution.csv")
LEVELS_UP = 3  # LOC_val_solution.csv is in the folder that contains ILSVRC/Data/CLS-LOC


def matches(path: Path) -> bool:
    """Return whether `path` has one of these layouts."""
    return (path / "train").is_dir()


def read(path: Path, want_test: bool) -> DataSetSource:
    """List the pictures; the validation split only if `want_test`. Raises UserError("data")."""
    classes = _list_classes(path)
    train = folder.list_split(path, "train", classes)
    is_nested = train.entries[0].name.count("/") > 2
    layout = f"train/WNID/{'images/' if is_nested else ''}*"
    if not want_test:
        return DataSetSource(path, layout, tuple(classes), train, None)
    test, test_layout = _list_validation(path, classes)
    return DataSetSource(path, f"{layout}, {test_layout}", tuple(classes), train, test)


def _list_classes(path: Path) -> list[str]:
    folders = subfolders(path / "train")
    table = path / "wnids.txt"
    listed = sorted(set(read_text(table).split())) if table.is_file() else folders
    if not folders:
        refuse(f"{path / 'train'} has no class folders", "put the pictures of each class in train/WNID/")
    missing, unlisted = sorted(set(listed) - set(folders)), sorted(set(folders) - set(listed))
    if missing:
        refuse(f"{path / 'train'} lacks classes of wnids.txt: {listing(missing)}", "unpack the whole archive")
    if unlisted:
        refuse(
            f"{path / 'train'} has classes that wnids.txt does not list: {listing(unlisted)}",
            "remove these folders, or remove wnids.txt to use all folders as classes",
        )
    return listed


def _list_validation(path: Path, classes: list[str]) -> tuple[Files, str]:
    name = next((name for name in ("val", "test") if (path / name).is_dir()), None)
    if name is None:
        refuse(f"{path} has no folder `val`", "unpack the whole archive, or set data.test=holdout")
    folders = [label for label in subfolders(path / name) if label != "images"]
    if folders:
        require_same_classes(classes, folders, path)
        files = folder.list_split(path, name, classes)
        is_nested = files.entries[0].name.count("/") > 2
        return files, f"{name}/WNID/{'images/' if is_nested else ''}*"
    table = _find_table(path)
    if table is None:
        refuse(
            f"{path / name} has no class folders, and there is no {' or '.join(TABLES)}",
            f"move the pictures to {name}/WNID/, or put one of these tables there",
        )
    return _list_from_table(path, name, classes, table), f"{name}/* with {table.name}"


def _find_table(path: Path) -> Path | None:
    folders = [path / "val", path, *path.resolve().parents[:LEVELS_UP]]
    return next(
        (folder_path / name for folder_path in folders for name in TABLES if (folder_path / name).is_file()),
        None,
    )


def _list_from_table(path: Path, name: str, classes: list[str], table: Path) -> Files:
    """List the pictures in a table of file names and classes, ordered by class and name."""
    image_folder = f"{name}/images" if (path / name / "images").is_dir() else name
    groups: dict[str, list[PictureEntry]] = {label: [] for label in classes}
    labels = _parse_table(table)
    require_same_classes(classes, sorted(set(labels.values())), table)
    for file, label in labels.items():
        groups[label].append(entry(path, f"{image_folder}/{file}"))
    ordered = [sorted(group, key=lambda picture: natural(picture.name)) for group in groups.values()]
    require_images(ordered, [table] * len(ordered))
    return as_files(path, ordered)


def _parse_table(table: Path) -> dict[str, str]:
    """Return the class id of each file name in a table; lines without a class id (headers) are skipped."""
    labels = {}
    for line in read_text(table).splitlines():
        fields = re.split(r"[\t, ]+", line.strip())
        if len(fields) >= 2 and re.fullmatch(r"n[0-9]{8}", fields[1]):
            file = fields[0] if "." in fields[0] else f"{fields[0]}.JPEG"
            if "/" in file or "\\" in file or file.startswith("..") or not file.isprintable():
                refuse(f"{table} names {file!r}, which is not a plain file name", "download it again")
            labels[file] = fields[1]
    if not labels:
        refuse(f"{table} lists no pictures", "download it again")
    return labels
