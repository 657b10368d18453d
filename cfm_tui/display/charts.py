"""Charts as rows of styled cells. The one place that knows plotext.

Lines are turned into dots here, all at once, because plotext's time grows with every dot and its table of
Braille characters has holes; plotext puts the cells, the axes and the ticks together. It keeps one figure for
the whole process: only the thread that draws the screen may call this.
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

from cfm_tui.display.axes import TINY, Axis, axis, clipped
from cfm_tui.display.terminal import Terminal, to_ascii

Floats = NDArray[np.float64]
Rows = list[list[Segment]]
Range = tuple[float, float]
Cell = tuple[int, int, str]  # column, row from the bottom, character

#: What a line's colour may be called; a theme says which colours they are.
ROLES = ("primary", "accent", "success", "secondary", "error", "warning")
AXIS, MARK = "muted", "warning"
_AXIS, _MARK = 254, 255  # numbers of their colours, beside those of lines
BRAILLE = np.array([[1, 8], [2, 16], [4, 32], [64, 128]])  # weights of a cell's dots, rows from the top
HALVES = np.array([[1], [2]])
WHOLE = np.array([[1]])
BELOW = -999.0  # the logarithm of what is not positive, beside something that is
LETTER_EVERY = 14  # cells
RUN = re.compile(r"\x1b\[(?:38;5;(\d+)|0)m")


@dataclass(frozen=True)
class Line:
    """x, in increasing order, and values; with `high`, stretches from `low` to `high`.

    NaN and infinity are gaps. colour: one of `ROLES`.
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
    """`height` rows of `width` cells each; any numbers and any size can be drawn.

    Several lines are told apart by the letters that the legend gives them, too. colours: of roles, for Rich;
    log: of y; mark: an x where a vertical line stands.
    """
    styles = _styles(lines, (colours or {}) if terminal.colours else {})
    if width < 1 or height < 1:
        return [[] for _ in range(max(height, 0))]
    top = [_heading(lines, title, width, styles)] if height >= 4 and (title or lines) else []
    look = _Look(terminal, styles, log, x_range, y_range, _one_cell_each(x_label), mark)
    rows = top + _body(lines, width, height - len(top), look)
    if terminal.unicode:
        return rows
    return [[Segment(to_ascii(text), style) for text, style, _ in row] for row in rows]


def letter(number: int) -> str:
    """What marks the line of that number, counted from 0, where there are several."""
    return chr(ord("A") + number % 26)


@dataclass(frozen=True)
class _Look:
    terminal: Terminal
    styles: Mapping[int, Style | None]
    log: bool
    x_range: Range | None
    y_range: Range | None
    x_label: str
    mark: float | None

    @property
    def weights(self) -> NDArray[np.int64]:
        """Of the dots of a cell."""
        return BRAILLE if self.terminal.braille else HALVES if self.terminal.blocks else WHOLE


def _one_cell_each(text: str) -> str:
    return "".join(c if c.isprintable() and cell_len(c) == 1 else "?" for c in text)


def _styles(lines: Sequence[Line], colours: Mapping[str, str]) -> Mapping[int, Style | None]:
    """By plotext's number for a colour: 1… for lines, 0 for what has none, then the axes and the mark."""
    roles = {number % 250 + 1: line.colour for number, line in enumerate(lines)}
    roles |= {_AXIS: AXIS, _MARK: MARK}
    found = {number: colours.get(role) for number, role in roles.items()}
    return {0: None} | {number: Style(color=colour) if colour else None for number, colour in found.items()}


