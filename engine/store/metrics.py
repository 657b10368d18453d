"""Per-iteration metrics: rows of float32 of one width behind a JSON header.

The header is the first line, padded with blanks to a multiple of 64 bytes: ``{"format": "cfm-metrics",
"version": 1, "dtype": "<f4", "columns": […], "crc32": "…"}``, the checksum being that of the bytes before
``,"crc32"``. Rows follow without separators, so a reader can map the file into memory; a torn last row is
ignored. The journal records the position and the checksum of each chunk of rows; a chunk replaces all earlier
chunks from its first row on.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from engine.errors import UserError
from engine.store.files import Appender, write
from engine.store.journal import Record
from engine.store.json_file import to_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

_FORMAT = "cfm-metrics"
_ALIGNMENT = 64


class Chunk(NamedTuple):
    """Rows from `first` up to, but excluding, `end`, and the CRC-32 of their bytes as eight hex digits."""

    first: int
    end: int
    crc32: str

    @classmethod
    def parse(cls, record: Record) -> Chunk | None:
        """Return the chunk that a record of the journal describes, or None if it describes none."""
        if record.kind != "RecoverProgress":
            return None
        rows, crc32 = record.payload.get("rows"), record.payload.get("crc32")
        if type(rows) is not list or len(rows) != 2 or type(crc32) is not str:
            return None
        first, end = rows
        if type(first) is not int or type(end) is not int:
            return None
        # No chunk has nearly as many rows as 2**20.
        return cls(first, end, crc32) if 0 <= first <= end <= first + 2**20 else None

    @classmethod
    def of(cls, first: int, rows: NDArray[np.float32]) -> Chunk:
        """Return the chunk of these rows, the first of which has number `first`."""
        import numpy as np

        return cls(first, first + len(rows), f"{zlib.crc32(np.ascontiguousarray(rows, '<f4').tobytes()):08x}")

    def is_intact(self, table: NDArray[np.float32]) -> bool:
        """Return whether all rows of this chunk exist and match its checksum."""
        return len(table) >= self.end and self.of(self.first, table[self.first : self.end]) == self


def valid_chunks(records: Iterable[Record]) -> list[Chunk]:
    """Return the chunks that are valid after all of these records, in the order of their rows."""
    chunks: list[Chunk] = []
    for record in records:
        chunk = Chunk.parse(record)
        if chunk is not None:
            while chunks and chunks[-1].end > chunk.first:
                chunks.pop()
            chunks.append(chunk)
    return chunks


def damaged_ranges(table: NDArray[np.float32], chunks: Sequence[Chunk], rows: int) -> list[tuple[int, int]]:
    """Return the ranges (first, end) of the first `rows` rows that no intact chunk covers."""
    ranges, last = [], 0
    for chunk in chunks:
        first, end = min(chunk.first, rows), min(chunk.end, rows)
        if last < first:
            ranges.append((last, first))
        if first < end and (end < chunk.end or not chunk.is_intact(table)):
            ranges.append((first, end))
        last = end
    return [*ranges, (last, rows)] if last < rows else ranges


def _header(columns: list[str]) -> bytes:
    text = to_json({"format": _FORMAT, "version": 1, "dtype": "<f4", "columns": columns}).encode()[:-1]
    text += f',"crc32":"{zlib.crc32(text):08x}"}}'.encode()
    return text + b" " * (-(len(text) + 1) % _ALIGNMENT) + b"\n"


def _read_header(path: Path) -> tuple[list[str], int]:
    """Return the column names and the number of bytes before the first row."""
    with path.open("rb") as file:
        line = file.readline()
    try:
        header: dict[str, Any] = json.loads(line)
        columns = [str(name) for name in header["columns"]]
        if line != _header(columns) or not columns:
            raise ValueError
        return columns, len(line)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UserError("disk", f"{path} is damaged: its header cannot be read", "restore the file") from None


def read(path: Path) -> tuple[list[str], NDArray[np.float32]]:
    """Return the column names and the rows, shape (rows, columns), as a read-only memory map.

    The rows are not verified; their checksums are in the journal. Raises UserError("disk") if the header is
    damaged.
    """
    columns, start = _read_header(path)
    return columns, _map_rows(path, start, len(columns))


class TableReader:
    """Reader of rows while the run's owner may append rows, remove them, or replace the table.

    The file is opened when rows are first read, and again after `close`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[bytes] | None = None
        self._columns: list[str] = []
        self._start = 0

    def rows(self, chunks: Sequence[Chunk], columns: list[str]) -> NDArray[np.float32]:
        """Return the rows of consecutive chunks, (rows, columns), with a single read; each chunk is verified.

        The rows of a chunk that does not match its checksum are NaN; all rows are NaN if the table has other
        columns.
        """
        import numpy as np

        first, width = chunks[0].first, 4 * len(columns)
        values = np.empty((chunks[-1].end - first, len(columns)), "<f4")
        content = values.reshape(-1).view(np.uint8).data
        bytes_read = self._read_into(content, first * width, columns)
        for begin, end, crc32 in chunks:
            begin, end = begin - first, end - first
            if end * width > bytes_read or f"{zlib.crc32(content[begin * width : end * width]):08x}" != crc32:
                values[begin:end] = np.nan
        return values

    def _read_into(self, content: memoryview, at: int, columns: list[str]) -> int:
        """Fill `content` from an offset behind the header and return how many bytes were read."""
        try:
            if self._file is None:
                self._columns, self._start = _read_header(self.path)
                self._file = self.path.open("rb")
            if self._columns != columns:
                return 0
            self._file.seek(self._start + at)
            return self._file.readinto(content)  # type: ignore[attr-defined, no-any-return]
        except (UserError, OSError):
            return 0

    def close(self) -> None:
        """Close the file; closing twice is allowed."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _map_rows(path: Path, start: int, columns: int) -> NDArray[np.float32]:
    import numpy as np

    rows = max(0, path.stat().st_size - start) // (4 * columns)
    if not rows:
        return np.empty((0, columns), np.float32)
    return np.memmap(path, "<f4", mode="r", offset=start, shape=(rows, columns))


class Metrics:
    """Writer of a table of metrics.

    columns: names, in order. rows: how many rows of an existing table to keep; 0 starts a new table.
    chunks: the valid chunks according to the journal. Kept rows that are missing or do not match their
    checksum become NaN, and `notices` has a message for each such range.
    """

    def __init__(self, path: Path, columns: list[str], rows: int = 0, chunks: Sequence[Chunk] = ()) -> None:
        import numpy as np

        assert columns
        self.columns, self.rows = columns, rows
        self.notices: list[str] = []
        header, is_intact = _header(columns), False
        old_rows = np.empty((0, len(columns)), np.float32)
        if rows and path.exists():
            with path.open("rb") as file:
                is_intact = file.read(len(header)) == header
            if not is_intact:
                self.notices.append(f"{path}: its header was damaged; the table is rewritten")
            old_rows = _map_rows(path, len(header), len(columns))
        damaged = damaged_ranges(old_rows, chunks, rows)
        if damaged or not is_intact:  # write a new table that keeps the intact rows of the old one
            table = np.full((rows, len(columns)), np.nan, "<f4")
            count = min(len(old_rows), rows)
            table[:count] = old_rows[:count]
            for first, end in damaged:
                is_new_damage = not np.isnan(table[first:end]).all() or len(old_rows) < end
                table[first:end] = np.nan
                if is_new_damage:
                    self.notices.append(f"{path}: rows {first} to {end - 1} were damaged; they are NaN now")
            write(path, header, table.tobytes())
        self._file = Appender(path, len(header) + rows * 4 * len(columns))

    def append(self, values: ArrayLike) -> Chunk:
        """Append rows, shape (rows, columns), and return their chunk. Raises UserError("disk")."""
        import numpy as np

        block = np.ascontiguousarray(values, "<f4")
        assert block.ndim == 2
        assert block.shape[1] == len(self.columns)
        self._file.append(block.tobytes())
        chunk = Chunk.of(self.rows, block)
        self.rows = chunk.end
        return chunk

    def sync(self) -> None:
        """Make everything appended so far durable."""
        self._file.sync()

    def close(self) -> None:
        """Sync and close; closing twice is allowed."""
        self._file.close()
