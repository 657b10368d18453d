"""What panels of the monitor hold: a run's state, tables that change a cell at a time, a log that grows."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, ClassVar

from rich.cells import cell_len
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.coordinate import Coordinate
from textual.events import Resize
from textual.widgets import RichLog, Static

from cfm_tui.console import formatting
from cfm_tui.console.screens.base import Table
from cfm_tui.console.widgets.chart import Chart
from cfm_tui.console.widgets.sparks import spark
from cfm_tui.display import plot_data
from cfm_tui.display.run_state import LogLine, RunModel
from cfm_tui.display.terminal import Terminal
from engine.store import AT_WORK

LARGE = 28  #: cells for the large number and what is under it


class Words(Static):
    """A text that is painted only when it has changed."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, **options)
        self._put: str | None = None

    def put(self, lines: Sequence[str] | str) -> None:
        """Show these lines."""
        text = lines if isinstance(lines, str) else "\n".join(lines)
        if text != self._put:
            self._put = text
            self.update(Text(text), layout=False)


class Now(Horizontal):
    """Stages, place, speed; the number that matters large, and β's schedule."""

    DEFAULT_CSS = f"""
    Now {{ height: 1fr; }}
    Now #facts {{ width: 1fr; height: 1fr; }}
    Now #large {{ width: {LARGE}; height: 1fr; padding: 0 1; }}
    Now #digits {{ height: 4; width: 1fr; }}
    Now #place {{ height: 1fr; width: 1fr; }}
    Now #schedule {{ width: 44; height: 1fr; display: none; }}
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._facts, self._digits, self._place = Words(id="facts"), Words(id="digits"), Words(id="place")
        self._right, self._schedule = Vertical(self._digits, self._place, id="large"), Chart(id="schedule")
        self._schedule.can_focus = False

    def compose(self) -> ComposeResult:
        """Facts, the large number, the schedule."""
        yield from (self._facts, self._right, self._schedule)

    def say(self, lines: Sequence[str]) -> None:
        """Show these lines and nothing else."""
        self._facts.put(lines)
        self._right.display = False
        self._schedule.display = False

    def show(self, model: RunModel, words: str, terminal: Terminal) -> None:
        """Show the run as it stands. words: what it is doing."""
        width, height = self.size
        if not width or not height:
            return
        number, what = formatting.headline(model)
        room = width >= 60 and bool(number)
        schedule = room and width >= 110 and height >= 6 and model.stage == "recover" and len(model.betas) > 1
        left = width - (LARGE if room else 0) - (44 if schedule else 0)
        lines = formatting.facts(model, words, left - 1)
        if not room and number:
            lines.insert(-1 if model.state in AT_WORK else len(lines), f"{number} {what}")
        self._facts.put(lines)
        self._right.display = room
        self._schedule.display = schedule
        if room:
            self._large(model, number, what, terminal, schedule)

    def _large(self, model: RunModel, number: str, what: str, terminal: Terminal, schedule: bool) -> None:
        self._digits.put([*formatting.big(number), what])
        lines: list[str] = []
        if model.stage == "recover" and model.state in AT_WORK and not schedule:
            lines = formatting.beta_place(
                model.betas, model.batch, LARGE - 2, lambda values: spark(values, len(values), terminal)
            )
        self._place.put(lines)
        if schedule:
            self._schedule.plot(plot_data.betas(model), mark=model.batch)


class Cells(Table):
    """A table whose cells change one at a time, and whose rows may be sorted."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._heads: tuple[str, ...] = ()
        self._widths: list[int] = []  # never narrower than they were: Textual's own come late
        self._names: list[str] = []
        self._cells: list[tuple[str, ...]] = []

    def fill(self, heads: Sequence[str], names: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
        """Show these rows; the cursor stays on the row of its name."""
        rows = [tuple(row) for row in cells]
        before = self._widths if tuple(heads) == self._heads else [0] * len(heads)
        columns = zip(before, zip(heads, *rows, strict=True), strict=True)
        widths = [max(width, *map(cell_len, column)) for width, column in columns]
        if (tuple(heads), list(names), widths) != (self._heads, self._names, self._widths):
            self._widths = widths
            self._anew(tuple(heads), list(names), rows)
        else:
            for row, (old, new) in enumerate(zip(self._cells, rows, strict=True)):
                for column, (there, now) in enumerate(zip(old, new, strict=True)):
                    if there != now:
                        self.update_cell_at(Coordinate(row, column), Text(now))
        self._cells = rows

    def _anew(self, heads: tuple[str, ...], names: list[str], rows: list[tuple[str, ...]]) -> None:
        chosen = self.chosen()
        self.clear(columns=True)
        for head, width in zip(heads, self._widths, strict=True):
            self.add_column(Text(head), width=width)
        for name, row in zip(names, rows, strict=True):
            self.add_row(*(Text(cell) for cell in row), key=name)
        if chosen in names:
            self.move_cursor(row=names.index(chosen), animate=False)
        self._heads, self._names = heads, names

    def chosen(self) -> str | None:
        """The name of the row under the cursor."""
        at = self.cursor_row
        return self._names[at] if 0 <= at < len(self._names) else None


class Log(RichLog):
    """Lines that are appended; moved through by arrows, j, k, g and G."""

    DEFAULT_CSS = "Log { height: 1fr; background: $background; scrollbar-size-vertical: 1; }"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j", "scroll_down", "down", show=False, id="log.down"),
        Binding("k", "scroll_up", "up", show=False, id="log.up"),
        Binding("g", "scroll_home", "first", show=False, id="log.first"),
        Binding("G", "scroll_end", "last", show=False, id="log.last"),
    ]

    def __init__(self, **options: Any) -> None:
        super().__init__(max_lines=1000, min_width=20, wrap=True, **options)
        self._lines_told: deque[LogLine] = deque()
        self._last: LogLine | None = None
        self._width = 0

    def follow(self, lines: deque[LogLine]) -> list[LogLine]:
        """Append those that are new, and return them."""
        new: list[LogLine] = []
        for line in reversed(lines):
            if line is self._last:
                break
            new.append(line)
        new.reverse()
        self._lines_told, self._last = lines, lines[-1] if lines else None
        for line in new:
            self.write(Text(formatting.log_line(line)))
        return new

    def on_resize(self, event: Resize) -> None:
        """Wrap all lines anew."""
        if self.size.width != self._width:
            self._width = self.size.width
            self.call_after_refresh(self._again)

    def _again(self) -> None:
        self.clear()
        self._last = None
        self.follow(self._lines_told)
