"""Widgets that draw images: a grid of labelled images, the visible part of a large one, and one large image.

Legend: C channels, H, W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.message import Message
from textual.strip import Strip

from cfm_tui.console.widgets.picture import Picture
from cfm_tui.console.widgets.showing import terminal_of
from cfm_tui.display import terminal
from cfm_tui.display.ascii_image import RAMP, Colours, fit_label, line_count, render_cells
from cfm_tui.display.graphics import Graphics, Lines
from cfm_tui.display.terminal import Images


class ImageWidget(Picture):
    """Base class: draws images, and redraws when the size or the theme changes."""

    CHOSEN_STYLE = Style(reverse=True, bold=True)

    @property
    def image_mode(self) -> Images:
        """The application's image mode, limited to what the terminal supports."""
        return terminal.images(getattr(self.app, "image_mode", "auto"), terminal_of(self.app))

    def render_image(
        self, pixels_CHW: NDArray[np.uint8], width: int, *, exact: bool = False, live: bool = False
    ) -> Lines:
        """Return the lines of an image `width` cells wide. The image mode must not be off.

        exact: in pixels, with all of them; else at the quality of a thumbnail. live: it changes by itself, so
        that it is sent with fewer bytes; sixel, which takes six times those of half blocks, is not used.
        """
        mode = "half" if live and self.image_mode == "sixel" else self.image_mode
        if mode in ("kitty", "sixel"):
            graphics: Graphics = cast(Any, self.app).graphics
            lines = line_count(pixels_CHW.shape, width)
            return graphics.place(pixels_CHW, width, lines, exact=exact, sharp=not live)
        background = self.background_colors[1]
        is_light = background.ansi is None and background.brightness > 0.5
        ramp = RAMP[::-1] if is_light else RAMP
        colours: Colours = "true" if terminal_of(self.app).colours == "true" else 256
        pixels_CHW = np.ascontiguousarray(pixels_CHW)
        return render_text(pixels_CHW.tobytes(), pixels_CHW.shape, width, mode, colours, ramp)

    def list_widths(self, shape: Sequence[int], widths: Sequence[int]) -> list[int]:
        """Return the best of some widths in cells for images of a shape (C, H, W), largest first.

        Half blocks show images at a whole-number scale, where the shape has enough of them.
        """
        if self.image_mode == "half":
            sizes = range(min(widths), max(widths) + 1)
            whole = [cells for cells in sizes if cells % shape[2] == 0 or shape[2] % cells == 0]
            widths = whole if len(whole) > 2 else widths
        return sorted(widths, reverse=True)

    def nearest_width(self, shape: Sequence[int], width: int, widths: Sequence[int]) -> int:
        """Return the one of `list_widths` that differs least from a width, by its ratio."""
        return min(self.list_widths(shape, widths), key=lambda each: abs(math.log(each / width)))

    def draw(self) -> None:
        """Draw, or ask to be filled again."""

    def on_mount(self) -> None:
        """Redraw when the theme changes: a light theme inverts the ramp."""
        self.watch(self.app, "theme", self._draw_later, init=False)

    def _draw_later(self) -> None:
        self.call_after_refresh(self.draw)

    def on_resize(self) -> None:
        """Redraw in the new size."""
        self.draw()


@lru_cache(256)
def render_text(
    pixels: bytes, shape: tuple[int, ...], size: int, mode: Images, colours: Colours, ramp: str
) -> Lines:
    """Return an image's lines. Cached, so that redrawing an unchanged image costs nothing."""
    assert mode in ("ascii", "half"), mode
    image_CHW = np.frombuffer(pixels, np.uint8).reshape(shape)
    image_cells = render_cells(image_CHW, size, mode=mode, colours=colours, ramp=ramp)
    return tuple(tuple(line) for line in image_cells.segments())


