"""One layer of a run: its terms over the iterations, and the two spectra that they bring together."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.widget import Widget

from cfm_tui.console.screens.base import Page, Panel
from cfm_tui.console.widgets.chart import Chart
from cfm_tui.display import plot_data
from cfm_tui.display.run_state import RunModel

READ_SECONDS = 0.05
CHART_SECONDS = 2.0  #: between two drawings of a chart, unasked
NOT_YET = "no spectrum yet: recovery shows one within seconds of its beginning"


class LayerPage(Page):
    """A layer's chart and spectrum. Its model is that of the monitor, which does not read meanwhile."""

    HEADING = "layer"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j", "go(1)", "next layer", id="layer.next"),
        Binding("k", "go(-1)", "layer before", id="layer.before"),
    ]
    DEFAULT_CSS = """
    LayerPage {
        #both { layout: vertical; height: 1fr; }
        &.-wide #both, &.-huge #both { layout: horizontal; }
        Chart { height: 1fr; }
    }
    """

    def __init__(self, model: RunModel, tap: str) -> None:
        super().__init__()
        self._model, self._tap = model, tap
        self._drawn = 0.0
        self._new = True
        self._objective = plot_data.objective_of(model.run.folder)

    def body(self) -> Iterator[Widget]:
        """Two charts."""
        from textual.containers import Container

        yield Container(
            Panel(1, "Terms", Chart(id="terms")),
            Panel(2, "Spectrum", Chart(log=True, id="spectrum")),
            id="both",
            classes="holder",
        )

    def begin(self) -> None:
        """Draw at once."""
        self._draw()

    def tick(self) -> None:
        """Read on, and draw what changed."""
        self._new |= self._model.read(READ_SECONDS)
        if self._new and time.monotonic() - self._drawn >= CHART_SECONDS:
            self._draw()

    def on_resize(self) -> None:
        """Draw anew."""
        self.call_after_refresh(self._draw)

    def action_go(self, step: int) -> None:
        """To the layer after or before."""
        taps = self._model.layout.taps if self._model.layout else []
        if self._tap in taps:
            self._tap = taps[(taps.index(self._tap) + step) % len(taps)]
            self._draw()

    def csv(self) -> str:
        """The data of the current panel's chart."""
        return self.query_one("#spectrum" if self._current == 2 else "#terms", Chart).csv()

    def _draw(self) -> None:
        model = self._model
        self._new, self._drawn = False, time.monotonic()
        self.say(self._tap, model.run.name)
        taps = model.layout.taps if model.layout else []
        if self._tap in taps:
            self.query_one("#terms", Chart).plot(
                plot_data.layer(model, taps.index(self._tap)), x_label="iteration"
            )
        self._draw_spectrum()

    def _draw_spectrum(self) -> None:
        glimpse = self._model.glimpse
        chart, panel = self.query_one("#spectrum", Chart), self.panels()[1]
        if glimpse is None or self._tap not in glimpse.spectra:
            panel.say(f"Spectrum: {NOT_YET if glimpse is None else 'Ψ is not measured at this layer'}")
            chart.plot([])
            return
        lines, turn = plot_data.spectrum(glimpse, self._tap, self._objective)
        where = f"batch {glimpse.batch}, iteration {glimpse.iteration}"
        where += f", β {glimpse.beta:.3g}" if self._model.betas else ""
        panel.say(f"Spectrum: {where}" + ("; | where λ < β" if turn is not None else ""))
        chart.plot(lines, x_label=plot_data.RANKS, mark=turn)
