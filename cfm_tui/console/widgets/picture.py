"""A widget that is given finished lines, and repaints only those cells of them that changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.style import Style
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

Cell = tuple[str, Style | None]
NEAR = 8  # cells: to move the cursor takes about as many bytes


class Picture(Widget, inherit_bindings=False):
    """Lines of cells, from the top left corner of the widget."""

    DEFAULT_CSS = "Picture { height: 1fr; }"

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self._strips: list[Strip] = []

    def show(self, strips: Sequence[Strip]) -> None:
        """Show these lines in place of those before. Lines that stay the same cost nothing."""
        old, new = self._strips, list(strips)
        blank = Strip([], 0)
        regions = []
        for y in range(max(len(old), len(new))):
            before = old[y] if y < len(old) else blank
            after = new[y] if y < len(new) else blank
            if before is after or before == after:
                if y < len(new):
                    new[y] = before  # with all that is cached of it
            else:
                regions += [Region(start, y, end - start, 1) for start, end in changes(before, after)]
        self._strips = new
        if regions:
            self.refresh(*regions)

    def render_line(self, y: int) -> Strip:
        """The line, on the widget's background."""
        style = self.visual_style.rich_style
        if y >= len(self._strips):
            return Strip.blank(self.size.width, style)
        return self._strips[y].apply_style(style).adjust_cell_length(self.size.width, style)


def changes(before: Strip, after: Strip) -> Iterator[tuple[int, int]]:
    """Spans of cells (start, end) in which two lines differ. Short stretches between them are taken along."""
    old, new = _cells(before), _cells(after)
    width = max(len(old), len(new))
    old += [(" ", None)] * (width - len(old))
    new += [(" ", None)] * (width - len(new))
    start = end = -1
    for x, (one, other) in enumerate(zip(old, new, strict=True)):
        if one != other:
            if start >= 0 and x - end > NEAR:
                yield start, end
                start = x
            start, end = (x if start < 0 else start), x + 1
    if start >= 0:
        yield start, end


def _cells(strip: Strip) -> list[Cell]:
    """One entry for each cell; a character of two cells is there twice, so that both change together."""
    result: list[Cell] = []
    for text, style, control in strip:
        if control:
            continue
        if text.isascii() or cell_len(text) == len(text):
            result += [(character, style) for character in text]
        else:
            result += [(character, style) for character in text for _ in range(cell_len(character))]
    return result
