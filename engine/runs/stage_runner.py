"""What all stages share: each is begun anew or from its last checkpoint, timed, and told of."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from typing import Any, TypeVar

import torch

from engine.device import explain_out_of_memory
from engine.events import Event, Notice, Stage, StageFinished, StageStarted, map_events
from engine.checkpoint import Checkpoint, StageState
from engine.store import Run

T = TypeVar("T")


class StageRunner:
    """The stages of one run as they are worked through.

    timings: by stage, what all sessions of the run spent on it: seconds, rate in units a second, unit, and
    whether it was reused, computed by none of them.
    """

    def __init__(self, run: Run, device: torch.device) -> None:
        self.timings: dict[str, Any] = {}
        self._device = device
        self._run = run
        self._before = run.spent()

    def run(
        self,
        stage: Stage,
        total: int,
        unit: str,
        begin: Callable[[StageState | None], Generator[Event, None, tuple[T, bool]]],
        count: Callable[[dict[str, Any]], int],
    ) -> Generator[Event, None, T]:
        """Run a stage from its beginning or its last checkpoint; only the time that it works counts.

        begin: starts it, given its state; returns its artefact and whether that was there already.
        count: how many units lie behind a state, told by its facts.
        """
        saved = self._saved(stage)
        done, seconds = (0, 0.0) if saved is None else (count(saved.metadata), saved.metadata["seconds"])
        yield StageStarted(stage, total, unit, done)
        if saved is not None:
            yield Notice("info", f"{stage} goes on from its checkpoint: {done} of {total} {unit} are there")
        began = time.perf_counter()

        def tell(event: Event) -> Iterator[Event]:
            nonlocal seconds, began
            seconds += time.perf_counter() - began
            yield _with_seconds(event, seconds) if isinstance(event, Checkpoint) else event
            began = time.perf_counter()

        with explain_out_of_memory(self._device, f"the stage {stage}", "use a device with more memory"):
            artefact, reused = yield from map_events(begin(saved), tell)
        seconds += time.perf_counter() - began
        if stage != "validate":  # the students are on disk with the results
            self._run.forget(stage)
        yield from self._finish(stage, seconds, 0 if reused else total, unit, reused)
        return artefact

    def _saved(self, stage: Stage) -> StageState | None:
        found = self._run.saved(stage)
        if found is None:
            return None
        return StageState({name: torch.from_numpy(array) for name, array in found.arrays.items()}, found.facts)

    def skip(self, stage: Stage) -> Generator[Event, None, None]:
        """Tell that a stage had nothing to do; what was saved of it is of no use any more."""
        self._run.forget(stage)
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


def _with_seconds(point: Checkpoint, seconds: float) -> Checkpoint:
    """The same save point, its state knowing how long the stage has worked."""

    def capture() -> StageState:
        state = point.capture()
        return StageState(state.tensors, {**state.metadata, "seconds": seconds})

    return replace(point, capture=capture)
