"""The run's journal: one event per line, append-only.

A line is ``{"seq": …, "time": …, "kind": …, "payload": {…}, "crc32": "…"}``; the checksum covers the
bytes of the line before ``,"crc32"``. Sequence numbers count from 1 without gaps. A process that dies
while writing leaves a torn last line: readers skip it, and the next writer removes it. Any other invalid line
is damage: it is skipped, kept in the file, and reported.
"""

from __future__ import annotations

import json
import math
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from engine.events import Event, from_payload
from engine.store.files import Appender
from engine.store.json_file import to_json

_SEAL = b',"crc32":"'
_SEAL_SIZE = len(_SEAL) + len('00000000"}\n')  # bytes behind a line's body
#: Parses the object with which a line begins, without looking for anything behind it.
_SCAN: Callable[[str, int], tuple[Any, int]] = json.JSONDecoder().scan_once  # type: ignore[attr-defined]


class Record(NamedTuple):
    """An event in the journal. time: seconds since 1970 (UTC)."""

    seq: int
    time: float
    kind: str
    payload: dict[str, Any]

    def event(self) -> Event | None:
        """Return the event, or None if a later version wrote it."""
        try:
            event = from_payload(self.kind, self.payload)
        except TypeError:
            return None
        # JSON has no NaN: a float that was not finite was written as null.
        names = [field.name for field in fields(event) if field.type == "float"] if event else []
        nulls = [name for name in names if getattr(event, name) is None]
        return replace(event, **dict.fromkeys(nulls, math.nan)) if event and nulls else event

    def recovery_fields(self) -> dict[str, Any]:
        """Return the journal's fields of a `RecoverProgress`, or {} if a later version wrote it."""
        names = ("batch", "batches", "beta", "total_iterations", "rate")
        if not self.payload.keys() >= set(names):
            return {}
        values = {name: self.payload[name] for name in names}
        return values | {name: math.nan for name in ("beta", "rate") if values[name] is None}


def _decode(line: bytes) -> Record | None:
    body = line[:-_SEAL_SIZE]
    if line[-_SEAL_SIZE:] != b'%b%08x"}\n' % (_SEAL, zlib.crc32(body)):
        return None
    try:
        entry, _ = _SCAN(line.decode(), 0)
        seq, seconds, kind, payload = entry["seq"], entry["time"], entry["kind"], entry["payload"]
    except (ValueError, KeyError, TypeError, RecursionError, StopIteration):
        return None
    valid = type(seq) is int and type(kind) is str and type(payload) is dict
    return Record(seq, seconds, kind, payload) if valid else None


class _InvalidLine(NamedTuple):
    """A line that is not a valid next record. end: its end in bytes; torn: whether it cannot be decoded."""

    end: int
    torn: bool
    problem: str


class JournalReader:
    """Reader of a journal from its beginning; `read_new` may be called again after the file has grown.

    seq: number of the last valid record. damage: messages for what is wrong before that record.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seq = 0
        self.damage: list[str] = []
        self._last_valid = (0, 0)  # where the last valid record ends: bytes, lines
        self._invalid: list[_InvalidLine] = []  # the lines behind it

    def read_new(self) -> Iterator[Record]:
        """Yield the records behind those that were already yielded, oldest first."""
        end, number = self._last_valid
        self._invalid = []
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(end)
            for line in file:
                end, number = end + len(line), number + 1
                record = _decode(line)
                if record is None:
                    problem = f"line {number} does not match its checksum"
                    self._invalid.append(_InvalidLine(end, True, problem))
                elif record.seq <= self.seq:
                    problem = f"line {number} has number {record.seq} after number {self.seq}"
                    self._invalid.append(_InvalidLine(end, False, problem))
                else:
                    self.damage += [f"{self.path}: {line.problem}" for line in self._invalid]
                    self._invalid = []
                    first, last = self.seq + 1, record.seq - 1
                    if first <= last:
                        missing = f"record {first} is" if first == last else f"records {first} to {last} are"
                        self.damage.append(f"{self.path}: {missing} missing before line {number}")
                    self.seq, self._last_valid = last + 1, (end, number)
                    yield record

    def intact_size(self) -> int:
        """Return the size of the file in bytes without its torn last line."""
        ends = [self._last_valid[0], *(line.end for line in self._invalid)]
        return ends[-2] if self._invalid and self._invalid[-1].torn else ends[-1]

    def all_damage(self) -> list[str]:
        """Return a message for each problem in what was read so far; a torn last line is named as such."""
        problems = [line.problem for line in self._invalid]
        if self._invalid and self._invalid[-1].torn:
            size = self._invalid[-1].end - self.intact_size()
            problems[-1] = f"torn while it was written: its last {size:,} bytes, after number {self.seq}"
        return [*self.damage, *(f"{self.path}: {problem}" for problem in problems)]


def read(path: Path) -> Iterator[Record]:
    """Yield the valid records of a journal, oldest first; invalid lines are skipped."""
    return JournalReader(path).read_new()


def damage(path: Path) -> list[str]:
    """Return a message for each problem of a journal, by line; a torn last line is named as such."""
    reader = JournalReader(path)
    deque(reader.read_new(), maxlen=0)
    return reader.all_damage()


class Journal:
    """Writer of a journal; only the run's owner may have one.

    notices: messages for the damage that the journal had when it was opened; a torn last line was removed.
    """

    def __init__(self, path: Path) -> None:
        reader = JournalReader(path)
        deque(reader.read_new(), maxlen=0)
        self.seq = reader.seq
        self.notices = reader.all_damage()
        self._file = Appender(path, reader.intact_size())

    def append(self, kind: str, payload: dict[str, Any]) -> Record:
        """Append an event; it is durable only after `sync`. Raises UserError("disk")."""
        record = Record(self.seq + 1, round(time.time(), 3), kind, payload)
        body = to_json(record._asdict()).encode()[:-1]
        self._file.append(b'%b%b%08x"}\n' % (body, _SEAL, zlib.crc32(body)))
        self.seq = record.seq
        return record

    def sync(self) -> None:
        """Make everything appended so far durable."""
        self._file.sync()

    def close(self) -> None:
        """Sync and close; closing twice is allowed."""
        self._file.close()
