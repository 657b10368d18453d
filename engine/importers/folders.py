"""Read pictures from class folders named by class or label, flat folders, runs, or a single file.

Legend: N pictures, C channels, S side.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.data import ImageSet
from engine.data.decode import BadImage, decode_square, open_picture
from engine.data.pictures import (
    Files,
    PictureEntry,
    is_image,
    list_images,
    list_subfolders,
    name_key,
    natural_sort_key,
)
from engine.errors import UserError, format_names, raise_data_error


def read_images(path: Path, like: ImageSet, class_name: str | None = None) -> ImageSet:
    """Read the pictures of a folder, a run or one file, resized and normalised like the data set `like`.

    class_name: the class of a single file; by default the name of its folder.
    Raises UserError("data"): no pictures, a class that is not in the data set, an unreadable picture.
    """
    require_images(path)
    groups: list[list[PictureEntry]] = [[] for _ in like.classes]  # by label
    if path.is_file():
        root = path.parent
        _add_single_file(groups, path, like.classes, class_name)
    else:
        root = _add_folders(groups, path, like.classes)
    files = Files.join(root, groups)
    pixels = np.stack([_read_picture(files, index, like) for index in range(len(files))])
    return ImageSet.from_arrays(pixels, files.labels_N, like.classes, like.mean, like.std)


def require_images(path: Path) -> None:
    """Raise UserError("data") if `path` is neither a file nor a folder."""
    hint = "give a folder of class folders, a run, or a picture"
    if not os.path.exists(path):
        raise_data_error(f"{path} does not exist", hint)
    if not path.is_file() and not path.is_dir():
        raise_data_error(f"{path} is neither a file nor a folder", hint)


def _add_single_file(
    groups: list[list[PictureEntry]], path: Path, classes: tuple[str, ...], class_name: str | None
) -> None:
    if not is_image(path.name):
        raise_data_error(f"{path} is not a picture", "give a JPEG, PNG, BMP, GIF, WebP, PPM or TIFF file")
    label = fit_label(class_name or path.absolute().parent.name, classes)
    if label is None:
        raise_data_error(
            f"the class of {path} is unknown", f"set it with --class; the classes are {format_names(classes)}"
        )
    groups[label].append(PictureEntry.read(path.parent, path.name))


def _add_folders(groups: list[list[PictureEntry]], path: Path, classes: tuple[str, ...]) -> Path:
    """Add the pictures of class folders or of a flat folder; return the folder that contains them."""
    folder = path / "images" if (path / "manifest.json").is_file() else path
    names = list_subfolders(folder)
    if names == ["train"] and "train" not in classes:  # the layout of Hugging Face's image folders
        folder, names = folder / "train", list_subfolders(folder / "train")
    labels = _fit_zero_padded(names, classes) or {name: fit_label(name, classes) for name in names}
    if unknown := [name for name, label in labels.items() if label is None]:
        raise_data_error(
            f"{folder} has folders that are not classes of the data set: {format_names(unknown)}",
            f"name them after the classes ({format_names(classes)}) or by label, starting at 0",
        )
    for name, label in labels.items():
        assert label is not None
        groups[label] += list_images(folder, name)
    # A flat folder has names like ``class003_id007.jpg``.
    flat_files = [] if names else sorted(filter(is_image, os.listdir(folder)), key=natural_sort_key)
    for name in flat_files:
        label = fit_label(name.split("_id")[0], classes) if "_id" in name else None
        if label is None:
            hint = "put the pictures of each class in CLASS/, or name them class000_id000.png by label"
            raise_data_error(f"the class of {folder / name} is unknown", hint)
        groups[label].append(PictureEntry.read(folder, name))
    if not any(groups):
        raise_data_error(f"no pictures in {folder}", "put the pictures of each class in CLASS/")
    return folder


def _fit_zero_padded(names: Sequence[str], classes: tuple[str, ...]) -> dict[str, int | None]:
    """Return the label of each folder if they are the classes but for zeros: ``class_01`` for ``class_1``.

    Empty if they are not, or not all of them: then a number in a name is a label.
    """

    def strip_zeros(name: str) -> str:
        return re.sub(r"\d+", lambda digits: str(int(digits[0])), name)

    labels = {strip_zeros(name): label for label, name in enumerate(classes)}
    if len(labels) < len(classes) or sorted(map(strip_zeros, names)) != sorted(labels):
        return {}
    return {name: labels[strip_zeros(name)] for name in names}


def fit_label(name: str, classes: tuple[str, ...]) -> int | None:
    """Return the label of a folder named by class or label, such as ``003`` or ``new003``; else None."""
    keys = [name_key(each) for each in classes]
    if name_key(name) in keys:
        return keys.index(name_key(name))
    digits = re.fullmatch(r"(?:new|class_?)?(\d+)(?:_(.*))?", name, re.DOTALL)
    if digits is not None and digits[2] is not None and name_key(digits[2]) in keys:
        return keys.index(name_key(digits[2]))  # a run numbers the folders of unsorted classes
    return int(digits[1]) if digits is not None and int(digits[1]) < len(classes) else None


def _read_picture(files: Files, index: int, like: ImageSet) -> Any:
    try:
        with open_picture(files, index) as image:
            return decode_square(image, like.size, like.channels)
    except BadImage as error:
        raise UserError(
            "data", f"{files.root / files.name(index)} cannot be read: {error}", "repair or remove it"
        ) from error
