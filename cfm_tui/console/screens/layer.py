"""The page of one layer of a run: its loss terms by iteration, and the spectra that they match."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.widget import Widget

from cfm_tui.console import formatting
from cfm_tui.console.engine_link import hidden
from cfm_tui.console.screens.base import Page, Panel
from cfm_tui.console.widgets.chart import Chart
from cfm_tui.display import plot_data
from cfm_tui.display.run_state import RunModel


class LayerPage(Page):
    """A layer's terms and spectrum.

    model: shared with the monitor, which does not read while this page is visible.
    """

    TAB = "Monitor"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j", "go(1)", "next layer", id="layer.next"),
        Binding("k", "go(-1)", "layer before", id="layer.before"),
        hidden("q", "app.back", "back", id="layer.leave", tooltip="Back to the monitor"),
    ]

    def __init__(self, model: RunModel, tap: str) -> None:
        super().__init__()
        self._model, self._tap = model, tap
        self._drawn_at = 0.0
        self._stale = True
        self._objective = plot_data.objective_of(model.run.folder)

    def body(self) -> Iterator[Widget]:
        """Yield a panel for the terms and one for the spectrum."""
        from textual.containers import Container

        yield Container(
            Panel(1, "Terms", Chart(log=True, id="terms")),
            Panel(2, "Spectrum", Chart(log=True, log_x=True, id="spectrum")),
            id="both",
            classes="holder",
        )

    def begin(self) -> None:
        """Draw the charts."""
        self._draw()

    def tick(self) -> None:
        """Read new records, and redraw at most every `CHART_SECONDS`."""
        self._stale |= self._model.read(self.READ_SECONDS)
        if self._stale and time.monotonic() - self._drawn_at >= self.CHART_SECONDS:
            self._draw()

    def on_resize(self) -> None:
        """Redraw in the new size."""
        self.call_after_refresh(self._draw)

    def action_go(self, step: int) -> None:
        """Show the next or previous layer."""
        taps = self._model.layout.taps if self._model.layout else []
        if self._tap in taps:
            self._tap = taps[(taps.index(self._tap) + step) % len(taps)]
            self._draw()

    def csv(self) -> str:
        """Return the data of the current panel's chart as CSV."""
        return self.query_one("#spectrum" if self._current == 2 else "#terms", Chart).csv()

    def _draw(self) -> None:
        model = self._model
        self._stale, self._drawn_at = False, time.monotonic()
        self.set_title(model.run.name, self._tap)  # the line cuts off the run's name first
        taps = model.layout.taps if model.layout else []
        if self._tap in taps:
            lines = plot_data.layer(model, taps.index(self._tap))
            self.query_one("#terms", Chart).plot(
                lines, x_label="iteration", sections=plot_data.batches(model)
            )
        preview = model.preview
        chart, (terms, panel) = self.query_one("#spectrum", Chart), self.panels()
        terms.set_title(f"Terms of {self._tap}")
        if preview is None or self._tap not in preview.spectra:
            reason = "Ψ is not measured at this layer"
            if preview is None:
                reason = "no spectrum is recorded: recovery writes one within seconds of its start"
            panel.set_title("Spectrum: none")
            chart.plot([], empty=reason)
            return
        lines, crossing = plot_data.spectrum(preview, self._tap, self._objective)
        beta = formatting.describe_beta(model, preview.beta, crossing)
        panel.set_title(f"Spectrum: batch {preview.batch}, it {preview.iteration:,}{beta}")
        chart.plot(lines, x_label=plot_data.RANKS, mark=crossing)
