"""A run as screens show it, folded out of its record; the same for one at work here, elsewhere, or finished.

Its memory does not grow with the run's length. Nothing here draws, and nothing waits.
Legend: T terms, L taps.
"""

from __future__ import annotations

import math
import os
import time
from collections import deque
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import psutil
from numpy.typing import NDArray

from cfm_tui.display.downsampling import Curves
from cfm_tui.display.progress import beta_text, finished, format_bytes, format_count, format_duration
from engine import events
from engine.config import Config, settings
from engine.config.responses import reads_beta
from engine.errors import UserError
from engine.events import STAGES, Event, Stage
from engine.store import AT_WORK, StoredRun, files, folders
from engine.store.numbers import FIXED, columns
from engine.store.preview import Preview
from engine.store.process import alive
from engine.store.reader import State, state_by
from engine.store.tail import Rows, Tail

LOOK_SECONDS = 0.5  #: between two looks at what is not the record
REST_SECONDS = 2.0  #: between two looks at a run on which nobody is at work
_LINES = 1000
_MEASURED = 1000  # accuracies that are kept of a training
_BUCKETS = 512  # of a training's losses
_EXACT = 1024  # iterations of the batch at work that are kept as they are
_STEADY = 0.8  # how much of the pace is what it was before
_CE = FIXED.index("ce")

StageState = Literal["waiting", "running", "done", "reused"]
TrainingKey = tuple[Stage, str, str, int]  #: stage, architecture, source, seed


@dataclass
class StageView:
    """What is known of a stage: units done, their rate (a second, of late), and seconds that it worked.

    While it runs, `seconds` is what passed by the record, pauses included. reused: its artefact was there.
    """

    state: StageState = "waiting"
    total: int = 0
    done: int = 0
    unit: str = ""
    rate: float = 0.0
    seconds: float = 0.0


@dataclass
class Training:
    """One teacher's or student's training. loss: one column, a row an epoch from 0. accuracy: epoch (from 1)
    and percent, thinned out where there are many; last and best of them, None before the first.
    """

    epochs: int
    epoch: int = 0
    loss: Curves = field(default_factory=lambda: Curves(1, _BUCKETS))
    accuracy: list[tuple[int, float]] = field(default_factory=list)
    last: float | None = None
    best: float | None = None

    def hear(self, event: events.EpochFinished) -> None:
        """Take in an epoch; one that was told before is replaced, with all behind it."""
        self.epoch, self.epochs = event.epoch, event.epochs
        self.loss.add(event.epoch - 1, np.array([[event.loss]], np.float32))
        if event.accuracy is None:
            return
        while self.accuracy and self.accuracy[-1][0] >= event.epoch:
            self.accuracy.pop()
        if len(self.accuracy) >= _MEASURED:
            del self.accuracy[1::2]
        self.accuracy.append((event.epoch, event.accuracy))
        self.last = event.accuracy
        self.best = event.accuracy if self.best is None else max(self.best, event.accuracy)


class LogLine(NamedTuple):
    """What happened. time: seconds since 1970 (UTC). level: ``info`` or ``warning``."""

    time: float
    level: str
    text: str


def config_of(folder: Path) -> Config | None:
    """A run's settings; None where they cannot be read."""
    try:
        return settings.resolve(file=folder / folders.CONFIG, base=None).config
    except UserError:
        return None


