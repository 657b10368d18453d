"""Widgets of the monitor's panels: a run's state, a table updated cell by cell, and a log."""

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

LARGE = 28  #: width in cells of the large number and the lines under it


class Words(Static):
    """A text that is repainted only when it changes."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, **options)
        self._shown_text: str | None = None

    def set_lines(self, lines: Sequence[str] | str) -> None:
        """Show these lines."""
        text = lines if isinstance(lines, str) else "\n".join(lines)
        if text != self._shown_text:
            self._shown_text = text
            self.update(Text(text), layout=False)


class Now(Horizontal):
    """A run's stages, progress and speed, with its headline number in large digits and its β schedule."""

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
        """Yield the facts, the large number and the schedule."""
        yield from (self._facts, self._right, self._schedule)

    def show_lines(self, lines: Sequence[str]) -> None:
        """Show these lines alone."""
        self._facts.set_lines(lines)
        self._right.display = False
        self._schedule.display = False

    def show(self, model: RunModel, activity: str, terminal: Terminal) -> None:
        """Show the run's current state. activity: what the run is doing, in words."""
        width, height = self.size
        if not width or not height:
            return
        number, label = formatting.headline(model)
        show_number = width >= 60 and bool(number)
        recovering = model.stage == "recover" and len(model.betas) > 1
        show_schedule = show_number and width >= 110 and height >= 6 and recovering
        facts_width = width - (LARGE if show_number else 0) - (44 if show_schedule else 0)
        lines = formatting.facts(model, activity, facts_width - 1)
        if not show_number and number:
            lines.insert(-1 if model.state in AT_WORK else len(lines), f"{number} {label}")
        self._facts.set_lines(lines)
        self._right.display = show_number
        self._schedule.display = show_schedule
        if show_number:
            self._show_number(model, number, label, terminal, show_schedule)

    def _show_number(
        self, model: RunModel, number: str, label: str, terminal: Terminal, show_schedule: bool
    ) -> None:
        self._digits.set_lines([*formatting.big(number), label])
        lines: list[str] = []
        if model.stage == "recover" and model.state in AT_WORK and not show_schedule:
            lines = formatting.beta_place(
                model.betas, model.batch, LARGE - 2, lambda values: spark(values, len(values), terminal)
            )
        self._place.set_lines(lines)
        if show_schedule:
            self._schedule.plot(plot_data.betas(model), mark=model.batch)


class Cells(Table):
    """A table that updates only changed cells; rows are identified by names, and may be sorted."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._heads: tuple[str, ...] = ()
        self._widths: list[int] = []  # columns never shrink; Textual computes its widths too late
        self._names: list[str] = []
        self._cells: list[tuple[str, ...]] = []

    def fill(self, heads: Sequence[str], names: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
        """Show these rows; the cursor stays on the row with the same name.

        heads: column titles. names: one per row. cells: the rows' texts.
        """
        rows = [tuple(row) for row in cells]
        min_widths = self._widths if tuple(heads) == self._heads else [0] * len(heads)
        columns = zip(min_widths, zip(heads, *rows, strict=True), strict=True)
        widths = [max(width, *map(cell_len, column)) for width, column in columns]
        if (tuple(heads), list(names), widths) != (self._heads, self._names, self._widths):
            self._widths = widths
            self._rebuild(tuple(heads), list(names), rows)
        else:
            for row, (old, new) in enumerate(zip(self._cells, rows, strict=True)):
                for column, (old_text, text) in enumerate(zip(old, new, strict=True)):
                    if old_text != text:
                        self.update_cell_at(Coordinate(row, column), Text(text))
        self._cells = rows

    def _rebuild(self, heads: tuple[str, ...], names: list[str], rows: list[tuple[str, ...]]) -> None:
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
        """Return the name of the row under the cursor."""
        row = self.cursor_row
        return self._names[row] if 0 <= row < len(self._names) else None


class Log(RichLog):
    """A log of lines, scrolled by arrows, j, k, g and G."""

    DEFAULT_CSS = "Log { height: 1fr; background: $background; scrollbar-size-vertical: 1; }"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j", "scroll_down", "down", show=False, id="log.down"),
        Binding("k", "scroll_up", "up", show=False, id="log.up"),
        Binding("g", "scroll_home", "first", show=False, id="log.first"),
        Binding("G", "scroll_end", "last", show=False, id="log.last"),
    ]

    def __init__(self, **options: Any) -> None:
        super().__init__(max_lines=1000, min_width=20, wrap=True, **options)
        self._source_lines: deque[LogLine] = deque()
        self._last: LogLine | None = None
        self._width = 0

    def follow(self, lines: deque[LogLine]) -> list[LogLine]:
        """Append the lines that are new since the last call, and return them."""
        new: list[LogLine] = []
        for line in reversed(lines):
            if line is self._last:
                break
            new.append(line)
        new.reverse()
        self._source_lines, self._last = lines, lines[-1] if lines else None
        for line in new:
            self.write(Text(formatting.log_line(line)))
        return new

    def on_resize(self, event: Resize) -> None:
        """Wrap all lines to the new width."""
        if self.size.width != self._width:
            self._width = self.size.width
            self.call_after_refresh(self._rewrite)

    def _rewrite(self) -> None:
        self.clear()
        self._last = None
        self.follow(self._source_lines)
