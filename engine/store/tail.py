"""A run's record read as it grows: everything that was told, recovery's numbers as arrays.

Whoever shows a run, live or finished, of this process or another, reads it here.
Legend: R rows of the table of numbers, P its columns (see `numbers`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from engine.events import Event, RecoverLayout, RecoverProgress, from_payload
from engine.store import folders, journal, metrics
from engine.store.files import unreadable
from engine.store.journal import Record
from engine.store.metrics import Chunk
from engine.store.numbers import FIXED, columns

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MOST_ROWS = 2**14  #: rows of records that are given together
_FACTS = ("batch", "batches", "beta", "total_iterations", "rate")


class Told(NamedTuple):
    """An event other than recovery's numbers. time: seconds since 1970 (UTC)."""

    time: float
    event: Event


@dataclass(frozen=True)
class Rows:
    """Numbers of consecutive iterations of one batch; the facts are those of the last record.

    time: seconds since 1970 (UTC). first: the number of the first row in the table. values_RP: columns as
    `numbers.columns` names them; rows that are damaged, missing, or replaced since, are NaN.
    """

    time: float
    batch: int
    batches: int
    beta: float
    total_iterations: int
    rate: float
    first: int
    values_RP: NDArray[np.float32]

    def event(self, layout: RecoverLayout) -> RecoverProgress:
        """The event that told these numbers. layout: what was last said of their columns."""
        before = (self.batch - 1) * self.total_iterations
        first, taps = self.first - before, len(layout.taps)
        terms_RTL = self.values_RP[:, len(FIXED) :].reshape(len(self.values_RP), len(layout.terms), taps)
        return RecoverProgress(
            batch=self.batch,
            batches=self.batches,
            beta=self.beta,
            iterations=list(range(first, first + len(self.values_RP))),
            total_iterations=self.total_iterations,
            ce=self.values_RP[:, FIXED.index("ce")].tolist(),
            terms=terms_RTL.tolist(),
            rate=self.rate,
        )


class Tail:
    """Reads a run's folder from its beginning, a piece at a time.

    together: numbers of records that follow each other come as one `Rows`. layout: the latest. behind:
    whether the last piece ended before the record did.
    """

    def __init__(self, folder: Path, *, together: bool = True) -> None:
        self.layout = RecoverLayout([], [], [])
        self.behind = True
        self._reading = journal.Reading(folder / folders.JOURNAL)
        self._refused: OSError | None = None
        self._numbers = folder / folders.METRICS
        self._most = MOST_ROWS if together else 0

    def damage(self, *, torn: bool = True) -> list[str]:
        """What is wrong with the journal so far. torn: also its end, which may just be being written."""
        return self._reading.all_damage() if torn else list(self._reading.damage)

    def more(self, seconds: float = math.inf) -> list[Told | Rows]:
        """What was recorded since the last call, oldest first; stops after about so many seconds.

        Raises UserError("disk") where the system refuses to read; what it gave before comes first.
        """
        found = list(self._more(time.monotonic() + seconds))
        if self._refused is not None:
            error, self._refused = self._refused, None
            if not found:
                raise unreadable(self._reading.path, error) from error
            self.behind = True
        return found

    def _more(self, until: float) -> Iterator[Told | Rows]:
        table = metrics.TableReader(self._numbers)
        last: Record | None = None  # of those whose chunks wait
        waiting: list[Chunk] = []
        self.behind = False
        try:
            for record in self._records():
                chunk = metrics.chunk_of(record)
                if last is not None and not (chunk and self._goes_with(last, waiting, record, chunk)):
                    yield from self._rows(table, last, waiting)
                    last, waiting = None, []
                if chunk is not None:
                    last = record
                    waiting.append(chunk)
                else:
                    yield from self._told(record)
                    if record.kind == "RecoverLayout":
                        table.close()  # it may be replaced now
                if time.monotonic() >= until:
                    self.behind = True
                    break
            if last is not None:
                yield from self._rows(table, last, waiting)
        finally:
            table.close()

    def _records(self) -> Iterator[Record]:
        try:
            yield from self._reading.more()
        except OSError as error:
            self._refused = error

    def _goes_with(self, last: Record, waiting: list[Chunk], record: Record, chunk: Chunk) -> bool:
        """Whether a record's rows continue those that wait, within the same batch."""
        return (
            chunk.first == waiting[-1].end
            and chunk.end - waiting[0].first <= self._most
            and record.payload.get("batch") == last.payload.get("batch")
        )

    def _told(self, record: Record) -> Iterator[Told]:
        try:
            event = from_payload(record.kind, record.payload)
        except TypeError:  # of a later version
            return
        if event is not None:
            event = replace(event, **dict.fromkeys(_lost_floats(event), math.nan))
            if isinstance(event, RecoverLayout):
                self.layout = event
            yield Told(record.time, event)

    def _rows(self, table: metrics.TableReader, last: Record, chunks: list[Chunk]) -> Iterator[Rows]:
        try:
            facts: dict[str, Any] = {name: last.payload[name] for name in _FACTS}
        except KeyError:  # of a later version
            return
        facts |= {name: math.nan for name in ("beta", "rate") if facts[name] is None}
        values_RP = table.rows(chunks, columns(self.layout))
        yield Rows(last.time, **facts, first=chunks[0].first, values_RP=values_RP)


def _lost_floats(event: Event) -> list[str]:
    """Fields that held a number which JSON does not know."""
    return [part.name for part in fields(event) if part.type == "float" and getattr(event, part.name) is None]
