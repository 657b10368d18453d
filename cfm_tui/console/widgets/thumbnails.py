"""A grid of labelled images."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from rich.segment import Segment
from rich.style import Style
from textual.events import Resize
from textual.strip import Strip

from cfm_tui.console.widgets.picture import Picture
from cfm_tui.console.widgets.showing import image_colours, images_of, is_light
from cfm_tui.display.ascii_image import RAMP, Colours, cells, label_of, line_count
from cfm_tui.display.terminal import Images

Pixels = NDArray[np.uint8]
Lines = tuple[tuple[Segment, ...], ...]
GAP = 2  # cells between images
SIZES = (40, 32, 24, 20, 16, 12)  #: image widths in cells; narrower images are unrecognisable
CHOSEN = Style(reverse=True, bold=True)
SQUARE = (1, 1, 1)


class Thumbnails(Picture):
    """A grid of images that fills the widget; images that do not fit are left out (see `capacity`)."""

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self._images: list[Pixels] = []
        self._labels: list[str] = []
        self._cells_wide = 16
        self._cursor: int | None = None

    def show_images(
        self, images: Sequence[Pixels], labels: Sequence[str], size: int, cursor: int | None = None
    ) -> None:
        """Show images (uint8, CHW), each `size` cells wide under its label.

        cursor: index of the image whose label is highlighted.
        """
        assert len(images) == len(labels), (len(images), len(labels))
        self._images, self._labels = list(images), list(labels)
        self._cells_wide, self._cursor = max(size, 1), cursor
        self._draw()

    def show_widest(self, images: Sequence[Pixels], labels: Sequence[str]) -> None:
        """Show images at the largest of `SIZES` at which as many fit as at the smallest."""
        width, height = self.size
        most = min(len(images), self.capacity(width, height, SIZES[-1]))
        wide = (size for size in SIZES if size // 2 < height and self.capacity(width, height, size) >= most)
        self.show_images(images, labels, next(wide, SIZES[-1]))

    def capacity(self, width: int, height: int, size: int | None = None) -> int:
        """Return how many images `size` cells wide fit into width × height cells.

        size: defaults to the current one. The tallest image determines the height of a row.
        """
        across, down = self._grid(width, height, size or self._cells_wide)
        return across * down

    @property
    def across(self) -> int:
        """Number of images side by side."""
        return self._grid(self.size.width, self.size.height, self._cells_wide)[0]

    def on_mount(self) -> None:
        """Redraw when the theme changes: a light theme inverts the ramp."""
        self.watch(self.app, "theme", self._draw_later, init=False)

    def _draw_later(self) -> None:
        self.call_after_refresh(self._draw)

    def on_resize(self, event: Resize) -> None:
        """Redraw in the new size."""
        self._draw()

    def _grid(self, width: int, height: int, size: int) -> tuple[int, int]:
        return max(1, (width + GAP) // (size + GAP)), max(1, height // self._block_height(size))

    def _block_height(self, size: int) -> int:
        """Return the number of lines of the tallest image with its label."""
        if images_of(self.app) == "off":
            return 1
        return 1 + max(
            (line_count(image.shape, size) for image in self._images), default=line_count(SQUARE, size)
        )

    def _draw(self) -> None:
        if not self.is_mounted or not self.size.area:
            return
        width, height = self.size
        size = min(self._cells_wide, width)
        across, down = self._grid(width, height, size)
        count = min(len(self._images), across * down)
        blocks = [self._draw_block(index, size) for index in range(count)]
        rows: list[Strip] = []
        for start in range(0, count, across):
            rows += _join_blocks(blocks[start : start + across], size, self._block_height(size))
        self.show(rows[:height])

    def _draw_block(self, index: int, size: int) -> list[Sequence[Segment]]:
        chosen = index == self._cursor
        label = f"[{label_of(self._labels[index], max(size - 2, 0))}]" if chosen else self._labels[index]
        top = [Segment(label_of(label, size), CHOSEN if chosen else None)]
        mode = images_of(self.app)
        if mode == "off":
            return [top]
        image = np.ascontiguousarray(self._images[index])
        ramp = RAMP[::-1] if is_light(self) else RAMP
        return [top, *render_image(image.tobytes(), image.shape, size, mode, image_colours(self.app), ramp)]


@lru_cache(256)
def render_image(
    pixels: bytes, shape: tuple[int, ...], size: int, mode: Images, colours: Colours, ramp: str
) -> Lines:
    """Return an image's lines. Cached, so that redrawing an unchanged image costs nothing."""
    assert mode != "off"
    image_CHW = np.frombuffer(pixels, np.uint8).reshape(shape)
    image_cells = cells(image_CHW, size, mode=mode, colours=colours, ramp=ramp)
    return tuple(tuple(line) for line in image_cells.segments())


def _join_blocks(blocks: Sequence[Sequence[Sequence[Segment]]], size: int, height: int) -> list[Strip]:
    """Return the lines of one row of the grid."""
    gap, blank = Segment(" " * GAP), Segment(" " * size)
    rows = []
    for y in range(height):
        parts: list[Segment] = []
        for number, block in enumerate(blocks):
            parts += [gap] if number else []
            parts += block[y] if y < len(block) else [blank]
        rows.append(Strip(parts, len(blocks) * (size + GAP) - GAP))
    return rows
