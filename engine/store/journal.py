"""The run's journal: one event a line, only ever appended to.

A line is ``{"seq": …, "time": …, "kind": …, "payload": {…}, "crc32": "…"}``; the checksum covers the
bytes of the line before ``,"crc32"``. Sequence numbers count from 1 without gaps. A process that dies
while writing leaves a torn last line: readers pass over it, the next writer cuts it off.
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.store.files import Appender, to_json

_SEAL = b',"crc32":"'


@dataclass(frozen=True)
class Record:
    """One event as it was written down. time: seconds since 1970 (UTC)."""

    seq: int
    time: float
    kind: str
    payload: dict[str, Any]


def _encode(record: Record) -> bytes:
    body = to_json(
        {"seq": record.seq, "time": record.time, "kind": record.kind, "payload": record.payload}
    ).encode()[:-1]
    return body + _SEAL + f'{zlib.crc32(body):08x}"}}\n'.encode()


def _decode(line: bytes) -> Record | None:
    body, seal, rest = line.rpartition(_SEAL)
    if not seal or rest != f'{zlib.crc32(body):08x}"}}\n'.encode():
        return None
    fields = json.loads(body + b"}")
    return Record(fields["seq"], fields["time"], fields["kind"], fields["payload"])


def read(path: Path) -> Iterator[Record]:
    """The records that stand whole in a journal, oldest first; lines that do not are passed over."""
    for record, _ in _scan(path):
        if record is not None:
            yield record


def _scan(path: Path) -> Iterator[tuple[Record | None, int]]:
    """Each line's record (None: not whole) with the offset at which the line ends."""
    if not path.exists():
        return
    end = 0
    with path.open("rb") as file:
        for line in file:
            end += len(line)
            yield _decode(line), end


class Journal:
    """The writer of a journal; there is one at a time, the run's owner."""

    def __init__(self, path: Path) -> None:
        self.seq = 0
        whole = 0
        for record, end in _scan(path):
            if record is not None:
                self.seq, whole = record.seq, end
        self._file = Appender(path, whole)

    def append(self, kind: str, payload: dict[str, Any]) -> Record:
        """Write one event and hand it to the operating system. Raises UserError("disk")."""
        record = Record(self.seq + 1, round(time.time(), 3), kind, payload)
        self._file.append(_encode(record))
        self.seq = record.seq
        return record

    def sync(self) -> None:
        """Make durable what was appended so far."""
        self._file.sync()

    def close(self) -> None:
        """Sync and close; closing twice is allowed."""
        self._file.close()
