"""Images as text: brightness in plain ASCII, or colour in half blocks, as ANSI text or styled cells.

Legend: C channels (1 or 3), H, W pixels; R, T rows and columns of the text's own pixels; N images; L lines.
Pixels are averaged over areas in linear light, as the eye does from a distance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from rich.cells import set_cell_size
from rich.color import Color
from rich.segment import Segment
from rich.style import Style

from cfm_tui.display.downsampling import Floats

Mode = Literal["ascii", "half"]
Colours = Literal[256, "true"]

RAMP = " .:-=+*#%@"  #: dark to bright, on a dark background
_GAP = 2  # cells between images of a grid


@dataclass(frozen=True)
class ImageCells:
    """An image as lines of characters, and for colour images the colours of each cell's two halves.

    upper_LT, lower_LT: xterm colour numbers if `colours` is 256, else 0xRRGGBB; None without colour.
    """

    lines: list[str]
    upper_LT: list[list[int]] | None = None
    lower_LT: list[list[int]] | None = None
    colours: Colours = "true"

    def ansi(self) -> str:
        """Return text with escape sequences, lines joined by newlines; colours are reset after each line."""
        if self.upper_LT is None:
            return "\n".join(self.lines)
        lines = (
            "".join(f"\x1b[38;{self._format(up)};48;{self._format(low)}m{text}" for text, (up, low) in runs)
            for runs in self._group_runs()
        )
        return "\n".join(line + "\x1b[0m" for line in lines)

    def segments(self) -> list[list[Segment]]:
        """Return the Rich segments of each line."""
        if self.upper_LT is None:
            return [[Segment(line)] for line in self.lines]
        return [
            [Segment(text, _build_style(*pair, self.colours)) for text, pair in runs]
            for runs in self._group_runs()
        ]

    def _group_runs(self) -> list[list[tuple[str, tuple[int, int]]]]:
        """Return the lines as runs of cells with the same colours."""
        assert self.upper_LT is not None
        assert self.lower_LT is not None
        return [
            [("▀" * len(list(run)), pair) for pair, run in groupby(zip(upper, lower, strict=True))]
            for upper, lower in zip(self.upper_LT, self.lower_LT, strict=True)
        ]

    def _format(self, colour: int) -> str:
        if self.colours == 256:
            return f"5;{colour}"
        return f"2;{colour >> 16};{colour >> 8 & 255};{colour & 255}"


@lru_cache(16384)
def _build_style(upper: int, lower: int, colours: Colours) -> Style:
    return Style(color=_build_colour(upper, colours), bgcolor=_build_colour(lower, colours))


@lru_cache(16384)
def _build_colour(colour: int, colours: Colours) -> Color:
    if colours == 256:
        return Color.from_ansi(colour)
    return Color.from_rgb(colour >> 16, colour >> 8 & 255, colour & 255)


def line_count(shape: Sequence[int], columns: int) -> int:
    """Return the height in lines of an image of shape (C, H, W) that is `columns` cells wide."""
    return max(1, round(columns * shape[1] / shape[2] / 2))  # a cell is about twice as high as wide


def render_cells(
    image_CHW: NDArray[np.uint8],
    columns: int,
    *,
    mode: Mode = "ascii",
    colours: Colours = "true",
    ramp: str = RAMP,
) -> ImageCells:
    """Render one image, `columns` cells wide, with its aspect ratio.

    mode: ``ascii`` maps brightness to `ramp`, with the contrast stretched to the whole ramp; ``half`` writes
    ``▀`` with two colours per cell, from xterm's 256 or in 24 bits.
    """
    assert image_CHW.dtype == np.uint8, image_CHW.dtype
    assert image_CHW.ndim == 3, image_CHW.shape
    channels = len(image_CHW)
    assert channels in (1, 3), image_CHW.shape
    assert columns >= 1, columns
    lines = line_count(image_CHW.shape, columns)
    linear_CHW = _to_linear(image_CHW / 255.0)
    if mode == "ascii":
        luminance = np.array([1.0] if channels == 1 else [0.2126, 0.7152, 0.0722])  # Rec. 709
        grey_HW = np.tensordot(luminance, linear_CHW, 1)
        grey_RT = _to_srgb(_resize(grey_HW, lines, columns))
        low, high = grey_RT.min(), grey_RT.max()
        if high - low >= 1 / 255:  # an image without contrast keeps its brightness
            grey_RT = (grey_RT - low) / (high - low)
        steps_RT = np.clip((grey_RT * len(ramp)).astype(int), 0, len(ramp) - 1)
        return ImageCells(["".join(ramp[step] for step in row) for row in steps_RT])
    small_CRT = _to_srgb(_resize(linear_CHW, 2 * lines, columns))
    rgb_RT3 = np.broadcast_to(small_CRT, (3, *small_CRT.shape[1:])).transpose(1, 2, 0)
    colours_RT = _quantise_colours(np.rint(255 * rgb_RT3).astype(int), colours)
    return ImageCells(["▀" * columns] * lines, colours_RT[::2].tolist(), colours_RT[1::2].tolist(), colours)


def grid(
    images_NCHW: Sequence[NDArray[np.uint8]] | NDArray[np.uint8],
    labels: Sequence[str],
    *,
    width: int,
    columns: int,
    mode: Mode = "ascii",
    colours: Colours = "true",
) -> str:
    """Render images side by side in lines of at most `width` cells, each with its label above.

    columns: width of an image in cells, at most `width`; labels are cropped to it. Images may differ in
    shape. Without images, the text is empty.
    """
    columns = min(columns, width)
    blocks = [
        [
            fit_label(label, columns),
            *render_cells(image, columns, mode=mode, colours=colours).ansi().split("\n"),
        ]
        for image, label in zip(images_NCHW, labels, strict=True)
    ]
    per_row = max(1, (width + _GAP) // (columns + _GAP))
    rows = []
    for start in range(0, len(blocks), per_row):
        row = blocks[start : start + per_row]
        height = max(len(block) for block in row)
        filled = [block + [" " * columns] * (height - len(block)) for block in row]
        lines = ((" " * _GAP).join(parts).rstrip() for parts in zip(*filled, strict=True))
        rows.append("\n".join(lines))
    return "\n\n".join(rows)


def fit_label(label: str, columns: int) -> str:
    """Return a label as exactly `columns` cells, without control characters."""
    visible = "".join(character if character.isprintable() else "?" for character in label)
    return set_cell_size(visible, columns)


def _to_linear(srgb: Floats) -> Floats:
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def _to_srgb(linear: Floats) -> Floats:
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)


def _resize(image: Floats, rows: int, columns: int) -> Floats:
    """Resize the last two axes; each new pixel is the mean over the area that it covers."""
    down, across = _compute_coverage(image.shape[-2], rows), _compute_coverage(image.shape[-1], columns)
    return np.asarray(down @ image @ across.T)


def _compute_coverage(old: int, new: int) -> Floats:
    """Return the share of each of `old` intervals in each of `new` intervals, shape (new, old)."""
    starts, ends = np.arange(new)[:, None] * old / new, np.arange(1, new + 1)[:, None] * old / new
    cells = np.arange(old)[None, :]
    overlap = np.minimum(ends, cells + 1) - np.maximum(starts, cells)
    return np.asarray(np.clip(overlap, 0, None) * new / old)


def _quantise_colours(rgb_RT3: NDArray[Any], colours: Colours) -> NDArray[Any]:
    """Return colours as 0xRRGGBB, or as the nearest of xterm's colour cube and greys."""
    if colours == "true":
        return np.asarray(rgb_RT3 @ np.array([1 << 16, 1 << 8, 1]))
    cube = np.array([0, 95, 135, 175, 215, 255])  # levels of xterm's 6×6×6 colours, numbers 16…231
    greys = np.arange(8, 239, 10)  # numbers 232…255
    steps_RT3 = np.abs(rgb_RT3[..., None] - cube).argmin(-1)
    grey_RT = np.abs(rgb_RT3.mean(-1)[..., None] - greys).argmin(-1)
    far_cube = ((rgb_RT3 - cube[steps_RT3]) ** 2).sum(-1)
    far_grey = ((rgb_RT3 - greys[grey_RT][..., None]) ** 2).sum(-1)
    return np.asarray(np.where(far_grey < far_cube, 232 + grey_RT, 16 + steps_RT3 @ np.array([36, 6, 1])))
