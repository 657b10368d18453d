"""Images of a split before they are decoded: files of a tree, or records of an archive.

Legend: N images in a split, C channels, H height, W width.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

Array = np.ndarray[Any, Any]

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
MOST_BYTES = 512 * 1024**2  # of one file
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "PPM", "TIFF")


class Pictures(Protocol):
    """The images of one split, in order, each opened when asked for."""

    @property
    def labels_N(self) -> Array:
        """int64, in [0, number of classes)."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """What messages call image `index`."""

    def open(self, index: int) -> Image.Image:
        """Image `index`, perhaps not read yet. Raises anything if it is unreadable."""

    def stamp(self) -> str:
        """A digest that changes when the images do: where they are, names, sizes, times."""

    def contents(self) -> str:
        """A digest of names and sizes alone, the same wherever the files lie."""


@dataclass(frozen=True)
class Entry:
    """A file as the folder lists it: posix path below the data set, bytes, modification time in ns."""

    name: str
    bytes: int
    mtime: int


def _digest(lines: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()


def _stamp(root: Path, entries: Iterable[Entry]) -> str:
    return _digest([str(root.resolve()), *(f"{e.name}\0{e.bytes}\0{e.mtime}" for e in entries)])


@dataclass(frozen=True)
class Files:
    """One image file each, below `root`."""

    root: Path
    entries: tuple[Entry, ...]
    labels_N: Array

    def __len__(self) -> int:
        return len(self.entries)

    def name(self, index: int) -> str:
        """Path below the data set."""
        return self.entries[index].name

    def open(self, index: int) -> Image.Image:
        """Reads the header only; some formats' whole file."""
        path = self.root / self.entries[index].name
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise OSError("no plain file")
        if status.st_size > MOST_BYTES:
            raise OSError(f"{status.st_size:,} bytes, more than {MOST_BYTES:,}")
        return Image.open(path, formats=FORMATS)

    def stamp(self) -> str:
        """See `Pictures`."""
        return _stamp(self.root, self.entries)

    def contents(self) -> str:
        """See `Pictures`."""
        return _digest(f"{entry.name}\0{entry.bytes}" for entry in self.entries)


@dataclass(frozen=True)
class Records:
    """Images inside archive files that are read as a whole, on first use.

    read: gives uint8 pixels (N, H, W, C) in archive order. order_N: where the n-th image of the split,
    sorted by class, stands in the archive.
    """

    root: Path
    archives: tuple[Entry, ...]
    labels_N: Array
    order_N: Array
    read: Callable[[], Array] = field(compare=False)

    def __len__(self) -> int:
        return len(self.order_N)

    @cached_property
    def _pixels(self) -> Array:
        return self.read()

    def name(self, index: int) -> str:
        """Counts records from 0 over the split's archive files."""
        return f"record {int(self.order_N[index])}"

    def open(self, index: int) -> Image.Image:
        """Record `index` as an image."""
        return Image.fromarray(self._pixels[self.order_N[index]])

    def stamp(self) -> str:
        """See `Pictures`."""
        return _stamp(self.root, self.archives)

    def contents(self) -> str:
        """See `Pictures`."""
        return _digest(f"{entry.name}\0{entry.bytes}" for entry in self.archives)


def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key under which ``img2`` comes before ``img10``."""
    parts = re.split(r"([0-9]+)", name)
    return tuple((1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts)


def is_image(name: str) -> bool:
    """Whether the name is that of a picture (and not of a hidden file)."""
    return not name.startswith(".") and name.lower().endswith(EXTENSIONS)


def entry(root: Path, name: str) -> Entry:
    """The file `name` below `root`; one that is not there has −1 bytes and fails when opened."""
    try:
        status = os.stat(root / name)
    except OSError:
        return Entry(name, -1, 0)
    return Entry(name, status.st_size, status.st_mtime_ns)


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in `folder`, sorted; hidden ones and ``__MACOSX`` left out."""
    with os.scandir(folder) as found:
        return sorted(item.name for item in found if item.is_dir() and not item.name.startswith((".", "__")))


def images_below(root: Path, folder: str) -> list[Entry]:
    """Every picture in `root`/`folder` and its subfolders, natural order, named relative to `root`."""
    entries: list[Entry] = []
    pending = [folder]
    while pending:
        current = pending.pop()
        with os.scandir(root / current) as found:
            for item in found:
                name = f"{current}/{item.name}"
                if item.is_dir(follow_symlinks=False) and not item.name.startswith("."):
                    pending.append(name)
                elif is_image(item.name):
                    entries.append(_listed(item, name))
    return sorted(entries, key=lambda item: natural(item.name))


def _listed(item: os.DirEntry[str], name: str) -> Entry:
    try:
        status = item.stat()
    except OSError:
        return Entry(name, -1, 0)
    return Entry(name, status.st_size, status.st_mtime_ns)
