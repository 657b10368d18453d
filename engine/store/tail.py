"""Reader of the events of a run and its repeats while it grows, with the metrics of recovery as arrays.

Everything that displays a run, live or finished, of this process or another, reads it through `Tail`.
Legend: R rows of the table of metrics, P its columns (see `recovery_metrics`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from engine.errors import UserError
from engine.events import Event, RecoverLayout, RecoverProgress, RepeatStarted
from engine.store import journal, metrics
from engine.store.files import unreadable_error
from engine.store.folders import RunFile
from engine.store.journal import Record
from engine.store.metrics import Chunk

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class RecordedEvent(NamedTuple):
    """A recorded event other than `RecoverProgress`. time: seconds since 1970 (UTC)."""

    time: float
    event: Event


@dataclass(frozen=True)
class TailRows:
    """Metrics of consecutive iterations of one batch; the other fields are those of the last record.

    time: seconds since 1970 (UTC). first: the number of the first row in the table. values_RP: columns as
    `RecoverLayout` names them; rows that are damaged, missing, or replaced since then are NaN.
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
        """Return these metrics as one event. layout: the latest `RecoverLayout`, which names the columns."""
        first = self.first - (self.batch - 1) * self.total_iterations
        return RecoverProgress(
            batch=self.batch,
            batches=self.batches,
            beta=self.beta,
            iterations=list(range(first, first + len(self.values_RP))),
            total_iterations=self.total_iterations,
            ce=self.values_RP[:, layout.CE].tolist(),
            terms=layout.split_terms(self.values_RP).tolist(),
            rate=self.rate,
        )


class Tail:
    """Incremental reader of the events of a run, from the first one on, and then of each further repeat.

    The journal of a run says when a repeat begins; the events of the repeat are in its own folder.

    merge_rows: whether the metrics of consecutive records are merged into one `TailRows`. layout: the latest
    `RecoverLayout`. behind: whether the last call of `read_new` left recorded events unread.
    """

    def __init__(self, folder: Path, *, merge_rows: bool = True) -> None:
        self.layout = RecoverLayout([], [], [])
        self.behind = True
        self._folder = folder
        self._journal = journal.JournalReader(folder / RunFile.JOURNAL)
        self._error: UserError | None = None
        self._metrics_path = folder / RunFile.METRICS
        self._merge_rows = merge_rows
        self._max_rows = 2**14 if merge_rows else 0
        self._repeat = 1
        self._repeat_tail: Tail | None = None  # of the latest repeat but the first
        self._next_repeat: RecordedEvent | None = None  # begins once all of the one before is read

    def damage(self, *, torn: bool = True) -> list[str]:
        """Return messages for the damage of the journal so far. torn: include an unfinished last line."""
        messages = self._journal.all_damage() if torn else list(self._journal.damage)
        return messages + ([] if self._repeat_tail is None else self._repeat_tail.damage(torn=torn))

    def read_new(self, seconds: float = math.inf) -> list[RecordedEvent | TailRows]:
        """Return what was recorded since the last call, oldest first; stop after about `seconds`.

        Raises UserError("disk") if the system refuses to read; what was read before that is returned first.
        """
        entries = list(self._read_until(time.monotonic() + seconds))
        if self._error is not None:
            error, self._error = self._error, None
            if not entries:
                raise error
            self.behind = True
        return entries

    def _read_until(self, deadline: float) -> Iterator[RecordedEvent | TailRows]:
        while True:
            self.behind = False
            if self._next_repeat is None:
                yield from self._read_journal(deadline)
            if self._repeat_tail is not None:
                yield from self._repeat_tail._read_until(deadline)
                self._error, self._repeat_tail._error = self._error or self._repeat_tail._error, None
                self.behind |= self._repeat_tail.behind
                self.layout = self._repeat_tail.layout
            if self._next_repeat is None or self.behind or self._error:
                return
            begun, self._next_repeat = self._next_repeat, None
            folder = self._folder / RunFile.REPEATS / str(self._repeat)
            self._repeat_tail = Tail(folder, merge_rows=self._merge_rows)
            yield begun

    def _read_journal(self, deadline: float) -> Iterator[RecordedEvent | TailRows]:
        """Yield new entries of the run's own journal, up to the beginning of the next repeat."""
        table = metrics.TableReader(self._metrics_path)
        last: Record | None = None  # the record of the last pending chunk
        pending: list[Chunk] = []
        try:
            for record in self._read_records():
                chunk = Chunk.parse(record)
                if last is not None and not (chunk and self._continues(last, pending, record, chunk)):
                    yield from self._read_rows(table, last, pending)
                    last, pending = None, []
                if chunk is not None:
                    last = record
                    pending.append(chunk)
                elif (event := record.event()) is not None:
                    if isinstance(event, RepeatStarted) and event.repeat != self._repeat:
                        self._repeat = event.repeat
                        self._next_repeat = RecordedEvent(record.time, event)
                        break
                    if isinstance(event, RecoverLayout):
                        self.layout = event
                        table.close()  # the owner may replace it now
                    yield RecordedEvent(record.time, event)
                if time.monotonic() >= deadline:
                    self.behind = True
                    break
            if last is not None:
                yield from self._read_rows(table, last, pending)
        finally:
            table.close()

    def _read_records(self) -> Iterator[Record]:
        try:
            yield from self._journal.read_new()
        except OSError as error:
            self._error = unreadable_error(self._journal.path, error)
            self._error.__cause__ = error

    def _continues(self, last: Record, pending: list[Chunk], record: Record, chunk: Chunk) -> bool:
        """Return whether a record's rows follow the pending ones directly, in the same batch."""
        return (
            chunk.first == pending[-1].end
            and chunk.end - pending[0].first <= self._max_rows
            and record.payload.get("batch") == last.payload.get("batch")
        )

    def _read_rows(self, table: metrics.TableReader, last: Record, chunks: list[Chunk]) -> Iterator[TailRows]:
        if values := last.recovery_fields():
            values_RP = table.rows(chunks, self.layout.columns)
            yield TailRows(last.time, **values, first=chunks[0].first, values_RP=values_RP)
