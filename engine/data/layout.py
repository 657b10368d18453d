"""A data set as found on disk, before anything is decoded, and the checks that all layouts share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from engine.data.catalogue import KNOWN
from engine.data.pictures import Entry, Files, Pictures
from engine.errors import UserError

MOST_TEXT = 64 * 1024**2  # bytes of a table of names


@dataclass(frozen=True)
class Found:
    """Splits that lie at `path`. layout: what was recognised, in words.

    test: None where there is no test split or it was not asked for.
    """

    path: Path
    layout: str
    classes: tuple[str, ...]
    train: Pictures
    test: Pictures | None


def hint(name: str, root: Path) -> str:
    """How to come by the set `name` below `root`."""
    known = KNOWN[name]
    if known.archive is not None:
        return f"`cfm data get {name} --root {root}` fetches it, or give its folder as the data root"
    return known.note.format(root=root)


def refuse(message: str, advice: str) -> NoReturn:
    """Raise UserError("data")."""
    raise UserError("data", message, advice)


def as_files(root: Path, groups: Sequence[Sequence[Entry]]) -> Files:
    """The pictures of each class, in label order."""
    labels = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    return Files(root, tuple(entry for group in groups for entry in group), labels.astype(np.int64))


def require_images(groups: Sequence[Sequence[Entry]], folders: Sequence[Path]) -> None:
    """Every class must have pictures. Raises UserError("data") naming the folders without."""
    empty = [str(folder) for group, folder in zip(groups, folders, strict=True) if not group]
    if empty:
        refuse(
            f"no pictures in {listing(empty)}",
            "put JPEG, PNG, BMP, GIF, WebP, PPM or TIFF files there, or remove the folder",
        )


def require_same(train: Sequence[str], test: Sequence[str], where: Path) -> None:
    """Both splits must have the same classes. Raises UserError("data") naming the others."""
    missing, foreign = sorted(set(train) - set(test)), sorted(set(test) - set(train))
    if not missing and not foreign:
        return
    parts = [f"{what}: {listing(names)}" for what, names in
             (("without test images", missing), ("without training images", foreign)) if names]  # fmt: skip
    refuse(
        f"the training and test classes in {where} differ; {'; '.join(parts)}",
        "give every class a folder of pictures in both splits, or set data.test=holdout to use train alone",
    )


def text(path: Path) -> str:
    """A table or list of names that comes with a set. Raises UserError("data") where it is none."""
    advice = "get a clean copy of it"
    with open(path, "rb") as file:
        found = file.read(MOST_TEXT + 1)
    if len(found) > MOST_TEXT:
        refuse(f"{path} is larger than {MOST_TEXT:,} bytes", advice)
    try:
        return found.decode("utf-8-sig")
    except UnicodeDecodeError:
        refuse(f"{path} is no UTF-8 text", advice)


def listing(names: Sequence[str], most: int = 5) -> str:
    """The first few names and how many more there are."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most:,} more"
