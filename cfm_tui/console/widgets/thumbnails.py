"""Images with their labels, side by side."""

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
SIZES = (40, 32, 24, 20, 16, 12)  #: cells across an image; narrower ones tell nothing
CHOSEN = Style(reverse=True, bold=True)
SQUARE = (1, 1, 1)


class Thumbnails(Picture):
    """A grid of images as large as the widget; what does not fit is left out (see `fits`)."""

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self._images: list[Pixels] = []
        self._labels: list[str] = []
        self._cells_wide = 16
        self._cursor: int | None = None

    def show_images(
        self, images: Sequence[Pixels], labels: Sequence[str], size: int, cursor: int | None = None
    ) -> None:
        """Show these images (uint8, CHW), each `size` cells wide under its label.

        cursor: the index of the one whose label is in brackets and reversed.
        """
        assert len(images) == len(labels), (len(images), len(labels))
        self._images, self._labels = list(images), list(labels)
        self._cells_wide, self._cursor = max(size, 1), cursor
        self._draw()

    def show_widest(self, images: Sequence[Pixels], labels: Sequence[str]) -> None:
        """Show these images at the widest of `SIZES` at which as many as can be seen are seen."""
        width, height = self.size
        most = min(len(images), self.fits(width, height, SIZES[-1]))
        wide = (size for size in SIZES if size // 2 < height and self.fits(width, height, size) >= most)
        self.show_images(images, labels, next(wide, SIZES[-1]))

    def fits(self, width: int, height: int, size: int | None = None) -> int:
        """How many images of that size (default: as shown last), and of the first one's shape, fit."""
        across, down = self._grid(width, height, size or self._cells_wide)
        return across * down

    @property
    def across(self) -> int:
        """How many images stand side by side."""
        return self._grid(self.size.width, self.size.height, self._cells_wide)[0]

    def on_mount(self) -> None:
        """A light theme has another ramp."""
        self.watch(self.app, "theme", self._draw_later, init=False)

    def _draw_later(self) -> None:
        self.call_after_refresh(self._draw)

    def on_resize(self, event: Resize) -> None:
        """Lay out anew."""
        self._draw()

    def _grid(self, width: int, height: int, size: int) -> tuple[int, int]:
        return max(1, (width + GAP) // (size + GAP)), max(1, height // self._block(size))

    def _block(self, size: int) -> int:
        """Lines of the tallest image with its label."""
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
        blocks = [self._block_of(index, size) for index in range(count)]
        rows: list[Strip] = []
        for start in range(0, count, across):
            rows += _side_by_side(blocks[start : start + across], size, self._block(size))
        self.show(rows[:height])

    def _block_of(self, index: int, size: int) -> list[Sequence[Segment]]:
        chosen = index == self._cursor
        label = f"[{label_of(self._labels[index], max(size - 2, 0))}]" if chosen else self._labels[index]
        top = [Segment(label_of(label, size), CHOSEN if chosen else None)]
        mode = images_of(self.app)
        if mode == "off":
            return [top]
        image = np.ascontiguousarray(self._images[index])
        ramp = RAMP[::-1] if is_light(self) else RAMP
        return [top, *drawn(image.tobytes(), image.shape, size, mode, image_colours(self.app), ramp)]


@lru_cache(256)
def drawn(
    pixels: bytes, shape: tuple[int, ...], size: int, mode: Images, colours: Colours, ramp: str
) -> Lines:
    """An image's lines; kept, so that an image that stays the same costs nothing."""
    assert mode != "off"
    image_CHW = np.frombuffer(pixels, np.uint8).reshape(shape)
    made = cells(image_CHW, size, mode=mode, colours=colours, ramp=ramp)
    return tuple(tuple(line) for line in made.segments())


def _side_by_side(blocks: Sequence[Sequence[Sequence[Segment]]], size: int, height: int) -> list[Strip]:
    """One line of images."""
    gap, blank = Segment(" " * GAP), Segment(" " * size)
    rows = []
    for y in range(height):
        parts: list[Segment] = []
        for number, block in enumerate(blocks):
            parts += [gap] if number else []
            parts += block[y] if y < len(block) else [blank]
        rows.append(Strip(parts, len(blocks) * (size + GAP) - GAP))
    return rows
