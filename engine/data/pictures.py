"""Undecoded images of a data set on disk: files of a folder tree, or records of an archive.

Legend: N images in a split, C channels, H height, W width.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_EXTENSIONS = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp",
    ".ppm", ".pgm", ".pbm", ".pnm", ".tif", ".tiff",
)  # fmt: skip
Progress = Callable[[int, int], None]  #: is called with the numbers of images that are done and of all


@dataclass(frozen=True)
class PictureEntry:
    """A file: POSIX path relative to the data set, size in bytes, modification time in ns."""

    name: str
    bytes: int
    mtime: int

    @classmethod
    def read(cls, root: Path, name: str) -> PictureEntry:
        """Return the entry of file `name` below `root`; a missing file has −1 bytes and fails when opened."""
        try:
            status = os.stat(os.path.join(root, name))
        except OSError:
            return cls(name, -1, 0)
        return cls(name, status.st_size, status.st_mtime_ns)


@dataclass(frozen=True)
class Pictures:
    """The images of one split, in order, each opened on demand.

    entries: the files below `root` that contain them. labels_N: int64, in [0, number of classes).
    """

    root: Path
    entries: tuple[PictureEntry, ...]
    labels_N: NDArray[Any]

    def __len__(self) -> int:
        return len(self.labels_N)

    def name(self, index: int) -> str:
        """Return the name of image `index` for messages."""
        raise NotImplementedError

    def open(self, index: int) -> Image.Image:
        """Open image `index`, possibly without reading its pixels. Raises any exception if unreadable."""
        raise NotImplementedError

    def stamp(self) -> str:
        """Return a digest of location, names, sizes and times, which changes whenever the images do."""
        entries = (f"{entry.name}\0{entry.bytes}\0{entry.mtime}" for entry in self.entries)
        return _digest_lines([str(self.root.resolve()), *entries])

    def contents(self) -> str:
        """Return a digest of names and sizes only, independent of the location of the files."""
        return _digest_lines(f"{entry.name}\0{entry.bytes}" for entry in self.entries)


def _digest_lines(lines: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()


@dataclass(frozen=True)
class Files(Pictures):
    """Images that are one file each."""

    @classmethod
    def join(cls, root: Path, groups: Sequence[Sequence[PictureEntry]]) -> Files:
        """Join the files of each class, given in label order, into one labelled list."""
        labels = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
        return cls(root, tuple(entry for group in groups for entry in group), labels.astype(np.int64))

    def name(self, index: int) -> str:
        """Return the path relative to the data set, as text."""
        return decode_name(self.entries[index].name)

    def open(self, index: int) -> Image.Image:
        """Open image `index`; most formats read only the header here. Raises OSError, or errors of Pillow."""
        path = self.root / self.entries[index].name
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise OSError("not a plain file")
        limit = 512 * 1024**2
        if status.st_size > limit:
            raise OSError(f"{status.st_size:,} bytes, more than {limit:,}")
        return Image.open(path, formats=("JPEG", "PNG", "BMP", "GIF", "WEBP", "PPM", "TIFF"))


@dataclass(frozen=True)
class Records(Pictures):
    """Images inside archive files, which are read as a whole on first use.

    order_N: position in the archive of the n-th image of the split, which is sorted by class.
    read: returns uint8 pixels (N, H, W, C) in archive order.
    """

    order_N: NDArray[Any]
    read: Callable[[], NDArray[Any]] = field(compare=False)

    @cached_property
    def _pixels(self) -> NDArray[Any]:
        return self.read()

    def name(self, index: int) -> str:
        """Return the number of the record, counted from 0 over the split's archive files."""
        return f"record {int(self.order_N[index])}"

    def open(self, index: int) -> Image.Image:
        """Return image `index`."""
        return Image.fromarray(self._pixels[self.order_N[index]])


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


def decode_name(name: str) -> str:
    """Return a file name as text that can be stored: each byte that is not UTF-8 becomes ``\\xNN``."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def name_key(name: str) -> str:
    """Return what the names of one class have in common, however their characters are composed (NFC, NFD)."""
    return unicodedata.normalize("NFC", decode_name(name))


def natural_sort_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Return a sort key under which ``img2`` comes before ``img10``."""
    parts = re.split(r"([0-9]+)", name)
    return tuple((1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts)


def is_image(name: str) -> bool:
    """Return whether the name has a picture's extension, in any case, and is not hidden."""
    return not name.startswith(".") and name.lower().endswith(_EXTENSIONS)


def list_subfolders(folder: Path) -> list[str]:
    """Return the sorted names of the folders in `folder`, except hidden ones and ``__MACOSX``."""
    with os.scandir(folder) as dir_entries:
        names = (dir_entry.name for dir_entry in dir_entries if dir_entry.is_dir())
        return sorted(name for name in names if not name.startswith((".", "__")))


def list_files(root: Path, folder: str) -> Iterator[str]:
    """Yield every file below `root`/`folder`, named relative to `root`, in any order.

    Links to folders are followed, except to a folder that contains them. A hidden folder is not opened, but
    yielded like a file.
    """
    parents = (os.stat(parent) for parent in (root / folder).resolve().parents)
    pending = [(folder, frozenset((status.st_dev, status.st_ino) for status in parents))]
    while pending:
        current, outer = pending.pop()
        status = os.stat(root / current)
        if (status.st_dev, status.st_ino) in outer:
            continue
        with os.scandir(root / current) as dir_entries:
            for dir_entry in dir_entries:
                name = f"{current}/{dir_entry.name}"
                if dir_entry.is_dir() and not dir_entry.name.startswith("."):
                    pending.append((name, outer | {(status.st_dev, status.st_ino)}))
                else:
                    yield name


def list_images(root: Path, folder: str) -> list[PictureEntry]:
    """Return all pictures below `root`/`folder` in natural order, named relative to `root`."""
    names = [name for name in list_files(root, folder) if is_image(name.rpartition("/")[2])]
    return [PictureEntry.read(root, name) for name in sorted(names, key=natural_sort_key)]
