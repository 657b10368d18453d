"""A widget that shows finished lines, and repaints only the cells that changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.style import Style
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget


class Picture(Widget, inherit_bindings=False):
    """Lines of cells, starting in the top left corner of the widget."""

    DEFAULT_CSS = "Picture { height: 1fr; }"

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self._strips: list[Strip] = []

    def show(self, strips: Sequence[Strip]) -> None:
        """Replace the lines. Unchanged lines are not repainted."""
        old, new = self._strips, list(strips)
        blank = Strip([], 0)
        regions = []
        for y in range(max(len(old), len(new))):
            before = old[y] if y < len(old) else blank
            after = new[y] if y < len(new) else blank
            if before is not after and before != after:
                spans = find_changed_spans(before, after)
                regions += [Region(start, y, end - start, 1) for start, end in spans]
            elif y < len(new):
                new[y] = before  # keeps what the strip has cached
        self._strips = new
        if regions:
            self.refresh(*regions)

    def render_line(self, y: int) -> Strip:
        """Return line y on the widget's background."""
        style = self.visual_style.rich_style
        if y >= len(self._strips):
            return Strip.blank(self.size.width, style)
        return self._strips[y].apply_style(style).adjust_cell_length(self.size.width, style)


def find_changed_spans(before: Strip, after: Strip) -> Iterator[tuple[int, int]]:
    """Yield the spans of cells (start, end) in which two lines differ; close spans are merged."""
    old, new = _cells(before), _cells(after)
    width = max(len(old), len(new))
    old += [(" ", None)] * (width - len(old))
    new += [(" ", None)] * (width - len(new))
    start = end = -1
    for x, (one, other) in enumerate(zip(old, new, strict=True)):
        if one != other:
            if start >= 0 and x - end > 8:  # moving the cursor costs about as many bytes as 8 cells
                yield start, end
                start = x
            start, end = (x if start < 0 else start), x + 1
    if start >= 0:
        yield start, end


def _cells(strip: Strip) -> list[tuple[str, Style | None]]:
    """Return one entry per cell; a character of two cells occurs twice, so that both change together."""
    cells: list[tuple[str, Style | None]] = []
    for text, style, control in strip:
        if control:
            continue
        if text.isascii() or cell_len(text) == len(text):
            cells += [(character, style) for character in text]
        else:
            for character in text:
                width = cell_len(character)
                if width:
                    cells += [(character, style)] * width
                elif cells:  # a diacritic belongs to the cell before
                    cells[-1] = cells[-1][0] + character, style
    return cells
