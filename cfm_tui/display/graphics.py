"""Images in pixels: kitty's graphics protocol and sixel.

An image occupies cells with kitty's Unicode placeholders: a character whose diacritics are the row and the
column of the cell in the image, and whose colour is the image's number. Such cells can be moved, covered and
cropped like any others. A terminal with sixel is sent blank cells and their pixels in place of them.

Legend: C channels (1 or 3), H, W pixels.
Sources: https://sw.kovidgoyal.net/kitty/graphics-protocol/; DEC's VT330/VT340 Programmer Reference, ch. 14.
"""

from __future__ import annotations

import base64
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from rich.color import Color
from rich.segment import Segment
from rich.style import Style

from cfm_tui.display.terminal import PixelSupport
from engine.store.images import png

if TYPE_CHECKING:
    from PIL.Image import Image as PaletteImage

PLACEHOLDER = "\U0010eeee"
_DIACRITIC_RANGES = (  # of the protocol, in hexadecimal
    "305 30D-30E 310 312 33D-33F 346 34A-34C 350-352 357 35B 363-36F 483-487 592-595 597-599 59C-5A1"
    " 5A8-5A9 5AB-5AC 5AF 5C4 610-617 657-65B 65D-65E 6D6-6DC 6DF-6E2 6E4 6E7-6E8 6EB-6EC 730 732-733"
    " 735-736 73A 73D 73F-741 743 745 747 749-74A 7EB-7F1 7F3 816-819 81B-823 825-827 829-82D 951 953-954"
    " F82-F83 F86-F87 135D-135F 17DD 193A 1A17 1A75-1A7C 1B6B 1B6D-1B73 1CD0-1CD2 1CDA-1CDB 1CE0 1DC0-1DC1"
    " 1DC3-1DC9 1DCB-1DCC 1DD1-1DE6 1DFE 20D0-20D1 20D4-20D7 20DB-20DC 20E1 20E7 20E9 20F0 2CEF-2CF1"
    " 2DE0-2DFF A66F A67C-A67D A6F0-A6F1 A8E0-A8F1 AAB0 AAB2-AAB3 AAB7-AAB8 AABE-AABF AAC1 FE20-FE26 10A0F"
    " 10A38 1D185-1D189 1D1AA-1D1AD 1D242-1D244"
)
_DIACRITICS = [
    chr(code)
    for start, end in re.findall(r"(\w+)-?(\w*)", _DIACRITIC_RANGES)
    for code in range(int(start, 16), int(end or start, 16) + 1)
]
_INDEX = {diacritic: index for index, diacritic in enumerate(_DIACRITICS)}

_COLOURED = re.compile(
    rf"\x1b\[(?:[\d;]*;)?38;2;(\d+);(\d+);(\d+)(?:;[\d;]*)?m((?:{PLACEHOLDER}..)+)", re.DOTALL
)

Lines = tuple[tuple[Segment, ...], ...]


@dataclass(frozen=True)
class _Image:
    """An image in its place. indexed: for sixel; None where the terminal has the image."""

    number: int
    columns: int
    lines: Lines
    indexed: PaletteImage | None


