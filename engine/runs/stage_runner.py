"""Run the stages of a run: start or resume each one, measure its time, and report start and end as events."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import closing
from typing import Any, TypeVar

import torch

from engine.checkpoint import Checkpoint, StageState, driven_by
from engine.device import explain_out_of_memory
from engine.events import BatchRecovered, EpochFinished, Event, Notice, Stage, StageFinished, StageStarted
from engine.runs.control import Steering
from engine.runs.threads import SlowdownWatch, ThreadAdapter
from engine.store import Run

T = TypeVar("T")


class StageRunner:
    """Runs the stages of one run and measures their time.

    timings: by stage, over all sessions of the run: seconds, rate in units per second, unit, and whether the
    artefact was reused, which means that no session computed it. adapter: adapts the number of threads to the
    machine between recovery batches and between epochs; None: it stays as it is.
    """

    def __init__(
        self, run: Run, device: torch.device, steering: Steering, adapter: ThreadAdapter | None = None
    ) -> None:
        self.timings: dict[str, Any] = {}
        self._adapter = adapter
        self._slowdowns = SlowdownWatch()
        self._device = device
        self._run = run
        self._steering = steering
        self._before = run.stage_costs()

    def run(
        self,
        stage: Stage,
        total: int,
        unit: str,
        begin: Callable[[StageState | None], Generator[Event, None, tuple[T, bool]]],
        count: Callable[[dict[str, Any]], int],
    ) -> Generator[Event, None, T]:
        """Run a stage from its beginning or its last checkpoint, and return its artefact.

        Checkpoints are handled here and not passed on. Only the time that the stage itself works is counted.
        begin: starts the stage from its state; returns the artefact and whether it already existed. count:
        returns the number of finished units, given a state's metadata.
        """
        artefact: T
        saved = self._load_state(stage)
        done, seconds = (0, 0.0) if saved is None else (count(saved.metadata), saved.metadata["seconds"])
        started = StageStarted(stage, total, unit, done)
        yield started
        yield from self._slowdowns.watch(started, time.monotonic())
        if saved is not None:
            yield Notice("info", f"{stage} resumes from its checkpoint: {done} of {total} {unit} are done")
        hint = "use a device with more memory"
        with explain_out_of_memory(self._device, f"the stage {stage}", hint), closing(begin(saved)) as work:
            idle, left_at = 0.0, time.monotonic()
            while True:
                began = time.perf_counter()
                idle += time.monotonic() - left_at
                try:
                    with driven_by(self._steering.has_requests, idle):
                        event = next(work)
                except StopIteration as end:
                    artefact, reused = end.value
                    break
                finally:
                    seconds += time.perf_counter() - began
                    left_at = time.monotonic()
                if isinstance(event, Checkpoint):
                    yield from self._steering.handle(event, seconds)
                else:
                    yield event
                    yield from self._slowdowns.watch(event, time.monotonic())
                    if self._adapter is not None and isinstance(event, BatchRecovered | EpochFinished):
                        self._adapter.adapt()
        if stage != "validate":  # its checkpoint is needed until the results are saved
            self._run.delete_checkpoints(stage)
        yield from self._finish(stage, seconds, 0 if reused else total, unit, reused)
        return artefact

    def _load_state(self, stage: Stage) -> StageState | None:
        saved = self._run.latest_checkpoint(stage)
        if saved is None:
            return None
        tensors = {name: torch.from_numpy(array) for name, array in saved.arrays.items()}
        return StageState(tensors, saved.metadata)

    def skip(self, stage: Stage) -> Generator[Event, None, None]:
        """Report a stage as reused without running it, and delete its checkpoints."""
        self._run.delete_checkpoints(stage)
        yield from self._finish(stage, 0.0, 0, "", True)

    def _finish(
        self, stage: Stage, seconds: float, done: int, unit: str, reused: bool
    ) -> Generator[Event, None, None]:
        rate = done / max(seconds, 1e-9)
        spent = {"seconds": seconds, "rate": rate, "unit": unit}
        if reused and stage in self._before:  # computed by an earlier session of this run
            self.timings[stage] = {**self._before[stage], "reused": False}
        else:
            self.timings[stage] = {**spent, "reused": reused}
        yield StageFinished(stage, seconds, rate, reused)
