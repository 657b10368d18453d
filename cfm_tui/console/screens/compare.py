"""Several runs beside each other: their curves, the settings that differ, their results."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from rich.cells import cell_len, set_cell_size
from rich.text import Text
from textual.binding import Binding, BindingType
from textual.widget import Widget
from textual.widgets import DataTable, Input

from cfm_tui.console import comparison
from cfm_tui.console.comparison import CURVES, RESULTS, Cell
from cfm_tui.console.engine_link import OpenRun
from cfm_tui.console.screens.base import Page, Panel, Table
from cfm_tui.console.widgets.chart import Chart
from cfm_tui.console.widgets.filtering import Filter
from cfm_tui.display.charts import letter
from cfm_tui.display.run_state import RunModel
from cfm_tui.display.tables import as_csv
from engine.store import StoredRun

READ_SECONDS = 0.05  #: of a tick, for reading records
DRAW_SECONDS = 2.0  #: between two drawings, unasked
LEAST_CELLS = 5  #: of a setting's value, where there is little room
CURVE, SETTINGS, OUTCOME = 1, 2, 3
Texts = tuple[str, ...]


class ComparePage(Page):
    """Two runs or more. A run has the same letter everywhere.

    folders: the runs', in the order of their letters.
    """

    HEADING = "compare"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("v", "view(1)", "curve", id="compare.view", tooltip="The next curve: losses, accuracy"),
        Binding("V", "view(-1)", show=False, id="compare.back", tooltip="The curve before"),
        Binding("slash", "filter", "filter", id="compare.filter", tooltip="Show settings that have a text"),
        Binding("s", "sort", "sort", id="compare.sort", tooltip="Sort the table by its next column"),
        Binding("S", "turn", "turn", show=False, id="compare.turn", tooltip="Sort the other way round"),
    ]
    DEFAULT_CSS = """
    ComparePage {
        #curve { height: 3fr; }
        #chart { height: 1fr; }
        #settings { height: 2fr; }
    }
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        super().__init__()
        self._folders = list(folders)
        self._models: list[RunModel] = []
        self._what = CURVES[0]
        self._text = ""
        self._order = {SETTINGS: (0, False), OUTCOME: (0, False)}
        self._settings: list[dict[str, Cell] | None] | None = None
        self._shown: dict[int, list[Texts]] = {}
        self._drawn = 0.0
        self._stale = True

    def body(self) -> Iterator[Widget]:
        """The curves over the settings over the results."""
        yield Panel(CURVE, "Curves", Chart(id="chart"), id="curve")
        yield Panel(SETTINGS, "Settings that differ", Table(id="differing"), id="settings")
        yield Panel(OUTCOME, "Results", Table(id="outcome"), id="results")
        yield Filter("filter: part of a setting or a value", lambda: self._table(SETTINGS))

    def on_mount(self) -> None:
        """Columns."""
        letters = [letter(index) for index in range(len(self._folders))]
        self.query_one("#differing", Table).add_columns("setting", *letters)
        self.query_one("#outcome", Table).add_columns(*RESULTS)

    def begin(self) -> None:
        """The settings are read on a thread, the records with every tick."""
        self._models = [RunModel(StoredRun(folder)) for folder in self._folders]
        self.work(self._read_settings)
        self.say(f"{len(self._folders)} runs")
        self.tick()

    def _read_settings(self) -> None:
        """On a thread: what checks settings takes a moment to load."""
        found: list[dict[str, Cell] | None] = []
        for folder in self._folders:
            try:
                found.append(comparison.stored_settings(folder))
            except Exception as error:
                found.append(None)
                self.back(self.host.trouble, error)
        self.back(self._known, found)

    def _known(self, found: list[dict[str, Cell] | None]) -> None:
        self._settings = found
        self._fill_settings()

    # --- following the runs -----------------------------------------------------------------------

    def tick(self) -> None:
        """Read what is new of every run; draw it, but not too often."""
        for model in self._models:
            self._stale |= not model.rests and model.read(READ_SECONDS / len(self._models))
        if self._stale and (not self._drawn or time.monotonic() - self._drawn >= DRAW_SECONDS):
            self._draw()

    def _draw(self) -> None:
        self._stale, self._drawn = False, time.monotonic()
        self._draw_curves()
        self._fill_results()

    def _draw_curves(self) -> None:
        lines = comparison.curves(self._models, self._what)
        self.query_one(Chart).plot(lines, x_label=comparison.x_label(self._what))
        reading = ", reading" if any(model.behind for model in self._models) else ""
        place = f"{CURVES.index(self._what) + 1} of {len(CURVES)}"
        self.query_one("#curve", Panel).say(
            f"{self._what} by {comparison.x_label(self._what)}, {place}{reading}"
        )

    def _rows(self, number: int) -> list[Texts]:
        """A table's rows as they are filtered and sorted."""
        column, turned = self._order[number]
        if number == OUTCOME:
            return comparison.texts(comparison.in_order(comparison.results(self._models), column, turned))
        rows = comparison.differing(self._settings or [])
        found = [row for row in rows if self._text in " ".join(cell.text for cell in row).lower()]
        return comparison.texts(comparison.in_order(found, column, turned) if column or turned else found)

    def _fill_settings(self) -> None:
        rows = self._rows(SETTINGS)
        everything = len(comparison.differing(self._settings or []))
        count = f"{len(rows)} of {everything}" if self._text else f"{everything}"
        told = "reading" if self._settings is None else count if everything else "none"
        self.query_one("#settings", Panel).say(f"Settings that differ: {told}{self._sorting(SETTINGS)}")
        self._put(SETTINGS, rows)

    def _fill_results(self) -> None:
        self.query_one("#results", Panel).say(f"Results in %, last epoch{self._sorting(OUTCOME)}")
        self._put(OUTCOME, self._rows(OUTCOME))
        self._arrange()

    def _arrange(self) -> None:
        """The results take the lines that they need, where there are other panels, too."""
        super()._arrange()
        needed = min(len(self._folders) + 3, self.app.size.height // 3)  # with border, header, scrollbar
        for panel in self.query("#results"):
            panel.styles.height = "1fr" if self.has_class("-single") else needed
        if self._settings is not None:
            self._fill_settings()

    def _sorting(self, number: int) -> str:
        column, turned = self._order[number]
        names = self._header(number)
        return f", by {names[column]} {'↓' if turned else '↑'}" if column or turned else ""

    def _header(self, number: int) -> list[str]:
        if number == OUTCOME:
            return list(RESULTS)
        return ["setting", *(letter(index) for index in range(len(self._folders)))]

    def _table(self, number: int) -> Table:
        return self.query_one("#differing" if number == SETTINGS else "#outcome", Table)

    def _put(self, number: int, rows: list[Texts]) -> None:
        """Fill a table anew where its rows changed; the cursor stays where it is."""
        shown = [(row[0], *(_cut(cell, self._widest(number, rows)) for cell in row[1:])) for row in rows]
        if self._shown.get(number) == shown:
            return
        table = self._table(number)
        place = table.cursor_coordinate
        table.clear()
        columns = zip(self._header(number), *shown, strict=True)
        for column, cells in zip(table.ordered_columns, columns, strict=True):
            column.auto_width, column.width = False, max(map(cell_len, cells))
        for row in shown:
            table.add_row(*map(Text, row))
        table.move_cursor(row=min(place.row, len(rows) - 1), animate=False)
        self._shown[number] = shown

    def _widest(self, number: int, rows: list[Texts]) -> int:
        """Cells that a value may take, so that those of all runs are seen beside each other."""
        width = self.app.size.width
        if number == OUTCOME or not rows:
            return width
        room = width - 2 - max(cell_len(row[0]) for row in rows)
        return max(room // len(self._folders) - 2, LEAST_CELLS)

    # --- what keys do -----------------------------------------------------------------------------

    def action_view(self, step: int) -> None:
        """Another curve."""
        self._what = CURVES[(CURVES.index(self._what) + step) % len(CURVES)]
        self._draw_curves()

    def action_filter(self) -> None:
        """Open the filter."""
        self.action_panel(SETTINGS)
        self.query_one(Filter).open()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filter while it is typed."""
        self._text = event.value.strip().lower()
        self._fill_settings()

    def _sortable(self) -> int:
        """The table that is sorted: the current one; the settings where the curves are current."""
        return OUTCOME if self._current == OUTCOME else SETTINGS

    def action_sort(self) -> None:
        """By the next column."""
        number = self._sortable()
        column = (self._order[number][0] + 1) % len(self._header(number))
        self._sort(number, column, number == OUTCOME and column > 1)

    def action_turn(self) -> None:
        """The other way round."""
        number = self._sortable()
        column, turned = self._order[number]
        self._sort(number, column, not turned)

    def _sort(self, number: int, column: int, turned: bool) -> None:
        self._order[number] = column, turned
        if number == OUTCOME:
            self._fill_results()
        else:
            self._fill_settings()

    def on_data_table_header_selected(self, event: DataTable.HeaderSelected) -> None:
        """A click on a column's name sorts by it; another turns it round."""
        number = SETTINGS if event.data_table.id == "differing" else OUTCOME
        column, turned = self._order[number]
        self._sort(number, event.column_index, not turned if column == event.column_index else False)

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Enter on a run opens it."""
        rows = self._shown.get(OUTCOME, [])
        if event.data_table.id == "outcome" and event.cursor_row < len(rows):
            first = [row[0].text for row in comparison.results(self._models)]
            self.post_message(OpenRun(self._folders[first.index(rows[event.cursor_row][0])]))

    def csv(self) -> str:
        """The current panel's data: of the curves, or of a table as it is filtered and sorted."""
        if self._current == CURVE:
            return self.query_one(Chart).csv()
        return as_csv(self._header(self._current), self._rows(self._current))


def _cut(cell: str, width: int) -> str:
    return cell if cell_len(cell) <= width else f"{set_cell_size(cell, width - 1)}…"
