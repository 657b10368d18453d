"""CIFAR-10 and CIFAR-100 from the binary and Python versions of their official archives.

Legend: N images.
Source: https://www.cs.toronto.edu/~kriz/cifar.html. A record is the label (CIFAR-100: coarse label, then
fine label) and 3,072 bytes: the red, green and blue planes, each in row-major order. Fine labels are used.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.data.image_folders import read_text
from engine.data.pictures import DataSetSource, PictureEntry, Records
from engine.errors import raise_data_error

CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
_PIXELS = 3 * 32 * 32
_DOWNLOAD_AGAIN = "download the archive again"


@dataclass(frozen=True)
class CifarVersion:
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
            raise_data_error(f"{path} lacks {', '.join(missing)}", "unpack the whole archive there")
        labels = np.concatenate([self._read_file(path / name)[1] for name in files])
        if labels.size and not 0 <= labels.min() <= labels.max() < self.classes:
            raise_data_error(f"{path} has labels outside 0…{self.classes - 1}", _DOWNLOAD_AGAIN)
        order_N = np.argsort(labels, kind="stable")
        entries = tuple(PictureEntry.read(path, name) for name in files)

        def read_pixels() -> NDArray[Any]:
            return np.concatenate([self._read_file(path / name)[0] for name in files])

        return Records(path, entries, labels[order_N], order_N, read_pixels)

    def _read_file(self, path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return pixels (N, 32, 32, 3) and labels (N,) of one file."""
        if self.label_bytes:
            size, record = path.stat().st_size, self.label_bytes + _PIXELS
            if size == 0 or size % record:
                message = f"{path} has {size:,} bytes, not a whole number of records"
                raise_data_error(message, "the file is incomplete; download it again")
            records = np.memmap(path, np.uint8, mode="r", shape=(size // record, record))
            pixels, labels = records[:, self.label_bytes :], records[:, self.label_bytes - 1]
        else:
            pixels, labels = _read_pickled_batch(path, self.keys[1])
        return pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels.astype(np.int64)

    def _read_class_names(self, path: Path) -> tuple[str, ...]:
        if not self.names:
            return CIFAR10_CLASSES
        file = path / self.names
        if not file.is_file():
            raise_data_error(f"{path} lacks {self.names}, the class names", "unpack the whole archive there")
        names: Any = read_text(file).split() if self.label_bytes else _read_pickle(file).get(self.keys[0])
        is_valid = isinstance(names, list) and all(
            isinstance(name, str) and name.isprintable() and len(name) <= 60 for name in names
        )
        if not is_valid or len(names) != self.classes:
            raise_data_error(f"{file} has no list of {self.classes} class names", _DOWNLOAD_AGAIN)
        return tuple(names)


def _read_pickled_batch(path: Path, label_key: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return pixels (N, 3072) and labels (N,) of one pickled batch. Raises UserError("data")."""
    content = _read_pickle(path)
    pixels, labels = content.get("data"), content.get(label_key)
    if not isinstance(pixels, np.ndarray) or pixels.shape[1:] != (_PIXELS,):
        raise_data_error(f"{path} has no uint8 array `data` of {_PIXELS} columns", _DOWNLOAD_AGAIN)
    if (
        not isinstance(labels, list)
        or len(labels) != len(pixels)
        or not all(type(y) is int and 0 <= y < 256 for y in labels)
    ):
        raise_data_error(f"{path} has no list `{label_key}` of one number an image", _DOWNLOAD_AGAIN)
    return pixels, np.array(labels)


class _Placeholder:
    """What a pickle gets instead of NumPy's array or dtype, so that it can call nothing of NumPy."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state

    def to_array(self) -> NDArray[Any]:
        """Return the array of bytes that it stands for. Raises any exception if there is none."""
        if self.state:  # protocols up to 4 create an empty array and fill it
            _, shape, dtype, is_fortran, data = self.state
        else:
            data, dtype, shape, order = self.arguments
            is_fortran = order == "F"
        if dtype.arguments[0] not in ("u1", b"u1"):
            raise pickle.UnpicklingError(f"its array has dtype {dtype.arguments[0]!r:.20}")
        return np.frombuffer(data, np.uint8).reshape(shape, order="F" if is_fortran else "C")


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        where = module.replace("numpy._core", "numpy.core")
        functions = ("numpy.core.multiarray._reconstruct", "numpy.core.numeric._frombuffer")
        if f"{where}.{name}" in ("numpy.ndarray", "numpy.dtype", *functions):
            return _Placeholder
        if (module, name) == ("_codecs", "encode"):  # bytes as Python 3 writes them into old protocols
            return lambda text, _: text.encode("latin1")
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not part of an array")


def _read_pickle(path: Path) -> dict[str, Any]:
    """Return the dictionary in a pickle of arrays of bytes, lists, numbers and text.

    Raises UserError("data") for anything else.
    """

    def decode(value: Any) -> Any:  # bytes are the text of Python 2
        return value.decode("latin1") if isinstance(value, bytes) else value

    def convert(value: Any) -> Any:
        if isinstance(value, _Placeholder):
            return value.to_array()
        return [decode(item) for item in value] if isinstance(value, list) else value

    try:
        with open(path, "rb") as file:
            content = _ArrayUnpickler(file, encoding="bytes").load()
        if not isinstance(content, dict):
            raise pickle.UnpicklingError("it holds no dictionary")
        return {str(decode(key)): convert(value) for key, value in content.items()}
    except Exception as error:  # a broken pickle raises all kinds of errors
        raise_data_error(f"{path} cannot be read safely: {error}", _DOWNLOAD_AGAIN)


_BATCHES = tuple(f"data_batch_{index}" for index in range(1, 6))
_BINARY_BATCHES = tuple(f"{name}.bin" for name in _BATCHES)
_FINE_KEYS = ("fine_label_names", "fine_labels")
VERSIONS = {
    "cifar10": (
        CifarVersion("CIFAR-10 binary version", _BINARY_BATCHES, "test_batch.bin", 10, 1),
        CifarVersion("CIFAR-10 python version", _BATCHES, "test_batch", 10, keys=("label_names", "labels")),
    ),
    "cifar100": (
        CifarVersion("CIFAR-100 binary version", ("train.bin",), "test.bin", 100, 2, "fine_label_names.txt"),
        CifarVersion("CIFAR-100 python version", ("train",), "test", 100, 0, "meta", _FINE_KEYS),
    ),
}
