"""Per-iteration numbers: rows of float32 of one width behind a JSON header.

The header is the first line, padded with blanks to a multiple of 64 bytes:
``{"format": "cfm-metrics", "version": 1, "dtype": "<f4", "columns": […]}``. Rows follow without
separators, so a reader maps the file into memory; a torn last row is passed over, and cut by the next
writer.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import UserError
from engine.store.files import Appender, to_json, write

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

_FORMAT = "cfm-metrics"
_ALIGNMENT = 64


def _header(columns: list[str]) -> bytes:
    text = to_json({"format": _FORMAT, "version": 1, "dtype": "<f4", "columns": columns}).encode()
    return text + b" " * (-(len(text) + 1) % _ALIGNMENT) + b"\n"


def _read_header(path: Path) -> tuple[list[str], int]:
    """Column names, and the number of bytes before the first row."""
    with path.open("rb") as file:
        line = file.readline()
    try:
        header: dict[str, Any] = json.loads(line)
        if header["format"] != _FORMAT or header["version"] != 1:
            raise KeyError("format")
        return list(header["columns"]), len(line)
    except (ValueError, KeyError, TypeError):
        raise UserError("disk", f"{path} is damaged: its header cannot be read", "restore the file") from None


def read(path: Path) -> tuple[list[str], NDArray[np.float32]]:
    """Column names and the rows, shape (rows, columns), mapped into memory and not to be written.

    Raises UserError("disk") where the header cannot be read.
    """
    import numpy as np

    columns, start = _read_header(path)
    rows = (path.stat().st_size - start) // (4 * len(columns))
    if not rows:
        return columns, np.empty((0, len(columns)), np.float32)
    return columns, np.memmap(path, "<f4", mode="r", offset=start, shape=(rows, len(columns)))


class Metrics:
    """The writer of one table of numbers. Opening an existing table goes on after its last whole row.

    columns: names, in order; an existing table must have the same.
    """

    def __init__(self, path: Path, columns: list[str]) -> None:
        assert columns
        self.columns = columns
        if not path.exists():
            write(path, _header(columns))
        known, start = _read_header(path)
        assert known == columns, f"{path} has the columns {known}"
        self._width = 4 * len(columns)
        self.rows = (path.stat().st_size - start) // self._width
        self._file = Appender(path, start + self.rows * self._width)

    def append(self, values: ArrayLike) -> None:
        """Add rows, shape (rows, columns). Raises UserError("disk")."""
        import numpy as np

        block = np.ascontiguousarray(values, "<f4")
        assert block.ndim == 2
        assert block.shape[1] == len(self.columns)
        self._file.append(block.tobytes())
        self.rows += len(block)

    def sync(self) -> None:
        """Make durable what was appended so far."""
        self._file.sync()

    def close(self) -> None:
        """Sync and close; closing twice is allowed."""
        self._file.close()
