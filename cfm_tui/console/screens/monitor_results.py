"""Panel 4 of the monitor: the layers' losses, the results, or all trainings."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal, get_args

import numpy as np
from rich.cells import cell_len
from rich.text import Text
from textual.containers import Vertical
from textual.coordinate import Coordinate

from cfm_tui.console import formatting
from cfm_tui.console.screens.base import Table
from cfm_tui.console.screens.words import Words
from cfm_tui.console.widgets.chart import Chart
from cfm_tui.display import plot_data
from cfm_tui.display.run_state import RunModel
from cfm_tui.display.terminal import Terminal
from engine.events import STAGES, Stage
from engine.runs.results import format_mean_std

Contents = Literal["layers", "result", "trainings"]


class Results(Vertical):
    """The layers' losses, the results beside accuracies by epoch, or all trainings."""

    CHART_LINES = 6  #: height of the chart, at least

    DEFAULT_CSS = """
    Results { height: 1fr; }
    Results #card { height: auto; }
    Results #accuracy { height: 1fr; }
    """

    def __init__(self) -> None:
        self.table, self._card = Numbers(), Words(id="card", grows=True)
        self.chart = Chart(y_bounds=(0, 100), id="accuracy")
        super().__init__(self._card, self.table, self.chart)
        self._chosen: Contents | None = None  # None: what fits the run's current stage

    def choose_next(self, model: RunModel) -> None:
        """Choose layers, results and trainings in turn."""
        choices = get_args(Contents)
        index = choices.index(self._chosen or _default_contents(model))
        self._chosen = choices[(index + 1) % len(choices)]
        self.table.sort_column = 0

    def show(self, model: RunModel, terminal: Terminal) -> str:
        """Show the contents, and return the panel's title."""
        contents = self._chosen or _default_contents(model)
        has_results = contents == "result"
        self._card.display, self.table.display = has_results, not has_results
        lines = formatting.describe_results(model, self.size.width) if has_results else []
        self.chart.display = has_results and self.size.height >= len(lines) + self.CHART_LINES
        if not has_results:
            return self.table.show(model, contents == "layers", terminal)
        self._card.set_lines(lines)
        stage = model.training_stage
        if stage is not None:
            guides = plot_data.accuracy_guides(model) if stage == "validate" else []
            lines_of = plot_data.accuracies(model, stage)
            title = _describe_chart(model, stage)
            empty = "no accuracies yet" if model.is_underway else "no accuracies"
            self.chart.plot(lines_of, title=title, x_label="epoch", guides=guides, empty=empty)
        if model.results is None:
            return "Result so far"
        finished, planned = len(model.results["repeats"]), model.results["repeats_planned"]
        return f"Result of {finished} of {planned} repeats" if finished < planned else "Result"


def _describe_chart(model: RunModel, stage: Stage) -> str:
    """Return the title of the accuracies by epoch; empty where it would say nothing."""
    images = plot_data.count_preview_images(model, stage)
    repeat = f"repeat {model.repeat}" if model.repeats > 1 else ""
    accuracy = f"accuracy: {images:,} test images, then all" if images else "accuracy" if repeat else ""
    return ", ".join(filter(None, (repeat, accuracy)))


def _default_contents(model: RunModel) -> Contents:
    """Return what fits the run's current stage."""
    is_validated = model.state == "finished" or any(key[0] == "validate" for key in model.trainings)
    return "result" if is_validated else "layers" if model.layout is not None else "trainings"


