"""Per-iteration numbers: rows of float32 of one width behind a JSON header.

The header is the first line, padded with blanks to a multiple of 64 bytes: ``{"format": "cfm-metrics",
"version": 1, "dtype": "<f4", "columns": […], "crc32": "…"}``, the checksum being that of the bytes before
``,"crc32"``. Rows follow without separators, so a reader maps the file into memory; a torn last row is
passed over. The journal says of each chunk of rows where it lies and what its checksum is; a chunk
replaces what earlier ones said of its first row and all behind it.
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
_LARGEST = 2**20  # rows of a chunk, far more than are ever written at once


class Chunk(NamedTuple):
    """Rows `first` up to, but without, `end`, and the CRC-32 of their bytes as eight hex digits."""

    first: int
    end: int
    crc32: str


def chunk_of(record: Record) -> Chunk | None:
    """The rows that a record of the journal speaks of, if it does."""
    if record.kind != "RecoverProgress":
        return None
    rows, crc32 = record.payload.get("rows"), record.payload.get("crc32")
    if type(rows) is not list or len(rows) != 2 or type(crc32) is not str:
        return None
    first, end = rows
    if type(first) is not int or type(end) is not int:
        return None
    return Chunk(first, end, crc32) if 0 <= first <= end <= first + _LARGEST else None


def chunks(records: Iterable[Record]) -> list[Chunk]:
    """The chunks that hold after all of these records, in the order of their rows."""
    found: list[Chunk] = []
    for record in records:
        chunk = chunk_of(record)
        if chunk is not None:
            while found and found[-1].end > chunk.first:
                found.pop()
            found.append(chunk)
    return found


def checksum(rows: NDArray[np.float32]) -> str:
    """The CRC-32 of the rows' bytes."""
    import numpy as np

    return f"{zlib.crc32(np.ascontiguousarray(rows, '<f4').tobytes()):08x}"


def fits(table: NDArray[np.float32], chunk: Chunk) -> bool:
    """Whether a chunk's rows are all there as they were written."""
    return len(table) >= chunk.end and checksum(table[chunk.first : chunk.end]) == chunk.crc32


def faults(table: NDArray[np.float32], held: Sequence[Chunk], rows: int) -> list[tuple[int, int]]:
    """Which of the first `rows` rows are not vouched for by these chunks: first, and one past the last."""
    wrong, last = [], 0
    for chunk in held:
        first, end = min(chunk.first, rows), min(chunk.end, rows)
        if last < first:
            wrong.append((last, first))
        if first < end and (end < chunk.end or not fits(table, chunk)):
            wrong.append((first, end))
        last = end
    return [*wrong, (last, rows)] if last < rows else wrong


def _header(columns: list[str]) -> bytes:
    text = to_json({"format": _FORMAT, "version": 1, "dtype": "<f4", "columns": columns}).encode()[:-1]
    text += f',"crc32":"{zlib.crc32(text):08x}"}}'.encode()
    return text + b" " * (-(len(text) + 1) % _ALIGNMENT) + b"\n"


def _read_header(path: Path) -> tuple[list[str], int]:
    """Column names, and the number of bytes before the first row."""
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
    """Column names and the rows, shape (rows, columns), mapped into memory and not to be written.

    Raises UserError("disk") where the header cannot be read. The rows are as they lie there; the journal
    tells whether they are as they were written.
    """
    columns, start = _read_header(path)
    return columns, _map(path, start, len(columns))


class TableReader:
    """Reads rows while the owner of the run may add to them, cut them, or replace the table.

    The file is opened when rows are asked for, and again after `close`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[bytes] | None = None
        self._columns: list[str] = []
        self._start = 0

    def rows(self, held: Sequence[Chunk], columns: list[str]) -> NDArray[np.float32]:
        """The rows of chunks that follow each other, (rows, columns), by one read; each chunk is verified.

        A chunk that is not, or no longer, as the journal says, is NaN; so is all of a table that has
        other columns.
        """
        import numpy as np

        first, width = held[0].first, 4 * len(columns)
        values = np.empty((held[-1].end - first, len(columns)), "<f4")
        content = values.reshape(-1).view(np.uint8).data
        there = self._fill(content, first * width, columns)
        for begin, end, crc32 in held:
            begin, end = begin - first, end - first
            if end * width > there or f"{zlib.crc32(content[begin * width : end * width]):08x}" != crc32:
                values[begin:end] = np.nan
        return values

    def _fill(self, content: memoryview, at: int, columns: list[str]) -> int:
        """Read into `content` from an offset behind the header; returns how many bytes were there."""
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
        """Let go of the file; closing twice is allowed."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _map(path: Path, start: int, columns: int) -> NDArray[np.float32]:
    import numpy as np

    rows = max(0, path.stat().st_size - start) // (4 * columns)
    if not rows:
        return np.empty((0, columns), np.float32)
    return np.memmap(path, "<f4", mode="r", offset=start, shape=(rows, columns))


class Metrics:
    """The writer of one table of numbers.

    columns: names, in order. rows: how many there are to be, the rest is cut off; 0 begins anew.
    held: what the journal says of the table. Rows that are missing, or not what the journal says,
    become NaN, and `notices` tells which.
    """

    def __init__(self, path: Path, columns: list[str], rows: int = 0, held: Sequence[Chunk] = ()) -> None:
        assert columns
        self.columns, self.rows = columns, rows
        self.notices: list[str] = []
        header = _header(columns)
        if not rows or not path.exists() or not self._stands(path, header, held):
            self._begin(path, header, held)
        self._file = Appender(path, len(header) + rows * 4 * len(columns))

    def _stands(self, path: Path, header: bytes, held: Sequence[Chunk]) -> bool:
        with path.open("rb") as file:
            if file.read(len(header)) != header:
                self.notices.append(f"{path}: its header was damaged; the table is written anew")
                return False
        return not faults(_map(path, len(header), len(self.columns)), held, self.rows)

    def _begin(self, path: Path, header: bytes, held: Sequence[Chunk]) -> None:
        """Write the table anew, with those of its rows that can be vouched for."""
        import numpy as np

        table = np.full((self.rows, len(self.columns)), np.nan, "<f4")
        if self.rows:
            there = _map(path, len(header), len(self.columns)) if path.exists() else table[:0]
            wrong = faults(there, held, self.rows)
            count = min(len(there), self.rows)
            table[:count] = there[:count]
            for first, end in wrong:
                new = not np.isnan(table[first:end]).all() or len(there) < end
                table[first:end] = np.nan
                if new:
                    self.notices.append(f"{path}: rows {first} to {end - 1} were damaged; they are NaN now")
        write(path, header, table.tobytes())

    def append(self, values: ArrayLike) -> Chunk:
        """Add rows, shape (rows, columns), and say where they lie. Raises UserError("disk")."""
        import numpy as np

        block = np.ascontiguousarray(values, "<f4")
        assert block.ndim == 2
        assert block.shape[1] == len(self.columns)
        self._file.append(block.tobytes())
        first, self.rows = self.rows, self.rows + len(block)
        return Chunk(first, self.rows, checksum(block))

    def sync(self) -> None:
        """Make durable what was appended so far."""
        self._file.sync()

    def close(self) -> None:
        """Sync and close; closing twice is allowed."""
        self._file.close()
