"""Reading the Python version of the CIFAR archives without trusting it.

A pickle is a program. This reader looks through all of its steps beforehand, knows the few names that
rebuilding a NumPy array of numbers takes, and refuses every other, so a hostile file can at most give
wrong pixels. What NumPy itself would run on such a file is replaced by the two classes here.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np

from engine.data.layout import refuse

Array = np.ndarray[Any, Any]
MOST_BYTES = 512 * 1024**2
_PLAIN = object()  # stands for numpy.ndarray, so that a pickle cannot call it
_TUPLES = frozenset({"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"})
_PUTS = frozenset({"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"})
_GETS = frozenset({"GET", "BINGET", "LONG_BINGET"})
_STEPS = (
    _TUPLES | _PUTS | _GETS
    | {"PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "GLOBAL", "STACK_GLOBAL", "REDUCE"}
    | {"BUILD", "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "STRING", "BINSTRING"}
    | {"SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINBYTES", "SHORT_BINBYTES"}
    | {"BINBYTES8", "BYTEARRAY8", "EMPTY_LIST", "LIST", "APPEND", "APPENDS", "EMPTY_TUPLE", "EMPTY_DICT"}
    | {"DICT", "SETITEM", "SETITEMS"}
)  # fmt: skip


def _require_plain(data: bytes) -> None:
    """Refuse what writers of arrays never do: other steps, far memo slots, the same tuple twice.

    The last two take memory and time without end. Raises UnpicklingError; ValueError if it is no pickle.
    """
    puts, tuples, before = 0, set(), ""
    for step, argument, _ in pickletools.genops(data):
        if step.name not in _STEPS:
            raise pickle.UnpicklingError(f"it has a step {step.name}, which no array needs")
        if step.name in _PUTS:
            slot = puts if argument is None else argument
            if slot > puts + 1:
                raise pickle.UnpicklingError(f"it skips to slot {slot} of its memory")
            puts += 1
            if before in _TUPLES:
                tuples.add(slot)
        elif step.name in _GETS and argument in tuples:
            raise pickle.UnpicklingError("it repeats a tuple")
        before = step.name


class _Dtype:
    """A plain numeric dtype; what a pickle says of it beyond kind and byte order is not listened to."""

    def __init__(self, kind: str, align: object = False, copy: object = False) -> None:
        if not isinstance(kind, str) or len(kind) > 4 or np.dtype(kind).kind not in "buif":
            raise pickle.UnpicklingError(f"dtype {kind!r} is not allowed")
        self.plain = np.dtype(kind)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] in ("<", ">"):
            self.plain = self.plain.newbyteorder(state[1])


class _Stored:
    """An array out of its bytes, as protocols up to 4 write it: empty first, then filled."""

    def __init__(self, kind: object, shape: object, code: object) -> None:
        if kind is not _PLAIN or shape != (0,):
            raise pickle.UnpicklingError("only plain arrays are allowed")
        self.array: Array = np.ndarray((0,), np.uint8)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, data = state
        data = data.encode("latin1") if isinstance(data, str) else data  # as Python 2 writes it
        self.array = _from_bytes(data, dtype, shape, "F" if fortran else "C")


def _from_bytes(data: bytes, dtype: _Dtype, shape: tuple[int, ...], order: str) -> Array:
    """An array out of its bytes, as protocol 5 writes it."""
    if not isinstance(dtype, _Dtype) or not isinstance(data, (bytes, bytearray)):
        raise pickle.UnpicklingError("only plain arrays are allowed")
    return np.frombuffer(data, dtype.plain).reshape(shape, order="F" if order == "F" else "C")


class _ArraysOnly(pickle.Unpickler):
    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data), encoding="latin1")
        self._left = len(data)
        self._allowed: dict[tuple[str, str], object] = {
            ("numpy", "ndarray"): _PLAIN,
            ("numpy", "dtype"): _Dtype,
            ("_codecs", "encode"): self._encode,
            **{(f"{core}.multiarray", "_reconstruct"): _Stored for core in ("numpy.core", "numpy._core")},
            **{(f"{core}.numeric", "_frombuffer"): _from_bytes for core in ("numpy.core", "numpy._core")},
        }

    def _encode(self, text: str, encoding: str) -> bytes:
        """Bytes, as Python 3 writes them into old protocols; not more in all than the file has."""
        self._left -= len(text)
        if encoding != "latin1" or self._left < 0:
            raise pickle.UnpicklingError(f"bytes of encoding {encoding!r} are not allowed, or too many")
        return text.encode("latin1")

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._allowed:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is no part of an array")
        return self._allowed[module, name]


def read(path: Path) -> dict[str, Any]:
    """The dictionary in a pickle of arrays, lists, numbers and text. Raises UserError("data")."""
    advice = "get a clean copy of the archive"
    try:
        if path.stat().st_size > MOST_BYTES:
            raise pickle.UnpicklingError(f"it is larger than {MOST_BYTES:,} bytes")
        data = path.read_bytes()
        _require_plain(data)
        content = _ArraysOnly(data).load()
    except Exception as error:  # a broken pickle raises anything
        refuse(f"{path} cannot be read safely: {error}", advice)
    if not isinstance(content, dict) or not all(isinstance(key, (str, bytes)) for key in content):
        refuse(f"{path} holds no dictionary of names", advice)
    return {
        key.decode("latin1") if isinstance(key, bytes) else key: (
            value.array if isinstance(value, _Stored) else value
        )
        for key, value in content.items()
    }
