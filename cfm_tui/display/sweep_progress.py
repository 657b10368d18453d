"""What a sweep shows while it goes: one line a point, on a terminal in place, otherwise as it happens."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from cfm_tui.display.progress import SHORT, format_duration, format_number
from engine.sweep.schedule import State

if TYPE_CHECKING:
    from rich.live import Live

    from cfm_tui.process.sweep_runner import Sweeper

LINE_SECONDS = 30.0
LIVE_SECONDS = 0.5
LEFT_OUT = 6  # rows of a terminal that are not for points


def place(status: dict[str, Any]) -> str:
    """Where a running point is: stage, how much of it is done, its rate, and what is left of it."""
    if "stage" not in status:
        return "loading"
    total, done, unit = status.get("total", 0), status.get("done"), status.get("unit", "")
    parts = [status["stage"]]
    if status["stage"] == "validate" and "epoch" in status:
        parts.append(f"{status['architecture']}, {status['source']}, seed {status['seed']}")
        parts.append(f"epoch {status['epoch']} of {status['epochs']}")
    elif done is not None and total:
        parts.append(f"{done} of {total} {unit}")
    rate = status.get("rate") or 0.0
    if rate > 0:
        parts.append(f"{format_number(rate)} {SHORT.get(unit, unit)}/s")
        if done is not None and total:
            parts.append(f"{format_duration(max(total - done, 0) / rate)} left of it")
    return "  ".join(parts)


class Pace:
    """How long points take, and so how long the rest will: counted are those that this process ran whole."""

    def __init__(self) -> None:
        self._began: dict[str, float] = {}
        self._cut: set[str] = set()
        self._took: list[float] = []

    def told(self, name: str, state: State, whole: bool = True) -> None:
        """A point is in another state. whole: one that runs was not begun before."""
        now = time.monotonic()
        if state == "running":
            self._began[name] = now
            (self._cut.discard if whole else self._cut.add)(name)
        elif state == "done" and name in self._began and name not in self._cut:
            self._took.append(now - self._began[name])

    def left(self, waiting: int, running: list[str], slots: int) -> float | None:
        """Seconds that are left, at the mean of those that are done; None before the first."""
        if not self._took:
            return None
        mean, now = sum(self._took) / len(self._took), time.monotonic()
        rest = sum(max(mean - (now - self._began.get(name, now)), 0.0) for name in running)
        return (waiting * mean + rest) / max(slots, 1)

    def mean(self) -> float | None:
        """Seconds a point, so far."""
        return sum(self._took) / len(self._took) if self._took else None


class Lines:
    """A line for each point that begins or ends, and now and then one for each that runs."""

    def __init__(self, slots: int, stream: Any = None) -> None:
        self.pace = Pace()
        self._slots = slots
        self._stream = stream or sys.stderr
        self._shown = time.monotonic()

    def told(self, name: str, state: State, message: str = "") -> None:
        """A point is in another state."""
        self.pace.told(name, state, whole=not message)
        self.say(f"{name}: {state}" + (f", {message}" if message else ""))

    def look(self, sweeper: Sweeper) -> None:
        """Some time has passed."""
        if time.monotonic() - self._shown >= LINE_SECONDS:
            for line in self.lines(sweeper, 1000):
                self.say(line)

    def lines(self, sweeper: Sweeper, room: int) -> list[str]:
        """The sweep's state: those that run, then others as far as there is room, then the sum."""
        states = sweeper.schedule.states
        running = sweeper.schedule.named("running")
        shown = [f"{name}: {place(sweeper.status(name))}" for name in running]
        others = list(sweeper.schedule.named("failed", "stopped"))
        shown += [f"{name}: {states[name]}, {sweeper.messages.get(name, '')}" for name in others]
        return [*shown[: max(room, 1)], self.sum(states, running)]

    def sum(self, states: dict[str, State], running: list[str]) -> str:
        """How many points are in which state, how long one takes, and what is left."""
        counts = Counter(states.values())
        parts = [f"{counts['done']} of {len(states)} done"]
        parts += [f"{counts[state]} {state}" for state in ("running", "waiting", "failed") if counts[state]]
        left, mean = self.pace.left(counts["waiting"], running, self._slots), self.pace.mean()
        if mean is not None and left is not None and (running or counts["waiting"]):
            parts += [f"{format_duration(mean)} a point", f"{format_duration(left)} left"]
        return ", ".join(parts)

    def say(self, text: str) -> None:
        """Show a line. A reader that has gone away does not stop the work."""
        self._shown = time.monotonic()
        with suppress(OSError):
            print(text, file=self._stream, flush=True)


class Silent(Lines):
    """Failures and nothing else."""

    def told(self, name: str, state: State, message: str = "") -> None:
        """Show a failure; leave out the rest."""
        if state == "failed":
            super().told(name, state, message)

    def look(self, sweeper: Sweeper) -> None:
        """Nothing."""


class Board(Lines):
    """Every point with its state, in place, at the bottom of a terminal."""

    def __init__(self, slots: int, live: Live) -> None:
        super().__init__(slots)
        self._live = live
        self._drawn = 0.0

    def told(self, name: str, state: State, message: str = "") -> None:
        """Keep what ended above the board."""
        self.pace.told(name, state)
        if state in ("failed", "stopped"):
            self.say(f"{name}: {state}" + (f", {message}" if message else ""))

    def look(self, sweeper: Sweeper) -> None:
        """Draw it anew, now and then."""
        if time.monotonic() - self._drawn < LIVE_SECONDS:
            return
        self._drawn = time.monotonic()
        from rich.text import Text

        room = self._live.console.height - LEFT_OUT
        states, rows = sweeper.schedule.states, []
        for name in sorted(states, key=lambda each: states[each] != "running"):
            told = (
                place(sweeper.status(name)) if states[name] == "running" else sweeper.messages.get(name, "")
            )
            rows.append(f"{states[name]:<8} {name}  {told}")
        hidden = [f"… and {len(rows) - room} more"] if len(rows) > room else []
        text = "\n".join([*rows[:room], *hidden, self.sum(states, sweeper.schedule.named("running"))])
        with suppress(OSError):
            self._live.update(Text(text, no_wrap=True, overflow="ellipsis"), refresh=True)

    def say(self, text: str) -> None:
        """A line above the board."""
        with suppress(OSError):
            self._live.console.print(text, markup=False, highlight=False)


@contextmanager
def opened(quiet: bool, slots: int) -> Iterator[Lines]:
    """The display that fits stderr: a board on a terminal, else lines."""
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
