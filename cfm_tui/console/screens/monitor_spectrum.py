"""Panel 2 of the monitor: the spectra of a layer, and how far those of all layers are apart."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import BindingType
from textual.containers import Vertical

from cfm_tui.console import formatting
from cfm_tui.console.engine_link import hidden
from cfm_tui.console.screens.base import Panel
from cfm_tui.console.screens.words import Words
from cfm_tui.console.widgets.chart import Chart
from cfm_tui.console.widgets.showing import terminal_of
from cfm_tui.display import plot_data
from cfm_tui.display.run_state import RunModel
from engine.config import Objective
from engine.store import AT_WORK


class Spectrum(Vertical):
    """The spectra of one layer, what the filter makes of them, and the gap at every layer."""

    DEFAULT_CSS = "Spectrum { height: 1fr; } Spectrum #gap { height: 1; }"
    BINDINGS: ClassVar[list[BindingType]] = [
        hidden("down,j", "turn(1)", "next layer", id="spectrum.next", tooltip="The next layer's spectrum"),
        hidden("up,k", "turn(-1)", "layer before", id="spectrum.before"),
    ]

    def __init__(self) -> None:
        self.chart, self._gap = Chart(log=True, log_x=True, id="spectrum-chart"), Words(id="gap")
        super().__init__(self.chart, self._gap)
        self._number: int | None = None
        self._model: RunModel | None = None
        self._objective: Objective | None = None

    def show(self, model: RunModel) -> str:
        """Draw the spectra, and return the panel's title."""
        self._model = model
        preview = model.preview
        if preview is None or not preview.spectra:
            self.chart.plot([])
            self._gap.set_lines("")
            if preview is not None:
                return "Spectrum: Ψ is not measured"
            return "Spectrum: none yet" if model.state in (*AT_WORK, "new") else "Spectrum: none recorded"
        taps = list(preview.spectra)
        number = len(taps) - 1 if self._number is None else self._number % len(taps)
        if self._objective is None:
            self._objective = plot_data.objective_of(model.run.folder)
        lines, crossing = plot_data.spectrum(preview, taps[number], self._objective)
        self.chart.plot(lines, x_label=plot_data.RANKS, mark=crossing)
        gaps = plot_data.spectral_gaps(preview)
        levels = formatting.draw_sparkline(list(gaps.values()), len(gaps), terminal_of(self.app))
        listed = (
            f"{tap.rpartition('.')[2]} {level} {gap:.0%}"
            for (tap, gap), level in zip(gaps.items(), levels, strict=True)
        )
        self._gap.set_lines(f"gap of Ψ_s to Ψ by layer: {'  '.join(listed)}")
        beta = f" · ┊ λ = β {preview.beta:.3g}" if crossing is not None else ""
        return f"Spectrum of {taps[number]} ({number + 1} of {len(taps)}, j k){beta}"

    def action_turn(self, step: int) -> None:
        """Show the next or previous layer."""
        if self._model is not None and self._model.preview is not None and self._model.preview.spectra:
            count = len(self._model.preview.spectra)
            self._number = ((count - 1 if self._number is None else self._number) + step) % count
            title = self.show(self._model)
            if isinstance(self.parent, Panel):
                self.parent.set_title(title)
