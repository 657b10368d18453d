"""Thumbnails of an image set, read on a background thread when they become visible, and cached.

Legend: C channels, H, W pixels.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cfm_tui.display.graphics import shrink
from engine.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cfm_tui.display.live_reader import LiveReader


class PictureLoader:
    """A cache of thumbnails: `want` requests the visible ones, `get` returns those that were read.

    Unfinished images are in memory, change, and are not cached. The reading thread ends when there is nothing
    left to read. shape: (C, H, W) of the set's images.
    """

    CACHE_SIZE = 1024  #: thumbnails

    def __init__(self, reader: LiveReader) -> None:
        self.reader = reader
        self.shape = reader.shape
        self._cache: OrderedDict[int, NDArray[np.uint8] | str] = OrderedDict()  # str: why it is unreadable
        self._wanted: list[int] = []
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._has_news = False

    def want(self, numbers: Sequence[int]) -> None:
        """Request these images, and drop the requests for all others."""
        with self._lock:
            for number in numbers:
                if number in self._cache:
                    self._cache.move_to_end(number)
            finished = self.reader.finished
            self._wanted = [number for number in numbers if number < finished and number not in self._cache]
            if self._wanted and self._thread is None:
                self._thread = threading.Thread(target=self._read, name="pictures", daemon=True)
                self._thread.start()

    def read_from(self, reader: LiveReader) -> None:
        """Switch to another file of the set, and forget the images that the last one failed to provide."""
        with self._lock:
            self.reader = reader
            for number in [number for number, entry in self._cache.items() if isinstance(entry, str)]:
                del self._cache[number]

    @property
    def is_reading(self) -> bool:
        """Whether images are read that were not shown yet."""
        return self._thread is not None or self._has_news

    def take_news(self) -> bool:
        """Return whether images were read since the last call."""
        has_news, self._has_news = self._has_news, False
        return has_news

    def get(self, number: int) -> NDArray[np.uint8] | None:
        """Return a thumbnail, (C, H, W); None where it is not read yet or unreadable."""
        if number >= self.reader.finished:
            return shrink(self.reader.pixels(number))
        entry = self._cache.get(number)
        return None if isinstance(entry, str) else entry

    def problem(self, number: int) -> str:
        """Return why an image is unreadable; empty where it is not."""
        entry = self._cache.get(number)
        return entry if isinstance(entry, str) else ""

    def _read(self) -> None:
        while True:
            with self._lock:
                if not self._wanted:
                    self._thread = None
                    return
                number, reader = self._wanted.pop(0), self.reader
            entry: NDArray[np.uint8] | str
            try:
                entry = shrink(reader.pixels(number))
            except UserError as error:
                entry = error.message
            with self._lock:
                if isinstance(entry, str) and reader is not self.reader:
                    self._wanted.append(number)
                    continue
                self._cache[number] = entry
                while len(self._cache) > self.CACHE_SIZE:
                    self._cache.popitem(last=False)
                self._has_news = True


@dataclass(frozen=True)
class Sample:
    """Thumbnails of the first images of a set, with their class names. count: finished images of `total`."""

    images: list[NDArray[np.uint8]]
    names: list[str]
    count: int
    total: int

    @classmethod
    def read(cls, folder: Path, most: int) -> Sample | None:
        """Read at most `most` images of the set in a folder; return None where none is readable."""
        from engine.store.images import Reader

        try:
            reader = Reader(folder)
            numbers = range(min(reader.count, most))
            images = [shrink(reader.pixels(number)) for number in numbers]
        except UserError:
            return None
        names = [reader.classes[int(reader.labels_N[number])] for number in numbers]
        return cls(images, names, reader.count, reader.total) if images else None
