"""Charts as styled text. This is the only module that uses plotext.

Plotext draws axes, lines and letters. What it is given is prepared here: points are reduced to the extremes
of each column of dots, because its time grows with their number; lines end at the edges of the visible range;
and ticks are at round numbers and at equal distances. Positions are in cells, so that any numbers can be
drawn. Plotext keeps one figure for the whole process, so only the thread that draws the screen may call this
module.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import plotext
from numpy.typing import NDArray
from rich.cells import cell_len, set_cell_size
from rich.style import Style
from rich.text import Text

from cfm_tui.display.downsampling import Floats
from cfm_tui.display.terminal import Terminal, to_ascii

Range = tuple[float, float]

#: Names of line colours; a theme maps them to colours, and also "muted" for axes and guides. A name with
#: `FAINT` behind it is the colour of a line's band.
ROLES = ("primary", "accent", "success", "secondary", "error", "warning")
FAINT = "-faint"
_AXIS, _MARK = 254, 255  # colour numbers for plotext; lines have lower ones, and 0 is no colour
_MOST_LINES = 120  # lines with colours of their own
_HUGE = 8e307  # differences of numbers up to this are finite
_TINY = 1e-307  # the smallest number on a logarithmic axis
_LABEL_LEAST = 44  # cells of a chart with labels at its right end, at least
_FEW_POINTS = 12  # up to which the points of a line are marked
_BAND_DECADES = 0.5  # how far a band extends a logarithmic axis beyond its line, which would else look flat


@dataclass(frozen=True)
class Line:
    """A line of a chart.

    x: in increasing order. y: NaN and infinity are gaps. band: lowest and highest values around the line,
    drawn faintly behind it. colour: one of `ROLES`.
    """

    name: str
    x: NDArray[Any]
    y: NDArray[Any]
    band: tuple[NDArray[Any], NDArray[Any]] | None = None
    colour: str = ROLES[0]


class Guide(NamedTuple):
    """A horizontal line at `y`, labelled at its right end."""

    name: str
    y: float


class Section(NamedTuple):
    """A part of x from `start` to the start of the next: lines are not joined across its start.

    label: at its tick. note: below the label.
    """

    start: float
    label: str
    note: str = ""


class Drawing(NamedTuple):
    """A drawn chart.

    text: its lines. left, columns: the position and the width of the plotting area in cells. x: the values of
    x at the first and the last of these columns; None where nothing is drawn.
    """

    text: Text
    left: int = 0
    columns: int = 0
    x: Range | None = None


def letter(number: int) -> str:
    """Return the letter of a line in a chart without colours. number: counted from 0."""
    return chr(ord("A") + number % 26)


def draw(
    lines: Sequence[Line],
    width: int,
    height: int,
    *,
    terminal: Terminal,
    colours: Mapping[str, str] | None = None,
    log: bool = False,
    log_x: bool = False,
    x_range: Range | None = None,
    y_bounds: Range | None = None,
    title: str = "",
    x_label: str = "",
    mark: float | None = None,
    guides: Sequence[Guide] = (),
    sections: Sequence[Section] = (),
    cursor: float | None = None,
    empty: str = "nothing to draw yet",
) -> Drawing:
    """Draw a chart as `height` lines of `width` cells; any numbers and any size are allowed.

    Lines are named at their right ends, or above the chart if it is narrow. Without colours, several lines
    are also distinguished by letters.

    colours: Rich colours by role. log, log_x: whether y and x are logarithmic. x_range: the visible part of
    x; None for all. y_bounds: limits of y, such as 0 and 100 for percentages; None for none. title: above
    the chart. x_label: at the end of the x axis. mark: x of a vertical line. cursor: x of a readout, which
    replaces the title: the values of all lines there. empty: why there may be no points.
    """
    if width < 1 or height < 1:
        return Drawing(Text("\n" * max(height - 1, 0)))
    styles = _build_styles(lines, terminal, colours or {})
    lettered = len(lines) > 1 and not styles
    is_labelled = width >= _LABEL_LEAST and 0 < len(lines) <= height - 3
    has_heading = height >= 4 and bool(title or cursor is not None or not is_labelled or height >= 12)
    names = [f"{letter(n)} {line.name}" if lettered else line.name for n, line in enumerate(lines)]
    with np.errstate(all="ignore"):
        curves = [_Curve.read(line, log, log_x) for line in lines]
        x_axis = _fit_x_axis(curves, x_range, log_x)
        if x_axis is None:
            drawing = Drawing(_draw_nothing(_explain_empty(lines, log, empty), width, height - has_heading))
        else:
            plot = _Plot(
                [curve.clip(x_axis.low, x_axis.high) for curve in curves],
                names,
                width,
                height - has_heading,
                terminal,
                styles,
                x_axis,
                log,
                y_bounds,
                "".join(c if c.isprintable() and cell_len(c) == 1 else "?" for c in x_label),
                guides if has_heading else (),
                [Section(start, _clean(label), _clean(note)) for start, label, note in sections],
                [x_axis.place(at) for at in (mark, cursor) if at is not None],
            )
            drawing, names = plot.draw(), [] if plot.labels else names
    if not has_heading:
        return drawing
    if cursor is not None and x_axis is not None:
        heading = _build_readout(lines, curves, cursor, x_axis.place(cursor), x_label, styles)
    else:
        heading = _build_heading(names, title, styles)
    heading.truncate(width, pad=True)
    if not terminal.unicode:
        heading.plain = to_ascii(heading.plain)
    return drawing._replace(text=Text("\n").join([heading, drawing.text]))


def _build_styles(lines: Sequence[Line], terminal: Terminal, colours: Mapping[str, str]) -> dict[int, Style]:
    """Return the styles of plotext's colour numbers."""
    roles = {_AXIS: "muted", _MARK: "warning"}
    for number, line in enumerate(lines[:_MOST_LINES]):
        roles |= {_colour(number): line.colour, _colour(number, faint=True): line.colour + FAINT}
    return {
        n: Style(color=colours[role]) for n, role in roles.items() if terminal.colours and role in colours
    }


