"""Arrays on disk as safetensors: read without running anything, and sealed, so that damage is noticed.

The header's metadata begin with ``sha256``: the digest of the file as it would be with zeros in place of
those 64 digits. It covers the whole file, or (``sealed``: header) the header of one that is filled in
place, whose rows have digests of their own.
Not here: what the arrays mean (see the neighbours), files that are filled in place (see `rows`).
"""

from __future__ import annotations

import errno
import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

import numpy as np

from engine.errors import UserError
from engine.store import files, json_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

Sealed = Literal["file", "header"]
Shapes = Mapping[str, tuple[str, tuple[int, ...]]]  #: NumPy's dtype string and the shape of each array

_NAMES = {"<f2": "F16", "<f4": "F32", "<f8": "F64", "<i4": "I32", "<i8": "I64", "|u1": "U8", "|b1": "BOOL"}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}
_BEFORE = b'{"__metadata__":{"sha256":"'
_AT = 8 + len(_BEFORE)  #: where the digits of the digest are
_ZEROS = b"0" * 64
_ALTERED = "its content is not what was written"


@dataclass(frozen=True)
class Part:
    """Where an array lies. start: its offset in the file; size: its bytes."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int


@dataclass(frozen=True)
class Header:
    """What a file's beginning tells. raw: its bytes; end: the size of the whole file."""

    raw: bytes
    parts: dict[str, Part]
    facts: dict[str, str]
    end: int


def layout(shapes: Shapes, facts: Mapping[str, str], sealed: Sealed) -> bytes:
    """The header of a file that holds these arrays in this order, the digits of its digest still zeros."""
    metadata = {"sha256": _ZEROS.decode(), "sealed": sealed, **facts}
    assert len(metadata) == len(facts) + 2
    fields: dict[str, Any] = {"__metadata__": metadata}
    offset = 0
    for name, (dtype, shape) in shapes.items():
        end = offset + int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        fields[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json_file.to_json(fields).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def seal(header: bytes, *contents: memoryview) -> bytes:
    """The header with the digest of itself and `contents` in its place."""
    state = hashlib.sha256(_blank(header))
    for content in contents:
        state.update(content)
    return header[:_AT] + state.hexdigest().encode() + header[_AT + 64 :]


def parse(raw: bytes) -> Header:
    """Read a header. Raises ValueError where it cannot be one."""
    try:
        fields = json.loads(raw[8:])
        facts = fields.pop("__metadata__")
        parts = {name: _part(field, len(raw)) for name, field in fields.items()}
    except (KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise ValueError(_ALTERED) from error
    return Header(raw, parts, facts, max([len(raw), *(part.start + part.size for part in parts.values())]))


def write(
    path: Path,
    arrays: Mapping[str, NDArray[Any]],
    facts: Mapping[str, str],
    hint: str = files.OUT,
    *,
    sync_name: bool = True,
) -> int:
    """Replace the file `path` by these arrays, atomically and sealed; returns its bytes.

    facts: kept in the header as text. sync_name: as in `files.write`. Raises UserError("disk") with `hint`.
    """
    # Largest items first: readers want every array aligned to its item size.
    ordered = sorted(arrays.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    plain = {name: np.asarray(array, array.dtype.newbyteorder("<"), order="C") for name, array in ordered}
    header = layout({name: (array.dtype.str, array.shape) for name, array in plain.items()}, facts, "file")
    contents = [as_bytes(array) for array in plain.values()]
    files.write(path, seal(header, *contents), *contents, hint=hint, sync_name=sync_name)
    return len(header) + sum(content.nbytes for content in contents)


def read(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """All arrays of a file written whole, and the facts in its header; every byte is verified.

    The arrays share one piece of memory. Raises UserError("data") where the file is damaged,
    UserError("disk") where it is absent or the system refuses to read it.
    """
    try:
        content = np.fromfile(path, np.uint8)
        raw = content[: _header_size(content[:8].tobytes(), content.size)].tobytes()
        if seal(raw, content[len(raw) :].data) != raw:
            raise ValueError(_ALTERED)
        header = parse(raw)
        arrays = {
            name: content[part.start : part.start + part.size].view(part.dtype).reshape(part.shape)
            for name, part in header.parts.items()
        }
        return arrays, _own_facts(header, "file")
    except OSError as error:
        raise refused(path, error) from error
    except ValueError as error:
        raise damaged(path, error) from error


def read_header(path: Path) -> Header:
    """The verified header of a file that is filled in place. Raises UserError as `read` does."""
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            raw = _exactly(file, _header_size(file.read(8), size))
        if seal(raw) != raw:
            raise ValueError("its header is not what was written")
        header = parse(raw)
        if header.end != size:
            raise ValueError(f"it has {size:,} bytes instead of {header.end:,}")
        return Header(raw, header.parts, _own_facts(header, "header"), header.end)
    except OSError as error:
        raise refused(path, error) from error
    except ValueError as error:
        raise damaged(path, error) from error


def as_bytes(array: NDArray[Any]) -> memoryview:
    """The bytes of a contiguous array, without a copy."""
    return array.reshape(-1).view(np.uint8).data


def damaged(path: Path, error: object, hint: str = "restore it, or make it anew") -> UserError:
    """The report that a file's content cannot be used."""
    return UserError("data", f"{path} is damaged: {error}", hint)


def refused(path: Path, error: OSError) -> UserError:
    """The report that the system refuses to read a file, or that its disk cannot."""
    if error.errno == errno.EIO:
        return damaged(path, "the disk cannot read it")
    return files.unreadable(path, error)


def _blank(header: bytes) -> bytes:
    return header[:_AT] + _ZEROS + header[_AT + 64 :]


def _header_size(first: bytes, size: int) -> int:
    """Bytes of the header, from the first eight of a file of `size` bytes."""
    length = struct.unpack("<Q", first)[0] if len(first) == 8 else size
    if not _AT + 64 <= 8 + length <= size:
        raise ValueError(_ALTERED)
    return 8 + int(length)


def _exactly(file: IO[bytes], size: int) -> bytes:
    file.seek(0)
    raw = file.read(size)
    if len(raw) != size or not raw[8:].startswith(_BEFORE):
        raise ValueError("its header is not what was written")
    return raw


def _part(field: Mapping[str, Any], begin: int) -> Part:
    start, end = field["data_offsets"]
    return Part(_DTYPES[field["dtype"]], tuple(field["shape"]), begin + start, end - start)


def _own_facts(header: Header, sealed: Sealed) -> dict[str, str]:
    facts = dict(header.facts)
    if list(facts)[:2] != ["sha256", "sealed"] or facts.pop("sealed") != sealed:
        raise ValueError(_ALTERED)
    del facts["sha256"]
    return facts