class Numbers(Table):
    """A table of layers and their loss terms, or of trainings, sorted by a column.

    Only changed cells are updated; rows are identified by names.
    """

    SPARK_LEAST = 4  #: cells of a sparkline, at least

    def __init__(self) -> None:
        super().__init__()
        self.sort_column = 0  #: number of a column; 0 keeps the original order
        self._heads: tuple[str, ...] = ()
        self._widths: list[int] = []  # columns never shrink; Textual computes its widths too late
        self._names: list[str] = []
        self._cells: list[tuple[str, ...]] = []

    def fill(self, heads: Sequence[str], names: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
        """Show these rows; the cursor stays on the row with the same name.

        heads: column titles. names: one per row. cells: the rows' texts.
        """
        rows, heads, names = [tuple(row) for row in cells], tuple(heads), list(names)
        min_widths = self._widths if heads == self._heads else [0] * len(heads)
        columns = zip(min_widths, zip(heads, *rows, strict=True), strict=True)
        widths = [max(width, *map(cell_len, column)) for width, column in columns]
        if (heads, names, widths) != (self._heads, self._names, self._widths):
            chosen = self.find_chosen()
            self.clear(columns=True)
            for head, width in zip(heads, widths, strict=True):
                self.add_column(Text(head), width=width)
            for name, row in zip(names, rows, strict=True):
                self.add_row(*row, key=name)
            if chosen in names:
                self.move_cursor(row=names.index(chosen), animate=False)
            self._heads, self._names, self._widths = heads, names, widths
        else:
            for at, (old, new) in enumerate(zip(self._cells, rows, strict=True)):
                for column, (old_text, text) in enumerate(zip(old, new, strict=True)):
                    if old_text != text:
                        self.update_cell_at(Coordinate(at, column), text)
        self._cells = rows

    def find_chosen(self) -> str | None:
        """Return the name of the row under the cursor."""
        row = self.cursor_row
        return self._names[row] if 0 <= row < len(self._names) else None

    def show(self, model: RunModel, is_of_layers: bool, terminal: Terminal) -> str:
        """Fill the table with layers or trainings, and return the panel's title."""
        return self._show_layers(model, terminal) if is_of_layers else self._show_trainings(model)

    def _show_layers(self, model: RunModel, terminal: Terminal) -> str:
        terms = model.layout.terms if model.layout else []
        names = _drop_shared_parts(model.layout.taps if model.layout else [])
        padding, scrollbar, least = 2 * self.cell_padding, self.scrollbar_size_vertical, len("0.001234")
        taken = max(map(cell_len, ["layer", *names])) + padding + scrollbar
        taken += sum(max(cell_len(term), least) + 2 * padding for term in terms)
        cells = min((self.size.width - taken) // max(len(terms), 1), 40)
        cells = cells if cells >= self.SPARK_LEAST else 0
        spark = partial(formatting.draw_sparkline, width=cells, terminal=terminal)
        layers = formatting.list_layers(model, spark, max(cells, 1))
        self.sort_column %= len(terms) + 1
        if self.sort_column:
            layers.sort(key=lambda row: -row[1][self.sort_column - 1])
        heads = ["layer", *(head for term in terms for head in ((term, "") if cells else (term,)))]
        rows = []
        short_names = dict(zip(model.layout.taps if model.layout else [], names, strict=True))
        for tap, values, sparklines in layers:
            pairs = zip(values, sparklines, strict=True)
            numbers = [each for number, line in pairs for each in (_format_value(number), line)]
            rows.append([short_names[tap], *numbers[:: 1 if cells else 2]])
        self.fill(heads, [tap for tap, _, _ in layers], rows)
        order = f"by {terms[self.sort_column - 1]}" if self.sort_column else "in order"
        return f"Layers of batch {model.batch}, {order}" if layers else "Layers"

    def _show_trainings(self, model: RunModel) -> str:
        columns = ["network", "images", "seed", "last %", "best %", "epoch", "loss"]
        rows = _list_trainings(model)
        self.sort_column %= len(columns)
        if self.sort_column:
            rows.sort(key=lambda row: row[self.sort_column])
        names = [" ".join(row[:3]) for row in rows]
        first = 1 if len({row[0] for row in rows}) == 1 else 0  # one network needs no column
        self.fill(columns[first:], names, [row[first:] for row in rows])
        order = f", by {columns[self.sort_column]}" if self.sort_column else ""
        repeat = f" of repeat {model.repeat}" if model.repeats > 1 else ""
        return f"Trainings{repeat}{order}; best % is optimistic"


def _drop_shared_parts(names: Sequence[str]) -> list[str]:
    """Return dotted names without the first parts that all of them have: "conv.0" for "layers.conv.0"."""
    parts = [name.split(".") for name in names]
    shared = 0
    while all(len(each) > shared + 2 for each in parts) and len({each[shared] for each in parts}) == 1:
        shared += 1
    return [".".join(each[shared:]) for each in parts]


def _format_value(number: float | None) -> str:
    """Return a number with four significant digits; empty where it is None."""
    return "" if number is None else "nan" if np.isnan(number) else f"{number:.4g}"


def _list_trainings(model: RunModel) -> list[tuple[str, ...]]:
    """Return the means over the finished repeats, then a row per training of the latest, with controls."""
    rows: list[tuple[str, ...]] = []
    if model.results is not None:
        finished = len(model.results["repeats"])
        repeats = f"{finished} repeat{'s' if finished > 1 else ''}" if model.repeats > 1 else ""
        for name, summary in model.results["summary"]["by_architecture"].items():
            last, best = format_mean_std(summary["accuracy"]), format_mean_std(summary["accuracy_best"])
            rows.append((name, "distilled", "mean", last, best, repeats, ""))
            rows.append((name, "random", "mean", format_mean_std(summary["control"]), "", repeats, ""))
    order = sorted(model.trainings, key=lambda key: (STAGES.index(key[0]), key[1], key[3], key[2]))
    for key in order:
        stage, architecture, source, seed = key
        each = model.trainings[key]
        loss = each.loss.last(0) if each.loss.rows else None
        seed_text = "" if stage == "squeeze" else str(seed)
        accuracies = _format_value(each.last), _format_value(each.best)
        epoch = f"{each.epoch} of {each.epochs}"
        rows.append((architecture, source, seed_text, *accuracies, epoch, _format_value(loss)))
    return rows