class RunModel:
    """Reads a run a little at a time, and knows what was read.

    state, status: as `StoredRun` tells them. stages: all five. stage: the one at work, or at which the run
    was left. layout, curves: recovery's columns and their course, from its first numbers on; batch_curves: of
    the latest batch alone, from the first of its numbers that were read. batch (from 1), batches,
    iteration (done, of this batch), iterations, beta, ce, values_TL: the latest; 0 or None before.
    betas: of all batches; empty, and `beta` None, where no filter reads β.
    rate: of the stage at work. log: the latest lines. memory_bytes: of the process at work, 0 where that is
    not here. damage: why files cannot be used, empty where all can. behind: the record goes on.
    """

    def __init__(self, run: StoredRun) -> None:
        self.run = run
        self.state: State = "new"
        self.status: dict[str, Any] = {}
        self.stages: dict[Stage, StageView] = {stage: StageView() for stage in STAGES}
        self.stage: Stage | None = None
        self.layout: events.RecoverLayout | None = None
        self.curves: Curves | None = None
        self.batch_curves: Curves | None = None
        self.batch = self.batches = self.iteration = self.iterations = 0
        self.beta: float | None = None
        self.betas: list[float] = []
        self.ce: float | None = None
        self.values_TL: NDArray[np.float32] | None = None
        self.rate = 0.0
        self.trainings: dict[TrainingKey, Training] = {}
        self.log: deque[LogLine] = deque(maxlen=_LINES)
        self.glimpse: Preview | None = None
        self.results: dict[str, Any] | None = None
        self.memory_bytes = 0
        self.damage = ""
        self._tail: Tail = run.tail()
        self._looked = -LOOK_SECONDS
        self._stamps: dict[str, object] = {}
        self._broken = ""  # why what every run begins with cannot be used
        self._pace = 0.0
        self._batch_first = 0  # the first row of the batch at work
        self._computed: dict[Stage, events.StageFinished] = {}
        self._since = (0.0, 0.0)  # when the stage at work began, and the seconds that it had worked before

    @property
    def behind(self) -> bool:
        """Whether there is more of the record than was read."""
        return self._tail.behind

    @property
    def rests(self) -> bool:
        """Whether all was read, nobody adds to it, and it was looked at a moment ago."""
        done = not self.behind and self.state not in (*AT_WORK, "new")
        return done and time.monotonic() - self._looked < REST_SECONDS

    @property
    def seconds_left(self) -> float | None:
        """How long the stage at work takes yet, by its pace; None where that is not known."""
        if self.state not in AT_WORK or self.stage is None or self._pace <= 0:
            return None
        view = self.stages[self.stage]
        return max(view.total - view.done, 0) / self._pace

    def read(self, seconds: float = 0.05) -> bool:
        """Read on for about so many seconds at most; whether anything changed."""
        changed = self._look()
        try:
            found = self._tail.more(seconds)
        except UserError as error:
            changed, self.damage = changed or self.damage != error.message, error.message
            return changed
        for told in found:
            if isinstance(told, Rows):
                self._numbers(told)
            else:
                self._hear(told.time, told.event)
        return changed or bool(found)

    # --- files beside the record ------------------------------------------------------------------

    def _look(self) -> bool:
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return False
        self._looked = now
        changed = self._look_at_status()
        if self._changed(folders.GLIMPSE):
            self.glimpse, changed = self.run.glimpse(), True
        if self._changed(folders.RESULTS):
            self.results, changed = self._read_results(), True
        self.memory_bytes = self._memory()
        return changed

    def _look_at_status(self) -> bool:
        changed = self._changed(folders.MANIFEST, folders.CONFIG, folders.STATUS)
        before = self.state, self.damage
        if changed:
            try:
                self.run.require_whole()
                self.status, self._broken = self.run.status(), ""
            except UserError as error:
                self._broken = error.message
            except OSError as error:
                self._broken = f"the run's files cannot be read: {os.strerror(error.errno or 0)}"
                self._stamps.pop(folders.STATUS, None)  # it may come back: look again
        self.state = "damaged" if self._broken else state_by(self.status)
        told = self._tail.damage(torn=self.state not in AT_WORK)
        self.damage = self._broken or (told[0] if told else "")
        return changed or (self.state, self.damage) != before

    def _changed(self, *names: str) -> bool:
        """Whether one of these files is another than at the last look."""
        found = False
        for name in names:
            stamp = files.stamp(self.run.folder / name)
            found = found or self._stamps.get(name) != stamp
            self._stamps[name] = stamp
        return found

    def _read_results(self) -> dict[str, Any] | None:
        try:
            return self.run.results()
        except (UserError, OSError) as error:
            self.log.append(LogLine(time.time(), "warning", str(error)))
            return None

    def _memory(self) -> int:
        if self.state not in AT_WORK or not alive(self.status):
            return 0
        try:
            return int(psutil.Process(int(self.status["pid"])).memory_info().rss)
        except (psutil.Error, KeyError, ValueError, TypeError):
            return 0

    # --- the record -------------------------------------------------------------------------------

    def _numbers(self, told: Rows) -> None:
        if not len(told.values_RP) or self.curves is None or self.layout is None:
            return
        self.curves.add(told.first, told.values_RP)
        self._follow_batch(told)
        last = told.values_RP[-1]
        self.batch, self.batches, self.iterations = told.batch, told.batches, told.total_iterations
        done = told.first + len(told.values_RP)
        self.iteration = done - (told.batch - 1) * told.total_iterations
        self.beta, self.ce = told.beta if self.betas else None, float(last[_CE])
        self.values_TL = last[len(FIXED) :].reshape(len(self.layout.terms), len(self.layout.taps)).copy()
        self._progress("recover", told.time, done, told.rate)

    def _follow_batch(self, told: Rows) -> None:
        """Keep the numbers of the batch at work apart: of long runs, `curves` is too coarse for one."""
        if told.batch != self.batch or told.first < self._batch_first:
            self._batch_first = told.first
        assert self.batch_curves is not None
        self.batch_curves.add(told.first - self._batch_first, told.values_RP)

    def _hear(self, moment: float, event: Event) -> None:
        if isinstance(event, events.StageStarted):
            self._begin(moment, event)
        elif isinstance(event, events.StageProgress):
            self._progress(event.stage, moment, event.done, event.rate)
        elif isinstance(event, events.EpochFinished):
            self._epoch(moment, event)
        elif isinstance(event, events.RecoverLayout):
            self._lay_out(event)
        elif isinstance(event, events.StageFinished):
            self._end(event)
        if isinstance(event, events.BatchRecovered) and not self.betas:
            event = replace(event, beta=math.nan)
        level, text = _line(event, self.stages)
        if text:
            self.log.append(LogLine(moment, level, text))

    def _begin(self, moment: float, event: events.StageStarted) -> None:
        before = self.stages[event.stage]
        self._since = moment, before.seconds if event.done else 0.0
        self.stages[event.stage] = StageView(
            "running", event.total, event.done, event.unit, 0.0, self._since[1]
        )
        self.stage, self.rate, self._pace = event.stage, 0.0, 0.0

    def _progress(self, stage: Stage, moment: float, done: int, rate: float) -> None:
        view = self.stages[stage]
        view.done, view.rate = min(done, view.total), rate
        view.seconds = self._since[1] + moment - self._since[0]
        if rate > 0:
            self.rate = rate
            self._pace = _STEADY * self._pace + (1 - _STEADY) * rate if self._pace else rate

    def _epoch(self, moment: float, event: events.EpochFinished) -> None:
        key = (event.stage, event.architecture, event.source, event.seed)
        self.trainings.setdefault(key, Training(event.epochs)).hear(event)
        self._progress(event.stage, moment, self.stages[event.stage].done + 1, event.rate)

    def _lay_out(self, event: events.RecoverLayout) -> None:
        width = len(columns(event))
        if self.curves is None or self.layout is None or columns(self.layout) != columns(event):
            self.curves, self.batch_curves = Curves(width), Curves(width, _EXACT)
        elif event.done < self.curves.rows:
            self.curves.add(event.done, np.empty((0, width), np.float32))  # what follows is computed again
        self.layout = event
        config = config_of(self.run.folder)
        self.betas = event.betas if config is None or reads_beta(config) else []
        if self.beta is None and self.betas:
            self.beta = self.betas[0]

    def _end(self, event: events.StageFinished) -> None:
        if self.stage == event.stage:
            self.stage, self.rate, self._pace = None, 0.0, 0.0
        if not event.reused:
            self._computed[event.stage] = event
        spent = self._computed.get(event.stage, event)  # by whichever session of this run
        view = self.stages[event.stage]
        view.state = "reused" if spent.reused else "done"
        view.done, view.rate, view.seconds = view.total, spent.rate, spent.seconds


