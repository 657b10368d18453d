"""A chart that can be zoomed and panned, with a linear or a logarithmic axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from textual.binding import BindingType
from textual.events import Resize, Show
from textual.message import Message
from textual.strip import Strip

from cfm_tui.console.engine_link import hidden
from cfm_tui.console.widgets.picture import Picture
from cfm_tui.console.widgets.showing import chart_colours, terminal_of
from cfm_tui.display import charts
from cfm_tui.display.charts import Line, Range
from cfm_tui.display.tables import as_csv

MIN_ZOOM = 1e-9  # narrowest view, as a fraction of the whole range


class Chart(Picture, can_focus=True):
    """Lines over x. Nothing is drawn while the chart is not visible."""

    BINDINGS: ClassVar[list[BindingType]] = [
        hidden("y", "log", "log axis", id="chart.log", tooltip="Logarithmic or linear y axis"),
        hidden("plus,equals_sign", "zoom(0.5)", "zoom in", id="chart.closer", tooltip="Zoom in"),
        hidden("minus", "zoom(2)", "zoom out", id="chart.farther", tooltip="Zoom out"),
        hidden("0", "whole", "whole", id="chart.whole", tooltip="Show the whole curve"),
        hidden("left", "pan(-0.25)", "left", id="chart.left", tooltip="Move to the left"),
        hidden("right", "pan(0.25)", "right", id="chart.right", tooltip="Move to the right"),
    ]

    class Viewed(Message):
        """The visible range of x changed; None for all of it. The receiver may `plot` more points of it."""

        def __init__(self, chart: Chart, view: Range | None) -> None:
            super().__init__()
            self.chart, self.view = chart, view

    def __init__(self, *, log: bool = False, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self.log_axis = log
        self.view: Range | None = None
        self._lines: list[Line] = []
        self._title, self._x_label = "", ""
        self._mark: float | None = None
        self._whole: Range | None = None

    def plot(
        self,
        lines: Sequence[Line],
        *,
        title: str = "",
        x_label: str = "",
        mark: float | None = None,
        whole: Range | None = None,
    ) -> None:
        """Show these lines.

        mark: x of a vertical line. whole: the full range of x, if the lines cover only the visible part
        (see `Viewed`).
        """
        self._lines, self._title, self._x_label, self._mark = list(lines), title, x_label, mark
        self._whole = whole
        self._draw()

    def csv(self) -> str:
        """Return the plotted data as CSV, one row for each point of each line."""
        rows = []
        for line in self._lines:
            high = line.low if line.high is None else line.high
            for point in zip(line.x.tolist(), line.low.tolist(), high.tolist(), strict=False):
                rows.append([line.name, *(f"{number:.10g}" for number in point)])
        return as_csv(["line", self._x_label or "x", "low", "high"], rows)

    def on_mount(self) -> None:
        """Redraw when the theme, and so the colours, change."""
        self.watch(self.app, "theme", self._draw_later, init=False)

    def _draw_later(self) -> None:
        self.call_after_refresh(self._draw)

    def on_resize(self, event: Resize) -> None:
        """Redraw in the new size."""
        self._draw()

    def on_show(self, event: Show) -> None:
        """Draw what was plotted while the chart was hidden."""
        self._draw()

    def _draw(self) -> None:
        if not self.is_mounted or not self.size.area or not self.is_on_screen:
            return
        width, height = self.size
        chart = charts.draw(
            self._lines,
            width,
            height,
            terminal=terminal_of(self.app),
            colours=chart_colours(self),
            log=self.log_axis,
            x_range=self.view or self._whole,
            title=self._title,
            x_label=self._x_label,
            mark=self._mark,
        )
        self.show([Strip(row.render(self.app.console), width) for row in chart.split("\n")])

    def action_log(self) -> None:
        """Switch between a linear and a logarithmic y axis."""
        self.log_axis = not self.log_axis
        self._draw()

    def action_whole(self) -> None:
        """Show all of x."""
        self._set_view(None)

    def action_zoom(self, factor: float) -> None:
        """Multiply the visible range of x by `factor`, keeping its middle."""
        whole = self._full_range()
        if whole is None:
            return
        low, high = self.view or whole
        middle, half = (low + high) / 2, (high - low) / 2 * factor
        least = MIN_ZOOM * (whole[1] - whole[0]) / 2
        if half >= (whole[1] - whole[0]) / 2:
            self._set_view(None)
        elif half > least:
            self._set_view(_shift_into(middle - half, middle + half, whole))

    def action_pan(self, share: float) -> None:
        """Move by a share of the visible range."""
        whole = self._full_range()
        if whole is not None and self.view is not None:
            low, high = self.view
            step = share * (high - low)
            self._set_view(_shift_into(low + step, high + step, whole))

    def _set_view(self, view: Range | None) -> None:
        if view != self.view:
            self.view = view
            self._draw()
            self.post_message(self.Viewed(self, view))

    def _full_range(self) -> Range | None:
        if self._whole is not None:
            return self._whole
        finite = [line.x[np.isfinite(line.x)] for line in self._lines]
        ends = [(float(x.min()), float(x.max())) for x in finite if len(x)]
        if not ends:
            return None
        low, high = min(low for low, _ in ends), max(high for _, high in ends)
        return (low, high) if low < high else None


def _shift_into(low: float, high: float, whole: Range) -> Range:
    """Shift a range, keeping its width, so that it lies inside `whole`."""
    step = max(whole[0] - low, 0) or min(whole[1] - high, 0)
    return low + step, high + step