class Thumbnails(ImageWidget):
    """A grid of images that fills the widget; images that do not fit are left out (see `count_fitting`).

    live: the images change by themselves.
    """

    GAP = 2  #: cells between images
    SIZES = (40, 32, 24, 20, 16, 12, 8, 6)  #: image widths in cells; narrower images are unrecognisable

    @dataclass
    class Picked(Message):
        """An image was clicked."""

        index: int

    def __init__(self, *, id: str | None = None, classes: str | None = None, live: bool = False) -> None:
        super().__init__(id=id, classes=classes)
        self._is_live = live
        self._images: list[NDArray[np.uint8]] = []
        self._labels: list[str] = []
        self._cells_wide = 16
        self._cursor: int | None = None

    def show_images(
        self, images: Sequence[NDArray[np.uint8]], labels: Sequence[str], size: int, cursor: int | None = None
    ) -> None:
        """Show images (uint8, CHW), each `size` cells wide under its label.

        cursor: index of the image whose label is highlighted.
        """
        assert len(images) == len(labels), (len(images), len(labels))
        self._images, self._labels = list(images), list(labels)
        self._cells_wide, self._cursor = max(size, 1), cursor
        self.draw()

    def show_widest(self, images: Sequence[NDArray[np.uint8]], labels: Sequence[str]) -> int:
        """Show images at the largest of `SIZES` at which as many fit as at the smallest.

        Returns how many do not fit.
        """
        width, height = self.size
        self._images = list(images)
        widths = self.list_widths(images[0].shape, self.SIZES) if images else [*self.SIZES]
        most = min(len(images), self.count_fitting(width, height, widths[-1]))
        sizes = [size for size in widths if size // 2 < height]
        wide = (size for size in sizes if self.count_fitting(width, height, size) >= most)
        self.show_images(images, labels, next(wide, widths[-1]))
        return len(images) - most

    def count_fitting(self, width: int, height: int, size: int) -> int:
        """Return how many images `size` cells wide, as tall as the tallest, fit into width × height cells."""
        across, down = self._grid(width, height, size)
        return across * down

    def _grid(self, width: int, height: int, size: int) -> tuple[int, int]:
        return max(1, (width + self.GAP) // (size + self.GAP)), max(1, height // self._block_height(size))

    def _block_height(self, size: int) -> int:
        """Return the number of lines of the tallest image with its label."""
        if self.image_mode == "off":
            return 1
        return 1 + max(
            (line_count(image.shape, size) for image in self._images), default=line_count((1, 1, 1), size)
        )

    def draw(self) -> None:
        """Draw as many images as fit."""
        if not self.is_mounted or not self.size.area:
            return
        width, height = self.size
        size = min(self._cells_wide, width)
        across, down = self._grid(width, height, size)
        count = min(len(self._images), across * down)
        blocks = [self._draw_block(index, size) for index in range(count)]
        rows: list[Strip] = []
        for start in range(0, count, across):
            rows += self._join_blocks(blocks[start : start + across], size)
        self.show(rows[:height])

    def on_click(self, event: events.Click) -> None:
        """Post the index of the image that was clicked."""
        size = min(self._cells_wide, self.size.width)
        across, down = self._grid(self.size.width, self.size.height, size)
        row, column = event.y // self._block_height(size), event.x // (size + self.GAP)
        index = row * across + column
        if (
            column < across
            and event.x % (size + self.GAP) < size
            and index < min(len(self._images), across * down)
        ):
            self.post_message(self.Picked(index))

    def _draw_block(self, index: int, size: int) -> list[Sequence[Segment]]:
        chosen = index == self._cursor
        label = f"[{fit_label(self._labels[index], max(size - 2, 0))}]" if chosen else self._labels[index]
        top = [Segment(fit_label(label, size), self.CHOSEN_STYLE if chosen else None)]
        if self.image_mode == "off":
            return [top]
        return [top, *self.render_image(self._images[index], size, live=self._is_live)]

    def _join_blocks(self, blocks: Sequence[Sequence[Sequence[Segment]]], size: int) -> list[Strip]:
        """Return the lines of one row of the grid."""
        gap, blank = Segment(" " * self.GAP), Segment(" " * size)
        rows = []
        for y in range(self._block_height(size)):
            parts: list[Segment] = []
            for number, block in enumerate(blocks):
                parts += [gap] if number else []
                parts += block[y] if y < len(block) else [blank]
            rows.append(Strip(parts, len(blocks) * (size + self.GAP) - self.GAP))
        return rows


@dataclass(frozen=True, eq=False)
class Tile:
    """An image of a set.

    pixels_CHW: None if it was not read yet, or cannot be read; then `problem` says why. is_unfinished: it is
    still being recovered.
    """

    number: int
    label: str
    pixels_CHW: NDArray[np.uint8] | None
    problem: str = ""
    is_unfinished: bool = False


class Wall(ImageWidget, can_focus=True):
    """A window on a grid of images of equal shape, in rows with headings, with a cursor.

    Call `measure` before `show_tiles`.

    across, down: number of visible columns and rows. partial_rows: 1 if part of another row is visible,
    else 0.
    """

    SIZES = (4, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64)  #: image widths in cells
    UNFINISHED = "◌"  #: mark of images that are still being recovered
    EDGE = 1  #: cells at each side of an image, where the cursor is drawn

    @dataclass
    class Picked(Message):
        """An image was clicked."""

        number: int

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
        self._head = min(heading + 1, max(8, width // 5)) if heading else 0
        self._images = max(min(size, width - self._head - 2 * self.EDGE), 1)
        self._lines = line_count(shape, self._images)
        self.across = max((width - self._head) // (self._images + 2 * self.EDGE), 1)
        self.down = max(height // (self._lines + 1), 1)
        rest = height % (self._lines + 1)  # a partial last row of fewer than 3 lines is not shown
        self.partial_rows = int(rest >= 3 and height > self._lines)

    def find_window(self, cursor: tuple[int, int], extent: tuple[int, int]) -> tuple[int, int]:
        """Return the first visible row and column, moved only as far as the cursor requires.

        cursor: row and column. extent: number of rows and columns.
        """
        row = _scroll_to(self._first[0], cursor[0], self.down, extent[0])
        column = _scroll_to(self._first[1], cursor[1], self.across, extent[1])
        self._first = row, column
        return self._first

    def show_tiles(
        self, headings: Sequence[str], tiles: Sequence[Sequence[Tile | None]], cursor: tuple[int, int]
    ) -> None:
        """Show rows of tiles. cursor: row and column among them."""
        self._tiles = [list(row) for row in tiles]
        strips: list[Strip] = []
        for number, (heading, row) in enumerate(zip(headings, tiles, strict=True)):
            head = [Segment(fit_label(heading, self._head - 1) + " ", Style(bold=True))] if self._head else []
            lines: list[list[Segment]] = [head, *([Segment(" " * self._head)] for _ in range(self._lines))]
            for column, tile in enumerate(row):
                for line, part in zip(lines, self._block(tile, (number, column) == cursor), strict=True):
                    line += part
            strips += map(Strip, lines)
        self.show(strips[: self.size.height])

    def _block(self, tile: Tile | None, chosen: bool) -> list[list[Segment]]:
        """Return the lines of an image under its label, with edges."""
        left, right = ("[", "]") if chosen else (" ", " ")
        style = self.CHOSEN_STYLE if chosen else None
        mark = f"{self.UNFINISHED} " if tile and tile.is_unfinished else ""
        label = fit_label(mark + tile.label if tile else "", self._images)
        lines = [[Segment(left + label + right, style)]]
        edge = Segment("|" if chosen else " ", style)
        return lines + [[edge, *line, edge] for line in self._image(tile)]

    def _image(self, tile: Tile | None) -> Sequence[Sequence[Segment]]:
        if tile is None or tile.pixels_CHW is None or self.image_mode == "off":
            placeholder = "damaged" if tile and tile.problem else "…" if tile else ""
            return [
                [Segment(fit_label(placeholder if line == self._lines // 2 else "", self._images))]
                for line in range(self._lines)
            ]
        image = self.render_image(tile.pixels_CHW, self._images, live=tile.is_unfinished)
        return (*image, *[(Segment(" " * self._images),)] * self._lines)[: self._lines]

    def draw(self) -> None:
        """Ask to be filled again."""
        self.post_message(self.Resized())

    def on_click(self, event: events.Click) -> None:
        """Post the number of the image that was clicked."""
        row, column = event.y // (self._lines + 1), (event.x - self._head) // (self._images + 2 * self.EDGE)
        if 0 <= row < len(self._tiles) and 0 <= column < len(self._tiles[row]):
            tile = self._tiles[row][column]
            if tile is not None:
                self.post_message(self.Picked(tile.number))


def _scroll_to(first: int, cursor: int, visible: int, extent: int) -> int:
    """Return the first of `visible` positions, so that the cursor is among them."""
    first = min(max(first, cursor - visible + 1), cursor)
    return max(min(first, extent - visible), 0)


class LargeImage(ImageWidget, can_focus=True):
    """One image, as large as the widget allows."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._pixels_CHW: NDArray[np.uint8] | None = None
        self._is_live = False

    def show_image(self, pixels_CHW: NDArray[np.uint8] | None, *, live: bool = False) -> None:
        """Show an image (uint8), or nothing for None. live: it changes by itself."""
        self._pixels_CHW, self._is_live = pixels_CHW, live
        self.draw()

    def draw(self) -> None:
        """Redraw the image."""
        pixels_CHW = self._pixels_CHW
        if pixels_CHW is None or self.image_mode == "off" or not self.size.area:
            self.show([])
            return
        _, height, width = pixels_CHW.shape
        columns = max(min(self.size.width, 2 * self.size.height * width // height), 1)
        if self.image_mode == "half" and columns > width:
            columns -= columns % width  # a whole-number scale
        lines = self.render_image(pixels_CHW, columns, exact=not self._is_live, live=self._is_live)
        self.show([Strip(line) for line in lines[: self.size.height]])
