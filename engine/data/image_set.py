"""One split of a data set as a uint8 array, and batches of it on a device.

Legend: M images in a batch, C channels, H height, W width, N images in a split.
See `loading` for where the pixels come from, and `augmentation` for how views are drawn.
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

RESIDENT_BYTES = 2 * 1024**3  # a smaller set is copied to the accelerator as a whole


@lru_cache(maxsize=64)  # a copy to a device blocks the host, so do it once rather than per batch
def _channel_tensor(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=dtype, device=device).view(-1, 1, 1)


def _mean_std_tensors(x: Tensor, mean: Sequence[float], std: Sequence[float]) -> tuple[Tensor, Tensor]:
    return _channel_tensor(tuple(mean), x.dtype, x.device), _channel_tensor(tuple(std), x.dtype, x.device)


def normalise(x_MCHW: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Convert pixels in [0, 1] to network inputs: (x − mean) / std per channel."""
    mean_C11, std_C11 = _mean_std_tensors(x_MCHW, mean, std)
    return (x_MCHW - mean_C11) / std_C11


def denormalise(x_MCHW: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Invert `normalise`: convert network inputs to pixels in [0, 1]."""
    mean_C11, std_C11 = _mean_std_tensors(x_MCHW, mean, std)
    return x_MCHW * std_C11 + mean_C11


def to_index_array(indices: Indices) -> Array:
    """Convert indices of any supported type to an int64 array on the CPU."""
    if isinstance(indices, Tensor):
        return indices.detach().cpu().numpy().astype(np.int64, copy=False)
    return np.asarray(indices, dtype=np.int64)


class ImageSet:
    """Labelled images of one split, ordered by class and, within a class, by natural file name.

    classes: names in label order. labels_N: int64 on the CPU. channels, size: of every image.
    mean, std: per channel, in units of [0, 1] pixels. skipped: names of unreadable files left out.
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
        """store: uint8 (·, C, H, H). rows: indices of the N images of this split in `store`; None for all."""
        assert store.dtype == np.uint8
        assert store.ndim == 4
        assert store.shape[2] == store.shape[3]
        self._store = store
        self._rows = rows
        self._resident: dict[torch.device, Tensor] = {}
        self._set_attributes(labels, classes, mean, std, int(store.shape[1]), int(store.shape[2]), skipped)
        assert len(self.labels_N) == (len(store) if rows is None else len(rows))

    def _set_attributes(
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
        """Create a set from pixels in memory: uint8 (N, C, H, H); an array, memory map or tensor."""
        store = pixels.detach().cpu().numpy() if isinstance(pixels, Tensor) else pixels
        return cls(store, to_index_array(labels), classes, mean, std)

    def __len__(self) -> int:
        return len(self.labels_N)

    def pixels(self, indices: Indices) -> Tensor:
        """Return the stored images at `indices`: uint8 (M, C, size, size), on the CPU."""
        rows = to_index_array(indices)
        if self._rows is not None:
            rows = self._rows[rows]
        return torch.from_numpy(self._store[rows])

    def batch(self, indices: Indices, device: torch.device | str, draw: Draw | None = None) -> Tensor:
        """Return normalised images on `device`, transformed by `draw`: float32 (M, C, size, size)."""
        device = torch.device(device)
        x_MCHW = self._load_to_device(indices, device).to(torch.float32).div_(255.0)
        if draw is not None:
            x_MCHW = augmentation.apply(draw, x_MCHW)
        return normalise(x_MCHW, self.mean, self.std)

    def _load_to_device(self, indices: Indices, device: torch.device) -> Tensor:
        if device.type == "cpu":
            return self.pixels(indices)
        if len(self) * self.channels * self.size**2 >= RESIDENT_BYTES:
            return upload(self.pixels(indices), device)
        if device not in self._resident:
            self._resident[device] = self.pixels(range(len(self))).to(device)
        indices_M = indices if isinstance(indices, Tensor) else torch.from_numpy(to_index_array(indices))
        return self._resident[device].index_select(0, upload(indices_M.to(torch.int64), device))


@dataclass(frozen=True)
class DataSet:
    """A training and a test split with the same classes.

    fingerprint: SHA-256 of pixels, labels, class names and normalisation (for streamed sets, of file
    names and sizes instead of pixels); independent of where and how the images are stored.
    """

    name: str
    train: ImageSet
    test: ImageSet
    fingerprint: str
