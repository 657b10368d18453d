"""Tables that are filled in place, row by row, and verified row by row: images and soft labels.

Legend: R rows of the whole table, M rows at a time.
A table is a safetensors file whose columns have R rows each. All its room is claimed when it is made.
The header is sealed; the column ``sha256`` (R, 32) holds of each row the digest of its number (8 bytes,
little-endian) and of its bytes in all other columns, in the file's order. The file is
``NAME.partial`` until its last row is in, so its name says that it is complete.
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

DIGEST = "sha256"
CHUNK = 2**24  #: bytes that are verified at a time
HINT = "restore it, or delete it and resume: it is made again"

Columns = dict[str, "NDArray[Any]"]
Seen = Callable[[int, Columns], None]  #: takes a first row and the columns of some verified rows


def partial(path: Path) -> Path:
    """The name of a table before it is complete."""
    return path.with_name(f"{path.name}.partial")


def _digests(first: int, columns: Mapping[str, NDArray[Any]]) -> NDArray[np.uint8]:
    """The digest of each row, (M, 32)."""
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
    """A table to read from; what is read is verified.

    noun: what messages call a row; hint: how to mend a damaged one.
    Raises UserError("data") where the header is damaged, UserError("disk") where the file is absent.
    """

    def __init__(self, path: Path, noun: str = "row", hint: str = HINT) -> None:
        self.path, self.noun, self.hint = path, noun, hint
        self.header = tensors.read_header(path)
        self.facts = self.header.facts
        counts = {part.shape[:1] for part in self.header.parts.values()}
        if DIGEST not in self.header.parts or len(counts) != 1 or counts == {()}:
            raise tensors.damaged(path, "it is no table of rows", hint)
        ((self.count,),) = counts
        self._bytes = sum(part.size for part in self.header.parts.values()) // max(self.count, 1)

    @property
    def chunk(self) -> int:
        """How many rows are worth reading at a time."""
        return max(1, CHUNK // max(self._bytes, 1))

    def shape(self, column: str) -> tuple[int, ...]:
        """The shape of a whole column, (R, …)."""
        return self.header.parts[column].shape

    def read(self, first: int, count: int) -> Columns:
        """All columns of `count` rows. Raises UserError("data") with the first row that is damaged."""
        columns, wrong = self._look(first, count)
        if wrong:
            raise self.damage(wrong[0])
        return columns

    def column(self, name: str, first: int, count: int) -> NDArray[Any]:
        """One column of `count` rows, not verified. Raises UserError where it cannot be read."""
        assert 0 <= first <= first + count <= self.count
        return self._column(self.header.parts[name], first, count)

    def written(self) -> int:
        """How many rows are there, from the first one without a gap."""
        gaps = np.flatnonzero(~self.column(DIGEST, 0, self.count).any(axis=1))
        return int(gaps[0]) if len(gaps) else self.count

    def walk(self, count: int, seen: Seen, chunk: int | None = None) -> None:
        """Show the first `count` rows to `seen`, `chunk` at a time. Raises as `read` does."""
        step = chunk or self.chunk
        for first in range(0, count, step):
            seen(first, self.read(first, min(step, count - first)))

    def wrong(self, count: int | None = None) -> list[int]:
        """Which of the first `count` rows (default: all) are damaged."""
        end = self.count if count is None else min(count, self.count)
        found: list[int] = []
        for first in range(0, end, self.chunk):
            found += self._look(first, min(self.chunk, end - first))[1]
        return found

    def damage(self, row: int) -> UserError:
        """The report that a row is damaged."""
        return tensors.damaged(self.path, f"{self.noun} {row} is not what was written", self.hint)

    def _look(self, first: int, count: int) -> tuple[Columns, list[int]]:
        """Some rows without their digests, and which of them are damaged."""
        assert 0 <= first <= first + count <= self.count
        columns = {name: self._column(part, first, count) for name, part in self.header.parts.items()}
        told = columns.pop(DIGEST)
        fits = (told == _digests(first, columns)).all(axis=1)
        return columns, [first + int(index) for index in np.flatnonzero(~fits)]

    def _column(self, part: tensors.Part, first: int, count: int) -> NDArray[Any]:
        row = part.size // self.count
        try:
            data = np.fromfile(self.path, np.uint8, count * row, offset=part.start + first * row)
        except OSError as error:
            raise tensors.refused(self.path, error) from error
        if data.size != count * row:
            raise tensors.damaged(self.path, "it is too short", self.hint)
        return data.view(part.dtype).reshape(count, *part.shape[1:])


class RowWriter:
    """Fills a table from its first row on; what was synced stays whatever happens then.

    shapes: dtype and shape (R, …) of each column but the digests; facts: kept in the header.
    done: rows that are there already, to be kept; 0 begins anew and discards what was there. Kept rows
    are verified, and shown to `seen` some at a time. Raises UserError("disk") with the bytes that are
    needed, UserError("data") where a kept row is damaged or the file is another table.
    """

    def __init__(
        self,
        path: Path,
        shapes: tensors.Shapes,
        facts: Mapping[str, str],
        done: int = 0,
        *,
        noun: str = "row",
        hint: str = HINT,
        seen: Seen = lambda first, columns: None,
    ) -> None:
        ((self.count,),) = {shape[:1] for _, shape in shapes.values()}
        assert 0 <= done <= self.count
        self.path, self.done = path, done
        # Largest items first: readers want every array aligned to its item size.
        ordered = dict(sorted(shapes.items(), key=lambda item: -np.dtype(item[1][0]).itemsize))
        ordered[DIGEST] = ("|u1", (self.count, 32))
        raw = tensors.seal(tensors.layout(ordered, facts, "header"))
        header = tensors.parse(raw)
        self._parts = header.parts
        self._partial = partial(path)
        if done:
            if not self._partial.is_file():
                raise tensors.damaged(self._partial, "it is gone", hint)
            kept = Rows(self._partial, noun, hint)
            if kept.header.raw != raw:
                raise tensors.damaged(self._partial, "it holds something else", hint)
            kept.walk(done, seen)
        else:
            files.remove(path, sync_name=False)  # synced with the name of the new one
        self._file = files.Slots(self._partial, header.end, anew=not done)
        if not done:
            try:
                self._file.put(0, raw)
            except BaseException:
                self._file.close()
                raise

    def put(self, first: int, columns: Mapping[str, NDArray[Any]]) -> None:
        """Write rows from number `first` on, at most one past those that are there; not durable yet.

        Raises UserError("disk").
        """
        assert columns.keys() | {DIGEST} == self._parts.keys()
        plain = {
            name: np.ascontiguousarray(columns[name], part.dtype)
            for name, part in self._parts.items()
            if name != DIGEST
        }
        count = len(next(iter(plain.values())))
        assert first <= self.done
        assert first + count <= self.count
        plain[DIGEST] = _digests(first, plain)
        for name, values in plain.items():
            part = self._parts[name]
            assert values.shape == (count, *part.shape[1:])
            self._file.put(part.start + first * (part.size // self.count), tensors.as_bytes(values))
        self.done = max(self.done, first + count)

    def sync(self) -> None:
        """Make durable what was put so far."""
        self._file.sync()

    def finish(self) -> None:
        """Give the complete table its final name, durably."""
        assert self.done == self.count
        self.sync()
        self.close()
        files.rename(self._partial, self.path)

    def close(self) -> None:
        """Close the file; an unfinished table stays under its partial name. Closing twice is allowed."""
        self._file.close()
