"""Panel 2 of the monitor: the spectra of a layer, and how far those of all layers are apart."""

from __future__ import annotations

from typing import ClassVar

from rich.cells import cell_len
from textual.binding import BindingType
from textual.containers import Vertical

from cfm_tui.console import formatting
from cfm_tui.console.engine_link import hidden
from cfm_tui.console.screens.base import Panel
from cfm_tui.console.screens.words import Words
from cfm_tui.console.widgets.chart import Chart
from cfm_tui.console.widgets.showing import terminal_of
from cfm_tui.display import plot_data
from cfm_tui.display.batch_gaps import BatchGaps, find_trend
from cfm_tui.display.run_state import RunModel, load_config
from engine.config import Config, Objective
from engine.store.preview import Preview


class Spectrum(Vertical):
    """The spectra of one layer, what the filter makes of them, and the gaps by layer and by batch."""

    LEAST_LINES = 9  #: height of the panel that has a line about batches, at least

    DEFAULT_CSS = "Spectrum { height: 1fr; } Spectrum #gap { height: auto; }"
    BINDINGS: ClassVar[list[BindingType]] = [
        hidden("down,j", "turn(1)", "next layer", id="spectrum.next", tooltip="The next layer's spectrum"),
        hidden("up,k", "turn(-1)", "layer before", id="spectrum.before"),
    ]

    def __init__(self) -> None:
        self.chart, self._gap = Chart(log=True, log_x=True, id="spectrum-chart"), Words(id="gap", grows=True)
        super().__init__(self.chart, self._gap)
        self._tap = ""  # the last one if there is none of this name
        self._model: RunModel | None = None
        self._preview: Preview | None = None
        self._config: Config | None = None  # None also where it cannot be read
        self._is_config_read = False
        self._batch_gaps = BatchGaps()

    def show(self, model: RunModel, scrubbed: Preview | None) -> str:
        """Draw the spectra, and return the panel's title. scrubbed: shown instead of the latest preview."""
        self._model = model
        preview = self._preview = model.preview if scrubbed is None else scrubbed
        if not self._is_config_read:
            self._config, self._is_config_read = load_config(model.run.folder), True
        if preview is None or not preview.spectra:
            self.chart.plot([], empty=_explain_absence(model, self._config, scrubbed))
            self._gap.set_lines("")
            if scrubbed is not None:
                return f"Spectrum: none kept of batch {scrubbed.batch}, it {scrubbed.iteration:,}"
            return "Spectrum: none yet" if model.is_underway else "Spectrum: none recorded"
        taps = list(preview.spectra)
        number = taps.index(self._tap) if self._tap in taps else len(taps) - 1
        objective = Objective(terms=()) if self._config is None else self._config.objective
        lines, crossing = plot_data.spectrum(preview, taps[number], objective)
        self.chart.plot(lines, x_label=plot_data.RANKS, mark=crossing)
        self._gap.set_lines(self._describe_gaps(model, preview))
        beta = formatting.describe_beta(model, preview.beta, crossing)
        return f"Spectrum of {taps[number]} ({number + 1} of {len(taps)}, j k){beta}"

    def _describe_gaps(self, model: RunModel, preview: Preview) -> list[str]:
        """Return a line about the gap at each layer, and one about their mean over the last batches."""
        terminal, gaps = terminal_of(self.app), plot_data.spectral_gaps(preview)
        levels = formatting.draw_sparkline([0.0, *gaps.values()], 1 + len(gaps), terminal)[1:]  # from 0
        listed = (
            f"{tap.rpartition('.')[2]} {level} {gap:.0%}"
            for (tap, gap), level in zip(gaps.items(), levels, strict=True)
        )
        text = "  ".join(listed)
        longer = f"gap of Ψ_s to Ψ by layer: {text}"
        lines = [longer if cell_len(longer) <= self.size.width else f"gap: {text}"]
        means = self._batch_gaps.read(model, preview.batch) if self.size.height >= self.LEAST_LINES else []
        if len(means) > 1:
            curve = formatting.draw_sparkline(means, len(means), terminal)
            course = f"{means[0]:.0%} to {means[-1]:.0%} {find_trend(means) or ''}"
            lines.append(f"mean, last {len(means)} batches: {curve} {course}")
        return lines

    def action_turn(self, step: int) -> None:
        """Show the next or previous layer."""
        model, preview = self._model, self._preview
        if model is not None and preview is not None and preview.spectra:
            taps = list(preview.spectra)
            current = taps.index(self._tap) if self._tap in taps else len(taps) - 1
            self._tap = taps[(current + step) % len(taps)]
            title = self.show(model, None if preview is model.preview else preview)
            if isinstance(self.parent, Panel):
                self.parent.set_title(title)


def _explain_absence(model: RunModel, config: Config | None, scrubbed: Preview | None) -> str:
    """Return why there is no spectrum to draw, and what would make one."""
    if config is not None and not config.optimises:
        return "no spectra: this run optimises no images, so it compares no features"
    if config is not None and not config.objective.has_covariance:
        taps = config.objective.taps
        return f"no spectra: taps {taps} have means and variances only; with conv-input, Ψ is measured"
    if scrubbed is not None:
        return "no spectrum is kept of these images, since that takes time; [ and ] lead to others"
    if model.is_underway:
        return "no spectrum yet: recovery writes one within seconds of its start"
    return (
        "no spectra are recorded: recovery writes them, and this run ended before it, or an earlier version"
        " of the program computed it; the same settings launched again record them"
    )
