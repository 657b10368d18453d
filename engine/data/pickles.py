"""Reading the Python version of the CIFAR archives without trusting it.

A pickle is a program. This reader knows the few names that rebuilding a NumPy array of numbers takes and
refuses every other, so a hostile file can at most give wrong pixels.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from engine.data.layout import refuse

MOST_BYTES = 512 * 1024**2
_PLAIN = object()  # stands for numpy.ndarray, so that a pickle cannot call it


def _dtype(kind: str, align: object = False, copy: object = False) -> np.dtype[Any]:
    """A plain numeric dtype; old pickles give the flags as integers."""
    if not isinstance(kind, str) or np.dtype(kind).kind not in "buif":
        raise pickle.UnpicklingError(f"dtype {kind!r} is not allowed")
    return np.dtype(kind, bool(align), bool(copy))


def _encode(text: str, encoding: str) -> bytes:
    """Bytes, as Python 3 writes them into old protocols."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"encoding {encoding!r} is not allowed")
    return text.encode("latin1")


def _array(kind: object, shape: object, code: object) -> np.ndarray[Any, Any]:
    """The empty array that a pickle then fills."""
    if kind is not _PLAIN or shape != (0,):
        raise pickle.UnpicklingError("only plain arrays are allowed")
    return np.ndarray((0,), np.uint8)


def _from_bytes(
    data: bytes, dtype: np.dtype[Any], shape: tuple[int, ...], order: str
) -> np.ndarray[Any, Any]:
    """An array out of its bytes, as protocol 5 writes it."""
    return np.frombuffer(data, dtype).reshape(shape, order="F" if order == "F" else "C")


_ALLOWED: dict[tuple[str, str], object] = {
    ("numpy", "ndarray"): _PLAIN,
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _encode,
    **{(f"{core}.multiarray", "_reconstruct"): _array for core in ("numpy.core", "numpy._core")},
    **{(f"{core}.numeric", "_frombuffer"): _from_bytes for core in ("numpy.core", "numpy._core")},
}


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is no part of an array")
        return _ALLOWED[module, name]


def read(path: Path) -> dict[str, Any]:
    """The dictionary in a pickle of arrays, lists, numbers and text. Raises UserError("data")."""
    advice = "get a clean copy of the archive"
    try:
        if path.stat().st_size > MOST_BYTES:
            raise pickle.UnpicklingError(f"it is larger than {MOST_BYTES:,} bytes")
        with open(path, "rb") as file:
            content = _ArraysOnly(file, encoding="latin1").load()
    except Exception as error:  # a broken pickle raises anything
        refuse(f"{path} cannot be read safely: {error}", advice)
    if not isinstance(content, dict):
        refuse(f"{path} holds no dictionary", advice)
    return {
        key.decode("latin1") if isinstance(key, bytes) else str(key): value for key, value in content.items()
    }
