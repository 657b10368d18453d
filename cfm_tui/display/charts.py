"""Charts as styled text. This is the only module that uses plotext.

Plotext draws the axes, ticks, letters and marks. Two things are computed here, because plotext cannot do
them: ticks at round numbers, and the dots of dense curves. Plotext draws dots one by one, which takes 60 ms
for a band of 110×20 cells and 0.6 s for three of 180×40, instead of 10 and 40 ms. Plotext keeps one figure
for the whole process, so only the thread that draws the screen may call this module.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import plotext
from numpy.typing import NDArray
from rich.cells import cell_len
from rich.color import Color
from rich.style import Style
from rich.text import Text

from cfm_tui.display.downsampling import Floats
from cfm_tui.display.terminal import Terminal, to_ascii

Range = tuple[float, float]
Curve = tuple[Floats, Floats, Floats]  #: x, lower and upper values

#: Names of line colours; a theme maps them to colours, and also "muted" for axes.
ROLES = ("primary", "accent", "success", "secondary", "error", "warning")
_AXIS, _MARK = 254, 255  # colour numbers for plotext; lines have lower ones, and 0 is no colour
_HUGE = 8e307  # differences of numbers up to this are finite
_TINY = 1e-307  # the smallest number on a log axis
_BELOW = -999.0  # logarithm of a non-positive lower end with a positive upper end


@dataclass(frozen=True)
class Line:
    """A line of a chart, or a band from `low` to `high` if `high` is given.

    x: in increasing order. NaN and infinity are gaps. colour: one of `ROLES`.
    """

    name: str
    x: NDArray[Any]
    low: NDArray[Any]
    high: NDArray[Any] | None = None
    colour: str = ROLES[0]


def letter(number: int) -> str:
    """Return the letter that marks a line in a chart with several lines. number: counted from 0."""
    return chr(ord("A") + number % 26)


def draw(
    lines: Sequence[Line],
    width: int,
    height: int,
    *,
    terminal: Terminal,
    colours: Mapping[str, str] | None = None,
    log: bool = False,
    x_range: Range | None = None,
    title: str = "",
    x_label: str = "",
    mark: float | None = None,
) -> Text:
    """Draw a chart as `height` lines of `width` cells; any numbers and any size are allowed.

    Several lines are also distinguished by letters, which the legend explains. colours: Rich colours by role.
    log: whether y is logarithmic. mark: x of a vertical line.
    """
    if width < 1 or height < 1:
        return Text("\n" * max(height - 1, 0))
    roles = {number % 250 + 1: line.colour for number, line in enumerate(lines)}
    styles = {
        number: Style(color=colours[role])
        for number, role in (roles | {_AXIS: "muted", _MARK: "warning"}).items()
        if terminal.colours and colours and role in colours
    }
    rows = []
    if height >= 4 and (title or lines):
        rows.append(_build_heading(lines, title, width, terminal, styles))
        height -= 1
    with np.errstate(all="ignore"):
        curves = [_read_curve(line, log) for line in lines]
        whole = all(np.array_equal(x, np.rint(x)) for x, _, _ in curves)
        x_axis = Axis.fit([x[np.isfinite(low)] for x, low, _ in curves], x_range, whole=whole)
        if x_axis is None or not curves:
            message = Text(_explain_empty(lines, log).center(width))
            message.truncate(width, pad=True)
            blank = Text(" " * width)
            rows += [*[blank] * (height // 2), message, *[blank] * (height - height // 2 - 1)]
        else:
            label = "".join(c if c.isprintable() and cell_len(c) == 1 else "?" for c in x_label)
            figure = _draw_figure(curves, width, height, terminal, x_axis, log, label, mark)
            for index, span in enumerate(figure.spans):
                assert isinstance(span.style, Style)
                number = span.style.color.number if span.style.color else None
                figure.spans[index] = span._replace(style=styles.get(number or 0, ""))
            rows.append(figure)
    return Text("\n").join(rows)


def _build_heading(
    lines: Sequence[Line], title: str, width: int, terminal: Terminal, styles: Mapping[int, Style]
) -> Text:
    parts: list[tuple[str, Style | str]] = [(title, "")] if title else []
    for n, line in enumerate(lines if len(lines) > 1 or not title else ()):
        name = f"{letter(n)} {line.name}" if len(lines) > 1 else line.name
        parts.append((name, styles.get(n % 250 + 1, "")))
    heading = Text()
    for text, style in parts:
        text = "".join(character if character.isprintable() else "?" for character in text)
        heading.append("  " if heading else "").append(text if terminal.unicode else to_ascii(text), style)
    heading.truncate(width, pad=True)
    return heading


def _explain_empty(lines: Sequence[Line], log: bool) -> str:
    if not any(len(line.x) and len(line.low) for line in lines):
        return "nothing to draw yet"
    if log and any(np.isfinite(line.low).any() for line in lines):
        return "nothing positive to draw on a log axis"
    return "nothing finite to draw"


# --- numbers --------------------------------------------------------------------------------------


def _clip_finite(values: NDArray[Any]) -> Floats:
    """Clip numbers so that their differences are finite; non-finite numbers become NaN."""
    numbers = np.asarray(values, np.float64)
    return np.where(np.isfinite(numbers), np.clip(numbers, -_HUGE, _HUGE), np.nan)


def _read_curve(line: Line, log: bool) -> Curve:
    """Return x in increasing order, lower and upper values; NaN marks a gap."""
    high = line.low if line.high is None else line.high
    count = min(len(line.x), len(line.low), len(high))
    x, low, high = _clip_finite(line.x[:count]), _clip_finite(line.low[:count]), _clip_finite(high[:count])
    low, high = np.fmin(low, high), np.fmax(low, high)
    if log:
        high = np.where(high > 0, np.log10(np.maximum(high, _TINY)), np.nan)
        low = np.where(low > 0, np.log10(np.maximum(low, _TINY)), np.where(np.isnan(high), np.nan, _BELOW))
    order = np.argsort(x, kind="stable")[: np.isfinite(x).sum()]  # NaN is sorted to the end
    return x[order], low[order], high[order]


def _compute_bounds(curve: Curve, x_axis: Axis, count: int) -> tuple[Floats, Floats]:
    """Return the minimum and maximum in each of `count` columns of dots; NaN in an empty column.

    Points are joined by straight lines, except across gaps. No peak is lost.
    """
    x, *sides = curve
    positions = np.clip(x_axis.share(x) * (count - 1), -1e9, 1e9)
    edges = np.arange(count + 1) - 0.5
    visible = (positions >= -0.5) & (positions <= count - 0.5)
    inside = np.clip(np.rint(positions[visible]), 0, count - 1).astype(int)
    columns = np.concatenate([inside, np.arange(count), np.arange(count)])
    bounds = []
    for values, extreme in zip(sides, (np.fmin, np.fmax), strict=True):
        bound, at_edges = np.full(count, np.nan), np.full(count + 1, np.nan)
        if len(x):
            at_edges = np.interp(edges, positions, values, np.nan, np.nan)
        extreme.at(bound, columns, np.concatenate([values[visible], at_edges[:-1], at_edges[1:]]))
        bounds.append(bound)
    return bounds[0], bounds[1]


@dataclass(frozen=True)
class Axis:
    """A range from `low` to `high`, which differ.

    log: the axis is logarithmic, and low and high are base-10 logarithms. whole: the axis counts something;
    ticks are integers if there are any in the range.
    """

    low: float
    high: float
    log: bool = False
    whole: bool = False

    @classmethod
    def fit(
        cls, values: Sequence[Floats], limits: Range | None = None, *, log: bool = False, whole: bool = False
    ) -> Axis | None:
        """Return an axis with the given limits, or one that contains all finite values; None without either.

        values, limits: logarithms if `log`.
        """
        if limits is not None:
            low, high = sorted(_clip_finite(np.array(limits)).tolist())
            if low < high:
                return cls(low, high, log, whole)
        finite = np.concatenate([np.empty(0), *(part[np.isfinite(part)] for part in values)])
        if not len(finite):
            return None
        low, high = float(finite.min()), float(finite.max())
        if low == high:
            margin = 0.5 if log or whole else abs(low) / 2 or 1.0
            low, high = max(low - margin, -_HUGE), min(high + margin, _HUGE)
        return cls(low, high, log, whole) if low < high else None

    def share(self, values: Floats) -> Floats:
        """Return the positions of values on the axis: 0 at `low`, 1 at `high`."""
        return np.asarray((values - self.low) / (self.high - self.low))

    def round_outward(self) -> Axis:
        """Return a slightly longer axis that stays the same while the data grow a little."""
        step = _compute_ticks(self.low, self.high, 25)[1]
        low, high = math.floor(self.low / step) * step, math.ceil(self.high / step) * step
        return Axis(max(low, -_HUGE), min(high, _HUGE), self.log, self.whole) if low < high else self

    def ticks(self, most: int) -> list[tuple[float, str]]:
        """Return about `most` ticks at round numbers: positions from 0 to 1, and labels."""
        compute = self._compute_log_ticks if self.log else partial(_compute_ticks, self.low, self.high)
        numbers, step = compute(most)
        if self.whole and step < 1:
            counts = range(math.ceil(self.low), math.floor(self.high) + 1)
            numbers, step = ([float(count) for count in counts], 1.0) if counts else (numbers, step)
        digits = 1
        if step:
            largest = max(map(abs, numbers), default=1) or 1
            digits = min(max(math.floor(math.log10(largest)) - math.floor(math.log10(step)) + 1, 1), 6)
        places = np.log10(numbers) if self.log else np.array(numbers)
        return [
            (float(share), _format_number(number, digits))
            for share, number in zip(self.share(places), numbers, strict=True)
            if -1e-9 <= share <= 1 + 1e-9
        ]

    def _compute_log_ticks(self, most: int) -> tuple[list[float], float]:
        """Return ticks and their distance; 0 if it varies."""
        first, last = math.ceil(self.low - 1e-9), math.floor(self.high + 1e-9)
        if last - first >= 1:
            every = -(-(last - first + 1) // most)
            powers = range(max(first - 1, -307), min(last, 307) + 1)
            if 3 * (last - first) <= most:
                return [factor * 10.0**power for power in powers for factor in (1, 2, 5)], 0.0
            return [10.0**power for power in powers[1::every]], 0.0
        return _compute_ticks(10.0**self.low, 10.0 ** min(self.high, 308.0), most)


def _compute_ticks(low: float, high: float, most: int) -> tuple[list[float], float]:
    """Return ticks at multiples of 1, 2 or 5 times a power of ten, else at the ends, and their distance."""
    target = (high - low) / most
    if target < 1e-300 or target < 1e-13 * max(abs(low), abs(high)):
        return [low, high], high - low
    power = 10.0 ** math.floor(math.log10(target))
    step = next((factor * power for factor in (1, 2, 5) if factor * power >= target), 10 * power)
    ticks = [number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return (ticks, step) if ticks else ([low, high], high - low)


def _format_number(number: float, digits: int) -> str:
    """Format a number with `digits` digits, with k and M, or with an exponent if that is shorter."""
    size = abs(number)
    if size == 0:
        return "0"
    for least, unit, suffix in ((1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if least <= size < 1e9:
            form = f".{digits}g" if size / unit < 10**digits else ".0f"
            return f"{number / unit:{form}}{suffix}"
    if 1e-4 <= size < 1e4:
        plain = f"{number:.{max(digits - 1 - math.floor(math.log10(size)), 0)}f}"
        return plain.rstrip("0").rstrip(".") if "." in plain else plain
    mantissa, exponent = f"{number:.{digits - 1}e}".split("e")
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return f"{mantissa}e{int(exponent)}"


# --- the figure -----------------------------------------------------------------------------------


def _draw_figure(
    curves: Sequence[Curve],
    width: int,
    height: int,
    terminal: Terminal,
    x_axis: Axis,
    log: bool,
    x_label: str,
    mark: float | None,
) -> Text:
    """Draw the figure below the heading; its colours are the numbers of lines, `_AXIS` and `_MARK`."""
    bounds = [side[side > _BELOW] for curve in curves for side in _compute_bounds(curve, x_axis, width)]
    y_axis = (Axis.fit(bounds, log=log) or Axis(0.0, 1.0)).round_outward()
    has_x_axis, has_y_axis = height >= 4, width >= 8
    rows = height - 2 * has_x_axis
    ticks = y_axis.ticks(max(2, rows // 2)) if height >= 3 else []
    margin = max((len(label) for _, label in ticks), default=0)
    if width < 24 or margin > width // 3:
        ticks, margin = [], 0
    y_ticks = {round(share * (rows - 1)): label for share, label in ticks}
    columns = width - has_y_axis - margin
    x_ticks = {round(share * (columns - 1)): label for share, label in x_axis.ticks(max(2, columns // 10))}
    if x_label and len(x_label) <= columns // 3:
        room = columns - len(x_label) - 2
        x_ticks = {column: text for column, text in x_ticks.items() if column + (len(text) + 1) // 2 <= room}
    else:
        x_label = ""
    plotext.clear_figure()
    try:
        plotext.limit_size(False, False)
        plotext.theme("clear")
        plotext.ticks_color(_AXIS)
        plotext.plot_size(width, height)
        plotext.xaxes(has_x_axis, False)
        plotext.yaxes(has_y_axis, False)
        plotext.xlim(0, max(columns - 1, 1))
        plotext.ylim(0, max(rows - 1, 1))
        plotext.xticks(list(x_ticks) if has_x_axis else [], list(x_ticks.values()) if has_x_axis else [])
        plotext.yticks(list(y_ticks), list(y_ticks.values()))
        mark_share = float(x_axis.share(_clip_finite(np.array(math.nan if mark is None else mark))))
        if 0 <= mark_share <= 1:
            plotext.vertical_line(mark_share * (columns - 1), _MARK)
        plotext.scatter([], [])  # without any signal, plotext draws no axes
        _plot_dots(curves, x_axis, y_axis, columns, rows, terminal)
        figure = Text.from_ansi("\n".join(plotext.build().split("\n")[:height]))
    finally:
        plotext.clear_figure()
    if x_label and has_x_axis:
        figure.right_crop(len(x_label))
        figure.append(x_label, Style(color=Color.from_ansi(_AXIS)))
    if not terminal.unicode:
        figure.plain = "\n".join(map(to_ascii, figure.plain.split("\n")))
    return figure


def _plot_dots(
    curves: Sequence[Curve], x_axis: Axis, y_axis: Axis, columns: int, rows: int, terminal: Terminal
) -> None:
    """Give plotext the character of each cell; the first line is on top. Letters mark several lines."""
    weights = np.array([[1, 8], [2, 16], [4, 32], [64, 128]])  # of the dots of a cell: Braille,
    if not terminal.braille:
        weights = np.array([[1], [2]] if terminal.blocks else [[1]])  # half blocks, or a letter
    dots = rows * len(weights)
    codes = []  # by line, the sum of the weights of the dots of each cell, rows from the top
    for curve in curves:
        low, high = (
            np.clip(np.rint(y_axis.share(bound) * (dots - 1)), -1, dots)
            for bound in _compute_bounds(curve, x_axis, columns * weights.shape[1])
        )
        row = np.arange(dots)[::-1, None]
        lit = ((row >= low) & (row <= high)).reshape(rows, len(weights), columns, -1)
        codes.append(np.einsum("rhcw,hw->rc", lit, weights))
    union = np.bitwise_or.reduce(codes)
    hidden = np.zeros_like(union, bool)
    for number, code in enumerate(codes):
        row, column = np.nonzero((code > 0) & ~hidden)
        hidden |= code > 0
        if weights.size > 2:
            markers = [chr(0x2800 + each) for each in union[row, column].tolist()]
        elif weights.size == 2:
            markers = [" ▀▄█"[each] for each in union[row, column].tolist()]
        else:
            markers = [letter(number) if len(codes) > 1 else "*"] * len(row)
        colour = number % 250 + 1
        if markers:
            plotext.scatter(column.tolist(), (rows - 1 - row).tolist(), marker=markers, color=colour)
        if len(codes) > 1 and weights.size > 1:
            _plot_letters(code, number, len(codes), colour)


def _plot_letters(code: NDArray[Any], number: int, count: int, colour: int) -> None:
    """Write a line's letter on it at regular distances."""
    every = max(14, 2 * count)
    columns = np.flatnonzero(code.any(0)).tolist()
    for column in columns[(2 * number + 1) * every // (2 * count) :: every] or columns[-1:]:
        lit = np.flatnonzero(code[:, column])
        plotext.text(letter(number), column, len(code) - 1 - int(lit[len(lit) // 2]), color=colour)
