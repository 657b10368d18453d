"""How long a record of a million iterations takes to open, and what memory it takes while it grows.

    python tests/bench/long_record.py [--folder DIR] [--json]

Two records: 5,000 pieces of 200 iterations, as fast runs write them, and 100,000 pieces of 10, as slow
runs do; batches of 2,000 iterations, 16 values an iteration. Opened as a console opens it: the record read
and folded into what screens show, the disk's cache warm. Times are the best of three. Then the record is
made longer by half, read as it grows, and the growth of the process told.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from cfm_tui.display.run_state import RunModel
from engine import events, store
from engine.store import RunFile, journal, metrics

ITERATIONS, BATCH, TAPS = 1_000_000, 2_000, 16


class Recorder:
    """Writes the record of a recovery, much faster than one could be computed."""

    def __init__(self, folder: Path) -> None:
        self.run = store.open_run(folder, {"identity": {}, "versions": {}, "device": {}, "threads": 1}, "")
        self.layout = events.RecoverLayout([f"conv{tap}" for tap in range(TAPS)], ["ridge/none"], [0.1] * 750)
        self.journal: journal.Journal = self.run._journal
        path = folder / RunFile.METRICS
        path.parent.mkdir()
        self.table = metrics.Metrics(path, self.layout.columns)
        self.tell(events.StageStarted("recover", ITERATIONS, "iterations"))
        self.tell(self.layout)

    def tell(self, event: events.Event) -> None:
        self.journal.append(event.kind, events.to_payload(event))

    def batch(self, number: int, together: int) -> None:
        """One batch, its iterations in pieces."""
        rng = np.random.default_rng(number)
        rows = np.empty((BATCH, 4 + TAPS), np.float32)
        rows[:, 0], rows[:, 1], rows[:, 2] = number, np.arange(BATCH), 0.1
        rows[:, 3:] = np.exp(-np.arange(BATCH) / 500)[:, None] + rng.random((BATCH, 1 + TAPS)) / 10
        facts = {"batch": number, "batches": 750, "beta": 0.1, "total_iterations": BATCH, "rate": 1234.5}
        for first in range(0, BATCH, together):
            chunk = self.table.append(rows[first : first + together])
            told = {**facts, "rows": [chunk.first, chunk.end], "crc32": chunk.crc32}
            self.journal.append("RecoverProgress", told)
        self.tell(events.BatchRecovered(number, 750, 0.1, 10))
        self.tell(events.Checkpointed("recover", number, 10_000, 0.01))

    def close(self) -> None:
        self.table.close()
        self.run.close("stopped")


def opened(folder: Path) -> RunModel:
    """The record read to its end."""
    model = RunModel(store.StoredRun(folder))
    while model.behind:
        model.read(0.05)
    return model


def memory() -> int:
    return int(psutil.Process().memory_info().rss)


def measure(folder: Path, together: int) -> dict[str, float]:
    recorder = Recorder(folder)
    batches = ITERATIONS // BATCH
    for number in range(1, batches + 1):
        recorder.batch(number, together)
    seconds, processor = [], []
    for _ in range(3):
        began, worked = time.perf_counter(), time.process_time()
        model = opened(folder)
        seconds.append(time.perf_counter() - began)
        processor.append(time.process_time() - worked)
    before = memory()
    for number in range(batches + 1, batches + batches // 2 + 1):
        recorder.batch(number, together)
        model.read(0.05)
    recorder.close()
    grown = memory() - before
    return {
        "pieces": ITERATIONS // together,
        "seconds": min(seconds),
        "processor_seconds": min(processor),
        "resident_bytes": before,
        "grown_bytes": grown,
    }


def main() -> None:
    """Make both records, and print what they took."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--folder", type=Path, help="where the records are made (removed afterwards)")
    arguments.add_argument("--json", action="store_true")
    given = arguments.parse_args()
    found = []
    for together in (200, 10):
        with tempfile.TemporaryDirectory(dir=given.folder) as place:
            found.append(measure(Path(place) / "run", together))
    if given.json:
        print(json.dumps(found))
        return
    for told in found:
        print(
            f"{told['pieces']:,} pieces: opened in {told['seconds']:.2f} s "
            f"({told['processor_seconds']:.2f} s of processor), {told['resident_bytes'] / 2**20:.0f} MiB; "
            f"{told['grown_bytes'] / 2**20:+.1f} MiB while it grew by half"
        )


if __name__ == "__main__":
    main()
