"""ImageNet and Tiny-ImageNet: training pictures by WordNet id, validation pictures in several layouts.

Layouts of the validation split that are told apart: pictures in one folder with a table of their classes
(``val_annotations.txt`` of the Tiny-ImageNet archive, or ``LOC_val_solution.csv``), val/WNID/*, and
val/WNID/images/*. Class ids are always sorted: their order in ``wnids.txt`` is another.
"""

from __future__ import annotations

import re
from pathlib import Path

from engine.data import folder
from engine.data.layout import Found, as_files, listing, refuse, require_images, require_same, text
from engine.data.pictures import Entry, Files, entry, natural, subfolders

TABLES = ("val_annotations.txt", "LOC_val_solution.csv")
LEVELS_UP = 3  # LOC_val_solution.csv stands beside ILSVRC/Data/CLS-LOC


def matches(path: Path) -> bool:
    """Whether `path` has one of these layouts."""
    return (path / "train").is_dir()


def read(path: Path, want_test: bool) -> Found:
    """List the pictures; the validation split is not looked at unless asked for."""
    classes = _classes(path)
    train = folder.split(path, "train", classes)
    nested = train.entries[0].name.count("/") > 2
    layout = f"train/WNID/{'images/' if nested else ''}*"
    if not want_test:
        return Found(path, layout, tuple(classes), train, None)
    test, form = _validation(path, classes)
    return Found(path, f"{layout}, {form}", tuple(classes), train, test)


def _classes(path: Path) -> list[str]:
    found = subfolders(path / "train")
    table = path / "wnids.txt"
    listed = sorted(set(text(table).split())) if table.is_file() else found
    if not found:
        refuse(f"{path / 'train'} has no class folders", "put the pictures of each class in train/WNID/")
    absent, foreign = sorted(set(listed) - set(found)), sorted(set(found) - set(listed))
    if absent:
        refuse(f"{path / 'train'} lacks classes of wnids.txt: {listing(absent)}", "unpack the whole archive")
    if foreign:
        refuse(
            f"{path / 'train'} has classes that wnids.txt does not list: {listing(foreign)}",
            "remove these folders, or wnids.txt to take all folders as classes",
        )
    return listed


def _validation(path: Path, classes: list[str]) -> tuple[Files, str]:
    name = next((name for name in ("val", "test") if (path / name).is_dir()), None)
    if name is None:
        refuse(f"{path} has no folder `val`", "unpack the whole archive, or set data.test=holdout")
    folders = [label for label in subfolders(path / name) if label != "images"]
    if folders:
        require_same(classes, folders, path)
        files = folder.split(path, name, classes)
        nested = files.entries[0].name.count("/") > 2
        return files, f"{name}/WNID/{'images/' if nested else ''}*"
    table = _table(path)
    if table is None:
        refuse(
            f"{path / name} has no class folders, and there is no {' or '.join(TABLES)}",
            f"move the pictures to {name}/WNID/, or put one of these tables there",
        )
    return _listed(path, name, classes, table), f"{name}/* with {table.name}"


def _table(path: Path) -> Path | None:
    places = [path / "val", path, *path.resolve().parents[:LEVELS_UP]]
    return next((place / name for place in places for name in TABLES if (place / name).is_file()), None)


def _listed(path: Path, name: str, classes: list[str], table: Path) -> Files:
    """The pictures that a table of names and classes lists, in the order of classes and names."""
    inner = f"{name}/images" if (path / name / "images").is_dir() else name
    groups: dict[str, list[Entry]] = {label: [] for label in classes}
    labels = _parse(table)
    require_same(classes, sorted(set(labels.values())), table)
    for file, label in labels.items():
        groups[label].append(entry(path, f"{inner}/{file}"))
    ordered = [sorted(group, key=lambda item: natural(item.name)) for group in groups.values()]
    require_images(ordered, [table] * len(ordered))
    return as_files(path, ordered)


def _parse(table: Path) -> dict[str, str]:
    """File name → class id. Lines without a class id (a header) are passed over."""
    labels = {}
    for line in text(table).splitlines():
        fields = re.split(r"[\t, ]+", line.strip())
        if len(fields) >= 2 and re.fullmatch(r"n[0-9]{8}", fields[1]):
            file = fields[0] if "." in fields[0] else f"{fields[0]}.JPEG"
            if "/" in file or "\\" in file or file.startswith("..") or not file.isprintable():
                refuse(f"{table} names {file!r}, which is no plain file name", "get a clean copy of it")
            labels[file] = fields[1]
    if not labels:
        refuse(f"{table} lists no pictures", "get a clean copy of it")
    return labels
