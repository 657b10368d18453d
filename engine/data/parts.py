"""A split on its way to an ImageSet: in memory or streamed, whole or a choice of its images.

Legend: N images in a split, C channels, S side.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from engine.data.cache import Shape, channel_sums, mean_std
from engine.data.image_set import ImageSet
from engine.data.pictures import Pictures
from engine.data.stream import StreamedImages

Array = np.ndarray[Any, Any]
MeanStd = tuple[tuple[float, ...], tuple[float, ...]]


class Part(Protocol):
    """One split."""

    @property
    def shape(self) -> Shape:
        """Channels and side of every image."""

    @property
    def labels_N(self) -> Array:
        """int64, in [0, number of classes)."""

    def take(self, indices: Array) -> Part:
        """Some of the images."""

    def mean_std(self) -> MeanStd:
        """Per channel, in [0, 1] units, over the images of this part."""

    def identity(self) -> list[str]:
        """Digests of what the images are."""

    def image_set(self, classes: Sequence[str], normalisation: MeanStd) -> ImageSet:
        """The split as stages use it."""


def _digest(array: Array) -> str:
    return hashlib.sha256(np.ascontiguousarray(array, dtype=np.int64).tobytes()).hexdigest()


@dataclass(frozen=True)
class InMemory:
    """Images of an array: `rows` of `pixels` (·, C, S, S), whose labels and sums are given for all rows."""

    pixels: Array
    labels: Array
    sums_N2C: Array
    digest: str
    rows: Array
    skipped: tuple[str, ...] = ()

    @classmethod
    def of(cls, pixels: Array, labels: Array) -> InMemory:
        """All images of an array."""
        digest = hashlib.sha256(pixels.tobytes()).hexdigest()
        return cls(pixels, labels, channel_sums(pixels), digest, np.arange(len(pixels)))

    @property
    def shape(self) -> Shape:
        """See `Part`."""
        return Shape(self.pixels.shape[1], self.pixels.shape[2])

    @property
    def labels_N(self) -> Array:
        """See `Part`."""
        return self.labels[self.rows]

    def take(self, indices: Array) -> InMemory:
        """See `Part`."""
        return replace(self, rows=self.rows[indices])

    def mean_std(self) -> MeanStd:
        """See `Part`."""
        return mean_std(self.sums_N2C[self.rows], self.shape.size)

    def identity(self) -> list[str]:
        """See `Part`."""
        return [self.digest, _digest(self.labels), _digest(self.rows)]

    def image_set(self, classes: Sequence[str], normalisation: MeanStd) -> ImageSet:
        """See `Part`."""
        rows = None if len(self.rows) == len(self.pixels) else self.rows
        return ImageSet(self.pixels, self.labels_N, classes, *normalisation, rows=rows, skipped=self.skipped)


@dataclass(frozen=True)
class Streamed:
    """Images that stay in their files: `rows` of `pictures`.

    sums: of those images, as `cache.channel_sums` gives them; None if nobody measured.
    """

    pictures: Pictures
    shape: Shape
    rows: Array
    sums: Array | None = None
    skipped: tuple[str, ...] = ()

    @property
    def labels_N(self) -> Array:
        """See `Part`."""
        labels: Array = self.pictures.labels_N[self.rows]
        return labels

    def take(self, indices: Array) -> Streamed:
        """See `Part`."""
        sums = None if self.sums is None else self.sums[indices]
        return replace(self, rows=self.rows[indices], sums=sums)

    def mean_std(self) -> MeanStd:
        """See `Part`."""
        assert self.sums is not None
        return mean_std(self.sums, self.shape.size)

    def identity(self) -> list[str]:
        """See `Part`."""
        return [self.pictures.contents(), _digest(self.pictures.labels_N), _digest(self.rows)]

    def image_set(self, classes: Sequence[str], normalisation: MeanStd) -> ImageSet:
        """See `Part`."""
        return StreamedImages(
            self.pictures, self.rows, self.shape, classes, *normalisation, skipped=self.skipped
        )
