"""Distilled pictures in folders: class folders by name or number, flat folders, runs, one picture.

Legend: N pictures, C channels, S side.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from engine.data import ImageSet
from engine.data.decode import BadImage, opened, square
from engine.data.layout import as_files, listing
from engine.data.pictures import Entry, Files, entry, images_below, is_image, natural, subfolders
from engine.errors import UserError


def read_images(path: Path, like: ImageSet, class_name: str | None = None) -> ImageSet:
    """The pictures of a folder of class folders, of a run, or of one file, sized and normalised as `like`.

    class_name: the class of a single file; None: the name of the folder that it lies in.
    Raises UserError("data"): nothing there, a class that the data set has not, an unreadable picture.
    """
    require_images(path)
    if path.is_file():
        files = as_files(path.parent, _one_file(path, like.classes, class_name))
    else:
        files = _folders(path, like.classes)
    pixels = np.stack([_picture(files, index, like) for index in range(len(files))])
    return ImageSet.from_arrays(pixels, files.labels_N, like.classes, like.mean, like.std)


def require_images(path: Path) -> None:
    """Raise UserError("data") where there is nothing to score at all."""
    advice = "give a folder of class folders, a run, or a picture"
    if not os.path.exists(path):
        raise UserError("data", f"{path} does not exist", advice)
    if not path.is_file() and not path.is_dir():
        raise UserError("data", f"{path} is neither a file nor a folder", advice)


def _one_file(path: Path, classes: tuple[str, ...], class_name: str | None) -> list[list[Entry]]:
    if not is_image(path.name):
        raise UserError("data", f"{path} is no picture", "give a JPEG, PNG, BMP, GIF, WebP, PPM or TIFF file")
    label = label_of(class_name or path.absolute().parent.name, classes)
    if label is None:
        raise UserError(
            "data",
            f"the class of {path} is not known",
            f"say it with --class; the classes are {listing(classes)}",
        )
    groups: list[list[Entry]] = [[] for _ in classes]
    groups[label].append(entry(path.parent, path.name))
    return groups


def _folders(path: Path, classes: tuple[str, ...]) -> Files:
    folder = path / "images" if (path / "manifest.json").is_file() else path
    found = subfolders(folder)
    if found == ["train"] and "train" not in classes:  # as Hugging Face's image folders have it
        folder, found = folder / "train", subfolders(folder / "train")
    groups = _flat(folder, classes) if not found else [[] for _ in classes]
    unknown = [name for name in found if label_of(name, classes) is None]
    if unknown:
        raise UserError(
            "data",
            f"{folder} has folders that are no class of the data set: {listing(unknown)}",
            f"name them as the classes are named ({listing(classes)}), or by label from 0",
        )
    for name in found:
        label = label_of(name, classes)
        assert label is not None
        groups[label] += images_below(folder, name)
    if not any(groups):
        raise UserError("data", f"no pictures in {folder}", "put the pictures of each class in CLASS/")
    return as_files(folder, groups)


def _flat(folder: Path, classes: tuple[str, ...]) -> list[list[Entry]]:
    """The pictures of a folder without class folders, named as ``class003_id007.jpg``."""
    groups: list[list[Entry]] = [[] for _ in classes]
    for name in sorted(filter(is_image, os.listdir(folder)), key=natural):
        label = label_of(name.split("_id")[0], classes) if "_id" in name else None
        if label is None:
            raise UserError(
                "data",
                f"the class of {folder / name} is not known",
                "put the pictures of each class in CLASS/, or name them class000_id000.png by label",
            )
        groups[label].append(entry(folder, name))
    return groups


def label_of(name: str, classes: tuple[str, ...]) -> int | None:
    """The label of a folder: a class's name, or a label in digits, as in ``003`` or ``new003``."""
    if name in classes:
        return classes.index(name)
    digits = re.fullmatch(r"(?:new|class_?)?(\d+)(?:_.*)?", name)
    return int(digits[1]) if digits is not None and int(digits[1]) < len(classes) else None


def _picture(files: Files, index: int, like: ImageSet) -> Any:
    try:
        with opened(files, index) as image:
            return square(image, like.size, like.channels)
    except BadImage as error:
        raise UserError(
            "data", f"{files.root / files.name(index)} cannot be read: {error}", "mend or remove it"
        ) from error
