"""Decode pictures to square uint8 arrays in a thread pool, and collect the unreadable ones.

Legend: M images in a chunk, C channels, S side in pixels.
The frame of an image is its largest centred square, resampled to S×S, or, with `resize`, the central S×S
pixels of the image whose shorter side was resampled to `resize` (torchvision's Resize and CenterCrop).
"""

from __future__ import annotations

import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engine import device as devices
from engine.data.pictures import Pictures, Progress

_T = TypeVar("_T")
_MAX_PIXELS = 64_000_000  # more is treated as a decompression bomb
_LARGE_PIXELS = 8_000_000  # larger pictures are decoded one at a time, to limit memory
_large_picture_lock = threading.Lock()
# The limit of `open_picture` is stricter than Pillow's.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class BadImage(Exception):
    """A picture that cannot be decoded; the text is the reason."""


@dataclass(frozen=True)
class DecodeChunk:
    """Decoded images in order. bad: (index, reason) of the other pictures; resolutions: counts of sizes."""

    pixels_MCSS: NDArray[Any]
    bad: list[tuple[int, str]]
    resolutions: Counter[tuple[int, int]]


def open_picture(pictures: Pictures, index: int) -> Image.Image:
    """Open picture `index` and read its header. Raises BadImage."""
    try:
        image = pictures.open(index)
    except Exception as error:  # decoders raise all kinds of errors on hostile bytes
        raise BadImage(_describe_error(error)) from error
    width, height = image.size
    if width * height > _MAX_PIXELS:
        image.close()
        raise BadImage(f"declares {width}×{height} pixels, more than {_MAX_PIXELS:,}")
    return image


def _describe_error(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return "not an image" if type(error).__name__ == "UnidentifiedImageError" else str(error)


def _convert_mode(image: Image.Image, channels: int) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits per pixel: Pillow would clip instead of scaling
        image = Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("L" if channels == 1 else "RGB")


def frame_box(width: int, height: int) -> tuple[float, float, float, float]:
    """Return left, top, right, bottom of the largest centred square."""
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def _resize_and_crop(image: Image.Image, resize: int, size: int) -> Image.Image:
    """Return the central size×size pixels of the image whose shorter side was resized; rounds as torchvision.

    resize: at least `size`.
    """
    short, long = sorted(image.size)
    other = int(resize * long / short)
    width, height = (resize, other) if image.size[0] <= image.size[1] else (other, resize)
    if width * height > _MAX_PIXELS:
        raise BadImage(f"would have {width}×{height} pixels with its shorter side at {resize}")
    left, top = (round((length - size) / 2.0) for length in (width, height))
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    return resized.crop((left, top, left + size, top + size))


def decode_square(
    image: Image.Image,
    size: int,
    channels: int,
    box: tuple[float, float, float, float] | None = None,
    resize: int | None = None,
) -> NDArray[Any]:
    """Return the part `box` of an image, resampled bilinearly: uint8 (C, S, S).

    box: left, top, right, bottom in pixels; None for the frame. resize: of the frame. Raises BadImage.
    """
    is_large = image.size[0] * image.size[1] > _LARGE_PIXELS
    try:
        with _large_picture_lock if is_large else nullcontext():
            converted = _convert_mode(image, channels)
            if box is None and resize is not None:
                converted = _resize_and_crop(converted, resize, size)
            box = frame_box(*converted.size) if box is None else box
            if converted.size != (size, size) or box != (0, 0, size, size):
                converted = converted.resize((size, size), Image.Resampling.BILINEAR, box=box)
        array = np.asarray(converted)
    except BadImage:
        raise
    except Exception as error:
        raise BadImage(_describe_error(error)) from error
    return array[None] if channels == 1 else array.transpose(2, 0, 1)


def decode_crops(
    image: Image.Image, size: int, channels: int, boxes_R4: Iterable[tuple[int, int, int, int]]
) -> NDArray[Any]:
    """Return crops of an image, each resampled bilinearly by itself: uint8 (R, C, S, S).

    boxes_R4: left, top, right, bottom in pixels. Raises BadImage.
    """
    try:
        converted = _convert_mode(image, channels)
        crops = [
            np.asarray(converted.crop(box_4).resize((size, size), Image.Resampling.BILINEAR))
            for box_4 in boxes_R4
        ]
    except Exception as error:
        raise BadImage(_describe_error(error)) from error
    return np.stack([crop[None] if channels == 1 else crop.transpose(2, 0, 1) for crop in crops])


def decode_chunks(
    pictures: Pictures,
    size: int,
    channels: int,
    progress: Progress | None = None,
    resize: int | None = None,
) -> Iterator[DecodeChunk]:
    """Decode the frames of all pictures, a few hundred at a time; call `progress(done, total)` after each."""

    def decode_one(index: int) -> tuple[NDArray[Any], tuple[int, int]] | str:
        try:
            with open_picture(pictures, index) as image:
                return decode_square(image, size, channels, resize=resize), image.size
        except BadImage as error:
            return str(error)

    for start, outcomes in _map_chunks(decode_one, len(pictures), progress):
        decoded = [outcome for outcome in outcomes if not isinstance(outcome, str)]
        bad = [(index, reason) for index, reason in enumerate(outcomes, start) if isinstance(reason, str)]
        pixels_MCSS = np.empty((len(decoded), channels, size, size), dtype=np.uint8)
        for row, (pixels_CSS, _) in enumerate(decoded):
            pixels_MCSS[row] = pixels_CSS
        yield DecodeChunk(pixels_MCSS, bad, Counter(resolution for _, resolution in decoded))


def read_headers(pictures: Pictures, progress: Progress | None = None) -> dict[str, Any]:
    """Return how often each size occurs, and whether all readable pictures are grey.

    Keys: ``sizes``, a sorted list of [width, height, count], and ``grey``.
    """

    def read_header(index: int) -> tuple[tuple[int, int], str] | None:
        try:
            with open_picture(pictures, index) as image:
                return image.size, image.mode
        except BadImage:
            return None

    chunks = _map_chunks(read_header, len(pictures), progress)
    headers = [header for _, chunk in chunks for header in chunk if header is not None]
    sizes = Counter(size for size, _ in headers)
    grey_modes = {"1", "L", "LA", "I;16", "I;16B", "I;16L", "I"}
    return {
        "grey": all(mode in grey_modes for _, mode in headers),
        "sizes": [[*size, count] for size, count in sorted(sizes.items())],
    }


def _map_chunks(
    function: Callable[[int], _T], total: int, progress: Progress | None, chunk: int = 512
) -> Iterator[tuple[int, list[_T]]]:
    """Yield each chunk's first index and its results, which threads compute."""
    with ThreadPoolExecutor(devices.cpus()) as pool:
        for start in range(0, total, chunk):
            stop = min(start + chunk, total)
            yield start, list(pool.map(function, range(start, stop)))
            if progress is not None:
                progress(stop, total)
