"""The state of a run for display, built from its record, whether it runs here, runs elsewhere or is finished.

Memory does not grow with the length of the run. Nothing here draws or blocks. Legend: T terms, L taps.
"""

from __future__ import annotations

import math
import os
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import psutil
from numpy.typing import NDArray

from cfm_tui.display.downsampling import DownsampledCurves
from cfm_tui.display.progress import format_event
from engine import events
from engine.config import Config, settings
from engine.errors import UserError
from engine.events import Event, Stage
from engine.runs.results import read_results
from engine.store import ACTIVE, AT_WORK, RunFile, StoredRun, files
from engine.store.lock import alive
from engine.store.preview import Preview
from engine.store.reader import NewerRunError, State, state_by
from engine.store.run_state import RunState
from engine.store.tail import Tail, TailRows


@dataclass
class Training:
    """The training of one teacher or student.

    loss: one column, and one row per epoch from 0. accuracy: epochs (from 1) and percent, thinned out if
    there are many. last, best: accuracies, None before the first. preview_accuracy: likewise, on
    `preview_images` of the test images; it has none of the epochs in `accuracy`.
    """

    MAX_ACCURACIES: ClassVar = 1000
    epochs: int
    epoch: int = 0
    loss: DownsampledCurves = field(default_factory=lambda: DownsampledCurves(1, 512))
    accuracy: list[tuple[int, float]] = field(default_factory=list)
    preview_accuracy: list[tuple[int, float]] = field(default_factory=list)
    preview_images: int = 0
    last: float | None = None
    best: float | None = None

    def add_epoch(self, event: events.EpochFinished) -> None:
        """Add an epoch, replacing it and all later ones if it was repeated."""
        self.epoch, self.epochs = event.epoch, event.epochs
        self.loss.add(event.epoch - 1, np.array([[event.loss]], np.float32))
        for curve in (self.accuracy, self.preview_accuracy):
            while curve and curve[-1][0] >= event.epoch:
                curve.pop()
        if event.accuracy is None:
            return
        self._append(self.accuracy, event.epoch, event.accuracy)
        self.last = event.accuracy
        self.best = event.accuracy if self.best is None else max(self.best, event.accuracy)

    def add_subset(self, event: events.SubsetEvaluated) -> None:
        """Add the accuracy on a part of the test images after the latest epoch."""
        self.preview_images = event.images
        self._append(self.preview_accuracy, event.epoch, event.accuracy)

    def _append(self, curve: list[tuple[int, float]], epoch: int, accuracy: float) -> None:
        if len(curve) >= self.MAX_ACCURACIES:
            del curve[1::2]
        curve.append((epoch, accuracy))


class LogLine(NamedTuple):
    """A line of a run's log. time: seconds since 1970 (UTC). level: ``info`` or ``warning``."""

    time: float
    level: str
    text: str


def load_config(folder: Path) -> Config | None:
    """Return the settings of a run; None if they cannot be read."""
    try:
        return settings.resolve(file=folder / RunFile.CONFIG, base=None).config
    except UserError:
        return None


def _read_teacher_accuracy(run: StoredRun) -> float | None:
    """Return the teacher's accuracy in percent; None if it is not measured or cannot be read."""
    try:
        return float((run.manifest().get("teacher") or {})["accuracy"])
    except (UserError, KeyError, TypeError, ValueError):
        return None


