"""A chart that can be zoomed, panned and read out, with a linear or a logarithmic axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from textual import events
from textual.binding import BindingType
from textual.message import Message
from textual.strip import Strip

from cfm_tui.console.engine_link import hidden
from cfm_tui.console.widgets.picture import Picture
from cfm_tui.console.widgets.showing import chart_colours, terminal_of
from cfm_tui.display import charts
from cfm_tui.display.charts import Drawing, Guide, Line, Range, Section
from cfm_tui.display.tables import as_csv

MIN_ZOOM = 1e-9  # narrowest view, as a fraction of the whole range


@dataclass(frozen=True)
class _Contents:
    """What a chart shows (see `charts.draw`)."""

    lines: Sequence[Line] = ()
    title: str = ""
    x_label: str = ""
    mark: float | None = None
    whole: Range | None = None
    guides: Sequence[Guide] = ()
    sections: Sequence[Section] = ()
    empty: str = "nothing to draw yet"


class Chart(Picture, can_focus=True):
    """Lines over x. Nothing is drawn while the chart is not visible, and before `plot` is called.

    log, log_x: whether the axes are logarithmic. y_bounds: limits of y, such as 0 and 100 for percentages.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        hidden("y", "log", "log axis", id="chart.log", tooltip="Logarithmic or linear y axis"),
        hidden("plus,equals_sign", "zoom(0.5)", "zoom in", id="chart.closer", tooltip="Zoom in"),
        hidden("minus", "zoom(2)", "zoom out", id="chart.farther", tooltip="Zoom out"),
        hidden("0", "whole", "whole", id="chart.whole", tooltip="Show the whole curve"),
        hidden("left", "read(-1)", "value before", id="chart.left", tooltip="Read the values to the left"),
        hidden("right", "read(1)", "next value", id="chart.right", tooltip="Read the values to the right"),
        hidden("shift+left", "pan(-0.25)", "left", id="chart.pan_left", tooltip="Move to the left"),
        hidden("shift+right", "pan(0.25)", "right", id="chart.pan_right", tooltip="Move to the right"),
    ]

    class Viewed(Message):
        """The visible range of x changed; None for all of it. The receiver may `plot` more points of it."""

        def __init__(self, chart: Chart, view: Range | None) -> None:
            super().__init__()
            self.chart, self.view = chart, view

    def __init__(
        self,
        *,
        log: bool = False,
        log_x: bool = False,
        y_bounds: Range | None = None,
        id: str | None = None,
        classes: str | None = None,
    ) -> None:
        super().__init__(id=id, classes=classes)
        self.log_axis, self._log_x, self._y_bounds = log, log_x, y_bounds
        self.view: Range | None = None
        self.cursor: float | None = None  #: x of the readout
        self._contents = _Contents()
        self._is_plotted = False
        self._drawing: Drawing | None = None

    def plot(
        self,
        lines: Sequence[Line],
        *,
        title: str = "",
        x_label: str = "",
        mark: float | None = None,
        whole: Range | None = None,
        guides: Sequence[Guide] = (),
        sections: Sequence[Section] = (),
        empty: str = _Contents.empty,
    ) -> None:
        """Show these lines; for the other arguments, see `charts.draw`.

        whole: the full range of x, if the lines cover only the visible part (see `Viewed`).
        """
        self._contents = _Contents(
            tuple(lines), title, x_label, mark, whole, tuple(guides), tuple(sections), empty
        )
        self._is_plotted = True
        self._draw()

    def csv(self) -> str:
        """Return the plotted data as CSV, one row for each point of each line."""
        rows = []
        for line in self._contents.lines:
            low, high = line.band if line.band is not None else (line.y, line.y)
            for point in zip(line.x.tolist(), line.y.tolist(), low.tolist(), high.tolist(), strict=False):
                rows.append([line.name, *(f"{number:.10g}" for number in point)])
        return as_csv(["line", self._contents.x_label or "x", "y", "low", "high"], rows)

    def on_mount(self) -> None:
        """Redraw when the theme, and so the colours, change."""
        self.watch(self.app, "theme", self._draw_later, init=False)

    def _draw_later(self) -> None:
        self.call_after_refresh(self._draw)

    def on_resize(self, event: events.Resize) -> None:
        """Redraw in the new size."""
        self._draw()

    def on_show(self, event: events.Show) -> None:
        """Draw what was plotted while the chart was hidden."""
        self._draw()

    def _draw(self) -> None:
        if not self._is_plotted or not self.is_mounted or not self.size.area or not self.is_on_screen:
            return
        width, height = self.size
        contents = self._contents
        self._drawing = charts.draw(
            contents.lines,
            width,
            height,
            terminal=terminal_of(self.app),
            colours=chart_colours(self),
            log=self.log_axis,
            log_x=self._log_x,
            x_range=self.view or contents.whole,
            y_bounds=self._y_bounds,
            title=contents.title,
            x_label=contents.x_label,
            mark=contents.mark,
            guides=contents.guides,
            sections=contents.sections,
            cursor=self.cursor,
            empty=contents.empty,
        )
        rows = self._drawing.text.split("\n", allow_blank=True)
        self.show([Strip(row.render(self.app.console), width) for row in rows])

    # --- the readout ------------------------------------------------------------------------------

    def _move_cursor(self, x: float | None) -> None:
        if x != self.cursor:
            self.cursor = x
            self._draw()

    def _find_x(self, column: int) -> float | None:
        """Return x at a column of the widget; None outside the plotting area."""
        drawing = self._drawing
        if drawing is None or drawing.x is None or not 0 <= column - drawing.left < drawing.columns:
            return None
        share = (column - drawing.left) / max(drawing.columns - 1, 1)
        low, high = self._to_axis(*drawing.x)
        return self._from_axis(low + share * (high - low))[0]

    def _to_axis(self, *values: float) -> list[float]:
        """Return values of x as the axis has them: their logarithms on a logarithmic axis."""
        return [math.log10(max(value, 1e-300)) for value in values] if self._log_x else list(values)

    def _from_axis(self, *positions: float) -> list[float]:
        return [10.0**position for position in positions] if self._log_x else list(positions)

    def on_mouse_move(self, event: events.MouseMove) -> None:
        """Read out the values under the mouse."""
        self._move_cursor(self._find_x(event.x))

    def on_leave(self) -> None:
        """End the readout when the mouse leaves."""
        self._move_cursor(None)

    def on_blur(self) -> None:
        """End the readout when the focus leaves."""
        self._move_cursor(None)

    def action_read(self, step: int) -> None:
        """Move the readout by a column; it starts at the right end, and moves the view at its edges."""
        drawing = self._drawing
        if drawing is None or drawing.x is None:
            return
        last = drawing.columns - 1
        low, high = self._to_axis(*drawing.x)
        column = last + 1 if step < 0 else -1
        if self.cursor is not None:
            (at,) = self._to_axis(self.cursor)
            column = round((at - low) / (high - low) * last)
        if not 0 <= column + step <= last:
            self.action_pan(0.25 * step)
        self._move_cursor(self._find_x(drawing.left + min(max(column + step, 0), last)))

    # --- zoom -------------------------------------------------------------------------------------

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """Zoom in around the mouse."""
        self._zoom_at(event, 0.8)

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """Zoom out around the mouse."""
        self._zoom_at(event, 1.25)

    def _zoom_at(self, event: events.MouseEvent, factor: float) -> None:
        event.stop()
        self._zoom(factor, self._find_x(event.x))

    def action_log(self) -> None:
        """Switch between a linear and a logarithmic y axis."""
        self.log_axis = not self.log_axis
        self._draw()

    def action_whole(self) -> None:
        """Show all of x."""
        self._set_view(None)

    def action_zoom(self, factor: float) -> None:
        """Multiply the visible range of x by `factor`, keeping the readout's position, or else its middle."""
        self._zoom(factor, self.cursor)

    def _zoom(self, factor: float, centre: float | None) -> None:
        whole = self._full_range()
        if whole is None:
            return
        full_low, full_high = self._to_axis(*whole)
        low, high = self._to_axis(*(self.view or whole))
        at = (low + high) / 2 if centre is None else self._to_axis(centre)[0]
        if (high - low) * factor >= full_high - full_low:
            self._set_view(None)
        elif (high - low) * factor > MIN_ZOOM * (full_high - full_low):
            ends = at - (at - low) * factor, at + (high - at) * factor
            low, high = _shift_into(*ends, (full_low, full_high))
            low, high = self._from_axis(low, high)
            self._set_view((low, high))

    def action_pan(self, share: float) -> None:
        """Move by a share of the visible range."""
        whole = self._full_range()
        if whole is not None and self.view is not None:
            low, high = self._to_axis(*self.view)
            step = share * (high - low)
            full_low, full_high = self._to_axis(*whole)
            low, high = _shift_into(low + step, high + step, (full_low, full_high))
            low, high = self._from_axis(low, high)
            self._set_view((low, high))

    def _set_view(self, view: Range | None) -> None:
        if view != self.view:
            self.view = view
            self._draw()
            self.post_message(self.Viewed(self, view))

    def _full_range(self) -> Range | None:
        if self._contents.whole is not None:
            return self._contents.whole
        finite = [
            line.x[np.isfinite(line.x) & ((line.x > 0) | (not self._log_x))] for line in self._contents.lines
        ]
        ends = [(float(x.min()), float(x.max())) for x in finite if len(x)]
        if not ends:
            return None
        low, high = min(low for low, _ in ends), max(high for _, high in ends)
        return (low, high) if low < high else None


def _shift_into(low: float, high: float, whole: Range) -> Range:
    """Shift a range, keeping its width, so that it lies inside `whole`."""
    step = max(whole[0] - low, 0) or min(whole[1] - high, 0)
    return low + step, high + step
