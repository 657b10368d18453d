"""Read pictures from class folders named by class or label, flat folders, runs, or a single file.

Legend: N pictures, C channels, S side.
"""

from __future__ import annotations

import os
import re
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
    natural_sort_key,
)
from engine.errors import UserError, format_names


def read_images(path: Path, like: ImageSet, class_name: str | None = None) -> ImageSet:
    """Read the pictures of a folder, a run or one file, resized and normalised like the data set `like`.

    class_name: the class of a single file; by default the name of its folder.
    Raises UserError("data"): no pictures, a class that is not in the data set, an unreadable picture.
    """
    require_images(path)
    if path.is_file():
        files = Files.join(path.parent, _group_single_file(path, like.classes, class_name))
    else:
        files = _list_folders(path, like.classes)
    pixels = np.stack([_read_picture(files, index, like) for index in range(len(files))])
    return ImageSet.from_arrays(pixels, files.labels_N, like.classes, like.mean, like.std)


def require_images(path: Path) -> None:
    """Raise UserError("data") if `path` is neither a file nor a folder."""
    hint = "give a folder of class folders, a run, or a picture"
    if not os.path.exists(path):
        raise UserError("data", f"{path} does not exist", hint)
    if not path.is_file() and not path.is_dir():
        raise UserError("data", f"{path} is neither a file nor a folder", hint)


def _group_single_file(
    path: Path, classes: tuple[str, ...], class_name: str | None
) -> list[list[PictureEntry]]:
    if not is_image(path.name):
        hint = "give a JPEG, PNG, BMP, GIF, WebP, PPM or TIFF file"
        raise UserError("data", f"{path} is not a picture", hint)
    label = label_of(class_name or path.absolute().parent.name, classes)
    if label is None:
        raise UserError(
            "data",
            f"the class of {path} is unknown",
            f"set it with --class; the classes are {format_names(classes)}",
        )
    groups: list[list[PictureEntry]] = [[] for _ in classes]
    groups[label].append(PictureEntry.read(path.parent, path.name))
    return groups


def _list_folders(path: Path, classes: tuple[str, ...]) -> Files:
    folder = path / "images" if (path / "manifest.json").is_file() else path
    names = list_subfolders(folder)
    if names == ["train"] and "train" not in classes:  # the layout of Hugging Face's image folders
        folder, names = folder / "train", list_subfolders(folder / "train")
    groups = [[] for _ in classes] if names else _group_flat_folder(folder, classes)
    unknown = [name for name in names if label_of(name, classes) is None]
    if unknown:
        raise UserError(
            "data",
            f"{folder} has folders that are not classes of the data set: {format_names(unknown)}",
            f"name them after the classes ({format_names(classes)}) or by label, starting at 0",
        )
    for name in names:
        label = label_of(name, classes)
        assert label is not None
        groups[label] += list_images(folder, name)
    if not any(groups):
        raise UserError("data", f"no pictures in {folder}", "put the pictures of each class in CLASS/")
    return Files.join(folder, groups)


def _group_flat_folder(folder: Path, classes: tuple[str, ...]) -> list[list[PictureEntry]]:
    """Return the pictures of a folder without class folders, named like ``class003_id007.jpg``, by label."""
    groups: list[list[PictureEntry]] = [[] for _ in classes]
    for name in sorted(filter(is_image, os.listdir(folder)), key=natural_sort_key):
        label = label_of(name.split("_id")[0], classes) if "_id" in name else None
        if label is None:
            raise UserError(
                "data",
                f"the class of {folder / name} is unknown",
                "put the pictures of each class in CLASS/, or name them class000_id000.png by label",
            )
        groups[label].append(PictureEntry.read(folder, name))
    return groups


def label_of(name: str, classes: tuple[str, ...]) -> int | None:
    """Return the label of a folder named by class or label, such as ``003`` or ``new003``; else None."""
    if name in classes:
        return classes.index(name)
    digits = re.fullmatch(r"(?:new|class_?)?(\d+)(?:_.*)?", name)
    return int(digits[1]) if digits is not None and int(digits[1]) < len(classes) else None


def _read_picture(files: Files, index: int, like: ImageSet) -> Any:
    try:
        with open_picture(files, index) as image:
            return decode_square(image, like.size, like.channels)
    except BadImage as error:
        raise UserError(
            "data", f"{files.root / files.name(index)} cannot be read: {error}", "repair or remove it"
        ) from error
