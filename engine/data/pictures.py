"""Undecoded images of a split: files of a folder tree, or records of an archive.

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
MAX_BYTES = 512 * 1024**2  # of one file
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "PPM", "TIFF")


class Pictures(Protocol):
    """The images of one split, in order, each opened on demand."""

    @property
    def labels_N(self) -> Array:
        """int64, in [0, number of classes)."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """Return the name of image `index` for messages."""

    def open(self, index: int) -> Image.Image:
        """Open image `index`, possibly without reading its pixels. Raises any exception if unreadable."""

    def stamp(self) -> str:
        """Return a digest of location, names, sizes and times, which changes whenever the images do."""

    def contents(self) -> str:
        """Return a digest of names and sizes only, independent of the location of the files."""


@dataclass(frozen=True)
class PictureEntry:
    """A file: POSIX path relative to the data set, size in bytes, modification time in ns."""

    name: str
    bytes: int
    mtime: int


def _digest_lines(lines: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()


def _digest_entries(root: Path, entries: Iterable[PictureEntry]) -> str:
    return _digest_lines([str(root.resolve()), *(f"{e.name}\0{e.bytes}\0{e.mtime}" for e in entries)])


@dataclass(frozen=True)
class Files:
    """Images that are one file each, below `root`."""

    root: Path
    entries: tuple[PictureEntry, ...]
    labels_N: Array

    def __len__(self) -> int:
        return len(self.entries)

    def name(self, index: int) -> str:
        """Return the path relative to the data set."""
        return self.entries[index].name

    def open(self, index: int) -> Image.Image:
        """Open image `index`; most formats read only the header here. Raises OSError, or errors of Pillow."""
        path = self.root / self.entries[index].name
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise OSError("not a plain file")
        if status.st_size > MAX_BYTES:
            raise OSError(f"{status.st_size:,} bytes, more than {MAX_BYTES:,}")
        return Image.open(path, formats=FORMATS)

    def stamp(self) -> str:
        """See `Pictures`."""
        return _digest_entries(self.root, self.entries)

    def contents(self) -> str:
        """See `Pictures`."""
        return _digest_lines(f"{entry.name}\0{entry.bytes}" for entry in self.entries)


@dataclass(frozen=True)
class Records:
    """Images inside archive files, which are read as a whole on first use.

    read: returns uint8 pixels (N, H, W, C) in archive order. order_N: position in the archive of the n-th
    image of the split, which is sorted by class.
    """

    root: Path
    archives: tuple[PictureEntry, ...]
    labels_N: Array
    order_N: Array
    read: Callable[[], Array] = field(compare=False)

    def __len__(self) -> int:
        return len(self.order_N)

    @cached_property
    def _pixels(self) -> Array:
        return self.read()

    def name(self, index: int) -> str:
        """Return the number of the record, counted from 0 over the split's archive files."""
        return f"record {int(self.order_N[index])}"

    def open(self, index: int) -> Image.Image:
        """Return image `index`."""
        return Image.fromarray(self._pixels[self.order_N[index]])

    def stamp(self) -> str:
        """See `Pictures`."""
        return _digest_entries(self.root, self.archives)

    def contents(self) -> str:
        """See `Pictures`."""
        return _digest_lines(f"{entry.name}\0{entry.bytes}" for entry in self.archives)


def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """Return a sort key under which ``img2`` comes before ``img10``."""
    parts = re.split(r"([0-9]+)", name)
    return tuple((1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts)


def is_image(name: str) -> bool:
    """Return whether the name has a picture's extension and is not hidden."""
    return not name.startswith(".") and name.lower().endswith(EXTENSIONS)


def entry(root: Path, name: str) -> PictureEntry:
    """Return the entry of file `name` below `root`; a missing file has −1 bytes and fails when opened."""
    try:
        status = os.stat(root / name)
    except OSError:
        return PictureEntry(name, -1, 0)
    return PictureEntry(name, status.st_size, status.st_mtime_ns)


def subfolders(folder: Path) -> list[str]:
    """Return the sorted names of the folders in `folder`, except hidden ones and ``__MACOSX``."""
    with os.scandir(folder) as dir_entries:
        names = (dir_entry.name for dir_entry in dir_entries if dir_entry.is_dir())
        return sorted(name for name in names if not name.startswith((".", "__")))


def images_below(root: Path, folder: str) -> list[PictureEntry]:
    """Return all pictures below `root`/`folder` in natural order, named relative to `root`."""
    entries: list[PictureEntry] = []
    pending = [folder]
    while pending:
        current = pending.pop()
        with os.scandir(root / current) as dir_entries:
            for dir_entry in dir_entries:
                name = f"{current}/{dir_entry.name}"
                if dir_entry.is_dir(follow_symlinks=False) and not dir_entry.name.startswith("."):
                    pending.append(name)
                elif is_image(dir_entry.name):
                    entries.append(_read_entry(dir_entry, name))
    return sorted(entries, key=lambda picture: natural(picture.name))


def _read_entry(dir_entry: os.DirEntry[str], name: str) -> PictureEntry:
    try:
        status = dir_entry.stat()
    except OSError:
        return PictureEntry(name, -1, 0)
    return PictureEntry(name, status.st_size, status.st_mtime_ns)