def _line(event: Event, stages: dict[Stage, StageView]) -> tuple[str, str]:
    """Level and text of the log's line for an event; no text where it is not worth one."""
    if isinstance(event, events.Notice):
        return event.level, event.message
    text = ""
    if isinstance(event, events.StageStarted):
        first = f", {event.done:,} of them done before" if event.done else ""
        text = f"{event.stage}: {format_count(event.total, event.unit)}{first}"
    elif isinstance(event, events.StageFinished):
        text = finished(event, stages[event.stage].unit)
    elif isinstance(event, events.BatchRecovered):
        at = f" at {beta}" if (beta := beta_text(event.beta, 4)) else ""
        text = f"batch {event.batch} of {event.batches}: {format_count(event.images, 'images')}{at}"
    elif isinstance(event, events.Checkpointed):
        text = f"checkpoint {event.number}: {format_bytes(event.bytes)}, {format_duration(event.seconds)}"
    elif isinstance(event, (events.Paused, events.Continued)):
        text = f"{event.kind.lower()} by {event.by}"
    elif isinstance(event, events.EpochFinished) and event.epoch == event.epochs:
        measured = "" if event.accuracy is None else f", {event.accuracy:.1f} %"
        who = event.source if event.source == "teacher" else f"{event.source}, seed {event.seed}"
        text = f"{event.architecture} ({who}): {format_count(event.epochs, 'epochs')}{measured}"
    return "info", text