def _heading(
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
    return [*(segment for segment in row if segment.text), *_blank(left)]


def _blank(width: int) -> list[Segment]:
    return [Segment(" " * width)] if width else []


def _body(lines: Sequence[Line], width: int, height: int, look: _Look) -> Rows:
    weights = look.weights
    with np.errstate(all="ignore"):
        read = [_read(line, look.log) for line in lines]
        whole = all(np.array_equal(x, np.rint(x)) for x, _, _ in read)
        xs = axis([x[np.isfinite(low)] for x, low, _ in read], look.x_range, whole=whole)
        if xs is None or not read:
            return _said(_why_empty(lines, look.log), width, height)
        ys = _y_axis(read, xs, look)
        canvas = _Canvas(width, height, xs, ys, look.x_label)
        spans = [_spans(*each, xs, canvas.columns * weights.shape[1]) for each in read]
        codes = [_codes(*each, ys, canvas, weights) for each in spans]
        return canvas.drawn(_cells(codes, weights), look)


def _y_axis(read: Sequence[tuple[Floats, Floats, Floats]], xs: Axis, look: _Look) -> Axis:
    """What holds all that is between the ends of the x axis, and what is at these ends."""
    values, ends = [], np.array([xs.low, xs.high])
    for x, low, high in read:
        inside = (x >= xs.low) & (x <= xs.high)
        values += [high[inside], low[inside & (low > BELOW)]]
        if look.x_range is not None and len(x):
            values.append(np.interp(ends, x, high, math.nan, math.nan))
            if not np.any(low <= BELOW):
                values.append(np.interp(ends, x, low, math.nan, math.nan))
    found = axis(values, look.y_range, look.log) or Axis(0.0, 1.0)
    return found if look.y_range is not None else found.rounded()


def _said(text: str, width: int, height: int) -> Rows:
    rows = [_blank(width) for _ in range(height)]
    rows[height // 2] = [Segment(set_cell_size(text.center(width), width))]
    return rows


def _why_empty(lines: Sequence[Line], log: bool) -> str:
    if not any(len(line.x) and len(line.low) for line in lines):
        return "nothing to draw yet"
    if log and any(np.isfinite(clipped(line.low)).any() for line in lines):
        return "nothing positive to draw on a log axis"
    return "nothing finite to draw"


def _read(line: Line, log: bool) -> tuple[Floats, Floats, Floats]:
    """x in increasing order, least and greatest values; NaN where there is a gap."""
    high = line.low if line.high is None else line.high
    count = min(len(line.x), len(line.low), len(high))
    x, low, high = clipped(line.x[:count]), clipped(line.low[:count]), clipped(high[:count])
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


def _spans(x: Floats, low: Floats, high: Floats, xs: Axis, count: int) -> tuple[Floats, Floats]:
    """The least and the greatest in each of `count` columns of dots; where nothing is, least > greatest.

    Points are joined by straight lines, except over gaps.
    """
    least, greatest = np.full(count, np.inf), np.full(count, -np.inf)
    at = np.clip(xs.share(x) * (count - 1), -1e9, 1e9)
    begin = max(int(np.searchsorted(at, -0.5)) - 1, 0)
    end = int(np.searchsorted(at, count - 0.5, "right")) + 1
    at, low, high = at[begin:end], low[begin:end], high[begin:end]
    there = np.isfinite(low) & (at >= -0.5) & (at <= count - 0.5)
    columns = np.clip(np.rint(at[there]), 0, count - 1).astype(int)
    np.minimum.at(least, columns, low[there])
    np.maximum.at(greatest, columns, high[there])
    joined = np.flatnonzero(np.isfinite(low[:-1]) & np.isfinite(low[1:]) & (at[1:] > at[:-1]))
    first = np.clip(np.rint(at[joined]), 0, count - 1).astype(int)
    last = np.clip(np.rint(at[joined + 1]), 0, count - 1).astype(int)
    each = last - first + 1
    index = np.repeat(joined, each)
    columns = np.arange(len(index)) - np.repeat(np.cumsum(each) - each, each) + np.repeat(first, each)
    start, length = at[index], at[index + 1] - at[index]
    for edge in (-0.5, 0.5):
        share = np.clip((columns + edge - start) / length, 0, 1)
        reached = share * length + start
        on = (reached >= -0.5) & (reached <= count - 0.5)
        np.minimum.at(least, columns[on], (low[index] + (low[index + 1] - low[index]) * share)[on])
        np.maximum.at(greatest, columns[on], (high[index] + (high[index + 1] - high[index]) * share)[on])
    return least, greatest


class _Canvas:
    """What plotext is asked to draw: where the cells go, and which ticks fit."""

    def __init__(self, width: int, height: int, xs: Axis, ys: Axis, x_label: str) -> None:
        self.width, self.height = width, height
        self.bottom, self.left = height >= 4, width >= 8
        self.rows = height - 2 * self.bottom
        ticks = ys.ticks(max(2, self.rows // 2)) if self.left and height >= 3 else []
        if width < 24 or max((len(label) for _, label in ticks), default=0) > width // 3:
            ticks = []
        self.margin = max((len(label) for _, label in ticks), default=0)
        self.columns = width - self.left - self.margin
        self.y_ticks = {round(share * (self.rows - 1)): label.rjust(self.margin) for share, label in ticks}
        most = max(2, self.columns // 10)
        ticks = xs.ticks(most) if self.bottom else []
        room = self.columns - (len(x_label) + 2 if x_label and len(x_label) <= self.columns // 3 else 0)
        placed = {round(share * (self.columns - 1)): label for share, label in ticks}
        self.x_ticks = {at: label for at, label in placed.items() if at + (len(label) + 1) // 2 <= room}
        self.x_axis, self.x_label = xs, x_label if room < self.columns else ""

    def drawn(self, cells: dict[int, list[Cell]], look: _Look) -> Rows:
        """cells: by the number of their colour."""
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
            self._mark(look.mark)
            for number, each in cells.items() or [(_AXIS, [])]:
                columns, rows, characters = ([cell[part] for cell in each] for part in range(3))
                plotext.scatter(columns, rows, marker=characters or None, color=number)
            return self._parsed(plotext.build(), look.styles)
        finally:
            plotext.clear_figure()

    def _mark(self, where: float | None) -> None:
        share = float(self.x_axis.share(clipped(np.array(math.nan if where is None else where))))
        if 0 <= share <= 1:
            plotext.vertical_line(round(share * (self.columns - 1)), _MARK)

    def _parsed(self, text: str, styles: Mapping[int, Style | None]) -> Rows:
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


def _codes(
    least: Floats, greatest: Floats, ys: Axis, canvas: _Canvas, weights: NDArray[Any]
) -> NDArray[np.int64]:
    """Each cell's dots as a number, rows from the top."""
    high, wide = weights.shape
    dots = canvas.rows * high
    nothing = least > greatest
    low = np.where(nothing, 1, np.clip(np.rint(ys.share(least) * (dots - 1)), -1, dots))
    top = np.where(nothing, 0, np.clip(np.rint(ys.share(greatest) * (dots - 1)), -1, dots))
    row = np.arange(dots)[::-1, None]
    lit = (row >= low) & (row <= top)
    parts = lit.reshape(canvas.rows, high, canvas.columns, wide)
    return np.asarray(np.einsum("rhcw,hw->rc", parts, weights))


def _cells(codes: list[NDArray[np.int64]], weights: NDArray[np.int64]) -> dict[int, list[Cell]]:
    """What is in the cells that hold something, by colour; the first line lies on top."""
    together, owner = np.zeros_like(codes[0]), np.zeros_like(codes[0])
    for number, code in reversed(list(enumerate(codes))):
        together |= code
        owner[code > 0] = number
    letters = _letters(codes) if len(codes) > 1 and weights.size > 1 else {}
    result: dict[int, list[Cell]] = {}
    index = np.nonzero(together)
    found = zip(*(part.tolist() for part in (*index, together[index], owner[index])), strict=True)
    for row, column, code, number in found:
        mine = letters.get((row, column))
        shown = _character(code, weights.size, number, len(codes)) if mine is None else letter(mine)
        cell = column, len(together) - 1 - row, shown
        result.setdefault((number if mine is None else mine) % 250 + 1, []).append(cell)
    return result


def _character(code: int, dots: int, number: int, lines: int) -> str:
    if dots == BRAILLE.size:
        return chr(0x2800 + code)
    if dots == HALVES.size:
        return " ▀▄█"[code]
    return letter(number) if lines > 1 else "*"


def _letters(codes: list[NDArray[np.int64]]) -> dict[tuple[int, int], int]:
    """Cells that show the letter of a line instead of its dots: some of each."""
    every, result = max(LETTER_EVERY, 2 * len(codes)), {}
    for number, code in enumerate(codes):
        columns = np.flatnonzero(code.any(0)).tolist()
        for column in columns[(2 * number + 1) * every // (2 * len(codes)) :: every] or columns[-1:]:
            rows = np.flatnonzero(code[:, column])
            result[int(rows[len(rows) // 2]), column] = number
    return result
