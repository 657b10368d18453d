"""Images of a set, read on a thread of their own when they are to be seen; a bounded number is kept.

Legend: C channels, H, W pixels.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from engine.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.store.images import Reader

KEPT = 1024  #: small images that are held in memory
SIDE = 64  #: pixels of a small image, at most


class Pictures:
    """Small images of a set: `want` says which are seen, `get` gives those that were read.

    Reading happens on a thread that ends when there is nothing to read. shape: of the set's images (C, H, W).
    """

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.shape = reader.shape
        self._found: OrderedDict[int, NDArray[np.uint8] | str] = OrderedDict()
        self._wanted: list[int] = []
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._fresh = False

    def want(self, numbers: Sequence[int]) -> None:
        """These are seen now; others need not be read any more."""
        with self._lock:
            for number in numbers:
                if number in self._found:
                    self._found.move_to_end(number)
            self._wanted = [number for number in numbers if number not in self._found]
            if self._wanted and self._thread is None:
                self._thread = threading.Thread(target=self._read, name="pictures", daemon=True)
                self._thread.start()

    def read_from(self, reader: Reader) -> None:
        """The set has another file now: what could not be read of the last one may be there."""
        with self._lock:
            self.reader = reader
            for number in [number for number, found in self._found.items() if isinstance(found, str)]:
                del self._found[number]

    def news(self) -> bool:
        """Whether images were read since the last call."""
        fresh, self._fresh = self._fresh, False
        return fresh

    def get(self, number: int) -> NDArray[np.uint8] | None:
        """A small image, (C, H, W); None where it was not read yet, or cannot be."""
        found = self._found.get(number)
        return None if isinstance(found, str) else found

    def problem(self, number: int) -> str:
        """Why an image cannot be read; empty where it can."""
        found = self._found.get(number)
        return found if isinstance(found, str) else ""

    def _read(self) -> None:
        while True:
            with self._lock:
                if not self._wanted:
                    self._thread = None
                    return
                number, reader = self._wanted.pop(0), self.reader
            found = _read(reader, number)
            with self._lock:
                if isinstance(found, str) and reader is not self.reader:
                    self._wanted.append(number)
                    continue
                self._found[number] = found
                while len(self._found) > KEPT:
                    self._found.popitem(last=False)
                self._fresh = True


def _read(reader: Reader, number: int) -> NDArray[np.uint8] | str:
    try:
        return smaller(reader.pixels(number))
    except UserError as error:
        return error.message


@dataclass(frozen=True)
class Sample:
    """The first images of a set, small, with the names of their classes. count: that are there of `total`."""

    images: list[NDArray[np.uint8]]
    names: list[str]
    count: int
    total: int


def sample(place: Path, most: int) -> Sample | None:
    """At most so many images of the set in a folder; None where there are none that can be read."""
    from engine.store.images import Reader

    try:
        reader = Reader(place)
        numbers = range(min(reader.count, most))
        images = [smaller(reader.pixels(number)) for number in numbers]
    except UserError:
        return None
    names = [reader.classes[int(reader.labels_N[number])] for number in numbers]
    return Sample(images, names, reader.count, reader.total) if images else None


def smaller(pixels_CHW: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An image with sides of `SIDE` pixels at most: means of equal squares, what is left over cut off."""
    channels, height, width = pixels_CHW.shape
    step = -(-max(height, width) // SIDE)
    if step == 1:
        return pixels_CHW
    high, wide = max(height // step, 1), max(width // step, 1)
    parts = pixels_CHW[:, : high * step, : wide * step].reshape(channels, high, min(step, height), wide, -1)
    return np.asarray(np.rint(parts.mean((2, 4))), np.uint8)
