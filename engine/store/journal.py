"""The run's journal: one event a line, only ever appended to.

A line is ``{"seq": …, "time": …, "kind": …, "payload": {…}, "crc32": "…"}``; the checksum covers the
bytes of the line before ``,"crc32"``. Sequence numbers count from 1 without gaps. A process that dies
while writing leaves a torn last line: readers pass over it, the next writer cuts it off. Whatever else
does not fit is damage: it is passed over, stays where it is, and is told.
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from engine.store.files import Appender
from engine.store.json_file import to_json

_SEAL = b',"crc32":"'
_SEALED = len(_SEAL) + len('00000000"}\n')  # bytes behind a line's body
#: A line begins with its object, so nothing else is looked for.
_SCAN: Callable[[str, int], tuple[Any, int]] = json.JSONDecoder().scan_once  # type: ignore[attr-defined]


class Record(NamedTuple):
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
    body = line[:-_SEALED]
    if line[-_SEALED:] != b'%b%08x"}\n' % (_SEAL, zlib.crc32(body)):
        return None
    try:
        fields, _ = _SCAN(line.decode(), 0)
        seq, moment, kind, payload = fields["seq"], fields["time"], fields["kind"], fields["payload"]
    except (ValueError, KeyError, TypeError, RecursionError, StopIteration):
        return None
    plain = type(seq) is int and type(kind) is str and type(payload) is dict
    return Record(seq, moment, kind, payload) if plain else None


class Reading:
    """A journal read from its beginning; `more` may be asked again after the file has grown.

    seq: of the last record that stands. damage: what was wrong before it, by file and line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seq = 0
        self.damage: list[str] = []
        self._after = (0, 0)  # where the last record that stands ends: bytes, lines
        self._doubted: list[
            tuple[int, bool, str]
        ] = []  # lines behind it: their ends, whether torn, what is wrong

    def more(self) -> Iterator[Record]:
        """The records behind those that were given before, oldest first."""
        end, number = self._after
        self._doubted = []
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(end)
            for line in file:
                end, number = end + len(line), number + 1
                record = _decode(line)
                if record is None:
                    self._doubted.append((end, True, f"line {number} is not what was written"))
                elif record.seq <= self.seq:
                    told = f"line {number} has number {record.seq} after number {self.seq}"
                    self._doubted.append((end, False, told))
                else:
                    if self._doubted or record.seq != self.seq + 1:
                        self._tell_what_is_wrong(record, number)
                    self.seq, self._after = record.seq, (end, number)
                    yield record

    def _tell_what_is_wrong(self, record: Record, number: int) -> None:
        """Note the damage before a record that stands."""
        self.damage += [f"{self.path}: {told}" for _, _, told in self._doubted]
        self._doubted = []
        first, last = self.seq + 1, record.seq - 1
        if first <= last:
            missing = f"record {first} is" if first == last else f"records {first} to {last} are"
            self.damage.append(f"{self.path}: {missing} missing before line {number}")

    def torn(self) -> str | None:
        """What to say of a torn tail, the last line where that is not whole; None where there is none."""
        if not self._doubted or not self._doubted[-1][1]:
            return None
        size = self._doubted[-1][0] - self.kept()
        return f"{self.path}: torn while it was written: its last {size:,} bytes, after number {self.seq}"

    def kept(self) -> int:
        """Bytes of the file without its torn tail."""
        ends = [self._after[0], *(end for end, _, _ in self._doubted)]
        return ends[-2] if self._doubted and self._doubted[-1][1] else ends[-1]

    def all_damage(self) -> list[str]:
        """All that is wrong with what was read so far, a torn tail included and named as such."""
        torn = self.torn()
        behind = self._doubted if torn is None else self._doubted[:-1]
        told = [f"{self.path}: {what}" for _, _, what in behind]
        return [*self.damage, *told, *([] if torn is None else [torn])]


def read(path: Path) -> Iterator[Record]:
    """The records that stand in a journal, oldest first; lines that do not are passed over."""
    return Reading(path).more()


def damage(path: Path) -> list[str]:
    """What is wrong with a journal, by line; a torn tail is named as such. Empty where all is well."""
    reading = Reading(path)
    for _ in reading.more():
        pass
    return reading.all_damage()


class Journal:
    """The writer of a journal; there is one at a time, the run's owner.

    notices: what was found wrong with it on opening; a torn tail was cut off.
    """

    def __init__(self, path: Path) -> None:
        reading = Reading(path)
        for _ in reading.more():
            pass
        self.seq = reading.seq
        self.notices = reading.all_damage()
        self._file = Appender(path, reading.kept())

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
