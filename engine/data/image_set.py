"""One split of a data set, held as a uint8 array, and batches of it on a device.

Legend: M images in a batch, C channels, H height, W width, N images in a split.
Not here: where the pixels come from (see `loading`), how views are drawn (see `engine.augment`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from engine.data import augmentation
from engine.device import upload

if TYPE_CHECKING:
    from engine.data.augmentation import Draw

Indices = Sequence[int] | np.ndarray[Any, Any] | Tensor
Array = np.ndarray[Any, Any]

RESIDENT_BYTES = 2 * 1024**3  # a smaller set lives on the accelerator as a whole


@lru_cache(maxsize=64)  # a copy to a device makes the host wait: once, not at every batch
def _per_channel(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=dtype, device=device).view(-1, 1, 1)


def _mean_std(x: Tensor, mean: Sequence[float], std: Sequence[float]) -> tuple[Tensor, Tensor]:
    return _per_channel(tuple(mean), x.dtype, x.device), _per_channel(tuple(std), x.dtype, x.device)


def normalise(x_MCHW: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Pixels in [0, 1] to the units that networks see: (x − mean) / std per channel."""
    mean_C11, std_C11 = _mean_std(x_MCHW, mean, std)
    return (x_MCHW - mean_C11) / std_C11


def denormalise(x_MCHW: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """The inverse of `normalise`: back to pixels in [0, 1]."""
    mean_C11, std_C11 = _mean_std(x_MCHW, mean, std)
    return x_MCHW * std_C11 + mean_C11


def as_array(indices: Indices) -> Array:
    """Indices of any kind as int64 on the CPU."""
    if isinstance(indices, Tensor):
        return indices.detach().cpu().numpy().astype(np.int64, copy=False)
    return np.asarray(indices, dtype=np.int64)


class ImageSet:
    """Labelled images of one split, in file order: classes sorted, natural file-name order in a class.

    classes: names, in label order. labels_N: int64 on the CPU. channels, size: of every image.
    mean, std: per channel, in units of [0, 1] pixels. skipped: unreadable files that were left out.
    """

    def __init__(
        self,
        store: Array,
        labels: Array,
        classes: Sequence[str],
        mean: Sequence[float],
        std: Sequence[float],
        *,
        rows: Array | None = None,
        skipped: Sequence[str] = (),
    ) -> None:
        """`store` is uint8 (·, C, H, H); `rows` picks the N images of this split, None means all."""
        assert store.dtype == np.uint8
        assert store.ndim == 4
        assert store.shape[2] == store.shape[3]
        self._store = store
        self._rows = rows
        self._resident: dict[torch.device, Tensor] = {}
        self._describe(labels, classes, mean, std, int(store.shape[1]), int(store.shape[2]), skipped)
        assert len(self.labels_N) == (len(store) if rows is None else len(rows))

    def _describe(
        self,
        labels: Array,
        classes: Sequence[str],
        mean: Sequence[float],
        std: Sequence[float],
        channels: int,
        size: int,
        skipped: Sequence[str],
    ) -> None:
        self.labels_N: Tensor = torch.as_tensor(np.array(labels, dtype=np.int64))
        self.classes: tuple[str, ...] = tuple(classes)
        self.mean: tuple[float, ...] = tuple(float(value) for value in mean)
        self.std: tuple[float, ...] = tuple(float(value) for value in std)
        self.channels = channels
        self.size = size
        self.skipped: tuple[str, ...] = tuple(skipped)
        assert len(self.mean) == channels
        assert len(self.std) == channels

    @classmethod
    def from_arrays(
        cls,
        pixels: Array | Tensor,
        labels: Array | Tensor | Sequence[int],
        classes: Sequence[str],
        mean: Sequence[float],
        std: Sequence[float],
    ) -> ImageSet:
        """A set of pixels that are at hand: uint8, (N, C, H, H), an array, memory map or tensor."""
        store = pixels.detach().cpu().numpy() if isinstance(pixels, Tensor) else pixels
        return cls(store, as_array(labels), classes, mean, std)

    def __len__(self) -> int:
        return len(self.labels_N)

    def pixels(self, indices: Indices) -> Tensor:
        """The images at `indices` as they are stored: uint8, (M, C, size, size), on the CPU."""
        return torch.from_numpy(self._store[self._to_rows(as_array(indices))])

    def batch(self, indices: Indices, device: torch.device | str, draw: Draw | None = None) -> Tensor:
        """Normalised images on `device`: float32, (M, C, size, size), seen through `draw` if given."""
        device = torch.device(device)
        x_MCHW = self._on_device(indices, device).to(torch.float32).div_(255.0)
        if draw is not None:
            x_MCHW = augmentation.apply(draw, x_MCHW)
        return normalise(x_MCHW, self.mean, self.std)

    def _to_rows(self, indices: Array) -> Array:
        rows: Array = indices if self._rows is None else self._rows[indices]
        return rows

    def _on_device(self, indices: Indices, device: torch.device) -> Tensor:
        if device.type == "cpu":
            return self.pixels(indices)
        if len(self) * self.channels * self.size**2 >= RESIDENT_BYTES:
            return upload(self.pixels(indices), device)
        if device not in self._resident:
            self._resident[device] = self.pixels(range(len(self))).to(device)
        where = indices if isinstance(indices, Tensor) else torch.from_numpy(as_array(indices))
        return self._resident[device].index_select(0, upload(where.to(torch.int64), device))


@dataclass(frozen=True)
class DataSet:
    """A training and a test split of the same classes.

    fingerprint: SHA-256 of pixels, labels, class names and normalisation (streamed sets: of file
    names and sizes instead of pixels); equal wherever and however the same images are stored.
    """

    name: str
    train: ImageSet
    test: ImageSet
    fingerprint: str
