"""Live progress of a sweep on stderr: a table of points on a terminal, plain lines otherwise."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from cfm_tui.display.progress import format_duration, format_heartbeat
from cfm_tui.display.streams import escape_control_characters
from cfm_tui.display.tables import align_columns, cut_middle
from engine.sweep.schedule import State

if TYPE_CHECKING:
    from rich.live import Live

    from cfm_tui.process.sweep_runner import Sweeper


class Pace:
    """Estimates the remaining time from the points that this process ran from start to end."""

    def __init__(self) -> None:
        self._start_times: dict[str, float] = {}
        self._partial: set[str] = set()
        self._durations: list[float] = []

    def record(self, name: str, state: State, whole: bool = True) -> None:
        """Record a change of a point's state. whole: whether a running point starts from the beginning."""
        now = time.monotonic()
        if state == "running":
            self._start_times[name] = now
            (self._partial.discard if whole else self._partial.add)(name)
        elif state == "done" and name in self._start_times and name not in self._partial:
            self._durations.append(now - self._start_times[name])

    def left(self, waiting: int, running: list[str], slots: int) -> float | None:
        """Return the remaining seconds at the mean duration of a point; None before the first is done.

        waiting: number of waiting points. running: names of running points. slots: points run at once.
        """
        mean = self.mean()
        if mean is None:
            return None
        rest = sum(max(mean - self.elapsed(name), 0.0) for name in running)
        return (waiting * mean + rest) / max(slots, 1)

    def point_left(self, name: str) -> float | None:
        """Return the remaining seconds of a running point at the mean duration; None if it is unknown."""
        mean = self.mean()
        return None if mean is None or name in self._partial else max(mean - self.elapsed(name), 0.0)

    def elapsed(self, name: str) -> float:
        """Return the seconds since a point was started by this process."""
        now = time.monotonic()
        return now - self._start_times.get(name, now)

    def mean(self) -> float | None:
        """Return the mean seconds per point; None before the first is done."""
        return sum(self._durations) / len(self._durations) if self._durations else None


class Lines:
    """Shows a line for each start and end of a point, and regularly one for each running point."""

    REFRESH_SECONDS = 30.0

    def __init__(self, slots: int, stream: Any = None) -> None:
        self.pace = Pace()
        self._slots = slots
        self._stream = stream or sys.stderr
        self._shown = time.monotonic()

    def on_state_change(self, name: str, state: State, message: str = "") -> None:
        """Show a change of a point's state. message: why, or how it was started."""
        self.pace.record(name, state, whole=not message)
        self.say(f"{name}: {state}" + (f", {message}" if message else ""))

    def refresh(self, sweeper: Sweeper) -> None:
        """Show the running points if `REFRESH_SECONDS` have passed."""
        if time.monotonic() - self._shown >= self.REFRESH_SECONDS:
            for line in self.lines(sweeper, 1000):
                self.say(line)

    def lines(self, sweeper: Sweeper, room: int) -> list[str]:
        """Return at most `room` lines of running, failed and stopped points, and the summary."""
        states = sweeper.schedule.states
        running = sweeper.schedule.named("running")
        shown = [f"{name}: {'  '.join(filter(None, self.place(sweeper, name)))}" for name in running]
        others = sweeper.schedule.named("failed", "stopped")
        shown += [f"{name}: {states[name]}, {sweeper.messages.get(name, '')}" for name in others]
        return [*shown[: max(room, 1)], self.summary(states, running)]

    def place(self, sweeper: Sweeper, name: str) -> tuple[str, str, str]:
        """Return where a running point is: its stage, its remaining time, and what it computes."""
        status = sweeper.status(name)
        if status.get("state") == "finished":
            return "finishing", "", ""
        if "stage" not in status:
            return f"loading for {format_duration(self.pace.elapsed(name))}", "", ""
        return format_heartbeat(status, self.pace.point_left(name))

    def summary(self, states: dict[str, State], running: list[str]) -> str:
        """Return the number of points in each state, the mean time of a point, and the remaining time."""
        counts = Counter(states.values())
        parts = [f"{counts['done']} of {len(states)} done"]
        parts += [f"{counts[state]} {state}" for state in ("running", "waiting", "failed") if counts[state]]
        left, mean = self.pace.left(counts["waiting"], running, self._slots), self.pace.mean()
        if mean is not None and left is not None and (running or counts["waiting"]):
            parts += [f"{format_duration(mean)} a point", f"{format_duration(left)} left"]
        return ", ".join(parts)

    def say(self, text: str) -> None:
        """Show a line. A closed stderr does not stop the work."""
        self._shown = time.monotonic()
        with suppress(OSError):
            print(escape_control_characters(text), file=self._stream, flush=True)


class Silent(Lines):
    """Shows only failures."""

    def on_state_change(self, name: str, state: State, message: str = "") -> None:
        """Show a failure; ignore other states."""
        if state == "failed":
            super().on_state_change(name, state, message)

    def refresh(self, sweeper: Sweeper) -> None:
        """Show nothing."""


class Board(Lines):
    """Shows every point with its state at the bottom of a terminal, updated in place."""

    REFRESH_SECONDS = 0.5

    def __init__(self, slots: int, live: Live) -> None:
        super().__init__(slots)
        self._live = live
        self._drawn = 0.0

    def on_state_change(self, name: str, state: State, message: str = "") -> None:
        """Show failed and stopped points above the board."""
        self.pace.record(name, state, whole=not message)
        if state in ("failed", "stopped"):
            self.say(f"{name}: {state}" + (f", {message}" if message else ""))

    def refresh(self, sweeper: Sweeper) -> None:
        """Redraw the board if `REFRESH_SECONDS` have passed."""
        if time.monotonic() - self._drawn < self.REFRESH_SECONDS:
            return
        self._drawn = time.monotonic()
        from rich.text import Text

        room = self._live.console.height - 6  # rows for other output
        states = sweeper.schedule.states
        names = {name: cut_middle(name, self._live.console.width // 3) for name in states}
        width = max(map(len, names.values()), default=0)
        running = [
            ["running ", f"{names[name]:<{width}}", *self.place(sweeper, name)]
            for name, state in states.items()
            if state == "running"
        ]
        rows = align_columns(running).splitlines()
        rows += [
            f"{state:<8}  {names[name]:<{width}}  {sweeper.messages.get(name, '')}".rstrip()
            for name, state in states.items()
            if state != "running"
        ]
        hidden = [f"… and {len(rows) - room} more"] if len(rows) > room else []
        text = "\n".join([*rows[:room], *hidden, self.summary(states, sweeper.schedule.named("running"))])
        with suppress(OSError):
            self._live.update(
                Text(escape_control_characters(text), no_wrap=True, overflow="ellipsis"), refresh=True
            )

    def say(self, text: str) -> None:
        """Show a line above the board."""
        with suppress(OSError):
            self._live.console.print(escape_control_characters(text), markup=False, highlight=False)


@contextmanager
def open_display(quiet: bool, slots: int) -> Iterator[Lines]:
    """Yield a display for stderr: a board on a terminal, plain lines otherwise, only failures if `quiet`."""
    if quiet or not sys.stderr.isatty():
        yield Silent(slots) if quiet else Lines(slots)
        return
    from rich.console import Console
    from rich.live import Live

    live = Live(console=Console(stderr=True), auto_refresh=False, transient=True)
    live.start()
    try:
        yield Board(slots, live)
    finally:
        with suppress(OSError):  # the terminal may be gone
            live.stop()
