"""What the monitor's panels of curves and numbers show: the recovery's, or the trainings'."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from textual.app import ComposeResult
from textual.containers import Horizontal

from cfm_tui.console import formatting
from cfm_tui.console.screens.parts import Cells
from cfm_tui.console.widgets.chart import Chart
from cfm_tui.console.widgets.sparks import spark
from cfm_tui.display import plot_data
from cfm_tui.display.run_state import RunModel
from cfm_tui.display.terminal import Terminal
from engine.events import Stage

View = Literal["recovery", "accuracy", "loss"]
VIEWS: tuple[View, ...] = ("recovery", "accuracy", "loss")
SPARK = (6, 40)  #: cells of a sparkline in a table, at least and at most


def fitting(model: RunModel) -> View:
    """The view of what the run is at."""
    training = model.stage in ("squeeze", "relabel", "validate") or model.layout is None
    if not model.trainings or not (training or model.state == "finished"):
        return "recovery"
    stage = trained(model)
    measured = any(each.accuracy for key, each in model.trainings.items() if key[0] == stage)
    return "accuracy" if measured else "loss"


def trained(model: RunModel) -> Stage:
    """The stage whose trainings are shown."""
    return "validate" if any(key[0] == "validate" for key in model.trainings) else "squeeze"


class Curves(Horizontal):
    """A chart, and where there is room another beside it for the trainings' other curve."""

    DEFAULT_CSS = (
        "Curves { height: 1fr; } Curves Chart { width: 1fr; height: 1fr; } Curves #second { margin-left: 2; }"
    )
    WIDE = 70  #: cells from which there is room for two

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Chart(id="first"), Chart(id="second")

    def compose(self) -> ComposeResult:
        """Both charts."""
        yield from (self.first, self.second)

    def on_mount(self) -> None:
        """Begin with one."""
        self.second.display = False

    def show(self, model: RunModel, view: View) -> str:
        """Draw; returns the panel's title."""
        first, second = self.first, self.second
        second.display = view != "recovery" and self.size.width >= self.WIDE
        if view == "recovery":
            first.plot(plot_data.losses(model), x_label="iteration")
            return "Losses, summed over layers"
        stage = trained(model)
        charts = [
            (plot_data.accuracies(model, stage), "%"),
            (plot_data.training_losses(model, stage), "loss"),
        ]
        for chart, (lines, title) in zip(
            (first, second), charts[:: 1 if view == "accuracy" else -1], strict=True
        ):
            if chart.display:
                chart.plot(lines, title=title, x_label="epoch")
        what = "Accuracy and loss" if second.display else "Accuracy" if view == "accuracy" else "Loss"
        return f"{what} by epoch: {'students' if stage == 'validate' else 'teacher'}"

    def csv(self) -> str:
        """The data of the first chart."""
        return self.first.csv()


class Numbers(Cells):
    """Layers and their terms, or trainings; sorted by the column that was asked for."""

    def __init__(self, **options: str) -> None:
        super().__init__(**options)
        self.by = 0  #: a column's number; 0 for the rows' own order

    def show(self, model: RunModel, view: View, terminal: Terminal) -> str:
        """Fill in; returns the panel's title."""
        return self._layers(model, terminal) if view == "recovery" else self._trainings(model)

    def _layers(self, model: RunModel, terminal: Terminal) -> str:
        terms = model.layout.terms if model.layout else []
        room = (self.size.width - 18) // max(len(terms), 1) - 14
        cells = min(max(room, SPARK[0]), SPARK[1])
        found = formatting.layer_rows(model, lambda values: spark(values, cells, terminal), cells)
        self.by %= len(terms) + 1
        if self.by:
            found.sort(key=lambda row: -row[1][self.by - 1])
        heads = ["layer", *(head for term in terms for head in (term, ""))]
        rows = [[tap, *_beside(values, lines)] for tap, values, lines in found]
        self.fill(heads, [tap for tap, _, _ in found], rows)
        order = f"by {terms[self.by - 1]}" if self.by else "in order"
        return f"Layers of batch {model.batch}, {order}" if found else "Layers"

    def _trainings(self, model: RunModel) -> str:
        rows, columns = formatting.training_rows(model), formatting.TRAINING_COLUMNS
        self.by %= len(columns)
        if self.by:
            rows.sort(key=lambda row: row[self.by])
        self.fill(columns, [" ".join(row[:3]) for row in rows], rows)
        order = f", by {columns[self.by]}" if self.by else ""
        return f"Trainings{order}; `best` peeks at the test set"


def _beside(values: Sequence[float], lines: Sequence[str]) -> list[str]:
    pairs = zip(values, lines, strict=True)
    return [cell for number, line in pairs for cell in (formatting.value(number), line)]
