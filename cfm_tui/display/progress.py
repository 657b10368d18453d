"""Live progress on stderr: all stages with a bar on a terminal, plain lines otherwise.

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
    Estimated,
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
    from rich.console import Console
    from rich.text import Text

T = TypeVar("T")
MARKS = {"done": "✓", "reused": "↺", "running": "▶", "waiting": "○"}
ASCII_MARKS = {"done": "[x]", "reused": "[=]", "running": "[>]", "waiting": "[ ]"}


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
        """Return the rate and the remaining time of the stage and of the run, as far as they are known."""
        if self.rate <= 0:
            return ""
        return f"{format_rate(self.rate, self.unit)}, {self.time_left()}"

    def time_left(self) -> str:
        """Return the remaining time of the stage and of the run, as far as they are known."""
        rate = self._state.smoothed_rate
        stage = max(self.total - self.done, 0) / rate if rate > 0 else None
        return format_time_left(stage, self._state.run_seconds_left)

    def line(self) -> str:
        """Return the whole state in one line."""
        parts = [f"{self.title}: {self.done} of {self.total} {self.unit}", self.pace(), self.detail]
        return "  ".join(part for part in parts if part)

    def draw(self, width: int, *, unicode: bool) -> list[str]:
        """Return the state in three lines of at most `width` cells: stages, a bar with times, and numbers."""
        marks = MARKS if unicode else ASCII_MARKS
        stages = []
        for stage, view in self._state.stages.items():
            percent = f" {view.done / view.total:.0%}" if view.state == "running" and view.total else ""
            stages.append(f"{marks[view.state]} {stage}{percent}")
        is_repeated = self._state.repeats > 1
        parts = [f"repeat {self._state.repeat}/{self._state.repeats}"] if is_repeated else []
        if self.total:
            parts.append(f"{self.done:,}/{self.total:,} {'it' if self.unit == 'iterations' else self.unit}")
        parts.append(self.time_left())
        text = "  ".join(filter(None, parts))
        bar = draw_bar(self.done / self.total if self.total else 0.0, min(width - len(text) - 2, 30), unicode)
        numbers = [format_rate(self.rate, self.unit) if self.rate > 0 else "", self.detail]
        lines = ["  ".join(stages), f"{bar}  {text}" if bar else text, "  ".join(filter(None, numbers))]
        return [
            line if len(line) <= width else line[: width - 1] + ("…" if unicode else "~") for line in lines
        ]


def draw_bar(share: float, width: int, unicode: bool) -> str:
    """Return a bar of `width` cells for a fraction; empty where there are fewer than five."""
    if width < 5:
        return ""
    full = min(max(int(share * width), 0), width)
    return ("━" * full + "─" * (width - full)) if unicode else ("#" * full + "." * (width - full))


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
    elif isinstance(event, Estimated):
        longest = (f"{stage} {format_duration(each)}" for stage, each in event.seconds.items() if each >= 0.5)
        text = f"estimated: {', '.join(longest) or 'less than a second'}"
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
        position = _format_position(event) if isinstance(event, Paused) else ""
        text = f"{event.kind.lower()} by {event.by}{position}"
    elif isinstance(event, EpochFinished) and event.epoch == event.epochs:
        accuracy = "" if event.accuracy is None else f", {event.accuracy:.1f} %"
        seed = "" if event.source == "teacher" else f", seed {event.seed}"
        count = format_count(event.epochs, "epochs")
        text = f"{event.architecture} ({event.source}{seed}): {count}{accuracy}"
    return text


def _format_position(event: Paused) -> str:
    """Return where a run is paused, as a phrase to append."""
    if event.iteration is not None:
        return f" at batch {event.batch}, iteration {event.iteration:,}"
    if event.epoch is not None:
        batches = format_count(event.batch or 0, "batches")
        return f" in {event.stage}, after {format_count(event.epoch, 'epochs')} and {batches}"
    return f" in {event.stage}" if event.stage else ""


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


def format_heartbeat(
    status: Mapping[str, Any], run_seconds_left: float | None = None
) -> tuple[str, str, str]:
    """Format the progress of a running point: stage and percentage, remaining time, and what is computed.

    run_seconds_left: of the point, where its status does not know it.
    """
    total, done, rate = status.get("total", 0), status.get("done"), status.get("rate") or 0.0
    is_counted = done is not None and total > 0
    place = f"{_name_stage(status)} {done / total:.0%}" if is_counted else _name_stage(status)
    stage_left = max(total - done, 0) / rate if is_counted and rate > 0 else None
    run_left = status.get("seconds_left")
    left = format_time_left(stage_left, run_seconds_left if run_left is None else run_left)
    details = []
    if status["stage"] == "validate" and "epoch" in status:
        details.append(f"{status['architecture']}, {status['source']}, seed {status['seed']}")
        details.append(f"epoch {status['epoch']} of {status['epochs']}")
    elif is_counted:
        details.append(f"{done:,} of {total:,} {status.get('unit', '')}")
    if rate > 0:
        details.append(format_rate(rate, status.get("unit", "")))
    return place, left, ", ".join(details)


def format_time_left(stage: float | None, run: float | None) -> str:
    """Format the remaining seconds of a stage and of the whole run; None is unknown."""
    if stage is None:
        return "" if run is None else f"run {format_duration(run)} left"
    return f"{format_duration(stage)} left" + ("" if run is None else f" (run {format_duration(run)})")


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


def format_age(seconds: float | None) -> str:
    """Format the time since something in its largest unit."""
    if seconds is None:
        return "—"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


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
        elif isinstance(event, (Estimated, Paused, Continued, RepeatStarted, StageStarted, StageFinished)):
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
    """Shows the stages and a bar at the bottom of a terminal, and finished stages above them."""

    def __init__(self, console: Console, *, unicode: bool) -> None:
        super().__init__()
        self._console = console
        self._unicode = unicode
        self._preparing = ""  # the progress of reading, before the first stage

    def show(self, event: Event) -> None:
        """Write finished stages and notices above the bar, which follows the tracker by itself."""
        if isinstance(event, (Estimated, Notice, Paused, Continued, RepeatStarted, StageFinished)):
            super().show(event)

    def reading(self, done: int, total: int) -> None:
        """Show the progress of reading image files."""
        bar = draw_bar(done / max(total, 1), 20, self._unicode)
        self._preparing = f"reading  {bar}  {done:,}/{total:,} images"

    def say(self, text: str) -> None:
        """Show a line above the bar."""
        with suppress(OSError):
            self._console.print(escape_control_characters(text), markup=False, highlight=False)

    def draw(self) -> Text:
        """Return what is at the bottom of the terminal now."""
        from rich.text import Text

        lines = [self._preparing]
        if self.tracker.title:
            lines = self.tracker.draw(self._console.width, unicode=self._unicode)
        text = Text("\n".join(lines), no_wrap=True, overflow="crop")
        text.highlight_regex(r"(▶|\[>\]) \w+", "bold")
        text.highlight_regex(r"━+|#{2,}", "cyan")
        return text


@contextmanager
def open_display(quiet: bool) -> Iterator[Display]:
    """Yield a display for stderr: a bar on a terminal, plain lines otherwise, only warnings if `quiet`."""
    if quiet:
        yield Quiet()
    elif not sys.stderr.isatty():
        yield Display()
    else:
        from rich.console import Console
        from rich.live import Live as RichLive

        from cfm_tui.display import terminal

        console = Console(stderr=True)
        display = Live(console, unicode=terminal.of_stderr().unicode)
        bottom = RichLive(console=console, get_renderable=display.draw, transient=True)
        bottom.start()
        try:
            yield display
        finally:
            with suppress(OSError):  # the terminal may be gone
                bottom.stop()
