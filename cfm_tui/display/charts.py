"""Charts as rows of styled cells. This is the only module that uses plotext.

This module converts lines to dots itself, because plotext is slow for many dots and its table of Braille
characters is incomplete. Plotext only composes cells, axes and ticks. It keeps one figure for the whole
process, so only the thread that draws the screen may call this module.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotext
from numpy.typing import NDArray
from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style

from cfm_tui.display.axes import TINY, Axis, clip_finite, fit_axis
from cfm_tui.display.terminal import Terminal, to_ascii

Floats = NDArray[np.float64]
Rows = list[list[Segment]]
Range = tuple[float, float]
Cell = tuple[int, int, str]  # column, row from the bottom, character

#: Names of line colours; a theme maps them to colours.
ROLES = ("primary", "accent", "success", "secondary", "error", "warning")
AXIS, MARK = "muted", "warning"
_AXIS, _MARK = 254, 255  # their colour numbers for plotext; lines have lower ones
BRAILLE = np.array([[1, 8], [2, 16], [4, 32], [64, 128]])  # code of each dot of a cell, rows from the top
HALVES = np.array([[1], [2]])
WHOLE = np.array([[1]])
BELOW = -999.0  # logarithm of a non-positive lower end with a positive upper end
LETTER_EVERY = 14  # cells between two letters of a line
RUN = re.compile(r"\x1b\[(?:38;5;(\d+)|0)m")


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


def draw(
    lines: Sequence[Line],
    width: int,
    height: int,
    *,
    terminal: Terminal,
    colours: Mapping[str, str] | None = None,
    log: bool = False,
    x_range: Range | None = None,
    y_range: Range | None = None,
    title: str = "",
    x_label: str = "",
    mark: float | None = None,
) -> Rows:
    """Draw a chart as `height` rows of `width` cells; any numbers and any size are allowed.

    Several lines are also distinguished by letters, which the legend explains. colours: Rich colours by role.
    log: whether y is logarithmic. mark: x of a vertical line.
    """
    styles = _build_styles(lines, (colours or {}) if terminal.colours else {})
    if width < 1 or height < 1:
        return [[] for _ in range(max(height, 0))]
    top = [_build_heading(lines, title, width, styles)] if height >= 4 and (title or lines) else []
    x_label = "".join(c if c.isprintable() and cell_len(c) == 1 else "?" for c in x_label)
    options = _Options(terminal, styles, log, x_range, y_range, x_label, mark)
    rows = top + _build_body(lines, width, height - len(top), options)
    if terminal.unicode:
        return rows
    return [[Segment(to_ascii(text), style) for text, style, _ in row] for row in rows]


def letter(number: int) -> str:
    """Return the letter that marks a line in a chart with several lines. number: counted from 0."""
    return chr(ord("A") + number % 26)


@dataclass(frozen=True)
class _Options:
    terminal: Terminal
    styles: Mapping[int, Style | None]
    log: bool
    x_range: Range | None
    y_range: Range | None
    x_label: str
    mark: float | None

    @property
    def weights(self) -> NDArray[np.int64]:
        """The codes of the dots of a cell."""
        return BRAILLE if self.terminal.braille else HALVES if self.terminal.blocks else WHOLE


def _build_styles(lines: Sequence[Line], colours: Mapping[str, str]) -> Mapping[int, Style | None]:
    """Return styles by plotext colour number: 0 for no colour, 1… for lines, then the axes and the mark."""
    roles = {number % 250 + 1: line.colour for number, line in enumerate(lines)}
    roles |= {_AXIS: AXIS, _MARK: MARK}
    colour_names = {number: colours.get(role) for number, role in roles.items()}
    return {0: None} | {
        number: Style(color=colour) if colour else None for number, colour in colour_names.items()
    }


def _build_heading(
    lines: Sequence[Line], title: str, width: int, styles: Mapping[int, Style | None]
) -> list[Segment]:
    parts: list[tuple[str, Style | None]] = [(title, None)] if title else []
    if len(lines) > 1:
        parts += [(f"{letter(n)} {line.name}", styles[n % 250 + 1]) for n, line in enumerate(lines)]
    elif not title:
        parts = [(line.name, styles[1]) for line in lines]
    row, left = [], width
    for text, style in parts:
        text = "".join(character if character.isprintable() else "?" for character in text)
        taken = min(cell_len(text), left)
        row += [Segment(set_cell_size(text, taken), style), Segment("  "[: left - taken])]
        left -= min(taken + 2, left)
    return [*(segment for segment in row if segment.text), *_blank_cells(left)]


def _blank_cells(width: int) -> list[Segment]:
    return [Segment(" " * width)] if width else []


def _build_body(lines: Sequence[Line], width: int, height: int, options: _Options) -> Rows:
    weights = options.weights
    with np.errstate(all="ignore"):
        points = [_read_line(line, options.log) for line in lines]
        whole = all(np.array_equal(x, np.rint(x)) for x, _, _ in points)
        x_axis = fit_axis([x[np.isfinite(low)] for x, low, _ in points], options.x_range, whole=whole)
        if x_axis is None or not points:
            rows = [_blank_cells(width) for _ in range(height)]
            message = _explain_empty(lines, options.log).center(width)
            rows[height // 2] = [Segment(set_cell_size(message, width))]
            return rows
        y_axis = _fit_y_axis(points, x_axis, options)
        canvas = _Canvas(width, height, x_axis, y_axis, options.x_label)
        spans = [_compute_spans(*each, x_axis, canvas.columns * weights.shape[1]) for each in points]
        codes = [_compute_codes(*each, y_axis, canvas, weights) for each in spans]
        return canvas.render(_collect_cells(codes, weights), options)


def _fit_y_axis(points: Sequence[tuple[Floats, Floats, Floats]], x_axis: Axis, options: _Options) -> Axis:
    """Return a y axis for all values between the ends of the x axis, including those at the ends."""
    values, ends = [], np.array([x_axis.low, x_axis.high])
    for x, low, high in points:
        inside = (x >= x_axis.low) & (x <= x_axis.high)
        values += [high[inside], low[inside & (low > BELOW)]]
        if options.x_range is not None and len(x):
            values.append(np.interp(ends, x, high, math.nan, math.nan))
            if not np.any(low <= BELOW):
                values.append(np.interp(ends, x, low, math.nan, math.nan))
    y_axis = fit_axis(values, options.y_range, options.log) or Axis(0.0, 1.0)
    return y_axis if options.y_range is not None else y_axis.round_outward()


def _explain_empty(lines: Sequence[Line], log: bool) -> str:
    if not any(len(line.x) and len(line.low) for line in lines):
        return "nothing to draw yet"
    if log and any(np.isfinite(clip_finite(line.low)).any() for line in lines):
        return "nothing positive to draw on a log axis"
    return "nothing finite to draw"


def _read_line(line: Line, log: bool) -> tuple[Floats, Floats, Floats]:
    """Return x in increasing order, lower and upper values; NaN marks a gap."""
    high = line.low if line.high is None else line.high
    count = min(len(line.x), len(line.low), len(high))
    x, low, high = clip_finite(line.x[:count]), clip_finite(line.low[:count]), clip_finite(high[:count])
    low, high = np.fmin(low, high), np.fmax(low, high)
    if log:
        high = np.where(high > 0, np.log10(np.maximum(high, TINY)), np.nan)
        low = np.where(low > 0, np.log10(np.maximum(low, TINY)), np.where(np.isnan(high), np.nan, BELOW))
    known = np.isfinite(x)
    x, low, high = x[known], low[known], high[known]
    if np.any(np.diff(x) < 0):
        order = np.argsort(x, kind="stable")
        x, low, high = x[order], low[order], high[order]
    return x, low, high


def _compute_spans(x: Floats, low: Floats, high: Floats, x_axis: Axis, count: int) -> tuple[Floats, Floats]:
    """Return the minimum and maximum in each of `count` columns of dots.

    Points are joined by straight lines, except across gaps. In an empty column, minimum > maximum.
    """
    least, greatest = np.full(count, np.inf), np.full(count, -np.inf)
    positions = np.clip(x_axis.share(x) * (count - 1), -1e9, 1e9)
    begin = max(int(np.searchsorted(positions, -0.5)) - 1, 0)
    end = int(np.searchsorted(positions, count - 0.5, "right")) + 1
    positions, low, high = positions[begin:end], low[begin:end], high[begin:end]
    visible = np.isfinite(low) & (positions >= -0.5) & (positions <= count - 0.5)
    columns = np.clip(np.rint(positions[visible]), 0, count - 1).astype(int)
    np.minimum.at(least, columns, low[visible])
    np.maximum.at(greatest, columns, high[visible])
    joined = np.flatnonzero(np.isfinite(low[:-1]) & np.isfinite(low[1:]) & (positions[1:] > positions[:-1]))
    first = np.clip(np.rint(positions[joined]), 0, count - 1).astype(int)
    last = np.clip(np.rint(positions[joined + 1]), 0, count - 1).astype(int)
    each = last - first + 1
    index = np.repeat(joined, each)
    columns = np.arange(len(index)) - np.repeat(np.cumsum(each) - each, each) + np.repeat(first, each)
    start, length = positions[index], positions[index + 1] - positions[index]
    for edge in (-0.5, 0.5):
        share = np.clip((columns + edge - start) / length, 0, 1)
        reached = share * length + start
        inside = (reached >= -0.5) & (reached <= count - 0.5)
        np.minimum.at(least, columns[inside], (low[index] + (low[index + 1] - low[index]) * share)[inside])
        np.maximum.at(
            greatest, columns[inside], (high[index] + (high[index + 1] - high[index]) * share)[inside]
        )
    return least, greatest


class _Canvas:
    """The layout of a chart for plotext: the area of cells, and the ticks that fit."""

    def __init__(self, width: int, height: int, x_axis: Axis, y_axis: Axis, x_label: str) -> None:
        self.width, self.height = width, height
        self.bottom, self.left = height >= 4, width >= 8
        self.rows = height - 2 * self.bottom
        ticks = y_axis.ticks(max(2, self.rows // 2)) if self.left and height >= 3 else []
        if width < 24 or max((len(label) for _, label in ticks), default=0) > width // 3:
            ticks = []
        self.margin = max((len(label) for _, label in ticks), default=0)
        self.columns = width - self.left - self.margin
        self.y_ticks = {round(share * (self.rows - 1)): label.rjust(self.margin) for share, label in ticks}
        most = max(2, self.columns // 10)
        ticks = x_axis.ticks(most) if self.bottom else []
        room = self.columns - (len(x_label) + 2 if x_label and len(x_label) <= self.columns // 3 else 0)
        placed = {round(share * (self.columns - 1)): label for share, label in ticks}
        self.x_ticks = {
            position: label for position, label in placed.items() if position + (len(label) + 1) // 2 <= room
        }
        self.x_axis, self.x_label = x_axis, x_label if room < self.columns else ""

    def render(self, cells: dict[int, list[Cell]], options: _Options) -> Rows:
        """Compose cells, axes and ticks with plotext. cells: by colour number."""
        plotext.clear_figure()
        try:
            plotext.limit_size(False, False)
            plotext.theme("clear")
            plotext.ticks_color(_AXIS)
            plotext.plot_size(self.width, self.height)
            plotext.xaxes(self.bottom, False)
            plotext.yaxes(self.left, False)
            plotext.xlim(0, max(self.columns - 1, 1))
            plotext.ylim(0, max(self.rows - 1, 1))
            plotext.xticks(list(self.x_ticks), list(self.x_ticks.values()))
            plotext.yticks(list(self.y_ticks), list(self.y_ticks.values()))
            self._mark(options.mark)
            for number, each in cells.items() or [(_AXIS, [])]:
                columns, rows, characters = ([cell[part] for cell in each] for part in range(3))
                plotext.scatter(columns, rows, marker=characters or None, color=number)
            return self._parse(plotext.build(), options.styles)
        finally:
            plotext.clear_figure()

    def _mark(self, where: float | None) -> None:
        share = float(self.x_axis.share(clip_finite(np.array(math.nan if where is None else where))))
        if 0 <= share <= 1:
            plotext.vertical_line(round(share * (self.columns - 1)), _MARK)

    def _parse(self, text: str, styles: Mapping[int, Style | None]) -> Rows:
        rows = []
        for line in text.split("\n")[: self.height]:
            parts = RUN.split(line)
            numbers = [0, *(int(number) if number else 0 for number in parts[1::2])]
            runs = zip(parts[::2], numbers, strict=True)
            rows.append([Segment(part, styles[number]) for part, number in runs if part])
        if self.x_label:
            ticks = "".join(segment.text for segment in rows[-1])[: -len(self.x_label) - 1]
            rows[-1] = [Segment(f"{ticks} {self.x_label}", styles[_AXIS])]
        return rows


def _compute_codes(
    least: Floats, greatest: Floats, y_axis: Axis, canvas: _Canvas, weights: NDArray[Any]
) -> NDArray[np.int64]:
    """Return the sum of dot codes of each cell, rows from the top."""
    high, wide = weights.shape
    dots = canvas.rows * high
    is_empty = least > greatest
    low = np.where(is_empty, 1, np.clip(np.rint(y_axis.share(least) * (dots - 1)), -1, dots))
    top = np.where(is_empty, 0, np.clip(np.rint(y_axis.share(greatest) * (dots - 1)), -1, dots))
    row = np.arange(dots)[::-1, None]
    lit = (row >= low) & (row <= top)
    parts = lit.reshape(canvas.rows, high, canvas.columns, wide)
    return np.asarray(np.einsum("rhcw,hw->rc", parts, weights))


def _collect_cells(codes: list[NDArray[np.int64]], weights: NDArray[np.int64]) -> dict[int, list[Cell]]:
    """Return all non-empty cells by colour number; the first line is on top."""
    all_codes, owner = np.zeros_like(codes[0]), np.zeros_like(codes[0])
    for number, code in reversed(list(enumerate(codes))):
        all_codes |= code
        owner[code > 0] = number
    letters = _choose_letter_cells(codes) if len(codes) > 1 and weights.size > 1 else {}
    cells_by_colour: dict[int, list[Cell]] = {}
    index = np.nonzero(all_codes)
    filled_cells = zip(*(part.tolist() for part in (*index, all_codes[index], owner[index])), strict=True)
    for row, column, code, number in filled_cells:
        letter_line = letters.get((row, column))
        character = (
            _choose_character(code, weights.size, number, len(codes))
            if letter_line is None
            else letter(letter_line)
        )
        cell = column, len(all_codes) - 1 - row, character
        cells_by_colour.setdefault((number if letter_line is None else letter_line) % 250 + 1, []).append(
            cell
        )
    return cells_by_colour


def _choose_character(code: int, dots: int, number: int, lines: int) -> str:
    if dots == BRAILLE.size:
        return chr(0x2800 + code)
    if dots == HALVES.size:
        return " ▀▄█"[code]
    return letter(number) if lines > 1 else "*"


def _choose_letter_cells(codes: list[NDArray[np.int64]]) -> dict[tuple[int, int], int]:
    """Return the cells that show a line's letter instead of its dots, at regular distances for each line."""
    every, cells = max(LETTER_EVERY, 2 * len(codes)), {}
    for number, code in enumerate(codes):
        columns = np.flatnonzero(code.any(0)).tolist()
        for column in columns[(2 * number + 1) * every // (2 * len(codes)) :: every] or columns[-1:]:
            rows = np.flatnonzero(code[:, column])
            cells[int(rows[len(rows) // 2]), column] = number
    return cells
