"""Live progress on stderr: a bar on a terminal, plain lines otherwise.

A `Tracker` follows the events of the computation; a display shows its state.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

from cfm_tui.display.streams import escape_control_characters
from engine.events import (
    BatchRecovered,
    Checkpointed,
    Continued,
    EpochFinished,
    Event,
    Notice,
    Paused,
    RecoverProgress,
    RepeatStarted,
    StageFinished,
    StageStarted,
    drain,
)

if TYPE_CHECKING:
    from rich.progress import Progress

T = TypeVar("T")


class Tracker:
    """The progress of the latest stage, updated from events.

    title: the stage, and the repeat if there are several. done, total: in `unit`. rate: units per second.
    detail: the latest numbers as text.
    """

    def __init__(self) -> None:
        self.title = self.unit = self.detail = ""
        self.total = self.done = 0
        self.rate = 0.0
        from engine.store.run_state import RunState  # imports NumPy, which formatting does without

        self._state = RunState()

    def update(self, event: Event) -> None:
        """Update from an event."""
        self._state.add(event)
        position = self._state.position
        self.title, self.unit = _name_stage(position), position.get("unit", "")
        self.total, self.done = position.get("total", 0), position.get("done", 0)
        self.rate = position.get("rate", 0.0)
        if isinstance(event, StageStarted):
            self.detail = ""
        elif isinstance(event, EpochFinished):
            accuracy = "" if event.accuracy is None else f"  {event.accuracy:.1f} %"
            epoch = f"epoch {event.epoch} of {event.epochs}  loss {event.loss:.3g}{accuracy}"
            seed = "" if event.source == "teacher" else f", seed {event.seed}"
            self.detail = f"{event.architecture} ({event.source}{seed})  {epoch}"
        elif isinstance(event, RecoverProgress) and event.iterations:
            names = self._state.layout.terms if self._state.layout is not None else ()
            terms = zip(names, event.terms[-1], strict=False)
            batch = f"batch {event.batch} of {event.batches}  β {event.beta:.4g}  CE {event.ce[-1]:.3g}"
            self.detail = "  ".join([batch, *(f"{name} {sum(taps):.3g}" for name, taps in terms)])

    def pace(self) -> str:
        """Return the rate and the remaining time; empty if the rate is unknown."""
        if self.rate <= 0:
            return ""
        left = max(self.total - self.done, 0) / self.rate
        return f"{format_rate(self.rate, self.unit)}, {format_duration(left)} left"

    def line(self) -> str:
        """Return the whole state in one line."""
        parts = [f"{self.title}: {self.done} of {self.total} {self.unit}", self.pace(), self.detail]
        return "  ".join(part for part in parts if part)


def _name_stage(position: Mapping[str, Any]) -> str:
    """Return the stage of a status, preceded by its repeat if there are several; empty if it has none."""
    stage = str(position.get("stage") or "")
    if not stage or "repeat" not in position:
        return stage
    return f"repeat {position['repeat']}/{position['repeats']} {stage}"


def format_count(count: int, unit: str) -> str:
    """Format a count with its unit. unit: in the plural."""
    singular = "batch" if unit == "batches" else unit.removesuffix("s")
    return f"{count:,} {singular if count == 1 else unit}"


def format_event(event: Event, unit: str = "") -> str:
    """Return the line of a log for an event; empty for events without one. unit: of the event's stage."""
    text = ""
    if isinstance(event, Notice):
        text = event.message
    elif isinstance(event, RepeatStarted):
        text = f"repeat {event.repeat} of {event.repeats}, seed {event.seed}"
    elif isinstance(event, StageStarted):
        first = f", {event.done:,} already done" if event.done else ""
        text = f"{event.stage}: {format_count(event.total, event.unit)}{first}"
    elif isinstance(event, StageFinished):
        rate = f" ({format_rate(event.rate, unit)})" if event.rate else ""
        duration = "nothing to do" if event.reused else format_duration(event.seconds) + rate
        text = f"{event.stage}: {duration}"
    elif isinstance(event, BatchRecovered):
        with_beta = f" at {beta}" if (beta := format_beta(event.beta, 4)) else ""
        text = f"batch {event.batch} of {event.batches}: {format_count(event.images, 'images')}{with_beta}"
    elif isinstance(event, Checkpointed):
        text = f"checkpoint {event.number}: {format_bytes(event.bytes)}, {format_duration(event.seconds)}"
    elif isinstance(event, (Paused, Continued)):
        text = f"{event.kind.lower()} by {event.by}"
    elif isinstance(event, EpochFinished) and event.epoch == event.epochs:
        accuracy = "" if event.accuracy is None else f", {event.accuracy:.1f} %"
        seed = "" if event.source == "teacher" else f", seed {event.seed}"
        count = format_count(event.epochs, "epochs")
        text = f"{event.architecture} ({event.source}{seed}): {count}{accuracy}"
    return text


def format_beta(beta: float | None, digits: int = 3) -> str:
    """Format β; empty for None and NaN, which mean that nothing was optimised."""
    return "" if beta is None or math.isnan(beta) else f"β {beta:.{digits}g}"


