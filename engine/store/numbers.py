"""The per-iteration numbers of recovery, which events carry and the journal does not.

They lie in a table (see `metrics`): batch, iteration, β, CE, then each term at each tap. Iteration i of
batch b (from 1) is row (b − 1) · iterations + i, whatever was cut and done again. The journal's
`RecoverProgress` has, in their place, `rows` (first, and one past the last) and `crc32`.
Not here: how they are read (see `tail`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.events import RecoverLayout, RecoverProgress, to_payload
from engine.store import journal, metrics
from engine.store.files import make_folder, sweep
from engine.store.metrics import Metrics

_IN_TABLE = ("iterations", "ce", "terms")
FIXED = ("batch", "iteration", "beta", "ce")


def columns(layout: RecoverLayout) -> list[str]:
    """The table's columns."""
    return [*FIXED, *(f"{term} @ {tap}" for term in layout.terms for tap in layout.taps)]


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
