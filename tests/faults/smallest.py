"""A complete run of the embedded digits that takes a second or two, started as `cfm run`."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path

import tiny
from processes import Nursery, Process, until

from engine.events import STAGES
from engine.store import StoredRun, journal, verify_run

SETTINGS = {
    "ipc": 3,
    "checkpoint_seconds": 0,
    "backbone.width": 8,
    "squeeze.epochs": 2,
    "squeeze.batch": 128,
    "statistics.batch": 72,
    "recover.iterations": 8,
    "relabel.stored_epochs": 8,
    "validate.epochs": 8,
    "validate.seeds": 1,
}
#: Every checkpoint takes a moment longer, so that there is time to ask; no bit depends on it.
SLOW = """
import time
from engine.runs.control import Steering
def at(self, point, seconds=0.0, original=Steering.handle):
    time.sleep({seconds})
    yield from original(self, point, seconds)
Steering.handle = at
"""


def slow(seconds: float = 0.02) -> str:
    """Code that makes a run slower by so much at every checkpoint."""
    return SLOW.format(seconds=seconds)


class Case:
    """One run in a folder of its own, with a cache of its own."""

    def __init__(
        self, nursery: Nursery, folder: Path, undisturbed: Undisturbed | None = None, **settings: object
    ) -> None:
        self.nursery = nursery
        self.folder = folder
        self.undisturbed = undisturbed
        self.run = folder / "run"
        self._sets = {
            "repeats": 1,
            **SETTINGS,
            **{key.replace("__", "."): value for key, value in settings.items()},
        }
        self._seen = 0

    @property
    def words(self) -> list[str]:
        """`cfm` and these words begin the run."""
        sets = [word for key, value in self._sets.items() for word in ("--set", f"{key}={value}")]
        return ["run", "--preset", "smoke", *sets, "--out", str(self.run)]

    def start(self, *words: object, **options: object) -> Process:
        """Begin the run, or go on with it: `cfm run …`."""
        return self.cfm(*self.words, *words, **options)

    def resume(self, *words: object, **options: object) -> Process:
        """`cfm resume RUN`."""
        return self.cfm("resume", self.run, *words, **options)

    def cfm(self, *words: object, **options) -> Process:
        """Any command, with this case's cache; `watch` looks only at what the journal says from now on."""
        self._seen = self._size()
        place = {"CFM_CACHE": str(self.folder / "cache"), "CFM_RUNS": str(self.folder)}
        return self.nursery.cfm(*words, **{**place, **options})

    def _size(self) -> int:
        path = self.run / "journal.jsonl"
        return path.stat().st_size if path.exists() else 0

    @property
    def stored(self) -> StoredRun:
        """The run as others see it."""
        return StoredRun(self.run)

    def said_since(self) -> list[journal.Record]:
        """Records that were written since the last command was started."""
        path = self.run / "journal.jsonl"
        if not path.exists():
            return []
        with path.open("rb") as file:
            file.seek(self._seen)
            lines = file.read().split(b"\n")[:-1]
        found = [json.loads(line) for line in lines if line.endswith(b"}")]
        return [journal.Record(*(each[key] for key in ("seq", "time", "kind", "payload"))) for each in found]

    def heard(self, kind: str, **payload: object) -> bool:
        """Whether an event was recorded since the last command was started."""
        return any(
            record.kind == kind and payload.items() <= record.payload.items() for record in self.said_since()
        )

    def at(self, stage: str, process: Process, seconds: float = 60.0) -> None:
        """Wait until the process is in a stage, or has ended."""
        seen = lambda: process.poll() is not None or self.heard("StageStarted", stage=stage)  # noqa: E731
        until(seen, seconds, process.said, every=0.002)

    def stage(self) -> str:
        """The stage that the run is in, by its journal."""
        now = "before"
        for record in journal.read(self.run / "journal.jsonl"):
            if record.kind == "StageStarted":
                now = record.payload["stage"]
            elif record.kind == "StageFinished" and now == record.payload["stage"] != STAGES[-1]:
                now = STAGES[STAGES.index(now) + 1]
        return now

    def outcome(self) -> dict[str, str]:
        """What must be equal in an interrupted and an uninterrupted run."""
        return tiny.outcome(self.folder)

    def require_whole(self) -> None:
        """The run is finished, its files are what was written, and its outcome is the undisturbed one's."""
        expected = self.undisturbed.expected
        assert self.stored.state() == "finished", self.stored.status()
        assert verify_run(self.run) == []
        assert not (self.run / "owner.json").exists()
        lines = (self.run / "journal.jsonl").read_bytes().count(b"\n")
        numbers = [record.seq for record in journal.read(self.run / "journal.jsonl")]
        assert numbers == list(range(1, lines + 1))
        assert not list(self.run.rglob("*.tmp"))
        found = self.outcome()
        assert found.keys() == expected.keys()
        assert [name for name in found if found[name] != expected[name]] == []

    def finish(self, **options: object) -> Process:
        """Resume, and require that all is as if nothing had happened."""
        process = self.resume(**options)
        assert process.wait() == 0, process.said()
        self.require_whole()
        return process


class Undisturbed(Case):
    """The same run, let alone, with no checkpoints but those at a batch's end."""

    def __init__(self, nursery: Nursery, folder: Path) -> None:
        super().__init__(nursery, folder, checkpoint_seconds=60)
        process = self.start()
        assert process.wait() == 0, process.said()

    @cached_property
    def expected(self) -> dict[str, str]:
        """What every other run must come to."""
        return self.outcome()

    @cached_property
    def seconds(self) -> dict[str, float]:
        """How long each stage took."""
        moments = {}
        for record in journal.read(self.run / "journal.jsonl"):
            if record.kind in ("StageStarted", "StageFinished"):
                moments[record.kind, record.payload["stage"]] = record.time
        return {stage: moments["StageFinished", stage] - moments["StageStarted", stage] for stage in STAGES}