def _colour(number: int, *, faint: bool = False) -> int:
    return 2 * (number % _MOST_LINES) + 1 + faint


def _clean(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)


def _build_heading(names: Sequence[str], title: str, styles: Mapping[int, Style]) -> Text:
    heading = Text(_clean(title))
    for number, name in enumerate(names if len(names) > 1 or not title else ()):
        heading.append("  " if heading else "").append(_clean(name), styles.get(_colour(number), ""))
    return heading


def _build_readout(
    lines: Sequence[Line],
    curves: Sequence[_Curve],
    cursor: float,
    position: float,
    x_label: str,
    styles: Mapping[int, Style],
) -> Text:
    """Return the values of all lines at the point next to a position on the x axis."""
    heading = Text(_clean(f"{x_label or 'x'} {_format_number(cursor, 4)}"))
    for number, (line, curve) in enumerate(zip(lines, curves, strict=True)):
        index = curve.find_nearest(position)
        if index is not None:
            value = _format_number(float(curve.raw_y[index]), 4)
            heading.append("  ").append(_clean(f"{line.name} {value}"), styles.get(_colour(number), ""))
    return heading


def _explain_empty(lines: Sequence[Line], log: bool, empty: str) -> str:
    if not any(len(line.x) and len(line.y) for line in lines):
        return empty
    if log and any(np.isfinite(line.y).any() for line in lines):
        return "nothing positive to draw on a log axis"
    return "nothing finite to draw"


def _draw_nothing(reason: str, width: int, height: int) -> Text:
    lines = [line.center(width) for line in textwrap.wrap(reason, max(width - 2, 1))][:height]
    above = (height - len(lines)) // 2
    rows = [Text(line) for line in [""] * above + lines + [""] * (height - above - len(lines))]
    for row in rows:
        row.truncate(width, pad=True)
    return Text("\n").join(rows)


# --- numbers --------------------------------------------------------------------------------------


