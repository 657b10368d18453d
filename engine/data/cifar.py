"""CIFAR-10 and CIFAR-100 from the binary and Python versions of their official archives.

Legend: N images.
Source: https://www.cs.toronto.edu/~kriz/cifar.html. A record is the label (CIFAR-100: coarse label, then
fine label) and 3,072 bytes: the red, green and blue planes, each in row-major order. Fine labels are used.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from engine.data import pickles
from engine.data.catalogue import CIFAR10_CLASSES
from engine.data.layout import DataSetSource, read_text, refuse
from engine.data.pictures import Records, entry

Array = np.ndarray[Any, Any]
SIDE = 32
MAX_NAME_CHARACTERS = 60  # characters of a class name
PIXELS = 3 * SIDE * SIDE


@dataclass(frozen=True)
class Version:
    """One format of one archive. label_bytes: before the pixels of a binary record; 0 for pickles.

    names: the file with the class names; "" for CIFAR-10, whose names are constant. keys: of the class
    names and of the labels in pickles.
    """

    title: str
    train: tuple[str, ...]
    test: str
    classes: int
    label_bytes: int = 0
    names: str = ""
    keys: tuple[str, str] = ("", "")

    def matches(self, path: Path) -> bool:
        """Return whether `path` holds this version."""
        return (path / self.train[0]).is_file()

    def read(self, path: Path, want_test: bool) -> DataSetSource:
        """List the records; the test file is read only if `want_test`.

        Raises UserError("data") if files are missing or damaged.
        """
        classes = self._read_class_names(path)
        train = self._list_records(path, self.train)
        test = self._list_records(path, (self.test,)) if want_test else None
        return DataSetSource(path, self.title, classes, train, test)

    def _list_records(self, path: Path, files: tuple[str, ...]) -> Records:
        missing = [name for name in files if not (path / name).is_file()]
        if missing:
            refuse(f"{path} lacks {', '.join(missing)}", "unpack the whole archive there")
        labels = np.concatenate([self._read_labels(path / name) for name in files])
        if labels.size and not 0 <= labels.min() <= labels.max() < self.classes:
            refuse(f"{path} has labels outside 0…{self.classes - 1}", "download the archive again")
        order_N = np.argsort(labels, kind="stable")
        read = partial(_concatenate, [partial(self._read_pixels, path / name) for name in files])
        return Records(path, tuple(entry(path, name) for name in files), labels[order_N], order_N, read)

    def _read_labels(self, path: Path) -> Array:
        if self.label_bytes:
            return self._map_rows(path)[:, self.label_bytes - 1].astype(np.int64)
        return _read_pickled_batch(path, self.keys[1])[1]

    def _read_pixels(self, path: Path) -> Array:
        rows = (
            self._map_rows(path)[:, self.label_bytes :]
            if self.label_bytes
            else _read_pickled_batch(path, self.keys[1])[0]
        )
        return rows.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)

    def _map_rows(self, path: Path) -> Array:
        size, record = path.stat().st_size, self.label_bytes + PIXELS
        if size == 0 or size % record:
            refuse(
                f"{path} has {size:,} bytes, not a whole number of records",
                "the file is incomplete; download it again",
            )
        return np.memmap(path, np.uint8, mode="r", shape=(size // record, record))

    def _read_class_names(self, path: Path) -> tuple[str, ...]:
        if not self.names:
            return CIFAR10_CLASSES
        if not (path / self.names).is_file():
            refuse(f"{path} lacks {self.names}, the class names", "unpack the whole archive there")
        if self.label_bytes:
            names = read_text(path / self.names).split()
        else:
            names = pickles.read(path / self.names).get(self.keys[0], [])
        is_valid = isinstance(names, list) and all(
            isinstance(name, str) and name.isprintable() and len(name) <= MAX_NAME_CHARACTERS
            for name in names
        )
        if not is_valid or len(names) != self.classes:
            refuse(
                f"{path / self.names} has no list of {self.classes} class names",
                "download the archive again",
            )
        return tuple(names)


def _concatenate(readers: list[partial[Array]]) -> Array:
    return np.concatenate([read() for read in readers])


def _read_pickled_batch(path: Path, label_key: str) -> tuple[Array, Array]:
    """Return pixels (N, 3072) and labels (N,) of one pickled batch. Raises UserError("data")."""
    content = pickles.read(path)
    pixels, labels = content.get("data"), content.get(label_key)
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (PIXELS,):
        refuse(f"{path} has no uint8 array `data` of {PIXELS} columns", "download the archive again")
    if (
        not isinstance(labels, list)
        or len(labels) != len(pixels)
        or not all(type(y) is int and 0 <= y < 256 for y in labels)
    ):
        refuse(f"{path} has no list `{label_key}` of one number an image", "download the archive again")
    return pixels, np.array(labels, dtype=np.int64)


_BATCHES = tuple(f"data_batch_{index}" for index in range(1, 6))
CIFAR10 = (
    Version("CIFAR-10 binary version", tuple(f"{name}.bin" for name in _BATCHES), "test_batch.bin", 10, 1),
    Version("CIFAR-10 python version", _BATCHES, "test_batch", 10, keys=("label_names", "labels")),
)
CIFAR100 = (
    Version("CIFAR-100 binary version", ("train.bin",), "test.bin", 100, 2, "fine_label_names.txt"),
    Version(
        "CIFAR-100 python version", ("train",), "test", 100,
        names="meta", keys=("fine_label_names", "fine_labels"),
    ),
)  # fmt: skip
