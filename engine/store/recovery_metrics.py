"""The per-iteration metrics of recovery, which are in a table instead of the journal.

The table (see `metrics`) has the columns of `RecoverLayout`. Iteration i of batch b (from 1) is row
(b − 1) · iterations + i, also after interruptions. In their place, the journal's `RecoverProgress` has `rows`
(first, and one past the last) and `crc32`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.events import RecoverLayout, RecoverProgress, to_payload
from engine.store import journal, metrics
from engine.store.files import make_folders, sweep
from engine.store.metrics import Metrics

_IN_TABLE = ("iterations", "ce", "terms")


class MetricsRecorder:
    """Writer of the metrics in events to the table; only the run's owner may have one.

    notices: messages for the damage that the table had when it was opened.
    """

    def __init__(self, path: Path, journal_path: Path) -> None:
        self.path = path
        self.notices: list[str] = []
        self._journal_path = journal_path
        self._layout: RecoverLayout | None = None
        self._table: Metrics | None = None

    def start(self, layout: RecoverLayout) -> None:
        """Start or resume recovery; the first event passed to `record` determines the first row."""
        self.close()
        self._layout = layout

    def record(self, event: RecoverProgress) -> dict[str, Any]:
        """Write an event's metrics and return its payload for the journal. Raises UserError("disk")."""
        rows = [
            [event.batch, iteration, event.beta, ce, *(value for term in terms for value in term)]
            for iteration, ce, terms in zip(event.iterations, event.ce, event.terms, strict=True)
        ]
        assert rows
        first = (event.batch - 1) * event.total_iterations + event.iterations[0]
        if self._table is None:
            assert self._layout is not None, "RecoverLayout must come before RecoverProgress"
            make_folders(self.path.parent)
            sweep(self.path.parent)
            chunks = metrics.valid_chunks(journal.read(self._journal_path)) if first else []
            self._table = Metrics(self.path, self._layout.columns, first, chunks)
            self.notices += self._table.notices
        assert self._table.rows == first, "events must come in order"
        chunk = self._table.append(rows)
        payload = {name: value for name, value in to_payload(event).items() if name not in _IN_TABLE}
        return {**payload, "rows": [chunk.first, chunk.end], "crc32": chunk.crc32}

    def sync(self) -> None:
        """Make everything recorded so far durable."""
        if self._table is not None:
            self._table.sync()

    def close(self) -> None:
        """Sync and close; closing twice is allowed."""
        if self._table is not None:
            table, self._table = self._table, None
            table.close()