class RunModel(RunState):
    """Reads the record of a run incrementally and adds to its state what is displayed.

    All but state, status, results and log is about the latest repeat, `repeat_run`. state, status: see
    `StoredRun`. layout, curves: the columns of recovery's numbers and their curves. batch_curves: curves of
    the current batch, from the first of its numbers that were read. beta, ce, values_TL: the latest ones;
    None before the first. teacher_accuracy: in percent, None before it is measured. betas: of all batches;
    empty, and `beta` None, if no filter uses β. log: the latest lines. results: of the finished repeats; None
    before the first is. memory_bytes: of the process of the run, 0 if it is not on this machine. damage: why
    files cannot be used, empty if all can.
    """

    LOOK_SECONDS = 0.5  #: between two checks of the files beside the record
    REST_SECONDS = 2.0  #: between two checks of a run that is not running

    def __init__(self, run: StoredRun) -> None:
        self.run = run
        self.repeat_run = run
        super().__init__()
        self.state: State = "new"
        self.status: dict[str, Any] = {}
        self.log: deque[LogLine] = deque(maxlen=1000)
        self.results: dict[str, Any] | None = None
        self.memory_bytes = 0
        self.damage = ""
        self._unreadable_state: State = "damaged"
        self._tail: Tail = run.tail()
        self._last_refresh = -self.LOOK_SECONDS
        self._stamps: dict[Path, object] = {}
        self._unreadable_reason = ""  # why the manifest, settings or status cannot be used

    def _start_over(self) -> None:
        super()._start_over()
        self.curves: DownsampledCurves | None = None
        self.batch_curves: DownsampledCurves | None = None
        self.beta: float | None = None
        self.betas: list[float] = []
        self.ce: float | None = None
        self.values_TL: NDArray[np.float32] | None = None
        self.trainings: dict[tuple[Stage, str, str, int], Training] = {}  # stage, architecture, source, seed
        self.preview: Preview | None = None
        self.teacher_accuracy: float | None = None
        self._batch_first = 0  # the first row of the current batch
        if self.repeat > 1:
            self.repeat_run = StoredRun(self.run.folder / RunFile.REPEATS / str(self.repeat))

    @property
    def behind(self) -> bool:
        """Whether there is more of the record to read."""
        return self._tail.behind

    @property
    def is_underway(self) -> bool:
        """Whether a process computes the run, or has yet to begin."""
        return self.state in (*ACTIVE, "new")

    @property
    def is_idle(self) -> bool:
        """Whether the run is fully read, is not running, and was checked less than `REST_SECONDS` ago."""
        done = not self.behind and not self.is_underway
        return done and time.monotonic() - self._last_refresh < self.REST_SECONDS

    @property
    def training_stage(self) -> Literal["squeeze", "validate"] | None:
        """The stage of the latest trainings; None before the first."""
        stages = {key[0] for key in self.trainings}
        return "validate" if "validate" in stages else "squeeze" if "squeeze" in stages else None

    @property
    def seconds_left(self) -> float | None:
        """The remaining time of the current stage at its smoothed rate; None if unknown."""
        if self.state not in AT_WORK or self.stage is None or self.smoothed_rate <= 0:
            return None
        view = self.stages[self.stage]
        return max(view.total - view.done, 0) / self.smoothed_rate

    def read(self, seconds: float = 0.05) -> bool:
        """Read more of the record for at most about `seconds`; return whether anything changed."""
        changed = self._refresh_files()
        try:
            entries = self._tail.read_new(seconds)
        except UserError as error:
            changed, self.damage = changed or self.damage != error.message, error.message
            return changed
        repeat_run = self.repeat_run
        for entry in entries:
            if isinstance(entry, TailRows):
                self._add_metrics(entry)
            else:
                self.add(entry.event, entry.time)
        if self.repeat_run is not repeat_run:  # what is beside the record of another repeat is not read yet
            self._last_refresh = -self.LOOK_SECONDS
            self._refresh_files()
        return changed or bool(entries)

    # --- files beside the record ------------------------------------------------------------------

    def _refresh_files(self) -> bool:
        now = time.monotonic()
        if now - self._last_refresh < self.LOOK_SECONDS:
            return False
        self._last_refresh = now
        changed = self._refresh_status()
        if self._have_changed(self.repeat_run.folder / RunFile.GLIMPSE):
            self.preview, changed = self.repeat_run.preview(), True
        if self._have_changed(self.repeat_run.folder / RunFile.MANIFEST):
            self.teacher_accuracy, changed = _read_teacher_accuracy(self.repeat_run), True
        if self._have_changed(self.run.folder / RunFile.RESULTS):
            changed = True
            try:
                self.results = read_results(self.run)
            except (UserError, OSError) as error:
                self.results = None
                self.log.append(LogLine(time.time(), "warning", str(error)))
        self.memory_bytes = 0
        if self.state in AT_WORK and alive(self.status):
            with suppress(psutil.Error, KeyError, ValueError, TypeError):
                self.memory_bytes = int(psutil.Process(int(self.status["pid"])).memory_info().rss)
        return changed

    def _refresh_status(self) -> bool:
        names = (RunFile.MANIFEST, RunFile.CONFIG, RunFile.STATUS)
        changed = self._have_changed(*(self.run.folder / name for name in names))
        before = self.state, self.damage
        if changed:
            try:
                self.run.require_whole()
                self.status, self._unreadable_reason = self.run.status(), ""
            except UserError as error:
                self._unreadable_reason = error.message
                self._unreadable_state = "newer" if isinstance(error, NewerRunError) else "damaged"
            except OSError as error:
                self._unreadable_reason = f"the run's files cannot be read: {os.strerror(error.errno or 0)}"
                self._stamps.pop(self.run.folder / RunFile.STATUS, None)  # try again: it may be temporary
        self.state = self._unreadable_state if self._unreadable_reason else state_by(self.status)
        journal_damage = self._tail.damage(torn=self.state not in AT_WORK)
        self.damage = self._unreadable_reason or (journal_damage[0] if journal_damage else "")
        return changed or (self.state, self.damage) != before

    def _have_changed(self, *paths: Path) -> bool:
        """Return whether one of these files has changed since the last call."""
        stamps: dict[Path, object] = {path: files.stamp(path) for path in paths}
        any_changed = any(self._stamps.get(path) != stamp for path, stamp in stamps.items())
        self._stamps |= stamps
        return any_changed

    # --- the record -------------------------------------------------------------------------------

    def _add_metrics(self, rows: TailRows) -> None:
        if not len(rows.values_RP) or self.curves is None or self.layout is None:
            return
        self.curves.add(rows.first, rows.values_RP)
        # In long runs `curves` is too coarse for one batch, so its numbers are stored separately, too.
        if rows.batch != self.batch or rows.first < self._batch_first:
            self._batch_first = rows.first
        assert self.batch_curves is not None
        self.batch_curves.add(rows.first - self._batch_first, rows.values_RP)
        last = rows.values_RP[-1]
        self.beta, self.ce = rows.beta if self.betas else None, float(last[self.layout.CE])
        self.values_TL = self.layout.split_terms(last[None])[0].copy()
        end = rows.first + len(rows.values_RP)
        values = (rows.batch, rows.batches, rows.beta, rows.total_iterations, rows.rate)
        self.add_iterations(end, rows.time, *values)

    def add(self, event: Event, moment: float = 0.0) -> None:
        """Add the next event that is not about iterations, with its line in the log."""
        if isinstance(event, events.EpochFinished):
            key = (event.stage, event.architecture, event.source, event.seed)
            self.trainings.setdefault(key, Training(event.epochs)).add_epoch(event)
        elif isinstance(event, events.SubsetEvaluated):
            key = (event.stage, event.architecture, event.source, event.seed)
            if key in self.trainings:
                self.trainings[key].add_subset(event)
        elif isinstance(event, events.RecoverLayout):
            self._set_layout(event)
        super().add(event, moment)
        if isinstance(event, events.BatchRecovered) and not self.betas:
            event = replace(event, beta=math.nan)
        unit = self.stages[event.stage].unit if isinstance(event, events.StageFinished) else ""
        if text := format_event(event, unit):
            self.log.append(LogLine(moment, getattr(event, "level", "info"), text))

    def _set_layout(self, event: events.RecoverLayout) -> None:
        width = len(event.columns)
        if self.curves is None or self.layout is None or self.layout.columns != event.columns:
            self.curves, self.batch_curves = DownsampledCurves(width), DownsampledCurves(width, 1024)
        elif event.done < self.curves.rows:  # the rows from here on will be repeated
            self.curves.add(event.done, np.empty((0, width), np.float32))
        config = load_config(self.repeat_run.folder)
        self.betas = event.betas if config is None or config.uses_beta else []
        if self.beta is None and self.betas:
            self.beta = self.betas[0]
