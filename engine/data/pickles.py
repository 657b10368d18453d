"""Safe reader for the pickles of the Python version of the CIFAR archives.

A pickle is a program. This reader checks all opcodes beforehand and allows only the few names that
rebuild a NumPy array of numbers, so a hostile file can at most contain wrong pixels. The classes here
replace NumPy's own functions for that.
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
MAX_BYTES = 512 * 1024**2
_NDARRAY = object()  # placeholder for numpy.ndarray that a pickle cannot call
_TUPLES = frozenset({"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"})
_PUTS = frozenset({"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"})
_GETS = frozenset({"GET", "BINGET", "LONG_BINGET"})
_OPCODES = (
    _TUPLES | _PUTS | _GETS
    | {"PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "GLOBAL", "STACK_GLOBAL", "REDUCE"}
    | {"BUILD", "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "STRING", "BINSTRING"}
    | {"SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINBYTES", "SHORT_BINBYTES"}
    | {"BINBYTES8", "BYTEARRAY8", "EMPTY_LIST", "LIST", "APPEND", "APPENDS", "EMPTY_TUPLE", "EMPTY_DICT"}
    | {"DICT", "SETITEM", "SETITEMS"}
)  # fmt: skip


def _require_plain(data: bytes) -> None:
    """Reject opcodes, distant memo slots and repeated tuples, none of which writers of arrays produce.

    Distant slots use unbounded memory, and repeated tuples unbounded time. Raises UnpicklingError, or
    ValueError if the data is not a pickle.
    """
    puts, tuples, previous = 0, set(), ""
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name not in _OPCODES:
            raise pickle.UnpicklingError(f"it has the opcode {opcode.name}, which no array needs")
        if opcode.name in _PUTS:
            slot = puts if argument is None else argument
            if slot > puts + 1:
                raise pickle.UnpicklingError(f"it skips to slot {slot} of its memory")
            puts += 1
            if previous in _TUPLES:
                tuples.add(slot)
        elif opcode.name in _GETS and argument in tuples:
            raise pickle.UnpicklingError("it repeats a tuple")
        previous = opcode.name


class _Dtype:
    """A plain numeric dtype; all that a pickle states beyond kind and byte order is ignored."""

    def __init__(self, kind: str, align: object = False, copy: object = False) -> None:
        if not isinstance(kind, str) or len(kind) > 4 or np.dtype(kind).kind not in "buif":
            raise pickle.UnpicklingError(f"dtype {kind!r} is not allowed")
        self.plain = np.dtype(kind)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] in ("<", ">"):
            self.plain = self.plain.newbyteorder(state[1])


class _ArrayFromState:
    """An array as protocols up to 4 write it: created empty, then filled from its state."""

    def __init__(self, kind: object, shape: object, code: object) -> None:
        if kind is not _NDARRAY or shape != (0,):
            raise pickle.UnpicklingError("only plain arrays are allowed")
        self.array: Array = np.ndarray((0,), np.uint8)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, data = state
        data = data.encode("latin1") if isinstance(data, str) else data  # as Python 2 writes it
        self.array = _array_from_bytes(data, dtype, shape, "F" if fortran else "C")


def _array_from_bytes(data: bytes, dtype: _Dtype, shape: tuple[int, ...], order: str) -> Array:
    """Return an array from its bytes, as protocol 5 writes it."""
    if not isinstance(dtype, _Dtype) or not isinstance(data, (bytes, bytearray)):
        raise pickle.UnpicklingError("only plain arrays are allowed")
    return np.frombuffer(data, dtype.plain).reshape(shape, order="F" if order == "F" else "C")


class _ArrayUnpickler(pickle.Unpickler):
    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data), encoding="latin1")
        self._bytes_left = len(data)  # for `_encode`
        self._allowed: dict[tuple[str, str], object] = {
            ("numpy", "ndarray"): _NDARRAY,
            ("numpy", "dtype"): _Dtype,
            ("_codecs", "encode"): self._encode,
            **{
                (f"{core}.multiarray", "_reconstruct"): _ArrayFromState
                for core in ("numpy.core", "numpy._core")
            },
            **{
                (f"{core}.numeric", "_frombuffer"): _array_from_bytes
                for core in ("numpy.core", "numpy._core")
            },
        }

    def _encode(self, text: str, encoding: str) -> bytes:
        """Return bytes as Python 3 writes them into old protocols; in total at most the size of the file."""
        self._bytes_left -= len(text)
        if encoding != "latin1" or self._bytes_left < 0:
            raise pickle.UnpicklingError(f"bytes of encoding {encoding!r} are not allowed, or too many")
        return text.encode("latin1")

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._allowed:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not part of an array")
        return self._allowed[module, name]


def read(path: Path) -> dict[str, Any]:
    """Return the dictionary in a pickle of arrays, lists, numbers and text. Raises UserError("data")."""
    advice = "download the archive again"
    try:
        if path.stat().st_size > MAX_BYTES:
            raise pickle.UnpicklingError(f"it is larger than {MAX_BYTES:,} bytes")
        data = path.read_bytes()
        _require_plain(data)
        content = _ArrayUnpickler(data).load()
    except Exception as error:  # a broken pickle raises all kinds of errors
        refuse(f"{path} cannot be read safely: {error}", advice)
    if not isinstance(content, dict) or not all(isinstance(key, (str, bytes)) for key in content):
        refuse(f"{path} holds no dictionary of names", advice)
    return {
        key.decode("latin1") if isinstance(key, bytes) else key: (
            value.array if isinstance(value, _ArrayFromState) else value
        )
        for key, value in content.items()
    }
