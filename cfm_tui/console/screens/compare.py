"""The page that compares runs: their curves, the settings that differ, and their results."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from rich.cells import cell_len, set_cell_size
from textual.binding import Binding, BindingType
from textual.widget import Widget
from textual.widgets import DataTable, Input

from cfm_tui.console import formatting
from cfm_tui.console.engine_link import OpenRun, hidden
from cfm_tui.console.screens.base import FilterLine, Page, Panel, Table
from cfm_tui.console.widgets.chart import Chart
from cfm_tui.display import plot_data
from cfm_tui.display.charts import ROLES, Line, letter
from cfm_tui.display.progress import format_duration
from cfm_tui.display.run_state import RunModel
from cfm_tui.display.tables import as_csv
from engine.config import settings, yaml_io
from engine.events import STAGES
from engine.runs.results import format_mean_std
from engine.store import StoredRun

CURVE, SETTINGS, OUTCOME = 1, 2, 3  #: the panels


class Cell(NamedTuple):
    """A table cell, by default of an absent value.

    value: the number to sort by; None for a cell that is sorted as text.
    """

    text: str = "—"
    value: float | None = None


class ComparePage(Page):
    """A comparison of two or more runs. Each run has the same letter in all panels.

    folders: the runs' folders, in the order of their letters.
    """

    TAB = "Compare"
    CURVES = ("CE", "filter", "signal", "accuracy", "control")
    RESULTS = ("run", "state", "distilled", "random", "best epoch", "teacher", *STAGES, "in all")
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("v", "view(1)", "curve", id="compare.view", tooltip="The next curve: losses, accuracy"),
        hidden("V", "view(-1)", id="compare.back", tooltip="The previous curve"),
        Binding("slash", "filter", "filter", id="compare.filter", tooltip="Filter settings by name or value"),
        Binding("s", "sort", "sort", id="compare.sort", tooltip="Sort the table by its next column"),
        hidden("S", "turn", "turn", id="compare.turn", tooltip="Reverse the sort order"),
    ]

    def __init__(self, folders: Sequence[Path]) -> None:
        super().__init__()
        self._folders = list(folders)
        self._models: list[RunModel] = []
        self._curve = self.CURVES[0]
        self._filter_text = ""
        self._order = {SETTINGS: (0, False), OUTCOME: (0, False)}
        self._settings: list[dict[str, Cell] | None] | None = None
        self._shown: dict[int, list[tuple[str, ...]]] = {}
        self._drawn_at = 0.0
        self._stale = True

    def body(self) -> Iterator[Widget]:
        """Yield panels for the curves, the settings and the results, and the filter."""
        yield Panel(CURVE, "Curves", Chart(id="chart"), id="curve")
        yield Panel(SETTINGS, "Settings that differ", Table(id="differing"), id="settings")
        yield Panel(OUTCOME, "Results", Table(id="outcome"), id="results")
        yield FilterLine("filter: part of a setting or a value", lambda: self._table(SETTINGS))

    def on_mount(self) -> None:
        """Add the tables' columns."""
        letters = [letter(index) for index in range(len(self._folders))]
        self.query_one("#differing", Table).add_columns("setting", *letters)
        self.query_one("#outcome", Table).add_columns(*self.RESULTS)

    def begin(self) -> None:
        """Start reading the settings on a thread; the records are read in ticks."""
        self._models = [RunModel(StoredRun(folder)) for folder in self._folders]
        self.run_in_thread(self._read_settings)
        self.set_title(f"{len(self._folders)} runs")
        self.tick()

    def _read_settings(self) -> None:
        """Read the settings of all runs; runs on a thread, since importing their validation is slow."""
        settings_of_runs: list[dict[str, Cell] | None] = []
        for folder in self._folders:
            try:
                settings_of_runs.append(read_settings(folder))
            except Exception as error:
                settings_of_runs.append(None)
                self.call_in_ui(self.host.report_error, error)
        self._settings = settings_of_runs
        self.call_in_ui(self._fill_settings)

    # --- following the runs -----------------------------------------------------------------------

    def tick(self) -> None:
        """Read new records of every run; redraw at most every `CHART_SECONDS`."""
        for model in self._models:
            self._stale |= not model.is_idle and model.read(self.READ_SECONDS / len(self._models))
        if self._stale and (not self._drawn_at or time.monotonic() - self._drawn_at >= self.CHART_SECONDS):
            self._stale, self._drawn_at = False, time.monotonic()
            self._draw_curves()
            self._fill_results()

    def _draw_curves(self) -> None:
        x_label = "epoch" if self._curve in ("accuracy", "control") else "iteration"
        self.query_one(Chart).plot(compare_curves(self._models, self._curve), x_label=x_label)
        reading = ", reading" if any(model.behind for model in self._models) else ""
        position = f"{self.CURVES.index(self._curve) + 1} of {len(self.CURVES)}"
        self.query_one("#curve", Panel).set_title(f"{self._curve} by {x_label}, {position}{reading}")

    def _rows(self, number: int) -> list[tuple[str, ...]]:
        """Return a table's rows, filtered and sorted."""
        column, descending = self._order[number]
        if number == OUTCOME:
            rows = compare_results(self._models)
        else:
            rows = compare_settings(self._settings or [])
            rows = [row for row in rows if self._filter_text in " ".join(cell.text for cell in row).lower()]
        if number == OUTCOME or column or descending:
            rows = sort_rows(rows, column, descending)
        return [tuple(cell.text for cell in row) for row in rows]

    def _fill_settings(self) -> None:
        rows = self._rows(SETTINGS)
        total = len(compare_settings(self._settings or []))
        count = f"{len(rows)} of {total}" if self._filter_text else f"{total}"
        status = "reading" if self._settings is None else count if total else "none"
        self._put(SETTINGS, rows, f"Settings that differ: {status}")

    def _fill_results(self) -> None:
        self._put(OUTCOME, self._rows(OUTCOME), "Results in %, last epoch")
        self._arrange()

    def _arrange(self) -> None:
        """Give the results only the lines that they need, if other panels are visible."""
        super()._arrange()
        needed = min(len(self._folders) + 3, self.app.size.height // 3)  # with border, header, scrollbar
        for panel in self.query("#results"):
            panel.styles.height = "1fr" if self.has_class("-single") else needed
        if self._settings is not None:
            self._fill_settings()

    def _header(self, number: int) -> list[str]:
        if number == OUTCOME:
            return list(self.RESULTS)
        return ["setting", *(letter(index) for index in range(len(self._folders)))]

    def _table(self, number: int) -> Table:
        return self.query_one("#differing" if number == SETTINGS else "#outcome", Table)

    def _put(self, number: int, rows: list[tuple[str, ...]], title: str) -> None:
        """Show a panel's title with the order, and refill its table if its rows changed.

        The cursor keeps its position. The settings' values are cut so that those of all runs are visible.
        """
        by, descending = self._order[number]
        order = f", by {self._header(number)[by]} {'↓' if descending else '↑'}" if by or descending else ""
        self.panels()[number - 1].set_title(f"{title}{order}")
        width = self.app.size.width
        if number == SETTINGS and rows:
            room = width - 2 - max(cell_len(row[0]) for row in rows)
            width = max(room // len(self._folders) - 2, 5)
        shown = [
            (row[0], *(c if cell_len(c) <= width else f"{set_cell_size(c, width - 1)}…" for c in row[1:]))
            for row in rows
        ]
        if self._shown.get(number) == shown:
            return
        table = self._table(number)
        cursor = table.cursor_coordinate
        table.clear()
        columns = zip(self._header(number), *shown, strict=True)
        for column, cells in zip(table.ordered_columns, columns, strict=True):
            column.auto_width, column.width = False, max(map(cell_len, cells))
        for row in shown:
            table.add_row(*row)
        table.move_cursor(row=min(cursor.row, len(rows) - 1), animate=False)
        self._shown[number] = shown

    # --- what keys do -----------------------------------------------------------------------------

    def action_view(self, step: int) -> None:
        """Show the next or previous curve."""
        self._curve = self.CURVES[(self.CURVES.index(self._curve) + step) % len(self.CURVES)]
        self._draw_curves()

    def action_filter(self) -> None:
        """Open the filter."""
        self.action_panel(SETTINGS)
        self.query_one(FilterLine).open()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filter while the user types."""
        self._filter_text = event.value.strip().lower()
        self._fill_settings()

    def _current_table(self) -> int:
        """Return the number of the table that sort keys act on: the results, or else the settings."""
        return OUTCOME if self._current == OUTCOME else SETTINGS

    def action_sort(self) -> None:
        """Sort by the next column."""
        number = self._current_table()
        column = (self._order[number][0] + 1) % len(self._header(number))
        self._sort(number, column, number == OUTCOME and column > 1)

    def action_turn(self) -> None:
        """Reverse the sort order."""
        number = self._current_table()
        column, descending = self._order[number]
        self._sort(number, column, not descending)

    def _sort(self, number: int, column: int, descending: bool) -> None:
        self._order[number] = column, descending
        if number == OUTCOME:
            self._fill_results()
        else:
            self._fill_settings()

    def on_data_table_header_selected(self, event: DataTable.HeaderSelected) -> None:
        """Sort by the clicked column; a second click reverses the order."""
        number = SETTINGS if event.data_table.id == "differing" else OUTCOME
        column, descending = self._order[number]
        self._sort(number, event.column_index, not descending if column == event.column_index else False)

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Open the selected run."""
        rows = self._shown.get(OUTCOME, [])
        if event.data_table.id == "outcome" and event.cursor_row < len(rows):
            names = [row[0].text for row in compare_results(self._models)]
            self.post_message(OpenRun(self._folders[names.index(rows[event.cursor_row][0])]))

    def csv(self) -> str:
        """Return the current panel's data as CSV: the curves, or a table, filtered and sorted."""
        if self._current == CURVE:
            return self.query_one(Chart).csv()
        return as_csv(self._header(self._current), self._rows(self._current))


def compare_curves(models: Sequence[RunModel], what: str) -> list[Line]:
    """Return one of `ComparePage.CURVES` for every run, in the order of the runs; empty where a run has none.

    The name of an accuracy line includes the student, the first one that was trained, since runs may have
    trained different ones.
    """
    source = {"accuracy": "distilled", "control": "random"}.get(what)  # of the images that students train on
    lines = []
    for index, model in enumerate(models):
        name, colour, student = f"{letter(index)} {model.run.name}", ROLES[index % len(ROLES)], ""
        if source is not None:
            keys = (key for key in model.trainings if key[0] == "validate" and key[2] == "distilled")
            student = next((architecture for _, architecture, _, _ in keys), "")
        candidates = plot_data.accuracies(model, "validate") if student else plot_data.losses(model)
        wanted = (source, f"{source} {student}") if student else (what,)
        curve = next((line for line in candidates if line.name in wanted), None)
        if curve is None:
            lines.append(Line(name, np.empty(0), np.empty(0), None, colour))
        else:
            name += f" ({student})" if student else ""
            lines.append(Line(name, curve.x, curve.y, curve.band, colour))
    return lines


def read_settings(folder: Path) -> dict[str, Cell]:
    """Return all settings of a run: dotted key → cell. Raises UserError where they cannot be read."""
    config = settings.load_stored(StoredRun(folder)).config
    return {key: make_setting_cell(value) for key, value in config.flatten().items()}


def make_setting_cell(value: Any) -> Cell:
    """Return the cell of a setting's value; numbers are sorted as numbers."""
    if isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
        return Cell(", ".join(" ".join(map(str, each.values())) for each in value))
    if value is None:
        return Cell()
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    text = value if isinstance(value, str) else yaml_io.inline(value)
    return Cell(text, float(value) if is_number else None)


def compare_settings(settings_of_runs: Sequence[dict[str, Cell] | None]) -> list[tuple[Cell, ...]]:
    """Return a row for every key that differs between runs: the key, then each run's value.

    settings_of_runs: None for unreadable settings, whose values are "?".
    """
    readable = [each for each in settings_of_runs if each is not None]
    keys = dict.fromkeys(key for each in readable for key in each)
    rows = []
    for key in keys:
        if len({each.get(key, Cell()).text for each in readable}) > 1:
            values = (Cell("?") if each is None else each.get(key, Cell()) for each in settings_of_runs)
            rows.append((Cell(key), *values))
    return rows


def compare_results(models: Sequence[RunModel]) -> list[tuple[Cell, ...]]:
    """Return a row for every run with the columns `ComparePage.RESULTS`."""
    rows = []
    for index, model in enumerate(models):
        accuracies = [Cell()] * 4
        if model.results is not None:
            summary = model.results["summary"]
            teacher = float(summary["teacher"]["mean"])
            measured = [summary[name] for name in ("accuracy", "control", "accuracy_best")]
            accuracies = [
                Cell(format_mean_std(each), float(each["mean"]) if each else None) for each in measured
            ]
            accuracies.append(Cell(f"{teacher:.2f}", teacher))
        seconds = [formatting.find_stage_seconds(model, stage) for stage in STAGES]
        seconds.append(formatting.sum_stage_seconds(model))
        times = (Cell() if each is None else Cell(format_duration(each), each) for each in seconds)
        name = Cell(f"{letter(index)} {model.run.name}")
        rows.append((name, Cell(str(model.state)), *accuracies, *times))
    return rows


def sort_rows(rows: Sequence[tuple[Cell, ...]], column: int, descending: bool) -> list[tuple[Cell, ...]]:
    """Return the rows sorted by a column: numbers by value, then texts, and absent values always last."""

    def key(row: tuple[Cell, ...]) -> tuple[bool, float, str]:
        text, value = row[column]
        return (value is None, value or 0.0, text.lower())

    present = sorted((row for row in rows if row[column] != Cell()), key=key, reverse=descending)
    return present + [row for row in rows if row[column] == Cell()]
