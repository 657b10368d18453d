"""Where a run is, folded from its events: the one account that status, progress, console and reports read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from engine.events import (
    STAGES,
    BatchRecovered,
    EpochFinished,
    Estimated,
    Event,
    RecoverLayout,
    RecoverProgress,
    RepeatStarted,
    Stage,
    StageFinished,
    StageProgress,
    StageStarted,
)


@dataclass
class StageView:
    """The state of a stage. rate: recent units per second. seconds: time spent.

    While the stage runs, `seconds` is the elapsed time in the record, including pauses. The state "reused"
    means that the artefact was cached.
    """

    state: Literal["waiting", "running", "done", "reused"] = "waiting"
    total: int = 0
    done: int = 0
    unit: str = ""
    rate: float = 0.0
    seconds: float = 0.0


class RunState:
    """The state of a run after the events that were added, oldest first.

    stages: all five. stage: the one that runs, or at which the run stopped. rate, smoothed_rate: of it.
    position: what ``status.json`` says of the latest stage, as far as it is known: stage, total, unit, done,
    rate; batch, batches, beta, iteration; architecture, source, seed, epoch, epochs, the last measured
    accuracy. batch (from 1), batches, iteration (done in this batch), iterations: of recovery; 0 before its
    first iteration. repeat (from 1), repeats: the repeat that all of this is about, of how many. started:
    stages that have started. computed: the end of each stage in the session that computed it. images:
    finished images of every batch. estimated: seconds of each stage in one repeat; empty if not estimated.
    """

    def __init__(self) -> None:
        self.repeat = self.repeats = 1
        self.estimated: dict[Stage, float] = {}
        self._measured: dict[Stage, float] = {}  # seconds of a stage in the latest repeat that computed it
        self._start_over()

    def _start_over(self) -> None:
        """Clear all that is known of the previous repeat."""
        self.stages: dict[Stage, StageView] = {stage: StageView() for stage in STAGES}
        self.stage: Stage | None = None
        self.rate = self.smoothed_rate = 0.0
        self.position: dict[str, Any] = {}
        self.layout: RecoverLayout | None = None
        self.batch = self.batches = self.iteration = self.iterations = 0
        self.started: set[Stage] = set()
        self.computed: dict[Stage, StageFinished] = {}
        self.images: dict[int, int] = {}
        self._stage_start = (0.0, 0.0)  # time of the current stage's start, and seconds spent before it

    @property
    def run_seconds_left(self) -> float | None:
        """The remaining time of all stages of all repeats; None if that of any is unknown."""
        further, left = self.repeats - self.repeat, 0.0
        for stage, view in self.stages.items():
            whole = self._expect_seconds(stage)
            if view.state in ("done", "reused"):
                rest: float | None = 0.0
            elif whole is None or view.state == "waiting" or not view.total:
                rest = whole
            else:
                rest = whole * max(view.total - view.done, 0) / view.total
            if rest is None or (further and whole is None):
                return None
            left += rest + further * (whole or 0.0)
        return left

    def _expect_seconds(self, stage: Stage) -> float | None:
        """Return how long a stage takes in one repeat: at its rate, as it took before, or as estimated."""
        if stage == self.stage and self.smoothed_rate > 0:
            return self.stages[stage].total / self.smoothed_rate
        return self._measured.get(stage, self.estimated.get(stage))

    def add(self, event: Event, moment: float = 0.0) -> None:
        """Add the next event. moment: when it was recorded, seconds since 1970 (UTC)."""
        if isinstance(event, RepeatStarted):
            is_resumed = event.repeat == self.repeat
            self.repeat, self.repeats = event.repeat, event.repeats
            if not is_resumed:
                self._start_over()
        elif isinstance(event, StageStarted):
            self._start_stage(event, moment)
        elif isinstance(event, StageProgress):
            self._advance(event.stage, moment, event.done, event.rate)
        elif isinstance(event, EpochFinished):
            self._add_epoch(event, moment)
        elif isinstance(event, RecoverLayout):
            self._start_recovery(event)
        elif isinstance(event, RecoverProgress) and event.iterations:
            end = (event.batch - 1) * event.total_iterations + event.iterations[-1] + 1
            values = (event.batch, event.batches, event.beta, event.total_iterations, event.rate)
            self.add_iterations(end, moment, *values)
        elif isinstance(event, BatchRecovered):
            self.images[event.batch] = event.images
            self.position |= {name: getattr(event, name) for name in ("batch", "batches", "beta")}
        elif isinstance(event, StageFinished):
            self._finish_stage(event)
        elif isinstance(event, Estimated):
            self.estimated = event.seconds

    def add_iterations(
        self,
        end: int,
        moment: float,
        batch: int,
        batches: int,
        beta: float,
        total_iterations: int,
        rate: float,
    ) -> None:
        """Add iterations of recovery up to, but excluding, `end`; the rest is as in `RecoverProgress`."""
        self.batch, self.batches, self.iterations = batch, batches, total_iterations
        self.iteration = end - (batch - 1) * total_iterations
        self.position |= {"batch": batch, "batches": batches, "beta": beta, "iteration": self.iteration}
        self._advance("recover", moment, end, rate)

    def _start_stage(self, event: StageStarted, moment: float) -> None:
        spent = self.stages[event.stage].seconds if event.done else 0.0
        self._stage_start = moment, spent
        self.stages[event.stage] = StageView("running", event.total, event.done, event.unit, 0.0, spent)
        self.stage, self.rate, self.smoothed_rate = event.stage, 0.0, 0.0
        self.started.add(event.stage)
        self.position = {name: getattr(event, name) for name in ("stage", "total", "unit", "done")}
        if self.repeats > 1:
            self.position |= {"repeat": self.repeat, "repeats": self.repeats}

    def _advance(self, stage: Stage, moment: float, done: int, rate: float) -> None:
        view = self.stages[stage]
        view.done, view.rate = min(done, view.total), rate
        view.seconds = self._stage_start[1] + moment - self._stage_start[0]
        self.position |= {"done": done, "rate": rate}
        if rate > 0:
            self.rate = rate
            self.smoothed_rate = 0.8 * self.smoothed_rate + (1 - 0.8) * rate if self.smoothed_rate else rate

    def _add_epoch(self, event: EpochFinished, moment: float) -> None:
        for name in ("architecture", "source", "seed", "epoch", "epochs"):
            self.position[name] = getattr(event, name)
        if event.accuracy is not None:
            self.position["accuracy"] = event.accuracy
        # An event has the epoch of one network; a stage counts the epochs of all, some of them twice after a
        # resume.
        done = self.position.get("done", 0) + 1
        self._advance(event.stage, moment, min(done, self.position.get("total", done)), event.rate)

    def _start_recovery(self, event: RecoverLayout) -> None:
        self.layout = event
        self.position["done"] = event.done
        self.stages["recover"].done = min(event.done, self.stages["recover"].total)
        kept = event.done // (self.iterations or 1)  # `done` counts batches where nothing is optimised
        self.images = {batch: count for batch, count in self.images.items() if batch <= kept}

    def _finish_stage(self, event: StageFinished) -> None:
        if self.stage == event.stage:
            self.stage, self.rate, self.smoothed_rate = None, 0.0, 0.0
        if not event.reused:
            self.computed[event.stage] = event
        computed = self.computed.get(event.stage, event)
        if not computed.reused:
            self._measured[event.stage] = computed.seconds
        elif event.stage in self._measured:  # in an earlier repeat, whose artefact all others share
            self._measured[event.stage] = 0.0
        view = self.stages[event.stage]
        view.state = "reused" if computed.reused else "done"
        view.done, view.rate, view.seconds = view.total, computed.rate, computed.seconds
        self.position["rate"] = event.rate
