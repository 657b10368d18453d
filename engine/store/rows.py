"""Tables of images or soft labels that are filled in place, row by row, and verified row by row.

Legend: R rows of the whole table, M rows at a time.
A table is a safetensors file whose columns have R rows each. All its space is reserved when it is created.
The header has a digest. The column ``sha256`` (R, 32) holds for each row the digest of its number (8 bytes,
little-endian) and of its bytes in all other columns, in the file's order. The file is called
``NAME.partial`` until its last row is written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.errors import UserError
from engine.store import files, tensors

if TYPE_CHECKING:
    from numpy.typing import NDArray

Columns = dict[str, "NDArray[Any]"]


def partial(path: Path) -> Path:
    """Return the path of a table before it is complete."""
    return path.with_name(f"{path.name}.partial")


def _digests(first: int, columns: Mapping[str, NDArray[Any]]) -> NDArray[np.uint8]:
    """Return the digest of each row, (M, 32)."""
    flat = [values.reshape(len(values), -1).view(np.uint8) for values in columns.values() if len(values)]
    count = len(flat[0]) if flat else 0
    digests_M32 = np.empty((count, 32), np.uint8)
    for index in range(count):
        state = hashlib.sha256((first + index).to_bytes(8, "little"))
        for values in flat:
            state.update(values[index].data)
        digests_M32[index] = np.frombuffer(state.digest(), np.uint8)
    return digests_M32


class Rows:
    """A table to read from; rows are verified as they are read.

    noun: what messages call a row. hint: how to repair a damaged row.
    Raises UserError("data") if the header is damaged, UserError("disk") if the file is absent.
    """

    DIGEST = "sha256"  #: the column of digests
    CHUNK = 2**24  #: bytes that are read and verified at a time
    HINT = "restore it, or delete it and resume: it is created again"

    def __init__(self, path: Path, noun: str = "row", hint: str = HINT) -> None:
        self.path, self.noun, self.hint = path, noun, hint
        self.header = tensors.Header.read(path)
        self.metadata = self.header.metadata
        counts = {part.shape[:1] for part in self.header.parts.values()}
        if self.DIGEST not in self.header.parts or len(counts) != 1 or counts == {()}:
            raise tensors.damaged_error(path, "it is not a table of rows", hint)
        ((self.count,),) = counts
        self._bytes = sum(part.size for part in self.header.parts.values()) // max(self.count, 1)

    @property
    def chunk(self) -> int:
        """The number of rows to read at a time."""
        return max(1, self.CHUNK // max(self._bytes, 1))

    def shape(self, column: str) -> tuple[int, ...]:
        """Return the shape of a whole column, (R, …)."""
        return self.header.parts[column].shape

    def read(self, first: int, count: int) -> Columns:
        """Return all columns of `count` rows. Raises UserError("data") that names the first damaged row."""
        columns, damaged = self._verify(first, count)
        if damaged:
            raise self.damaged_row_error(damaged[0])
        return columns

    def column(self, name: str, first: int, count: int) -> NDArray[Any]:
        """Return one column of `count` rows without verifying it. Raises UserError if it cannot be read."""
        assert 0 <= first <= first + count <= self.count
        part = self.header.parts[name]
        row = part.size // self.count
        try:
            data = np.fromfile(self.path, np.uint8, count * row, offset=part.start + first * row)
        except OSError as error:
            raise tensors.read_error(self.path, error) from error
        if data.size != count * row:
            raise tensors.damaged_error(self.path, "it is too short", self.hint)
        return data.view(part.dtype).reshape(count, *part.shape[1:])

    def written(self) -> int:
        """Return how many rows were written, from the first row up to the first gap."""
        gaps = np.flatnonzero(~self.column(self.DIGEST, 0, self.count).any(axis=1))
        return int(gaps[0]) if len(gaps) else self.count

    def walk(self, count: int, on_rows: Callable[[int, Columns], None], chunk: int | None = None) -> None:
        """Call `on_rows(number of the first row, columns)` for the first `count` rows, `chunk` at a time.

        Raises as `read` does.
        """
        step = chunk or self.chunk
        for first in range(0, count, step):
            on_rows(first, self.read(first, min(step, count - first)))

    def damaged_rows(self, count: int | None = None) -> list[int]:
        """Return the numbers of the damaged rows among the first `count` (default: all)."""
        end = self.count if count is None else min(count, self.count)
        damaged: list[int] = []
        for first in range(0, end, self.chunk):
            damaged += self._verify(first, min(self.chunk, end - first))[1]
        return damaged

    def check(self, count: int | None = None) -> list[str]:
        """Return a message for each damaged row among the first `count` (default: all)."""
        return [self.damaged_row_error(row).message for row in self.damaged_rows(count)]

    def damaged_row_error(self, row: int) -> UserError:
        """Return the UserError("data") for a damaged row."""
        return tensors.damaged_error(self.path, f"{self.noun} {row} does not match its checksum", self.hint)

    def _verify(self, first: int, count: int) -> tuple[Columns, list[int]]:
        """Return `count` rows without their digests, and the numbers of those that are damaged."""
        columns = {name: self.column(name, first, count) for name in self.header.parts}
        stored_M32 = columns.pop(self.DIGEST)
        intact_M = (stored_M32 == _digests(first, columns)).all(axis=1)
        return columns, [first + int(index) for index in np.flatnonzero(~intact_M)]


class RowWriter:
    """Writer of a table from its first row on; synced rows survive any failure.

    shapes: dtype and shape (R, …) of each column but the digests. metadata: text stored in the header.
    done: how many rows of an unfinished table to keep; 0 starts a new table and discards the old one. Kept
    rows are verified and passed to `on_rows` in chunks. Raises UserError("disk") with the number of bytes
    needed, UserError("data") if a kept row is damaged or the file is a different table.
    """

    def __init__(
        self,
        path: Path,
        shapes: tensors.Shapes,
        metadata: Mapping[str, str],
        done: int = 0,
        *,
        noun: str = "row",
        hint: str = Rows.HINT,
        on_rows: Callable[[int, Columns], None] = lambda first, columns: None,
    ) -> None:
        ((self.count,),) = {shape[:1] for _, shape in shapes.values()}
        assert 0 <= done <= self.count
        self.path, self.done = path, done
        # Largest item size first, so that every array is aligned to its item size.
        ordered = dict(sorted(shapes.items(), key=lambda item: -np.dtype(item[1][0]).itemsize))
        ordered[Rows.DIGEST] = ("|u1", (self.count, 32))
        raw = tensors.seal(tensors.Header.build(ordered, metadata, "header"))
        header = tensors.Header.parse(raw)
        self._parts = header.parts
        self._partial = partial(path)
        if done:
            if not self._partial.is_file():
                raise tensors.damaged_error(self._partial, "it is missing", hint)
            unfinished = Rows(self._partial, noun, hint)
            if unfinished.header.raw != raw:
                raise tensors.damaged_error(self._partial, "it is a different table", hint)
            unfinished.walk(done, on_rows)
        else:
            files.remove(path, sync_name=False)  # the folder is synced when the new file is created
        self._file = files.Slots(self._partial, header.end, create=not done)
        if not done:
            try:
                self._file.put(0, raw)
            except BaseException:
                self._file.close()
                raise

    def put_rows(self, first: int, columns: Mapping[str, NDArray[Any]]) -> None:
        """Write rows from number `first` on, which is at most `done`; they are durable only after `sync`.

        Raises UserError("disk").
        """
        assert columns.keys() | {Rows.DIGEST} == self._parts.keys()
        plain = {
            name: np.ascontiguousarray(columns[name], part.dtype)
            for name, part in self._parts.items()
            if name != Rows.DIGEST
        }
        count = len(next(iter(plain.values())))
        assert first <= self.done
        assert first + count <= self.count
        plain[Rows.DIGEST] = _digests(first, plain)
        for name, values in plain.items():
            part = self._parts[name]
            assert values.shape == (count, *part.shape[1:])
            self._file.put(part.start + first * (part.size // self.count), tensors.as_bytes(values))
        self.done = max(self.done, first + count)

    def sync(self) -> None:
        """Make everything written so far durable."""
        self._file.sync()

    def finish(self) -> None:
        """Rename the complete table to its final name, durably."""
        assert self.done == self.count
        self.sync()
        self.close()
        files.rename(self._partial, self.path)

    def close(self) -> None:
        """Close the file; an unfinished table keeps its partial name. Closing twice is allowed."""
        self._file.close()