def _clip_finite(values: NDArray[Any]) -> Floats:
    """Clip numbers so that their differences are finite; non-finite numbers become NaN."""
    numbers = np.asarray(values, np.float64)
    return np.where(np.isfinite(numbers), np.clip(numbers, -_HUGE, _HUGE), np.nan)


def _take_log(values: Floats) -> Floats:
    return np.where(values > 0, np.log10(np.maximum(values, _TINY)), np.nan)


def _cut_lowest(values: Floats) -> Floats:
    finite = values[np.isfinite(values)]
    return finite[finite >= np.quantile(finite, 0.02)] if len(finite) > 50 else finite


@dataclass(frozen=True)
class _Curve:
    """A line's points on the axes, sorted by x; logarithms where an axis is logarithmic.

    y: NaN is a gap. low, high: the band; None without one. raw_y: as the line has it.
    """

    x: Floats
    y: Floats
    low: Floats | None
    high: Floats | None
    raw_y: Floats

    @classmethod
    def read(cls, line: Line, log: bool, log_x: bool) -> _Curve:
        low, high = line.band if line.band is not None else (line.y, line.y)
        count = min(len(line.x), len(line.y), len(low), len(high))
        x, y, low, high = (_clip_finite(part[:count]) for part in (line.x, line.y, low, high))
        raw_y, (low, high) = y, (np.fmin(low, high), np.fmax(low, high))
        if log_x:
            x = _take_log(x)
        if log:  # a band that reaches 0 ends at its line
            y, high = _take_log(y), _take_log(high)
            low = np.where(low > 0, _take_log(low), np.fmin(y, high))
        order = np.argsort(x, kind="stable")[: np.isfinite(x).sum()]  # NaN is sorted to the end
        has_band = line.band is not None
        return cls(
            x[order],
            y[order],
            low[order] if has_band else None,
            high[order] if has_band else None,
            raw_y[order],
        )

    def list_sides(self, margin: float | None = None) -> list[Floats]:
        """Return the line and both sides of its band, these at most `margin` beyond the line's range."""
        if self.low is None or self.high is None:
            return [self.y]
        sides = [self.low, self.high]
        finite = self.y[np.isfinite(self.y)]
        if margin is not None and len(finite):
            sides = [np.clip(side, finite.min() - margin, finite.max() + margin) for side in sides]
        return [self.y, *sides]

    def find_nearest(self, position: float) -> int | None:
        """Return the index of the finite point next to a position on x; None without any."""
        indices = np.flatnonzero(np.isfinite(self.y))
        return int(indices[np.argmin(np.abs(self.x[indices] - position))]) if len(indices) else None

    def clip(self, low: float, high: float) -> _Curve:
        """Return the part between two x, with points on both edges if the curve crosses them."""
        inside = (self.x >= low) & (self.x <= high)
        sides = [self.y, self.low, self.high, self.raw_y]
        x = np.concatenate([[low], self.x[inside], [high]])
        ends = np.array([low, high])
        clipped: list[Floats | None] = []
        for side in sides:
            if side is None:
                clipped.append(None)
                continue
            edges = np.interp(ends, self.x, side, np.nan, np.nan) if len(self.x) else np.full(2, np.nan)
            clipped.append(np.concatenate([edges[:1], side[inside], edges[1:]]))
        y, lowest, highest, raw_y = clipped
        assert y is not None
        assert raw_y is not None
        return _Curve(x, y, lowest, highest, raw_y)


def _find_extremes(
    places: Floats, low: Floats, high: Floats, count: int
) -> tuple[Floats, Floats, Floats, NDArray[np.bool_]]:
    """Return the extremes in each of `count` columns that has points, separately on both sides of a gap.

    places: in columns. low, high: NaN where there is a gap. Returns column, minimum, maximum, and whether a
    gap precedes it.
    """
    segments = np.cumsum(np.isnan(low) | np.isnan(high))
    finite = np.isfinite(low) & np.isfinite(high)
    columns = np.clip(np.rint(places[finite]), 0, count - 1)
    segments, low, high = segments[finite], low[finite], high[finite]
    if not len(columns):
        return np.empty(0), np.empty(0), np.empty(0), np.empty(0, bool)
    is_new_segment = np.r_[False, segments[1:] != segments[:-1]]
    starts = np.flatnonzero(np.r_[True, (columns[1:] != columns[:-1]) | is_new_segment[1:]])
    extremes = np.fmin.reduceat(low, starts), np.fmax.reduceat(high, starts)
    return columns[starts], *extremes, is_new_segment[starts]


