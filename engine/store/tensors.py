"""Arrays on disk as safetensors: read without running anything, written whole or in place.

Not here: what the arrays mean (see the neighbours).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import UserError
from engine.store import files

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NAMES = {"<f2": "F16", "<f4": "F32", "<f8": "F64", "<i4": "I32", "<i8": "I64", "|u1": "U8", "|b1": "BOOL"}


def layout(
    shapes: Mapping[str, tuple[str, tuple[int, ...]]], facts: Mapping[str, str]
) -> tuple[bytes, dict[str, int], int]:
    """The header of a safetensors file, each array's offset in the file, and the file's size.

    shapes: NumPy's dtype string and the shape of each array. facts: kept in the header as text.
    """
    import numpy as np

    fields: dict[str, Any] = {"__metadata__": dict(facts)}
    starts, offset = {}, 0
    for name, (dtype, shape) in shapes.items():
        end = offset + int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        fields[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        starts[name], offset = offset, end
    text = files.to_json(fields).encode()
    text += b" " * (-len(text) % 8)
    begin = 8 + len(text)
    header = struct.pack("<Q", len(text)) + text
    return header, {name: begin + start for name, start in starts.items()}, begin + offset


def write(
    path: Path, arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, str], hint: str = files.OUT
) -> None:
    """Replace the file `path` by these arrays, atomically. Raises UserError("disk") with `hint`."""
    import numpy as np

    # Largest items first: readers want every array aligned to its item size.
    ordered = sorted(arrays.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    plain = {name: np.asarray(array, array.dtype.newbyteorder("<"), order="C") for name, array in ordered}
    header, _, _ = layout({name: (array.dtype.str, array.shape) for name, array in plain.items()}, facts)
    files.write(path, header, *(array.reshape(-1).view(np.uint8).data for array in plain.values()), hint=hint)


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A file opened by safetensors, its arrays not read yet. Raises UserError("data") where it is damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except (SafetensorError, OSError, TypeError) as error:
        raise damaged(path, error) from error


def read(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """All arrays of a file, and the facts in its header. Raises UserError("data") where it is damaged."""
    with opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118


def damaged(path: Path, error: object) -> UserError:
    """The report that a file's content cannot be used."""
    return UserError("data", f"{path} is damaged: {error}", "restore it, or make it anew")
