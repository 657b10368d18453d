"""Arrays on disk as safetensors with a digest, so that damage is detected; reading executes no code.

The header's metadata begin with ``sha256``: the digest of the file with zeros in place of those 64 digits.
It covers the whole file or, where ``sealed`` is ``header``, only the header of a file that is filled in place
and whose rows have their own digests (see `rows`).
"""

from __future__ import annotations

import errno
import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from engine.errors import UserError
from engine.store import files, json_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

Shapes = Mapping[str, tuple[str, tuple[int, ...]]]  #: NumPy's dtype string and the shape of each array

_NAMES = {"<f2": "F16", "<f4": "F32", "<f8": "F64", "<i4": "I32", "<i8": "I64", "|u1": "U8", "|b1": "BOOL"}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}
_AT = 8 + len('{"__metadata__":{"sha256":"')  #: the offset of the digest's digits
_ZEROS = b"0" * 64
_MISMATCH = "its content does not match its checksum"


@dataclass(frozen=True)
class ArrayLocation:
    """Type, shape and place of an array in a file. start: its offset; size: its length in bytes."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int


@dataclass(frozen=True)
class Header:
    """The parsed header of a file. raw: its bytes. end: the size of the whole file in bytes."""

    raw: bytes
    parts: dict[str, ArrayLocation]
    metadata: dict[str, str]
    end: int

    @staticmethod
    def build(shapes: Shapes, metadata: Mapping[str, str], sealed: Literal["file", "header"]) -> bytes:
        """Return the header of a file with these arrays in this order; the digits of its digest are zeros."""
        all_metadata = {"sha256": _ZEROS.decode(), "sealed": sealed, **metadata}
        assert len(all_metadata) == len(metadata) + 2
        fields: dict[str, Any] = {"__metadata__": all_metadata}
        offset = 0
        for name, (dtype, shape) in shapes.items():
            end = offset + int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
            fields[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [offset, end]}
            offset = end
        text = json_file.to_json(fields).encode()
        text += b" " * (-len(text) % 8)
        return struct.pack("<Q", len(text)) + text

    @classmethod
    def parse(cls, raw: bytes) -> Header:
        """Parse a header. Raises ValueError if it is invalid."""
        try:
            fields = json.loads(raw[8:])
            metadata = fields.pop("__metadata__")
            parts = {}
            for name, field in fields.items():
                start, end = field["data_offsets"]
                dtype, shape = _DTYPES[field["dtype"]], tuple(field["shape"])
                parts[name] = ArrayLocation(dtype, shape, len(raw) + start, end - start)
        except (KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
            raise ValueError(_MISMATCH) from error
        end = max([len(raw), *(part.start + part.size for part in parts.values())])
        return cls(raw, parts, metadata, end)

    @classmethod
    def read(cls, path: Path) -> Header:
        """Return the verified header of a file that is filled in place. Raises UserError as `read` does."""
        try:
            with path.open("rb") as file:
                size, first = path.stat().st_size, file.read(8)
                raw = first + file.read(_header_size(first, size) - 8)
            if seal(raw) != raw:
                raise ValueError("its header does not match its checksum")
            header = cls.parse(raw)
            if header.end != size:
                raise ValueError(f"it has {size:,} bytes instead of {header.end:,}")
            return cls(raw, header.parts, header.user_metadata("header"), header.end)
        except OSError as error:
            raise read_error(path, error) from error
        except ValueError as error:
            raise damaged_error(path, error) from error

    def user_metadata(self, sealed: Literal["file", "header"]) -> dict[str, str]:
        """Return the metadata without ``sha256`` and ``sealed``. Raises ValueError if they are wrong."""
        metadata = dict(self.metadata)
        if list(metadata)[:2] != ["sha256", "sealed"] or metadata.pop("sealed") != sealed:
            raise ValueError(_MISMATCH)
        del metadata["sha256"]
        return metadata


def seal(header: bytes, *contents: memoryview) -> bytes:
    """Return the header with the digest of itself and `contents` filled in."""
    state = hashlib.sha256(header[:_AT] + _ZEROS + header[_AT + 64 :])
    for content in contents:
        state.update(content)
    return header[:_AT] + state.hexdigest().encode() + header[_AT + 64 :]


def write(
    path: Path,
    arrays: Mapping[str, NDArray[Any]],
    metadata: Mapping[str, str],
    hint: str = files.OUT,
    *,
    sync_name: bool = True,
) -> int:
    """Write arrays to `path` atomically with their digest, and return the size of the file in bytes.

    metadata: text stored in the header. sync_name: as in `files.write`. Raises UserError("disk") with `hint`.
    """
    # Largest item size first, so that every array is aligned to its item size.
    ordered = sorted(arrays.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    plain = {name: np.asarray(array, array.dtype.newbyteorder("<"), order="C") for name, array in ordered}
    shapes = {name: (array.dtype.str, array.shape) for name, array in plain.items()}
    header = Header.build(shapes, metadata, "file")
    contents = [as_bytes(array) for array in plain.values()]
    files.write(path, seal(header, *contents), *contents, hint=hint, sync_name=sync_name)
    return len(header) + sum(content.nbytes for content in contents)


def read(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Return all arrays of a file that `write` wrote, and the metadata in its header; every byte is verified.

    The arrays share one block of memory. Raises UserError("data") if the file is damaged, UserError("disk")
    if it is absent or the system refuses to read it.
    """
    try:
        content = np.fromfile(path, np.uint8)
        raw = content[: _header_size(content[:8].tobytes(), content.size)].tobytes()
        if seal(raw, content[len(raw) :].data) != raw:
            raise ValueError(_MISMATCH)
        header = Header.parse(raw)
        arrays = {
            name: content[part.start : part.start + part.size].view(part.dtype).reshape(part.shape)
            for name, part in header.parts.items()
        }
        return arrays, header.user_metadata("file")
    except OSError as error:
        raise read_error(path, error) from error
    except ValueError as error:
        raise damaged_error(path, error) from error


def as_bytes(array: NDArray[Any]) -> memoryview:
    """Return the bytes of a contiguous array, without a copy."""
    return array.reshape(-1).view(np.uint8).data


def damaged_error(path: Path, error: object, hint: str = "restore it, or create it again") -> UserError:
    """Return the UserError("data") for a file whose content cannot be used."""
    return UserError("data", f"{path} is damaged: {error}", hint)


def read_error(path: Path, error: OSError) -> UserError:
    """Return the UserError for a file that could not be read: "data" after an I/O error, otherwise "disk"."""
    if error.errno == errno.EIO:
        return damaged_error(path, "the disk cannot read it")
    return files.unreadable_error(path, error)


def _header_size(first: bytes, size: int) -> int:
    """Return the header's size in bytes, given the first eight bytes of a file of `size` bytes."""
    length = struct.unpack("<Q", first)[0] if len(first) == 8 else size
    if not _AT + 64 <= 8 + length <= size:
        raise ValueError(_MISMATCH)
    return 8 + int(length)