# --- axes -----------------------------------------------------------------------------------------


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
            margin = 0.5 if log or whole else abs(low) / 10 or 1.0
            low, high = max(low - margin, -_HUGE), min(high + margin, _HUGE)
        return cls(low, high, log, whole) if low < high else None

    def share(self, values: Floats) -> Floats:
        """Return the positions of values on the axis: 0 at `low`, 1 at `high`."""
        return np.asarray((values - self.low) / (self.high - self.low))

    def place(self, value: float) -> float:
        """Return a value as the axis has it: its logarithm on a logarithmic axis; NaN if it has none."""
        number = _clip_finite(np.array(value, np.float64))
        return float(_take_log(number) if self.log else number)

    def extend_to_rows(self, rows: int, bounds: Range | None = None) -> tuple[Axis, list[tuple[int, str]]]:
        """Return a slightly longer axis over `rows` rows, with its ticks: row from 0 (at `low`), and label.

        Ticks are at round numbers and the same number of rows apart. The axis stays the same while the data
        grow a little. bounds: outside them there are no ticks, and as little of the axis as possible.
        """
        intervals = rows - 1
        if intervals < 1:
            return self, []
        if intervals < 2:
            ends = (10.0 ** max(end, -307) if self.log else end for end in (self.low, self.high))
            return self, [(row, _format_number(end, 3)) for row, end in enumerate(ends)]
        floor, ceiling = bounds or (-math.inf, math.inf)
        best: tuple[float, Axis, list[tuple[int, str]]] | None = None
        for every in range(2 if intervals >= 4 else 1, max(2, intervals // 2) + 1):
            for step in self._round_steps((self.high - self.low) * every / intervals):
                low = math.floor(self.low / step + 1e-9) * step
                high = low + step * intervals / every
                if bounds is not None and low < floor:
                    low, high = floor, floor + step * intervals / every
                if high >= self.high - 1e-9 * step and -_HUGE <= low < high <= _HUGE:
                    break
            else:
                continue
            numbers = [low + step * number for number in range(intervals // every + 1)]
            used = min(high, ceiling) - low  # what lies beyond a bound is lost
            share = (min(self.high, ceiling) - self.low) / (high - low) if used > 0 else 0.0
            score = share - 0.08 * abs(len(numbers) - max(3, min(6, rows // 3)))
            if best is None or score > best[0] + 1e-9:
                labels = self._format_ticks(numbers, step)
                ticks = [
                    (number * every, label)
                    for number, label in enumerate(labels)
                    if floor - 1e-9 * step <= numbers[number] <= ceiling + 1e-9 * step
                ]
                best = score, Axis(low, high, self.log, self.whole), ticks
        if best is None:
            return self, list(
                zip((0, intervals), self._format_ticks([self.low, self.high], 0.0), strict=True)
            )
        return best[1], best[2]

    def _round_steps(self, least: float) -> list[float]:
        """Return the next few round numbers from `least` on."""
        if not 1e-300 < least < 1e307 or least < 1e-13 * max(abs(self.low), abs(self.high)):
            return []
        factors = (
            (1, 2, 3, 5)
            if self.log and least > 1
            else (1, 2, 5)
            if self.log or self.whole
            else (1, 2, 2.5, 5)
        )
        power = 10.0 ** math.floor(math.log10(least))
        steps = [factor * scale * power for scale in (1, 10) for factor in factors]
        steps = [max(step, 1.0) if self.whole else step for step in steps]
        return [step for step in steps if step >= least * (1 - 1e-9)]

    def _format_ticks(self, numbers: Sequence[float], step: float) -> list[str]:
        """Return labels with as many digits as their distance needs."""
        if self.log:
            digits = min(max(1 - math.floor(math.log10(step)), 1), 6) if step > 0 else 4
            return [_format_number(10.0 ** min(max(number, -307), 307), digits) for number in numbers]
        digits = 4
        if step:
            largest = max(map(abs, numbers), default=1) or 1
            digits = math.floor(math.log10(largest)) - math.floor(math.log10(step)) + 1
            digits += bool(round(step / 10 ** math.floor(math.log10(step)), 6) == 2.5)
            digits = min(max(digits, 1), 10)
        return [_format_number(number, digits) for number in numbers]

    def ticks(self, most: int) -> list[tuple[float, str]]:
        """Return about `most` ticks at round numbers: positions from 0 to 1, and labels."""
        compute = self._compute_log_ticks if self.log else partial(_compute_ticks, self.low, self.high)
        numbers, step = compute(most)
        if self.whole and self.log:
            numbers = [number for number in numbers if number >= 1 and number == round(number)] or numbers
        elif self.whole and step < 1:
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


def _fit_x_axis(curves: Sequence[_Curve], x_range: Range | None, log_x: bool) -> Axis | None:
    values = [10.0**curve.x if log_x else curve.x for curve in curves]
    whole = all(np.allclose(x, np.rint(x), rtol=1e-9, atol=0) for x in values)
    limits = x_range
    if x_range is not None and log_x:
        low, high = _take_log(np.array(x_range, np.float64)).tolist()
        limits = (low, high) if low < high else None
    finite = [curve.x[np.isfinite(curve.y)] for curve in curves]
    if not any(map(len, finite)):
        return None
    return Axis.fit(finite, limits, log=log_x, whole=whole)


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
    if not math.isfinite(number):
        return str(number)
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


class _Label(NamedTuple):
    row: int  # from the top
    text: str
    colour: int


@dataclass
class _Plot:
    """The part of a chart below its heading.

    curves, names: of the lines; curves end at the edges of the x axis. styles: by colour number. marks:
    positions of vertical lines on the x axis. labels: at the right ends of lines; empty if there is no room.
    left, columns, rows: the plotting area.
    """

    curves: Sequence[_Curve]
    names: Sequence[str]
    width: int
    height: int
    terminal: Terminal
    styles: Mapping[int, Style]
    x_axis: Axis
    log: bool
    y_bounds: Range | None
    x_label: str
    guides: Sequence[Guide]
    sections: Sequence[Section]
    marks: Sequence[float]
    labels: Sequence[_Label] = ()
    left: int = 0
    columns: int = 0
    rows: int = 0
    x_ticks: dict[int, str] = field(default_factory=dict)

    def draw(self) -> Drawing:
        """Lay the figure out and draw it."""
        width, height, styles = self.width, self.height, self.styles
        has_x_axis, has_y_axis = height >= 4, width >= 8
        notes = [each for each in self.sections if each.note] if height >= 9 else []
        self.rows = height - 2 * has_x_axis - bool(notes)
        y_axis, ticks = self._fit_y_axis()
        margin = max((len(label) for _, label in ticks), default=0)
        if width < 24 or margin > width // 3:
            ticks, margin = [], 0
        self.labels = self._place_labels(y_axis)
        label_width = max((cell_len(label.text) for label in self.labels), default=-1) + 1
        self.left = margin + has_y_axis
        self.columns = width - self.left - label_width
        self.x_ticks = self._place_x_ticks() if has_x_axis else {}
        plotext.clear_figure()
        try:
            plotext.limit_size(False, False)
            plotext.theme("clear")
            plotext.ticks_color(_AXIS)
            plotext.plot_size(width - label_width, self.rows + 2 * has_x_axis)
            plotext.xaxes(has_x_axis, False)
            plotext.yaxes(has_y_axis, False)
            plotext.xlim(0, max(self.columns - 1, 1))
            plotext.ylim(0, max(self.rows - 1, 1))
            plotext.xticks(list(self.x_ticks), list(self.x_ticks.values()))
            plotext.yticks([row for row, _ in ticks], [label for _, label in ticks])
            plotext.scatter([], [])  # without any signal, plotext draws no axes
            self._draw_guides(y_axis)
            bar = "┊" if self.terminal.unicode else "|"
            for mark in map(self._column, self.marks):
                if mark is not None:
                    plotext.scatter([mark] * self.rows, list(range(self.rows)), marker=bar, color=_MARK)
            for number in reversed(range(len(self.curves))):  # the first is on top
                self._draw_curve(number, y_axis)
            figure = Text.from_ansi("\n".join(plotext.build().split("\n")[: self.rows + 2 * has_x_axis]))
        finally:
            plotext.clear_figure()
        for index, span in enumerate(figure.spans):
            assert isinstance(span.style, Style)
            colour = span.style.color.number if span.style.color else None
            figure.spans[index] = span._replace(style=styles.get(colour or 0, ""))
        rows = list(figure.split("\n", allow_blank=True))
        if notes:
            rows.append(self._draw_notes(notes))
        for row in rows:
            row.truncate(width - label_width, pad=True)
        rows = self._append_labels(rows, label_width)
        if has_x_axis:
            rows[self.rows + 1] = self._label_x(rows[self.rows + 1])
        if not self.terminal.unicode:
            for row in rows:
                row.plain = to_ascii(row.plain)
        ends = self.x_axis.low, self.x_axis.high
        x_range = (10.0 ** ends[0], 10.0 ** min(ends[1], 308.0)) if self.x_axis.log else ends
        return Drawing(Text("\n").join(rows), self.left, self.columns, x_range)

    @property
    def _is_lettered(self) -> bool:
        return len(self.curves) > 1 and not self.styles

    def _fit_y_axis(self) -> tuple[Axis, list[tuple[int, str]]]:
        values = [
            side for curve in self.curves for side in curve.list_sides(_BAND_DECADES if self.log else None)
        ]
        if self.log:  # rare values close to 0 would take most of a logarithmic axis
            values = [_cut_lowest(side) for side in values]
        guides = np.array([guide.y for guide in self.guides], np.float64)
        values.append(_take_log(guides) if self.log else guides)
        axis = Axis.fit(values, log=self.log) or Axis(0.0, 1.0)
        finite = np.concatenate([side[np.isfinite(side)] for side in values])
        if self.rows < 3 and len(finite) and finite.min() == finite.max():
            axis = replace(axis, high=float(finite.min()))  # a row for the only value, exactly
        bounds = None if self.log else self.y_bounds
        if bounds is not None:
            low, high = max(axis.low, bounds[0]), min(axis.high, bounds[1])
            axis = Axis(low, high) if low < high else Axis(*bounds)
        return axis.extend_to_rows(self.rows, bounds)

    def _place_labels(self, y_axis: Axis) -> list[_Label]:
        """Return the labels at the right ends of lines and guides, each in a row of its own."""
        wanted: list[tuple[float, str, int]] = []
        for number, (name, curve) in enumerate(zip(self.names, self.curves, strict=True)):
            finite = np.flatnonzero(np.isfinite(curve.y))
            if len(finite):
                text = _clean(f"{name} {_format_number(float(curve.raw_y[finite[-1]]), 3)}")
                wanted.append((float(y_axis.share(curve.y[finite[-1]])), text, _colour(number)))
        for guide in self.guides:
            text = _clean(f"{guide.name} {_format_number(guide.y, 3)}")
            wanted.append((float(y_axis.share(np.array(y_axis.place(guide.y)))), text, _AXIS))
        room = max((cell_len(text) for _, text, _ in wanted), default=0) + 1
        if self.width < _LABEL_LEAST or len(wanted) > self.rows or room > self.width // 3:
            return []
        wanted = [each for each in wanted if math.isfinite(each[0])]
        rows = self._spread_rows([round((1 - share) * (self.rows - 1)) for share, _, _ in wanted])
        return [_Label(row, text, colour) for row, (_, text, colour) in zip(rows, wanted, strict=True)]

    def _spread_rows(self, wanted: Sequence[int]) -> list[int]:
        """Return different rows near the wanted ones, in the same order from the top."""
        order = sorted(range(len(wanted)), key=lambda index: (wanted[index], index))
        placed = dict.fromkeys(order, 0)
        lowest = -1
        for index in order:
            lowest = placed[index] = max(min(max(wanted[index], 0), self.rows - 1), lowest + 1)
        limit = self.rows
        for index in reversed(order):  # move up what was pushed out at the bottom
            limit = placed[index] = min(placed[index], limit - 1)
        return [placed[index] for index in range(len(wanted))]

    def _append_labels(self, rows: Sequence[Text], width: int) -> list[Text]:
        if width <= 0:
            return list(rows)
        by_row = {label.row: label for label in self.labels}
        result = []
        for number, row in enumerate(rows):
            label = by_row.get(number)
            text = set_cell_size(f" {label.text}" if label else "", width)
            result.append(row + Text(text, self.styles.get(label.colour, "") if label else ""))
        return result

    def _place_x_ticks(self) -> dict[int, str]:
        """Return the tick labels by column: of the sections, or at round numbers with the label of x."""
        if self.sections:
            ticks: dict[int, str] = {}
            end = -self.left  # of the last label
            for section in self.sections:
                column = self._column(section.start)
                length = max(len(section.label), len(section.note))
                if column is not None and (not ticks or column - length // 2 > end):
                    ticks[column] = section.label
                    end = column - length // 2 + length
            return ticks
        ticks = {
            round(share * (self.columns - 1)): label
            for share, label in self.x_axis.ticks(max(2, self.columns // 10))
        }
        return ticks

    def _label_x(self, row: Text) -> Text:
        """Write the label of x into the row of tick labels: beside them, or between the last two."""
        label, plain = self.x_label, row.plain
        if not label or self.sections:
            return row
        free = len(plain) - len(plain.rstrip())
        start = len(plain.rstrip()) + 2
        if free < len(label) + 2:
            gap = plain.rstrip().rpartition(" ")[0]
            start = len(gap) - len(label) - 1
            if start < 1 or len(gap.rstrip()) + 2 > start:
                return row
        return row[:start] + Text(label, self.styles.get(_AXIS, "")) + row[start + len(label) :]

    def _column(self, position: float) -> int | None:
        share = float(self.x_axis.share(np.array(position, np.float64)))
        return round(share * (self.columns - 1)) if 0 <= share <= 1 else None

    def _draw_notes(self, sections: Sequence[Section]) -> Text:
        """Return a row with the notes of the sections whose ticks are drawn."""
        row = [" "] * self.width
        for section in sections:
            column = self._column(section.start)
            if column is not None and column in self.x_ticks:
                start = max(self.left + column - len(section.note) // 2, 0)
                row[start : start + len(section.note)] = section.note
        return Text("".join(row)[: self.width], self.styles.get(_AXIS, ""))

    def _place_y(self, y_axis: Axis, values: Floats) -> Floats:
        """Return positions in rows from the bottom; what is outside the axis is just outside the chart."""
        return np.clip(y_axis.share(values) * (self.rows - 1), -1, self.rows)

    def _draw_guides(self, y_axis: Axis) -> None:
        for guide in self.guides:
            share = float(y_axis.share(np.array(y_axis.place(guide.y))))
            if 0 <= share <= 1:
                dash = "╌" if self.terminal.unicode else "-"
                row = [round(share * (self.rows - 1))] * self.columns
                plotext.scatter(list(range(self.columns)), row, marker=dash, color=_AXIS)

    def _draw_curve(self, number: int, y_axis: Axis) -> None:
        """Draw a curve over its band."""
        curve = self._break_at_sections(self.curves[number])
        marker = "braille" if self.terminal.braille else "•" if self.terminal.unicode else "*"
        if self._is_lettered and not self.terminal.braille:
            marker = letter(number)
        dots = self.columns * (2 if self.terminal.braille else 1)
        places = self.x_axis.share(curve.x) * (dots - 1)
        if curve.low is not None and curve.high is not None and self.styles:
            self._draw_band(places, curve.low, curve.high, dots, y_axis, marker, number)
        columns, low, high, after_gap = _find_extremes(places, curve.y, curve.y, dots)
        if not len(columns):
            return
        rises = np.r_[False, low[1:] >= low[:-1]]
        ends = np.where(rises, low, high), np.where(rises, high, low)
        y = self._place_y(y_axis, np.stack(ends, 1).ravel())
        x = np.repeat(columns / max(dots - 1, 1) * (self.columns - 1), 2)
        distinct = np.r_[True, (x[1:] != x[:-1]) | (y[1:] != y[:-1])] | np.repeat(after_gap, 2)
        gaps = 2 * np.flatnonzero(after_gap)
        gaps -= np.cumsum(~distinct)[gaps]  # positions among the points that are kept
        x, y = np.insert(x[distinct], gaps, 0.0), np.insert(y[distinct], gaps, np.nan)
        plotext.plot(x.tolist(), y.tolist(), marker=marker, color=_colour(number))
        self._mark_points(curve, y_axis, number)
        if self._is_lettered and self.terminal.braille:
            self._draw_letters(x, y, number)

    def _mark_points(self, curve: _Curve, y_axis: Axis, number: int) -> None:
        """Mark the points of a curve that has few: its line may be short, or a single dot of Braille."""
        points = slice(1, -1)  # the outer ones are where the line meets the edges
        is_finite = np.isfinite(curve.y[points])
        if not self.terminal.braille or not 0 < is_finite.sum() <= _FEW_POINTS:
            return
        x = self.x_axis.share(curve.x[points][is_finite]) * (self.columns - 1)
        y = self._place_y(y_axis, curve.y[points][is_finite])
        plotext.scatter(x.tolist(), y.tolist(), marker="•", color=_colour(number))

    def _break_at_sections(self, curve: _Curve) -> _Curve:
        """Return a curve with a gap before every section that is wide enough to see it."""
        starts = np.array([section.start for section in self.sections[1:]], np.float64)
        if not len(starts) or self.columns < 4 * len(starts):
            return curve
        indices = np.searchsorted(curve.x, starts)
        indices = np.unique(indices[(indices > 0) & (indices < len(curve.x))])

        def insert(values: Floats | None) -> Floats | None:
            return None if values is None else np.insert(values, indices, np.nan)

        x, y = np.insert(curve.x, indices, curve.x[indices]), np.insert(curve.y, indices, np.nan)
        return _Curve(x, y, insert(curve.low), insert(curve.high), np.insert(curve.raw_y, indices, np.nan))

    def _draw_band(
        self,
        places: Floats,
        low: Floats,
        high: Floats,
        dots: int,
        y_axis: Axis,
        marker: str,
        number: int,
    ) -> None:
        columns, low, high, _ = _find_extremes(places, low, high, dots)
        x = np.repeat(columns / max(dots - 1, 1) * (self.columns - 1), 3)
        y = np.empty(3 * len(columns))
        y[::3], y[1::3] = self._place_y(y_axis, low), self._place_y(y_axis, high)
        y[2::3] = np.nan  # a vertical bar in each column of dots
        if len(x):
            plotext.plot(x.tolist(), y.tolist(), marker=marker, color=_colour(number, faint=True))

    def _draw_letters(self, x: Floats, y: Floats, number: int) -> None:
        """Write a curve's letter on it at regular distances."""
        count = len(self.curves)
        every = max(14, 2 * count)
        finite = np.flatnonzero(np.isfinite(y))
        _, first = np.unique(np.rint(x[finite]), return_index=True)
        start = (2 * number + 1) * every // (2 * count)
        for index in [*first[start::every].tolist()] or first[-1:].tolist():
            plotext.text(
                letter(number),
                round(float(x[finite[index]])),
                round(float(y[finite[index]])),
                color=_colour(number),
            )
