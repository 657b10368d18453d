"""A chart that can be zoomed and panned, with a linear or a logarithmic axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from textual.binding import Binding, BindingType
from textual.events import Resize, Show
from textual.message import Message
from textual.strip import Strip

from cfm_tui.console.widgets.picture import Picture
from cfm_tui.console.widgets.showing import chart_colours, terminal_of
from cfm_tui.display import charts
from cfm_tui.display.charts import Line, Range
from cfm_tui.display.tables import as_csv

LEAST = 1e-9  # of the whole, which can be zoomed to


class Chart(Picture, can_focus=True):
    """Lines over x. Draws nothing while it is not to be seen."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "log", "log axis", show=False, id="chart.log", tooltip="Logarithmic y axis, or linear"),
        Binding("plus,equals_sign", "zoom(0.5)", "zoom in", show=False, id="chart.closer", tooltip="Zoom in"),
        Binding("minus", "zoom(2)", "zoom out", show=False, id="chart.farther", tooltip="Zoom out"),
        Binding("0", "whole", "whole", show=False, id="chart.whole", tooltip="Show the whole curve"),
        Binding("left", "pan(-0.25)", "left", show=False, id="chart.left", tooltip="Move to the left"),
        Binding("right", "pan(0.25)", "right", show=False, id="chart.right", tooltip="Move to the right"),
    ]

    class Viewed(Message):
        """Another part of x is shown; None: the whole. Who knows more points of it may `plot` them."""

        def __init__(self, chart: Chart, view: Range | None) -> None:
            super().__init__()
            self.chart, self.view = chart, view

        @property
        def control(self) -> Chart:
            """For `@on` with a selector."""
            return self.chart

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
        """Show these lines. mark: an x where a vertical line stands.

        whole: the ends of x, when the lines are only the part in view (see `Viewed`).
        """
        self._lines, self._title, self._x_label, self._mark = list(lines), title, x_label, mark
        self._whole = whole
        self._draw()

    def csv(self) -> str:
        """What is plotted: one row for each point of each line."""
        rows = []
        for line in self._lines:
            high = line.low if line.high is None else line.high
            for point in zip(line.x.tolist(), line.low.tolist(), high.tolist(), strict=False):
                rows.append([line.name, *(f"{number:.10g}" for number in point)])
        return as_csv(["line", self._x_label or "x", "low", "high"], rows)

    def on_mount(self) -> None:
        """Another theme has other colours."""
        self.watch(self.app, "theme", self._draw_later, init=False)

    def _draw_later(self) -> None:
        self.call_after_refresh(self._draw)

    def on_resize(self, event: Resize) -> None:
        """Draw in the new size."""
        self._draw()

    def on_show(self, event: Show) -> None:
        """Draw what was plotted meanwhile."""
        self._draw()

    def _draw(self) -> None:
        if not self.is_mounted or not self.size.area or not self.is_on_screen:
            return
        width, height = self.size
        rows = charts.draw(
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
        self.show([Strip(row, width) for row in rows])

    def action_log(self) -> None:
        """Change between a linear and a logarithmic y axis."""
        self.log_axis = not self.log_axis
        self._draw()

    def action_whole(self) -> None:
        """Show all of x."""
        self._look_at(None)

    def action_zoom(self, times: float) -> None:
        """Show so many times as much of x, around the middle."""
        whole = self._ends()
        if whole is None:
            return
        low, high = self.view or whole
        middle, half = (low + high) / 2, (high - low) / 2 * times
        least = LEAST * (whole[1] - whole[0]) / 2
        if half >= (whole[1] - whole[0]) / 2:
            self._look_at(None)
        elif half > least:
            self._look_at(_within(middle - half, middle + half, whole))

    def action_pan(self, share: float) -> None:
        """Move by a share of what is in view."""
        whole = self._ends()
        if whole is not None and self.view is not None:
            low, high = self.view
            step = share * (high - low)
            self._look_at(_within(low + step, high + step, whole))

    def _look_at(self, view: Range | None) -> None:
        if view != self.view:
            self.view = view
            self._draw()
            self.post_message(self.Viewed(self, view))

    def _ends(self) -> Range | None:
        if self._whole is not None:
            return self._whole
        finite = [line.x[np.isfinite(line.x)] for line in self._lines]
        ends = [(float(x.min()), float(x.max())) for x in finite if len(x)]
        if not ends:
            return None
        low, high = min(low for low, _ in ends), max(high for _, high in ends)
        return (low, high) if low < high else None


def _within(low: float, high: float, whole: Range) -> Range:
    """Moved, not cut, so that it lies inside."""
    step = max(whole[0] - low, 0) or min(whole[1] - high, 0)
    return low + step, high + step