def format_status(status: dict[str, Any], state: str) -> str:
    """Format a run's state and its latest heartbeat in one line."""
    if not status:
        return state
    position = None
    if "batch" in status:
        beta = format_beta(status["beta"], 4)
        position = f"batch {status['batch']} of {status['batches']}" + (f", {beta}" if beta else "")
    elif "epoch" in status:
        position = f"{status['architecture']}, epoch {status['epoch']} of {status['epochs']}"
    parts = [state, _name_stage(status), position, status.get("message")]
    return " — ".join(part for part in parts if part) + f" ({status['time']})"


def format_heartbeat(status: dict[str, Any]) -> str:
    """Format the progress of a running point: stage, units done, rate, and remaining time of the stage."""
    if "stage" not in status:
        return "loading"
    total, done, unit = status.get("total", 0), status.get("done"), status.get("unit", "")
    parts = [_name_stage(status)]
    if status["stage"] == "validate" and "epoch" in status:
        parts.append(f"{status['architecture']}, {status['source']}, seed {status['seed']}")
        parts.append(f"epoch {status['epoch']} of {status['epochs']}")
    elif done is not None and total:
        parts.append(f"{done} of {total} {unit}")
    rate = status.get("rate") or 0.0
    if rate > 0:
        parts.append(format_rate(rate, unit))
        if done is not None and total:
            parts.append(f"{format_duration(max(total - done, 0) / rate)} left in this stage")
    return "  ".join(parts)


def format_bytes(count: float) -> str:
    """Format a number of bytes in decimal units."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.0f} {unit}" if count >= 9.95 or unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


def format_rate(rate: float, unit: str) -> str:
    """Format a rate with three significant digits. unit: in the plural."""
    number = f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"
    return f"{number} {'it' if unit == 'iterations' else unit}/s"


def format_duration(seconds: float) -> str:
    """Format seconds in s, min or h."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


class Display:
    """Shows plain lines: one at the start and end of each stage, and one every few seconds in between."""

    def __init__(self, stream: Any = None, seconds: float = 5.0) -> None:
        self.tracker = Tracker()
        self._stream = stream or sys.stderr
        self._seconds = seconds
        self._shown = time.monotonic()

    def follow(self, work: Generator[Event, None, T]) -> T:
        """Run a stage to completion, showing its events, and return its artefact."""
        return drain(work, self.show_event)

    def show_event(self, event: Event) -> None:
        """Track an event and show it."""
        self.tracker.update(event)
        self.show(event)

    def show(self, event: Event) -> None:
        """Show an event that is already tracked."""
        if isinstance(event, Notice):
            self.say(f"{event.level}: {event.message}")
        elif isinstance(event, (Paused, Continued, RepeatStarted, StageStarted, StageFinished)):
            self.say(format_event(event, self.tracker.unit))
        elif time.monotonic() - self._shown >= self._seconds:
            self.say(self.tracker.line())

    def reading(self, done: int, total: int) -> None:
        """Show the progress of reading image files."""
        if done == total or time.monotonic() - self._shown >= self._seconds:
            self.say(f"reading: {done} of {total} images")

    def say(self, text: str) -> None:
        """Show a line. A closed stderr does not stop the work."""
        self._shown = time.monotonic()
        with suppress(OSError):
            print(escape_control_characters(text), file=self._stream, flush=True)


class Quiet(Display):
    """Shows only warnings."""

    def show(self, event: Event) -> None:
        """Show a warning; ignore other events."""
        if isinstance(event, Notice) and event.level == "warning":
            super().show(event)

    def reading(self, done: int, total: int) -> None:
        """Show nothing."""

    def say(self, text: str) -> None:
        """Show a line if it is a warning."""
        if text.startswith("warning: "):
            super().say(text)


class Live(Display):
    """Shows a bar at the bottom of a terminal, and finished stages above it."""

    def __init__(self, bar: Progress) -> None:
        super().__init__()
        self._bar = bar
        self._task = bar.add_task("loading", total=None, detail="", pace="")

    def show(self, event: Event) -> None:
        """Update the bar; write finished stages and notices above it."""
        tracker = self.tracker
        if isinstance(event, (Notice, Paused, Continued, RepeatStarted, StageFinished)):
            super().show(event)
        self._bar.update(self._task, description=tracker.title, total=tracker.total or None)
        self._bar.update(self._task, completed=tracker.done, detail=tracker.detail, pace=tracker.pace())

    def reading(self, done: int, total: int) -> None:
        """Show the progress of reading image files."""
        self._bar.update(self._task, description="reading", total=total, completed=done)

    def say(self, text: str) -> None:
        """Show a line above the bar."""
        with suppress(OSError):
            self._bar.console.print(escape_control_characters(text), markup=False, highlight=False)


@contextmanager
def open_display(quiet: bool) -> Iterator[Display]:
    """Yield a display for stderr: a bar on a terminal, plain lines otherwise, only warnings if `quiet`."""
    if quiet:
        yield Quiet()
    elif not sys.stderr.isatty():
        yield Display()
    else:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.table import Column

        rest = Column(ratio=1, no_wrap=True, overflow="ellipsis")
        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[pace]}"),
            TextColumn("{task.fields[detail]}", markup=False, table_column=rest),
            console=Console(stderr=True),
            transient=True,
            expand=True,
        )
        bar.start()
        try:
            yield Live(bar)
        finally:
            with suppress(OSError):  # the terminal may be gone
                bar.stop()
