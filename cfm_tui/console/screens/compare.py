"""The page that compares runs: their results with a test, their curves, and the settings that differ."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from rich.text import Text
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.widget import Widget
from textual.widgets import DataTable, Input

from cfm_tui.console import formatting
from cfm_tui.console.columns import Column, sort_rows
from cfm_tui.console.engine_link import OpenRun, hidden
from cfm_tui.console.screens.base import FilterLine, Page, Panel, PlainText
from cfm_tui.console.screens.column_table import ColumnTable
from cfm_tui.console.widgets.chart import Chart
from cfm_tui.display import plot_data
from cfm_tui.display.charts import ROLES, Line, letter
from cfm_tui.display.progress import format_duration
from cfm_tui.display.run_state import RunModel
from cfm_tui.display.tables import as_csv
from engine.config import settings, yaml_io
from engine.config.identity import LOCAL_SETTINGS
from engine.events import STAGES, Stage
from engine.runs.results import Results, average_students, format_mean_std
from engine.runs.significance import adjust_holm, compare_paired
from engine.store import StoredRun

RESULTS, CURVES_PANEL, SETTINGS = 1, 2, 3  #: the panels
CURVES = ("accuracy", "control", "CE", "filter", "signal")
ACCURACIES = ("accuracy", "control")
#: Settings that say where and how a run computes, or what it is called.
BOOKKEEPING = {*LOCAL_SETTINGS, "protocol", "given.experiment", "given.label_seed", "given.trust"}


class Cell(NamedTuple):
    """The value of a setting, by default an absent one.

    value: the number to sort by; None for a cell that is sorted as text.
    """

    text: str = "—"
    value: float | None = None

    @property
    def sort_key(self) -> tuple[bool, float, str] | None:
        """Numbers by value, then texts; None for an absent value."""
        return None if self == Cell() else (self.value is None, self.value or 0.0, self.text.lower())


@dataclass(frozen=True)
class Outcome:
    """A run's result in a comparison.

    label: its letter and its name. summary: of its results; None before the first repeat is finished. versus:
    its comparison, as `compare_paired` returns it, if there is one. seconds: the computing time by stage, and
    in all. is_reference: whether the others are compared with it.
    """

    label: str
    state: str
    summary: Mapping[str, Any] | None
    versus: Mapping[str, Any] | None
    seconds: Mapping[str, float | None]
    is_reference: bool = False

    def format_accuracy(self, name: str) -> str:
        """Return an accuracy of the summary as mean ± standard deviation (count)."""
        return "" if self.summary is None else format_mean_std(self.summary[name], absent="")

    def mean(self, name: str) -> float | None:
        """Return the mean of an accuracy of the summary."""
        return self.summary[name]["mean"] if self.summary is not None and self.summary[name] else None

    def format_versus(self, name: str, form: str) -> str:
        """Return a number of the comparison."""
        value = None if self.versus is None else self.versus[name]
        return "" if value is None else format(value, form).replace("-", "−")

    @property
    def verdict(self) -> str:
        """What the test says; of the run that the others are compared with, that it is."""
        return "reference" if self.is_reference else str((self.versus or {}).get("verdict", ""))


def _versus_column(name: str, key: str, form: str, rank: int) -> Column[Outcome]:
    def read(outcome: Outcome) -> Any:
        return None if outcome.versus is None else outcome.versus[key]

    return Column(name, lambda outcome: outcome.format_versus(key, form), read, rank, numeric=True)


def _accuracy_column(name: str, key: str, rank: int) -> Column[Outcome]:
    return Column(
        name, lambda outcome: outcome.format_accuracy(key), lambda outcome: outcome.mean(key), rank, True
    )


def _time_column(name: str, key: str, rank: int) -> Column[Outcome]:
    def show(outcome: Outcome) -> str:
        seconds = outcome.seconds[key]
        return "" if seconds is None else format_duration(seconds)

    return Column(name, show, lambda outcome: outcome.seconds[key], rank, numeric=True)


#: The columns of the results.
COLUMNS: tuple[Column[Outcome], ...] = (
    Column("run", lambda outcome: outcome.label, lambda outcome: outcome.label.lower(), least=12),
    _accuracy_column("distilled", "accuracy", 0),
    _versus_column("Δ", "difference", "+.2f", 1),
    _versus_column("p", "p", ".2g", 3),
    _versus_column("p (Holm)", "p_adjusted", ".2g", 4),
    _versus_column("n", "n", "d", 2),
    Column("verdict", lambda outcome: outcome.verdict, lambda outcome: outcome.verdict or None, rank=1),
    _accuracy_column("control", "control", 6),
    Column("state", lambda outcome: outcome.state, lambda outcome: outcome.state, rank=5),
    _time_column("in all", "in all", 7),
    _accuracy_column("teacher", "teacher", 8),
    _accuracy_column("best epoch", "accuracy_best", 9),
    *(_time_column(stage, stage, 10 + index) for index, stage in enumerate(STAGES)),
)
VERDICT = [column.name for column in COLUMNS].index("verdict")


class ComparePage(Page):
    """A comparison of two or more runs. Each run has the same letter in all panels.

    folders: the runs' folders, in the order of their letters; the first is the one that the others are
    compared with.
    """

    TAB = "Compare"
    NAMES_LEAST = 110  #: columns of a terminal in which lines have the names of runs beside their letters
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("a", "against", "against", id="compare.against", tooltip="Compare with A, or with random"),
        Binding("v", "view(1)", "curve", id="compare.view", tooltip="The next curve: accuracy, losses"),
        hidden("V", "view(-1)", "previous curve", id="compare.back", tooltip="The previous curve"),
        Binding("h", "fold", "all settings", id="compare.fold", tooltip="Show or hide bookkeeping settings"),
        Binding("slash", "filter", "filter", id="compare.filter", tooltip="Filter settings by name or value"),
        Binding("s", "sort", "sort", id="compare.sort", tooltip="Sort the table by its next column"),
        hidden("S", "turn", "reverse order", id="compare.turn", tooltip="Reverse the sort order"),
    ]
    DEFAULT_CSS = """
    ComparePage #curve { height: 3fr; }
    ComparePage #settings { height: 2fr; }
    ComparePage #both { height: 1fr; layout: vertical; }
    ComparePage.-huge #both { layout: horizontal; }
    ComparePage.-huge #curve, ComparePage.-huge #settings { height: 1fr; width: 1fr; }
    ComparePage.-huge #settings { margin-left: 1; }
    ComparePage #test { height: 1; padding: 0 1; text-wrap: nowrap; text-overflow: ellipsis; }
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        super().__init__()
        self._folders = list(folders)
        self._models: list[RunModel] = []
        self._curve = CURVES[0]
        self._filter_text = ""
        self._shows_bookkeeping = False
        self._against_control = False
        self._tested: tuple[object, ...] = ()
        self._comparisons: list[dict[str, Any] | None] = [None] * len(folders)
        self._order: dict[int, tuple[str, bool] | None] = {RESULTS: None, SETTINGS: None}
        self._settings: list[dict[str, Cell] | None] | None = None
        self._listed: list[Outcome] = []
        self._drawn_at = 0.0
        self._stale = True

    def body(self) -> Iterator[Widget]:
        """Yield panels for the results, the curves and the settings, and the filter."""
        yield Panel(
            RESULTS, "Results", ColumnTable(id="outcome"), PlainText(id="test", classes="hint"), id="results"
        )
        with Container(id="both", classes="holder"):
            charts = Chart(id="accuracies", y_bounds=(0, 100)), Chart(id="losses", log=True)
            yield Panel(CURVES_PANEL, "Curves", *charts, id="curve")
            yield Panel(SETTINGS, "Settings that differ", ColumnTable(id="differing"), id="settings")
        yield FilterLine("filter: part of a setting or a value", lambda: self._table(SETTINGS))

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
        if not self._models:
            return
        for model in self._models:
            self._stale |= not model.is_idle and model.read(self.READ_SECONDS / len(self._models))
        if self._stale and (not self._drawn_at or time.monotonic() - self._drawn_at >= self.CHART_SECONDS):
            self._stale, self._drawn_at = False, time.monotonic()
            self._draw_curves()
            self._fill_results()
            self._test()

    def _test(self) -> None:
        """Compare the runs' accuracies on a thread, if their results changed; importing SciPy is slow."""
        documents = [model.results for model in self._models]
        to_test = (self._against_control, *map(id, documents))
        if not documents or to_test == self._tested:
            return
        self._tested = to_test

        def test() -> None:
            comparisons = compare_differences(documents, against_control=self._against_control)
            self.call_in_ui(show, comparisons)

        def show(comparisons: list[dict[str, Any] | None]) -> None:
            if to_test == self._tested:
                self._comparisons = comparisons
                self._fill_results()

        self.run_in_thread(test)

    def _draw_curves(self) -> None:
        is_accuracy = self._curve in ACCURACIES
        x_label = "epoch" if is_accuracy else "iteration"
        for chart in self.query(Chart):
            chart.display = (chart.id == "accuracies") == is_accuracy
        lines = compare_curves(self._models, self._curve)
        if self.app.size.width < self.NAMES_LEAST:
            lines = [replace(line, name=line.name.partition(" ")[0]) for line in lines]
        self._chart().plot(lines, x_label=x_label)
        title = [f"{self._curve} by {x_label}", f"{CURVES.index(self._curve) + 1} of {len(CURVES)} (v)"]
        title += ["reading"] if any(model.behind for model in self._models) else []
        title += ["no data yet"] if not any(len(line.x) for line in lines) else []
        self.query_one("#curve", Panel).set_title(" · ".join(title))

    def _chart(self) -> Chart:
        return self.query_one("#accuracies" if self._curve in ACCURACIES else "#losses", Chart)

    def _outcomes(self) -> list[Outcome]:
        """Return the results of the runs, sorted."""
        outcomes = compare_results(self._models, self._comparisons)
        if not self._against_control:
            outcomes[0] = replace(outcomes[0], is_reference=True)
        if (order := self._order[RESULTS]) is None:
            return outcomes
        column = next(each for each in COLUMNS if each.name == order[0])
        return sort_rows(outcomes, column, descending=order[1])

    def _fill_results(self) -> None:
        self._listed = self._outcomes()
        rows = [[Text(column.show(each)) for column in COLUMNS] for each in self._listed]
        for row, outcome in zip(rows, self._listed, strict=True):
            if outcome.verdict in ("better", "worse"):
                row[VERDICT].style = "bold"
        keys = [each.label for each in self._listed]
        self._table(RESULTS).show_rows(COLUMNS, keys, rows, self._headings(RESULTS, COLUMNS))
        against = "each run's random control" if self._against_control else self._name_of(0)
        self.query_one("#results", Panel).set_title(f"Results in %, last epoch · Δ against {against} (a)")
        self.query_one("#test", PlainText).update(describe_test(self._comparisons))
        self._arrange()

    def _name_of(self, index: int) -> str:
        return f"{letter(index)} {self._folders[index].name}"

    def _arrange(self) -> None:
        """Give the results only the lines that they need, if other panels are visible."""
        super()._arrange()
        needed = min(len(self._folders) + 3, max(self.app.size.height // 3, 5))  # with border, header, test
        for panel in self.query("#results"):
            panel.styles.height = "1fr" if self.has_class("-single") else needed

    def _settings_columns(self) -> list[Column[tuple[Cell, ...]]]:
        names = ["setting", *(letter(index) for index in range(len(self._folders)))]

        def build(index: int) -> Column[tuple[Cell, ...]]:
            name, least = names[index], 3 if index else 14
            return Column(name, lambda row: row[index].text, lambda row: row[index].sort_key, least=least)

        return list(map(build, range(len(names))))

    def _settings_rows(self) -> tuple[list[tuple[Cell, ...]], int]:
        """Return the rows of the settings, filtered and sorted, and how many bookkeeping ones are hidden."""
        rows = compare_settings(self._settings or [])
        total = len(rows)
        if not self._shows_bookkeeping:
            rows = [row for row in rows if row[0].text not in BOOKKEEPING]
        folded = total - len(rows)
        rows = [row for row in rows if self._filter_text in " ".join(cell.text for cell in row).lower()]
        if (order := self._order[SETTINGS]) is not None:
            column = next(each for each in self._settings_columns() if each.name == order[0])
            rows = sort_rows(rows, column, descending=order[1])
        return rows, folded

    def _fill_settings(self) -> None:
        rows, folded = self._settings_rows()
        columns = self._settings_columns()
        cells = [[Text(cell.text) for cell in row] for row in rows]
        keys = [row[0].text for row in rows]
        self._table(SETTINGS).show_rows(columns, keys, cells, self._headings(SETTINGS, columns))
        parts = ["reading" if self._settings is None else str(len(rows)) if rows else "none"]
        parts += [f"filter {self._filter_text}"] if self._filter_text else []
        parts += [f"{folded} of bookkeeping hidden (h)"] if folded else []
        self.query_one("#settings", Panel).set_title(" · ".join(["Settings that differ", *parts]))

    def _headings(self, number: int, columns: Sequence[Column[Any]]) -> list[str]:
        """Return the headings of a table, with an arrow at the one that it is sorted by."""
        name, descending = self._order[number] or ("", False)
        return [each.name + (" ↓" if descending else " ↑") * (each.name == name) for each in columns]

    def _table(self, number: int) -> ColumnTable:
        return self.query_one("#differing" if number == SETTINGS else "#outcome", ColumnTable)

    # --- what keys do -----------------------------------------------------------------------------

    def action_panel(self, number: int) -> None:
        """Make a panel the current one; of the charts, focus the visible one."""
        super().action_panel(number)
        if number == CURVES_PANEL:
            self.set_focus(self._chart())

    def action_against(self) -> None:
        """Compare the runs with the first one, or each with its random control."""
        self._against_control = not self._against_control
        self._test()

    def action_view(self, step: int) -> None:
        """Show the next or previous curve."""
        self._curve = CURVES[(CURVES.index(self._curve) + step) % len(CURVES)]
        self._draw_curves()
        if self._current == CURVES_PANEL:
            self.set_focus(self._chart())

    def action_fold(self) -> None:
        """Show or hide the settings that are bookkeeping."""
        self._shows_bookkeeping = not self._shows_bookkeeping
        self._fill_settings()

    def action_filter(self) -> None:
        """Open the filter."""
        self.action_panel(SETTINGS)
        self.query_one(FilterLine).open()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filter while the user types."""
        self._filter_text = event.value.strip().lower()
        self._fill_settings()

    def _current_table(self) -> int:
        """Return the number of the table that sort keys act on: the settings, or else the results."""
        return SETTINGS if self._current == SETTINGS else RESULTS

    def _columns_of(self, number: int) -> Sequence[Column[Any]]:
        return COLUMNS if number == RESULTS else self._settings_columns()

    def action_sort(self) -> None:
        """Sort by the next visible column."""
        number = self._current_table()
        columns = self._columns_of(number)
        visible = [columns[each.position] for each in self._table(number).fitted]
        names = [each.name for each in visible]
        order = self._order[number]
        at = names.index(order[0]) if order is not None and order[0] in names else -1
        column = visible[(at + 1) % len(visible)]
        self._sort(number, column.name, column.numeric)

    def action_turn(self) -> None:
        """Reverse the sort order."""
        number = self._current_table()
        name, descending = self._order[number] or (self._columns_of(number)[0].name, False)
        self._sort(number, name, not descending)

    def _sort(self, number: int, name: str, descending: bool) -> None:
        self._order[number] = name, descending
        if number == RESULTS:
            self._fill_results()
        else:
            self._fill_settings()

    def on_data_table_header_selected(self, event: DataTable.HeaderSelected) -> None:
        """Sort by the clicked column; a second click reverses the order."""
        number = SETTINGS if event.data_table.id == "differing" else RESULTS
        column = self._columns_of(number)[self._table(number).fitted[event.column_index].position]
        name, descending = self._order[number] or ("", False)
        self._sort(number, column.name, not descending if column.name == name else column.numeric)

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Open the selected run."""
        if event.data_table.id == "outcome" and event.cursor_row < len(self._listed):
            labels = [self._name_of(index) for index in range(len(self._folders))]
            self.post_message(OpenRun(self._folders[labels.index(self._listed[event.cursor_row].label)]))

    def csv(self) -> str:
        """Return the current panel's data as CSV: the curves, or a table, filtered and sorted."""
        if self._current == CURVES_PANEL:
            return self._chart().csv()
        columns = self._columns_of(self._current)
        rows: Sequence[Any] = self._listed if self._current == RESULTS else self._settings_rows()[0]
        return as_csv(
            [column.name for column in columns], [[column.show(row) for column in columns] for row in rows]
        )


def compare_differences(
    documents: Sequence[Results | None], *, against_control: bool
) -> list[dict[str, Any] | None]:
    """Compare the distilled accuracies of runs over their repeats, p corrected by Holm's method.

    against_control: with each run's random control; otherwise with the first run, whose entry is None, as is
    that of a run without results or without a control.
    """
    samples = [{} if each is None else _mean_by_seed(each, "distilled") for each in documents]
    comparisons: list[dict[str, Any] | None] = []
    for index, (document, values) in enumerate(zip(documents, samples, strict=True)):
        others = samples[0] if index else {}
        if against_control:
            others = {} if document is None else _mean_by_seed(document, "random")
        comparisons.append(compare_paired(values, others) if values and others else None)
    adjust_holm([each for each in comparisons if each is not None])
    return comparisons


def _mean_by_seed(document: Results, source: str) -> dict[int, float]:
    return average_students(document["repeats"], document["summary"]["architecture"], source)


def describe_test(comparisons: Sequence[Mapping[str, Any] | None]) -> str:
    """Return in words how runs were compared, or why they were not."""
    tested = sum(each is not None and each["p"] is not None for each in comparisons)
    if tested:
        corrected = f", p (Holm) is corrected for {tested} runs" if tested > 1 else ""
        return f"paired t test over repeats with equal seeds{corrected}"
    return "not tested: that needs two repeats with equal seeds, whose differences vary"


def compare_curves(models: Sequence[RunModel], what: str) -> list[Line]:
    """Return one of `CURVES` for every run, in the order of the runs; empty where a run has none.

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


def compare_results(
    models: Sequence[RunModel], comparisons: Sequence[Mapping[str, Any] | None]
) -> list[Outcome]:
    """Return the results of all runs with their comparisons."""
    outcomes = []
    for index, (model, versus) in enumerate(zip(models, comparisons, strict=True)):
        seconds: dict[str, float | None] = {"in all": formatting.sum_stage_seconds(model)}
        stages: Sequence[Stage] = STAGES
        seconds |= {stage: formatting.find_stage_seconds(model, stage) for stage in stages}
        label = f"{letter(index)} {model.run.folder.name}"
        summary = None if model.results is None else model.results["summary"]
        outcomes.append(Outcome(label, str(model.state), summary, versus, seconds))
    return outcomes