class Graphics:
    """The images that a terminal was sent.

    support: what the terminal has. send: writes to the terminal, before the cells that show an image.
    """

    MOST_IMAGES = 1024  #: more than a screen shows; the image that was not used for longest is deleted
    MOST_CELLS = len(_DIACRITICS)  #: height and width of an image
    COLOURS = 64  #: of an image that need not be exact, and of any by sixel: a third of the bytes
    PIXELS_PER_CELL = 4  #: width of a cell in pixels of an image that need not be exact, at most
    SHARP_PIXELS = 96  #: smaller images are enlarged by whole numbers; terminals would blur them
    CHUNK = 4096  #: bytes of an image in one message

    def __init__(self, support: PixelSupport, send: Callable[[str], None]) -> None:
        self._support, self._send = support, send
        self._is_kitty = support.protocol == "kitty"
        self._images: OrderedDict[tuple[object, ...], _Image] = OrderedDict()
        self._by_number: dict[int, _Image] = {}
        self._numbers = 0  # used so far

    def place(
        self, pixels_CHW: NDArray[np.uint8], columns: int, lines: int, *, exact: bool, sharp: bool = True
    ) -> Lines:
        """Return the cells of an image; send it if the terminal does not have it.

        exact: with all its pixels and, by kitty's protocol, colours; else what a thumbnail needs. sharp: with
        the edges of a small image's pixels, which takes 1.4 times the bytes.
        """
        columns, lines = min(columns, self.MOST_CELLS), min(lines, self.MOST_CELLS)
        key = pixels_CHW.tobytes(), pixels_CHW.shape, columns, lines, exact, sharp
        image = self._images.get(key)
        if image is None:
            if len(self._images) >= self.MOST_IMAGES:
                self._delete(self._images.popitem(last=False)[1].number)
            self._numbers = number = self._numbers % 0xFFFFFF + 1
            indexed = None
            if self._is_kitty:
                self._send(
                    encode_kitty(number, self._encode(pixels_CHW, columns, exact, sharp), columns, lines)
                )
            else:
                indexed = _quantise(pixels_CHW, min(self._support.colours, self.COLOURS))
            image = _Image(number, columns, build_placeholders(number, columns, lines), indexed)
            self._images[key] = self._by_number[number] = image
        self._images.move_to_end(key)
        return image.lines

    def _encode(self, pixels_CHW: NDArray[np.uint8], columns: int, exact: bool, sharp: bool) -> bytes:
        """Return an image as PNG."""
        repeats = max(self.SHARP_PIXELS // max(pixels_CHW.shape[1:]), 1) if sharp else 1
        if not exact:
            pixels_CHW = shrink(pixels_CHW, self.PIXELS_PER_CELL * columns)
        pixels_CHW = pixels_CHW.repeat(repeats, 1).repeat(repeats, 2)
        if exact or len(pixels_CHW) == 1:
            return png(pixels_CHW)
        file = BytesIO()
        _quantise(pixels_CHW, self.COLOURS).save(file, "PNG")
        return file.getvalue()

    def _delete(self, number: int) -> None:
        del self._by_number[number]
        if self._is_kitty:
            self._send(f"\x1b_Ga=d,d=I,i={number},q=2\x1b\\")

    def delete_all(self) -> None:
        """Delete all images; they are sent again where they are needed."""
        self._images.clear()
        for number in list(self._by_number):
            self._delete(number)

    def translate(self, text: str) -> str:
        """Replace placeholders in what the terminal is sent by sixel graphics."""
        return _COLOURED.sub(self._to_sixel, text) if PLACEHOLDER in text else text

    def _to_sixel(self, match: re.Match[str]) -> str:
        """Return a line of blank cells with the graphics over them; blank cells for an unknown image.

        The cursor is restored to the first cell, since terminals differ in where sixel leaves it.
        """
        cells = match[4]
        count = len(cells) // 3
        blank = match[0][: -len(cells)] + " " * count
        red, green, blue = (int(match[index]) for index in (1, 2, 3))
        image = self._by_number.get(red << 16 | green << 8 | blue)
        if image is None or image.indexed is None:
            return blank
        row, first = _INDEX[cells[1]], _INDEX[cells[2]]
        width, height = self._support.cell
        columns, rows = image.indexed.size
        y = (np.arange(row * height, (row + 1) * height) + 0.5) * rows / (len(image.lines) * height)
        x = (np.arange(first * width, (first + count) * width) + 0.5) * columns / (image.columns * width)
        part_HW = np.asarray(image.indexed)[y.astype(int)[:, None], x.astype(int)]
        palette = image.indexed.getpalette() or []
        return f"\x1b7{blank}\x1b8{encode_sixel(part_HW, palette)}\x1b8\x1b[{count}C"


def shrink(pixels_CHW: NDArray[np.uint8], side: int = 64) -> NDArray[np.uint8]:
    """Return an image reduced to sides of at most `side` pixels, by means over equal squares.

    Rows and columns that do not fill a square are cut off.
    """
    channels, height, width = pixels_CHW.shape
    step = -(-max(height, width) // side)
    if step == 1:
        return pixels_CHW
    rows, columns = max(height // step, 1), max(width // step, 1)
    cropped_CHW = pixels_CHW[:, : rows * step, : columns * step]
    squares = cropped_CHW.reshape(channels, rows, min(step, height), columns, -1)
    return np.asarray(np.rint(squares.mean((2, 4))), np.uint8)


def resize(pixels_CHW: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Return a square image with another side: reduced as by `shrink`, or enlarged by repeating pixels."""
    small_CHW = shrink(pixels_CHW, side)
    index_S = np.arange(side) * small_CHW.shape[-1] // side
    return small_CHW[:, index_S][:, :, index_S]


def build_placeholders(number: int, columns: int, lines: int) -> Lines:
    """Return the cells that show an image."""
    style = Style(color=Color.from_rgb(number >> 16, number >> 8 & 255, number & 255))
    rows = (
        "".join(PLACEHOLDER + _DIACRITICS[row] + _DIACRITICS[column] for column in range(columns))
        for row in range(lines)
    )
    return tuple((Segment(row, style),) for row in rows)


def encode_kitty(number: int, content: bytes, columns: int, lines: int) -> str:
    """Return the messages that send a PNG and place it on columns × lines cells, wherever placeholders are.

    The terminal does not answer them.
    """
    data = base64.standard_b64encode(content).decode()
    chunks = [data[start : start + Graphics.CHUNK] for start in range(0, len(data), Graphics.CHUNK)]
    head = f"a=T,U=1,i={number},f=100,c={columns},r={lines},q=2,"
    return "".join(
        f"\x1b_G{'' if index else head}m={int(index < len(chunks) - 1)};{chunk}\x1b\\"
        for index, chunk in enumerate(chunks)
    )


def encode_sixel(indices_HW: NDArray[np.uint8], palette: Sequence[int]) -> str:
    """Return an image as sixel graphics without a background.

    palette: red, green and blue of each colour, up to 255.
    """
    height, width = indices_HW.shape
    parts = [f'\x1bP0;1q"1;1;{width};{height}']
    for number in map(int, np.unique(indices_HW)):
        levels = (str(round(level * 100 / 255)) for level in palette[3 * number : 3 * number + 3])
        parts.append(f"#{number};2;{';'.join(levels)}")
    for start in range(0, height, 6):
        band_HW = indices_HW[start : start + 6]
        bits = 1 << np.arange(len(band_HW))
        lines = (
            f"#{number}{''.join(_run_lengths(bits @ (band_HW == number)))}" for number in np.unique(band_HW)
        )
        parts.append("$".join(lines) + "-")
    return "".join(parts) + "\x1b\\"


def _run_lengths(sixels_W: NDArray[np.int64]) -> Iterator[str]:
    """Yield the characters of a line, repeated ones with their number, without what is blank at the end."""
    ends = np.flatnonzero(np.diff(sixels_W, append=-1)) + 1
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        sixel, count = chr(63 + sixels_W[start]), int(end - start)
        if sixel != "?" or end < len(sixels_W):
            yield f"!{count}{sixel}" if count > 3 else sixel * count


def _quantise(pixels_CHW: NDArray[np.uint8], colours: int) -> PaletteImage:
    """Return an image with a palette of at most `colours` colours."""
    from PIL import Image

    rgb_HWC = np.ascontiguousarray(np.broadcast_to(pixels_CHW, (3, *pixels_CHW.shape[1:])).transpose(1, 2, 0))
    return Image.fromarray(rgb_HWC).quantize(colours)
