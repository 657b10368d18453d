"""Images as text: brightness in plain ASCII, or colour in half blocks.

Legend: C channels (1 or 3), H, W pixels; R, T rows and columns of the text's own pixels; N images.
Pixels are averaged over areas in linear light, as an eye does from afar.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from rich.cells import set_cell_size

Floats = NDArray[np.float64]
Mode = Literal["ascii", "half"]
Colours = Literal[256, "true"]

RAMP = " .:-=+*#%@"  #: dark to bright, on a dark background
LUMINANCE = np.array([0.2126, 0.7152, 0.0722])  # Rec. 709
CELL_HEIGHT = 2  # a character cell is about twice as high as wide
CUBE = np.array([0, 95, 135, 175, 215, 255])  # levels of xterm's 6×6×6 colours, numbers 16…231
GREYS = np.arange(8, 239, 10)  # xterm's greys, numbers 232…255
RESET = "\x1b[0m"


def render(
    image_CHW: NDArray[np.uint8],
    columns: int,
    *,
    mode: Mode = "ascii",
    colours: Colours = "true",
    ramp: str = RAMP,
) -> str:
    """One image as lines of `columns` cells each, joined by newlines, in the image's proportions.

    mode: ``ascii`` writes brightness by `ramp`, stretched so that every image uses all of it;
    ``half`` writes ``▀`` with two colours per cell, as they are, from xterm's 256 or in 24 bits.
    """
    assert image_CHW.dtype == np.uint8, image_CHW.dtype
    assert image_CHW.ndim == 3, image_CHW.shape
    channels, height, width = image_CHW.shape
    assert channels in (1, 3), image_CHW.shape
    assert columns >= 1, columns
    lines = max(1, round(columns * height / width / CELL_HEIGHT))
    linear_CHW = _to_linear(image_CHW / 255.0)
    if mode == "ascii":
        grey_HW = linear_CHW[0] if channels == 1 else np.tensordot(LUMINANCE, linear_CHW, 1)
        return _ramp_text(_stretched(_to_srgb(_resized(grey_HW, lines, columns))), ramp)
    small_CRT = _to_srgb(_resized(linear_CHW, CELL_HEIGHT * lines, columns))
    rgb_RT3 = np.broadcast_to(small_CRT, (3, *small_CRT.shape[1:])).transpose(1, 2, 0)
    return _half_block_text(np.rint(255 * rgb_RT3).astype(int), colours)


def grid(
    images_NCHW: Sequence[NDArray[np.uint8]] | NDArray[np.uint8],
    labels: Sequence[str],
    *,
    width: int,
    columns: int,
    gap: int = 2,
    mode: Mode = "ascii",
    colours: Colours = "true",
    ramp: str = RAMP,
) -> str:
    """Several images side by side in lines of at most `width` cells, each with its label above.

    columns: cells of one image, at most `width`; labels are cut to it; gap: cells between images.
    Images may differ in shape. No images: an empty text.
    """
    assert len(images_NCHW) == len(labels), (len(images_NCHW), len(labels))
    columns = min(columns, width)
    blocks = [
        [_label(label, columns), *render(image, columns, mode=mode, colours=colours, ramp=ramp).split("\n")]
        for image, label in zip(images_NCHW, labels, strict=True)
    ]
    per_row = max(1, (width + gap) // (columns + gap))
    rows = [blocks[start : start + per_row] for start in range(0, len(blocks), per_row)]
    return "\n\n".join(_side_by_side(row, columns, gap) for row in rows)


def _label(label: str, columns: int) -> str:
    visible = "".join(character if character.isprintable() else "?" for character in label)
    return set_cell_size(visible, columns)


def _side_by_side(blocks: Sequence[list[str]], columns: int, gap: int) -> str:
    height = max(len(block) for block in blocks)
    filled = [block + [" " * columns] * (height - len(block)) for block in blocks]
    return "\n".join((" " * gap).join(parts).rstrip() for parts in zip(*filled, strict=True))


def _to_linear(srgb: Floats) -> Floats:
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def _to_srgb(linear: Floats) -> Floats:
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)


def _resized(image: Floats, rows: int, columns: int) -> Floats:
    """The mean over the area that each new pixel covers, over the last two axes."""
    down, across = _coverage(image.shape[-2], rows), _coverage(image.shape[-1], columns)
    return np.asarray(down @ image @ across.T)


def _coverage(old: int, new: int) -> Floats:
    """Shares of `old` intervals in each of `new` intervals of the same line, shape (new, old)."""
    starts, ends = np.arange(new)[:, None] * old / new, np.arange(1, new + 1)[:, None] * old / new
    cells = np.arange(old)[None, :]
    overlap = np.minimum(ends, cells + 1) - np.maximum(starts, cells)
    return np.asarray(np.clip(overlap, 0, None) * new / old)


def _stretched(grey: Floats) -> Floats:
    """From 0 to 1; an image without contrast keeps its brightness."""
    low, high = grey.min(), grey.max()
    return grey if high - low < 1 / 255 else (grey - low) / (high - low)


def _ramp_text(grey_RT: Floats, ramp: str) -> str:
    steps = np.clip((grey_RT * len(ramp)).astype(int), 0, len(ramp) - 1)
    return "\n".join("".join(ramp[step] for step in row) for row in steps)


def _half_block_text(rgb_RT3: NDArray[Any], colours: Colours) -> str:
    """Lines of ▀ whose foreground is the upper pixel and whose background the lower."""
    codes = _true_codes(rgb_RT3) if colours == "true" else _xterm_codes(rgb_RT3)
    return "\n".join(_half_block_line(*pair) for pair in zip(codes[::2], codes[1::2], strict=True))


def _half_block_line(upper: list[str], lower: list[str]) -> str:
    text, last = "", None
    for pair in zip(upper, lower, strict=True):
        if pair != last:
            text += f"\x1b[38;{pair[0]};48;{pair[1]}m"
        text, last = text + "▀", pair
    return text + RESET


def _true_codes(rgb_RT3: NDArray[Any]) -> list[list[str]]:
    return [[f"2;{r};{g};{b}" for r, g, b in row] for row in rgb_RT3]


def _xterm_codes(rgb_RT3: NDArray[Any]) -> list[list[str]]:
    """The nearest of xterm's colour cube and greys."""
    steps_RT3 = np.abs(rgb_RT3[..., None] - CUBE).argmin(-1)
    grey_RT = np.abs(rgb_RT3.mean(-1)[..., None] - GREYS).argmin(-1)
    far_cube = ((rgb_RT3 - CUBE[steps_RT3]) ** 2).sum(-1)
    far_grey = ((rgb_RT3 - GREYS[grey_RT][..., None]) ** 2).sum(-1)
    numbers = np.where(far_grey < far_cube, 232 + grey_RT, 16 + steps_RT3 @ np.array([36, 6, 1]))
    return [[f"5;{number}" for number in row] for row in numbers]
