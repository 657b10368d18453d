"""The monitor's panels of curves and numbers, with views of the recovery and of the trainings."""

from __future__ import annotations

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
SPARK = (6, 40)  #: minimum and maximum width of a sparkline in a table, in cells


def default_view(model: RunModel) -> View:
    """Return the view that fits the run's current stage."""
    training = model.stage in ("squeeze", "relabel", "validate") or model.layout is None
    if not model.trainings or not (training or model.state == "finished"):
        return "recovery"
    stage = training_stage(model)
    has_accuracy = any(each.accuracy for key, each in model.trainings.items() if key[0] == stage)
    return "accuracy" if has_accuracy else "loss"


def training_stage(model: RunModel) -> Stage:
    """Return the stage whose trainings are shown."""
    return "validate" if any(key[0] == "validate" for key in model.trainings) else "squeeze"


class Curves(Horizontal):
    """A chart; if there is room, a second one beside it shows the other curve of the trainings."""

    DEFAULT_CSS = (
        "Curves { height: 1fr; } Curves Chart { width: 1fr; height: 1fr; } Curves #second { margin-left: 2; }"
    )
    WIDE = 70  #: minimum width in cells for two charts

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Chart(id="first"), Chart(id="second")

    def compose(self) -> ComposeResult:
        """Yield both charts."""
        yield from (self.first, self.second)

    def on_mount(self) -> None:
        """Hide the second chart at first."""
        self.second.display = False

    def show(self, model: RunModel, view: View) -> str:
        """Draw the charts of a view, and return the panel's title."""
        first, second = self.first, self.second
        second.display = view != "recovery" and self.size.width >= self.WIDE
        if view == "recovery":
            first.plot(plot_data.losses(model), x_label="iteration")
            return "Losses, summed over layers"
        stage = training_stage(model)
        charts = [
            (plot_data.accuracies(model, stage), "%"),
            (plot_data.training_losses(model, stage), "loss"),
        ]
        for chart, (lines, title) in zip(
            (first, second), charts[:: 1 if view == "accuracy" else -1], strict=True
        ):
            if chart.display:
                chart.plot(lines, title=title, x_label="epoch")
        name = "Accuracy and loss" if second.display else "Accuracy" if view == "accuracy" else "Loss"
        return f"{name} by epoch: {'students' if stage == 'validate' else 'teacher'}"

    def csv(self) -> str:
        """Return the data of the first chart as CSV."""
        return self.first.csv()


class Numbers(Cells):
    """A table of layers and their loss terms, or of trainings, sorted by a column."""

    def __init__(self, **options: str) -> None:
        super().__init__(**options)
        self.sort_column = 0  #: number of a column; 0 keeps the original order

    def show(self, model: RunModel, view: View, terminal: Terminal) -> str:
        """Fill the table, and return the panel's title."""
        return self._show_layers(model, terminal) if view == "recovery" else self._show_trainings(model)

    def _show_layers(self, model: RunModel, terminal: Terminal) -> str:
        terms = model.layout.terms if model.layout else []
        room = (self.size.width - 18) // max(len(terms), 1) - 14
        cells = min(max(room, SPARK[0]), SPARK[1])
        layers = formatting.layer_rows(model, lambda values: spark(values, cells, terminal), cells)
        self.sort_column %= len(terms) + 1
        if self.sort_column:
            layers.sort(key=lambda row: -row[1][self.sort_column - 1])
        heads = ["layer", *(head for term in terms for head in (term, ""))]
        rows = []
        for tap, values, sparklines in layers:
            pairs = zip(values, sparklines, strict=True)
            rows.append([tap, *(cell for number, line in pairs for cell in (formatting.value(number), line))])
        self.fill(heads, [tap for tap, _, _ in layers], rows)
        order = f"by {terms[self.sort_column - 1]}" if self.sort_column else "in order"
        return f"Layers of batch {model.batch}, {order}" if layers else "Layers"

    def _show_trainings(self, model: RunModel) -> str:
        rows, columns = formatting.training_rows(model), formatting.TRAINING_COLUMNS
        self.sort_column %= len(columns)
        if self.sort_column:
            rows.sort(key=lambda row: row[self.sort_column])
        self.fill(columns, [" ".join(row[:3]) for row in rows], rows)
        order = f", by {columns[self.sort_column]}" if self.sort_column else ""
        return f"Trainings{order}; `best` peeks at the test set"
