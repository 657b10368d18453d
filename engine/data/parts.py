"""Splits before they become an `ImageSet`: in memory or streamed, whole or a subset of the images.

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


class Split(Protocol):
    """One split of a data set."""

    @property
    def shape(self) -> Shape:
        """Channels and side of every image."""

    @property
    def labels_N(self) -> Array:
        """int64, in [0, number of classes)."""

    def take(self, indices: Array) -> Split:
        """Return the split of the images at `indices`."""

    def mean_std(self) -> MeanStd:
        """Return mean and std per channel, in [0, 1] units, over the images of this split."""

    def digests(self) -> list[str]:
        """Return digests that identify images, labels and the choice of rows."""

    def to_image_set(self, classes: Sequence[str], normalisation: MeanStd) -> ImageSet:
        """Return the split as the `ImageSet` that stages read."""


def _digest_array(array: Array) -> str:
    return hashlib.sha256(np.ascontiguousarray(array, dtype=np.int64).tobytes()).hexdigest()


@dataclass(frozen=True)
class InMemorySplit:
    """Decoded images: `rows` of `pixels` (·, C, S, S).

    labels, sums_N2C: of all rows of `pixels`. digest: of all pixels.
    """

    pixels: Array
    labels: Array
    sums_N2C: Array
    digest: str
    rows: Array
    skipped: tuple[str, ...] = ()

    @classmethod
    def from_array(cls, pixels: Array, labels: Array) -> InMemorySplit:
        """Create a split of all images of an array."""
        digest = hashlib.sha256(pixels.tobytes()).hexdigest()
        return cls(pixels, labels, channel_sums(pixels), digest, np.arange(len(pixels)))

    @property
    def shape(self) -> Shape:
        """See `Split`."""
        return Shape(self.pixels.shape[1], self.pixels.shape[2])

    @property
    def labels_N(self) -> Array:
        """See `Split`."""
        return self.labels[self.rows]

    def take(self, indices: Array) -> InMemorySplit:
        """See `Split`."""
        return replace(self, rows=self.rows[indices])

    def mean_std(self) -> MeanStd:
        """See `Split`."""
        return mean_std(self.sums_N2C[self.rows], self.shape.size)

    def digests(self) -> list[str]:
        """See `Split`."""
        return [self.digest, _digest_array(self.labels), _digest_array(self.rows)]

    def to_image_set(self, classes: Sequence[str], normalisation: MeanStd) -> ImageSet:
        """See `Split`."""
        rows = None if len(self.rows) == len(self.pixels) else self.rows
        return ImageSet(self.pixels, self.labels_N, classes, *normalisation, rows=rows, skipped=self.skipped)


@dataclass(frozen=True)
class StreamedSplit:
    """Images that are decoded on demand: `rows` of `pictures`.

    sums: `cache.channel_sums` of those images; None if they were not measured.
    """

    pictures: Pictures
    shape: Shape
    rows: Array
    sums: Array | None = None
    skipped: tuple[str, ...] = ()

    @property
    def labels_N(self) -> Array:
        """See `Split`."""
        labels: Array = self.pictures.labels_N[self.rows]
        return labels

    def take(self, indices: Array) -> StreamedSplit:
        """See `Split`."""
        sums = None if self.sums is None else self.sums[indices]
        return replace(self, rows=self.rows[indices], sums=sums)

    def mean_std(self) -> MeanStd:
        """See `Split`."""
        assert self.sums is not None
        return mean_std(self.sums, self.shape.size)

    def digests(self) -> list[str]:
        """See `Split`."""
        return [self.pictures.contents(), _digest_array(self.pictures.labels_N), _digest_array(self.rows)]

    def to_image_set(self, classes: Sequence[str], normalisation: MeanStd) -> ImageSet:
        """See `Split`."""
        return StreamedImages(
            self.pictures, self.rows, self.shape, classes, *normalisation, skipped=self.skipped
        )
