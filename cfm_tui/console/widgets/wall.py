"""The visible part of a large grid of thumbnails, in rows with headings, with a cursor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.message import Message
from textual.strip import Strip

from cfm_tui.console.widgets.picture import Picture
from cfm_tui.console.widgets.showing import image_colours, images_of, is_light
from cfm_tui.console.widgets.thumbnails import CHOSEN, render_image
from cfm_tui.display.ascii_image import RAMP, label_of, line_count

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIZES = (4, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64)  #: cells across
HEADING = Style(bold=True)
EDGE = 1  # cells at each side of an image, where the cursor is drawn
MIN_HEADING = 8  # cells
MIN_PARTIAL_LINES = 3  # a partial last row with fewer lines is not shown
_Line = list[Segment]


@dataclass(frozen=True, eq=False)
class Tile:
    """An image of a set.

    pixels_CHW: None if it was not read yet, or cannot be read; then `problem` says why.
    """

    number: int
    label: str
    pixels_CHW: NDArray[np.uint8] | None
    problem: str = ""


class Wall(Picture, can_focus=True):
    """A window on a grid of images of equal shape. Call `measure` before `show_tiles`.

    across, down: number of visible columns and rows. partial_rows: 1 if part of another row is visible,
    else 0.
    """

    class Picked(Message):
        """An image was clicked."""

        def __init__(self, number: int) -> None:
            super().__init__()
            self.number = number

    class Resized(Message):
        """The size or the theme changed; the receiver fills the wall again."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.across = self.down = 1
        self.partial_rows = 0
        self._images, self._head, self._lines = 1, 0, 1
        self._first = (0, 0)
        self._tiles: list[list[Tile | None]] = []

    def measure(self, shape: Sequence[int], size: int, heading: int) -> None:
        """Compute how many images of a shape (C, H, W), `size` cells wide, fit.

        heading: width of the longest heading in cells; 0 for none.
        """
        width, height = self.size
        self._head = min(heading + 1, max(MIN_HEADING, width // 5)) if heading else 0
        self._images = max(min(size, width - self._head - 2 * EDGE), 1)
        self._lines = line_count(shape, self._images)
        self.across = max((width - self._head) // (self._images + 2 * EDGE), 1)
        self.down = max(height // (self._lines + 1), 1)
        self.partial_rows = int(height % (self._lines + 1) >= MIN_PARTIAL_LINES and height > self._lines)

    def window(self, cursor: tuple[int, int], extent: tuple[int, int]) -> tuple[int, int]:
        """Return the first visible row and column, moved only as far as the cursor requires.

        cursor: row and column. extent: number of rows and columns.
        """
        visible = self.down, self.across
        self._first = (
            _scroll_to(self._first[0], cursor[0], visible[0], extent[0]),
            _scroll_to(self._first[1], cursor[1], visible[1], extent[1]),
        )
        return self._first

    def show_tiles(
        self, headings: Sequence[str], tiles: Sequence[Sequence[Tile | None]], cursor: tuple[int, int]
    ) -> None:
        """Show rows of tiles. cursor: row and column among them."""
        self._tiles = [list(row) for row in tiles]
        strips: list[Strip] = []
        for number, (heading, row) in enumerate(zip(headings, tiles, strict=True)):
            at = cursor[1] if number == cursor[0] else None
            strips += self._row(heading, row, at)
        self.show(strips[: self.size.height])

    def _row(self, heading: str, row: Sequence[Tile | None], cursor: int | None) -> list[Strip]:
        head = [Segment(label_of(heading, self._head - 1) + " ", HEADING)] if self._head else []
        lines: list[_Line] = [head, *([Segment(" " * self._head)] for _ in range(self._lines))]
        for column, tile in enumerate(row):
            for line, part in zip(lines, self._block(tile, column == cursor), strict=True):
                line += part
        return [Strip(line) for line in lines]

    def _block(self, tile: Tile | None, chosen: bool) -> list[_Line]:
        """Return the lines of an image under its label, with edges."""
        left, right = ("[", "]") if chosen else (" ", " ")
        style = CHOSEN if chosen else None
        label = label_of(tile.label if tile else "", self._images)
        lines = [[Segment(left + label + right, style)]]
        for line in self._image(tile):
            lines.append(
                [Segment("|" if chosen else " ", style), *line, Segment("|" if chosen else " ", style)]
            )
        return lines

    def _image(self, tile: Tile | None) -> Sequence[Sequence[Segment]]:
        mode = images_of(self.app)
        if tile is None or tile.pixels_CHW is None or mode == "off":
            placeholder = "damaged" if tile and tile.problem else "…" if tile else ""
            return [
                [Segment(label_of(placeholder if line == self._lines // 2 else "", self._images))]
                for line in range(self._lines)
            ]
        ramp = RAMP[::-1] if is_light(self) else RAMP
        pixels = np.ascontiguousarray(tile.pixels_CHW)
        image = render_image(
            pixels.tobytes(), pixels.shape, self._images, mode, image_colours(self.app), ramp
        )
        return (*image, *[(Segment(" " * self._images),)] * self._lines)[: self._lines]

    def on_mount(self) -> None:
        """Redraw when the theme changes: a light theme inverts the ramp."""
        self.watch(self.app, "theme", self.on_resize, init=False)

    def on_resize(self) -> None:
        """Ask to be filled again."""
        self.post_message(self.Resized())

    def on_click(self, event: events.Click) -> None:
        """Post the number of the image that was clicked."""
        row, column = event.y // (self._lines + 1), (event.x - self._head) // (self._images + 2 * EDGE)
        if 0 <= row < len(self._tiles) and 0 <= column < len(self._tiles[row]):
            tile = self._tiles[row][column]
            if tile is not None:
                self.post_message(self.Picked(tile.number))


def _scroll_to(first: int, cursor: int, visible: int, extent: int) -> int:
    """Return the first of `visible` positions, so that the cursor is among them."""
    first = min(max(first, cursor - visible + 1), cursor)
    return max(min(first, extent - visible), 0)
