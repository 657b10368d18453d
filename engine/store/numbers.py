"""The per-iteration numbers of recovery, which events carry and the journal does not.

They lie in a table (see `metrics`): batch, iteration, β, CE, then each term at each tap. Iteration i of
batch b (from 1) is row (b − 1) · iterations + i, whatever was cut and done again. The journal's
`RecoverProgress` has, in their place, `rows` (first, and one past the last) and `crc32`.
"""

from __future__ import annotations

import math
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.events import Event, RecoverLayout, RecoverProgress, from_payload, to_payload
from engine.store import journal, metrics
from engine.store.files import make_folder, sweep
from engine.store.journal import Record
from engine.store.metrics import Metrics

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_IN_TABLE = ("iterations", "ce", "terms")
_FIXED = ("batch", "iteration", "beta", "ce")


def columns(layout: RecoverLayout) -> list[str]:
    """The table's columns."""
    return [*_FIXED, *(f"{term} @ {tap}" for term in layout.terms for tap in layout.taps)]


class Numbers:
    """The owner's side: takes numbers out of events and writes them into the table.

    notices: what was found wrong with the table when it was opened again.
    """

    def __init__(self, path: Path, journal_path: Path) -> None:
        self.path = path
        self.notices: list[str] = []
        self._journal = journal_path
        self._layout: RecoverLayout | None = None
        self._table: Metrics | None = None

    def begin(self, layout: RecoverLayout) -> None:
        """Recovery begins, or goes on; where in the table, its first numbers tell."""
        self.close()
        self._layout = layout

    def take(self, event: RecoverProgress) -> dict[str, Any]:
        """Write an event's numbers; returns what the journal is to say. Raises UserError("disk")."""
        rows = [
            [event.batch, iteration, event.beta, ce, *(value for term in terms for value in term)]
            for iteration, ce, terms in zip(event.iterations, event.ce, event.terms, strict=True)
        ]
        assert rows
        first = (event.batch - 1) * event.total_iterations + event.iterations[0]
        if self._table is None:
            self._table = self._open(first)
        assert self._table.rows == first, "numbers come in order"
        chunk = self._table.append(rows)
        payload = {name: value for name, value in to_payload(event).items() if name not in _IN_TABLE}
        return {**payload, "rows": [chunk.first, chunk.end], "crc32": chunk.crc32}

    def _open(self, rows: int) -> Metrics:
        assert self._layout is not None, "RecoverLayout comes before RecoverProgress"
        make_folder(self.path.parent)
        sweep(self.path.parent)
        held = metrics.chunks(journal.read(self._journal)) if rows else []
        table = Metrics(self.path, columns(self._layout), rows, held)
        self.notices += table.notices
        return table

    def sync(self) -> None:
        """Make durable what was taken so far."""
        if self._table is not None:
            self._table.sync()

    def close(self) -> None:
        """Sync and close; closing twice is allowed."""
        if self._table is not None:
            table, self._table = self._table, None
            table.close()


class Replay:
    """The reader's side: events out of the journal's records, with their numbers put back."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._layout: RecoverLayout | None = None

    def event(self, record: Record) -> Event | None:
        """The event that was recorded; None for one that this version does not know.

        Numbers that are damaged, missing, or replaced since, are NaN.
        """
        payload = dict(record.payload)
        chunk = metrics.chunk_of(record)
        try:
            if chunk is not None:
                del payload["rows"], payload["crc32"]
                payload |= self._numbers(chunk, (payload["batch"] - 1) * payload["total_iterations"])
            event = from_payload(record.kind, payload)
        except (TypeError, KeyError):
            return None
        event = event and replace(event, **dict.fromkeys(_lost_floats(event), math.nan))
        if isinstance(event, RecoverLayout):
            self._layout = event
        return event

    def _numbers(self, chunk: metrics.Chunk, before: int) -> dict[str, Any]:
        layout = self._layout or RecoverLayout([], [], [])
        rows = self._rows(chunk, columns(layout))
        count, taps = chunk.end - chunk.first, len(layout.taps)
        terms = rows[:, len(_FIXED) :].reshape(count, len(layout.terms), taps)
        return {
            "iterations": list(range(chunk.first - before, chunk.end - before)),
            "ce": rows[:, _FIXED.index("ce")].tolist(),
            "terms": terms.tolist(),
        }

    def _rows(self, chunk: metrics.Chunk, names: list[str]) -> NDArray[np.float32]:
        import numpy as np

        found = metrics.read_rows(self.path, chunk)
        if found is not None and found[0] == names:
            return found[1]
        return np.full((chunk.end - chunk.first, len(names)), np.nan, np.float32)


def _lost_floats(event: Event) -> list[str]:
    """Fields that held a number which JSON does not know."""
    return [part.name for part in fields(event) if part.type == "float" and getattr(event, part.name) is None]
