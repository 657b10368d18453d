"""Decode pictures to square uint8 arrays in a thread pool, and collect the unreadable ones.

Legend: M images in a chunk, C channels, S side in pixels.
The frame of an image is its largest centred square, resampled to S×S, or, with `resize`, the central S×S
pixels of the image whose shorter side was resampled to `resize` (torchvision's Resize and CenterCrop).
Pictures are turned upright as their EXIF data says. 12 and 16 bits are scaled to 8, transparency is ignored,
and CMYK is converted to RGB. Numbers without a known range are refused.
"""

from __future__ import annotations

import re
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from engine import device as devices
from engine.data.pictures import Pictures, Progress

_T = TypeVar("_T")
_MAX_PIXELS = 64_000_000  # more is treated as a decompression bomb
_LARGE_PIXELS = 8_000_000  # larger pictures are decoded one at a time, to limit memory
_large_picture_lock = threading.Lock()
# The limit of `open_picture` is stricter than Pillow's.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# Damaged metadata does not matter.
warnings.filterwarnings("ignore", module=r"PIL\.TiffImagePlugin")
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class BadImage(Exception):
    """A picture that cannot be decoded; the text is the reason."""


@dataclass(frozen=True)
class DecodeChunk:
    """Decoded images in order.

    bad: (index, reason) of the other pictures. resolutions: counts of sizes. conversions: how many images
    each conversion of `list_conversions` was applied to.
    """

    pixels_MCSS: NDArray[Any]
    bad: list[tuple[int, str]]
    resolutions: Counter[tuple[int, int]]
    conversions: Counter[str]


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


def _find_turn(image: Image.Image) -> Image.Transpose | None:
    """Return the turn that makes a picture upright, from the EXIF data of its header; None without one."""
    try:  # not PNG's own method, which would read the pixels
        return _TURNS.get(Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1))
    except Exception:  # decoders raise all kinds of errors on damaged metadata, which does not matter
        return None


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return width and height of a picture after it is turned upright; Pillow does so itself with TIFF."""
    turn, (width, height) = _find_turn(image), image.size
    is_turned = turn is not None and turn not in (_TURNS[2], _TURNS[3], _TURNS[4]) and image.format != "TIFF"
    return (height, width) if is_turned else (width, height)


def _count_bits(image: Image.Image) -> int:
    """Return the bits per channel of a picture whose pixels were not read yet: 8, 12 or 16.

    Raises BadImage for numbers without a known range.
    """
    if image.mode == "F":
        raise BadImage("floating-point pixels, whose range is unknown; convert it to 8 bits per channel")
    if image.mode == "I" and image.format == "TIFF":
        raise BadImage("signed or 32-bit pixels, whose range is unknown; convert it to 8 bits per channel")
    codes = repr(getattr(image, "tile", ""))  # names the bits where the mode, such as RGB, does not
    if ";12" in codes:
        return 12
    return 16 if image.mode.startswith("I") or re.search(r"(?<!BGR);16", codes) else 8  # BGR;16: 5, 6, 5


def _has_transparency(image: Image.Image) -> bool:
    return image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info


def list_conversions(image: Image.Image) -> list[str]:
    """Describe how `decode_square` will change a picture whose pixels were not read yet. Raises BadImage."""
    bits = _count_bits(image)
    conversions = {
        "turned upright (EXIF)": _find_turn(image) is not None,
        f"{bits} bits per channel scaled to 8": bits > 8,
        "transparency ignored": _has_transparency(image),
        "CMYK converted to RGB": image.mode == "CMYK",
    }
    return [text for text, applies in conversions.items() if applies]


def _convert(image: Image.Image, channels: int) -> Image.Image:
    """Return the upright picture with 8 bits per channel. Raises BadImage if it would show nothing."""
    bits = _count_bits(image)
    image.load()
    if (turn := _find_turn(image)) is not None:  # None for TIFF, which Pillow has turned
        image = image.transpose(turn)
    if image.mode.startswith("I"):  # Pillow would clip instead of scaling
        levels = np.asarray(image).clip(0, 2**bits - 1).astype(np.uint32)
        image = Image.fromarray((levels * 255 // (2**bits - 1)).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    converted = image.convert("L" if channels == 1 else "RGB")
    if bits == 16 and max(np.ravel(converted.getextrema())) < 16:
        raise BadImage(
            "16-bit pixels that use less than 1/16 of their range, and would be black; convert it to 8 bits"
        )
    if "A" in image.getbands() and _is_constant(converted) and not _is_constant(image.getchannel("A")):
        raise BadImage("all its content is in its transparency, which is ignored; draw it on a background")
    return converted


def _is_constant(image: Image.Image) -> bool:
    return all(low == high for low, high in np.reshape(image.getextrema(), (-1, 2)))


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

    box: left, top, right, bottom in pixels of the upright picture; None for the frame. resize: of the frame.
    Raises BadImage.
    """
    is_large = image.size[0] * image.size[1] > _LARGE_PIXELS
    try:
        with _large_picture_lock if is_large else nullcontext():
            converted = _convert(image, channels)
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
        converted = _convert(image, channels)
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

    def decode_one(index: int) -> tuple[NDArray[Any], tuple[int, int], list[str]] | str:
        try:
            with open_picture(pictures, index) as image:
                conversions = list_conversions(image)
                pixels_CSS = decode_square(image, size, channels, resize=resize)
                return pixels_CSS, upright_size(image), conversions
        except BadImage as error:
            return str(error)

    for start, outcomes in _map_chunks(decode_one, len(pictures), progress):
        decoded = [outcome for outcome in outcomes if not isinstance(outcome, str)]
        bad = [(index, reason) for index, reason in enumerate(outcomes, start) if isinstance(reason, str)]
        pixels_MCSS = np.empty((len(decoded), channels, size, size), dtype=np.uint8)
        for row, (pixels_CSS, *_) in enumerate(decoded):
            pixels_MCSS[row] = pixels_CSS
        resolutions = Counter(resolution for _, resolution, _ in decoded)
        conversions = Counter(text for *_, texts in decoded for text in texts)
        yield DecodeChunk(pixels_MCSS, bad, resolutions, conversions)


def read_headers(pictures: Pictures, progress: Progress | None = None) -> dict[str, Any]:
    """Return how often each size occurs, and whether all readable pictures are grey.

    Keys: ``sizes``, a sorted list of [width, height, count], and ``grey``.
    """

    def read_header(index: int) -> tuple[tuple[int, int], str] | None:
        try:
            with open_picture(pictures, index) as image:
                return upright_size(image), image.mode
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


def list_bad_headers(pictures: Pictures, indices: Sequence[int]) -> list[tuple[int, str, str]]:
    """Return index, name and reason of each picture at `indices` whose header shows that it is refused."""

    def find_reason(number: int) -> str:
        try:
            with open_picture(pictures, indices[number]) as image:
                list_conversions(image)
        except BadImage as error:
            return str(error)
        return ""

    reasons = [reason for _, chunk in _map_chunks(find_reason, len(indices), None) for reason in chunk]
    pairs = zip(indices, reasons, strict=True)
    return [(index, pictures.name(index), reason) for index, reason in pairs if reason]


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
