"""The undecoded pictures of a data set on disk, and the checks that all layouts share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from engine.data.catalogue import KNOWN
from engine.data.pictures import Files, PictureEntry, Pictures
from engine.errors import UserError

MAX_TEXT_BYTES = 64 * 1024**2  # of a table of names


@dataclass(frozen=True)
class DataSetSource:
    """The undecoded splits of the data set at `path`.

    layout: the recognised layout, for people. test: None if there is no test split or it was not requested.
    """

    path: Path
    layout: str
    classes: tuple[str, ...]
    train: Pictures
    test: Pictures | None


def download_hint(name: str, root: Path) -> str:
    """Return a hint on how to obtain the set `name` below `root`."""
    known = KNOWN[name]
    if known.archive is not None:
        return f"`cfm data get {name} --root {root}` fetches it, or give its folder as the data root"
    return known.note.format(root=root)


def refuse(message: str, advice: str) -> NoReturn:
    """Raise UserError("data") with a message and a hint."""
    raise UserError("data", message, advice)


def as_files(root: Path, groups: Sequence[Sequence[PictureEntry]]) -> Files:
    """Join the files of each class, given in label order, into one labelled list."""
    labels = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    return Files(root, tuple(entry for group in groups for entry in group), labels.astype(np.int64))


def require_images(groups: Sequence[Sequence[PictureEntry]], folders: Sequence[Path]) -> None:
    """Raise UserError("data") if a class has no pictures, naming the empty folders."""
    empty = [str(folder) for group, folder in zip(groups, folders, strict=True) if not group]
    if empty:
        refuse(
            f"no pictures in {listing(empty)}",
            "put JPEG, PNG, BMP, GIF, WebP, PPM or TIFF files there, or remove the folder",
        )


def require_same_classes(train: Sequence[str], test: Sequence[str], where: Path) -> None:
    """Raise UserError("data") if the splits have different classes, naming the differences."""
    train_only, test_only = sorted(set(train) - set(test)), sorted(set(test) - set(train))
    if not train_only and not test_only:
        return
    groups = (("without test images", train_only), ("without training images", test_only))
    differences = [f"{kind}: {listing(names)}" for kind, names in groups if names]
    refuse(
        f"the training and test classes in {where} differ; {'; '.join(differences)}",
        "give every class a folder of pictures in both splits, or set data.test=holdout to use only train",
    )


def read_text(path: Path) -> str:
    """Return the text of a table or list of names in a data set.

    Raises UserError("data") if it is too large or not UTF-8.
    """
    advice = "download it again"
    with open(path, "rb") as file:
        content = file.read(MAX_TEXT_BYTES + 1)
    if len(content) > MAX_TEXT_BYTES:
        refuse(f"{path} is larger than {MAX_TEXT_BYTES:,} bytes", advice)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        refuse(f"{path} is not UTF-8 text", advice)


def listing(names: Sequence[str], most: int = 5) -> str:
    """Format the first `most` names and the number of the others."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most:,} more"
