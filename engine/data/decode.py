"""From pictures to square uint8 arrays, in a thread pool, with unreadable ones set aside.

Legend: M images in a chunk, C channels, S side in pixels.
The frame of an image is the largest centred square, resampled to S×S: the same as resizing the short
side to S and cropping the centre.
"""

from __future__ import annotations

import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from engine import device as devices
from engine.data.pictures import Pictures

Array = np.ndarray[Any, Any]
Progress = Callable[[int, int], None]

MAX_PIXELS = 64_000_000  # a picture that declares more is taken for a decompression bomb
LARGE_PIXELS = 8_000_000  # pictures with more are decoded one at a time, so that memory does not multiply
CHUNK = 512
GREY_MODES = frozenset({"1", "L", "LA", "I;16", "I;16B", "I;16L", "I"})
_alone = threading.Lock()
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # Pillow's bound is wider


class BadImage(Exception):
    """A picture that cannot be decoded; the text says why."""


@dataclass
class Chunk:
    """Decoded images in order. kept: their indices; bad: (index, why) of the others."""

    pixels_MCSS: Array
    kept: list[int] = field(default_factory=list)
    bad: list[tuple[int, str]] = field(default_factory=list)
    resolutions: Counter[tuple[int, int]] = field(default_factory=Counter)


def opened(pictures: Pictures, index: int) -> Image.Image:
    """Picture `index` with its header read. Raises BadImage."""
    try:
        image = pictures.open(index)
    except Exception as error:  # decoders raise anything on hostile bytes
        raise BadImage(_reason(error)) from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        image.close()
        raise BadImage(f"declares {width}×{height} pixels, more than {MAX_PIXELS:,}")
    return image


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return "not an image" if type(error).__name__ == "UnidentifiedImageError" else str(error)


def _in_mode(image: Image.Image, channels: int) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits a pixel: Pillow would clip them instead of scaling
        image = Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("L" if channels == 1 else "RGB")


def frame_box(width: int, height: int) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of the largest centred square."""
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def square(
    image: Image.Image, size: int, channels: int, box: tuple[float, float, float, float] | None = None
) -> Array:
    """The part `box` of an image (its frame, if None), resampled bilinearly: uint8 (C, S, S).

    Raises BadImage.
    """
    large = image.size[0] * image.size[1] > LARGE_PIXELS
    try:
        with _alone if large else nullcontext():
            plain = _in_mode(image, channels)
            box = frame_box(*plain.size) if box is None else box
            if plain.size != (size, size) or box != (0, 0, size, size):
                plain = plain.resize((size, size), Image.Resampling.BILINEAR, box=box)
        array = np.asarray(plain)
    except Exception as error:
        raise BadImage(_reason(error)) from error
    return array[None] if channels == 1 else array.transpose(2, 0, 1)


def chunks(pictures: Pictures, size: int, channels: int, progress: Progress | None = None) -> Iterator[Chunk]:
    """Every picture decoded, some hundreds at a time; `progress(done, total)` after each chunk."""

    def one(index: int) -> tuple[Array, tuple[int, int]] | str:
        try:
            with opened(pictures, index) as image:
                return square(image, size, channels), image.size
        except BadImage as error:
            return str(error)

    total = len(pictures)
    with ThreadPoolExecutor(devices.cpus()) as pool:
        for start in range(0, total, CHUNK):
            stop = min(start + CHUNK, total)
            yield _gather(start, list(pool.map(one, range(start, stop))), size, channels)
            if progress is not None:
                progress(stop, total)


def _gather(
    start: int, results: list[tuple[Array, tuple[int, int]] | str], size: int, channels: int
) -> Chunk:
    good = [result for result in results if not isinstance(result, str)]
    chunk = Chunk(np.empty((len(good), channels, size, size), dtype=np.uint8))
    for index, result in enumerate(results, start):
        if isinstance(result, str):
            chunk.bad.append((index, result))
            continue
        chunk.pixels_MCSS[len(chunk.kept)] = result[0]
        chunk.kept.append(index)
        chunk.resolutions[result[1]] += 1
    return chunk


def headers(pictures: Pictures, progress: Progress | None = None) -> tuple[Counter[tuple[int, int]], bool]:
    """How often each (width, height) occurs, and whether every readable picture is grey."""

    def one(index: int) -> tuple[tuple[int, int], str] | None:
        try:
            with opened(pictures, index) as image:
                return image.size, image.mode
        except BadImage:
            return None

    sizes: Counter[tuple[int, int]] = Counter()
    grey = True
    total = len(pictures)
    with ThreadPoolExecutor(devices.cpus()) as pool:
        for start in range(0, total, CHUNK):
            stop = min(start + CHUNK, total)
            for found in pool.map(one, range(start, stop)):
                if found is not None:
                    sizes[found[0]] += 1
                    grey = grey and found[1] in GREY_MODES
            if progress is not None:
                progress(stop, total)
    return sizes, grey
