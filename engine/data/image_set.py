"""One split of a data set, in memory or decoded on demand, and batches of it on a device.

Legend: M images in a batch, C channels, H height, W width, N images in a split, S side in pixels.
See `loading` for where the pixels come from, and `augmentation` for how views are drawn.
A split too large for memory is decoded in a thread pool. Crops are then taken from the full-resolution
picture, so that small crops keep their detail: the boxes of a `Draw`, which are in pixels of an S×S square,
are scaled to the picture's largest centred square. If boxes extend beyond the square, they are applied to the
decoded frame (see `decode`) instead. Flip and roll are computed on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from engine.data import augmentation
from engine.data.augmentation import Draw
from engine.data.cache import Shape
from engine.data.decode import (
    BadImage,
    decode_crops,
    decode_square,
    frame_box,
    open_picture,
    upright_size,
)
from engine.data.pictures import Pictures
from engine.device import cpus, upload
from engine.errors import UserError

Indices = Sequence[int] | NDArray[Any] | Tensor


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


def _to_index_array(indices: Indices) -> NDArray[Any]:
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
        store: NDArray[Any],
        labels: NDArray[Any],
        classes: Sequence[str],
        mean: Sequence[float],
        std: Sequence[float],
        *,
        rows: NDArray[Any] | None = None,
        skipped: Sequence[str] = (),
        pictures: tuple[Pictures, NDArray[Any]] | None = None,
    ) -> None:
        """store: uint8 (·, C, H, H). rows: indices of the N images of this split in `store`; None for all.

        pictures: the files that the images were decoded from, and the index of each image among them; None if
        the files show nothing more.
        """
        assert store.dtype == np.uint8
        assert store.ndim == 4
        assert store.shape[2] == store.shape[3]
        self._store = store
        self._rows = rows
        self._files = pictures
        self._resident: dict[torch.device, Tensor] = {}
        self.labels_N: Tensor = torch.as_tensor(np.array(labels, dtype=np.int64))
        self.classes: tuple[str, ...] = tuple(classes)
        self.mean: tuple[float, ...] = tuple(float(value) for value in mean)
        self.std: tuple[float, ...] = tuple(float(value) for value in std)
        self.channels, self.size = int(store.shape[1]), int(store.shape[2])
        self.skipped: tuple[str, ...] = tuple(skipped)
        assert len(self.mean) == len(self.std) == self.channels
        assert len(self.labels_N) == (len(store) if rows is None else len(rows))

    @classmethod
    def from_arrays(
        cls,
        pixels: NDArray[Any] | Tensor,
        labels: NDArray[Any] | Tensor | Sequence[int],
        classes: Sequence[str],
        mean: Sequence[float],
        std: Sequence[float],
    ) -> ImageSet:
        """Create a set from pixels in memory: uint8 (N, C, H, H); an array, memory map or tensor."""
        store = pixels.detach().cpu().numpy() if isinstance(pixels, Tensor) else pixels
        return cls(store, _to_index_array(labels), classes, mean, std)

    def __len__(self) -> int:
        return len(self.labels_N)

    def pixels(self, indices: Indices) -> Tensor:
        """Return the stored images at `indices`: uint8 (M, C, size, size), on the CPU."""
        rows = _to_index_array(indices)
        if self._rows is not None:
            rows = self._rows[rows]
        return torch.from_numpy(self._store[rows])

    @property
    def has_pictures(self) -> bool:
        """Whether files at full resolution are available for `crop_pictures`."""
        return self._files is not None

    def picture_sizes(self, indices: Indices) -> NDArray[np.int64]:
        """Return height and width, shape (M, 2), of the files, or of the images where there are none.

        Raises UserError("data") naming an unreadable file.
        """
        numbers_M = _to_index_array(indices)
        if self._files is None:
            return np.full((len(numbers_M), 2), self.size)
        sizes = self._map_pictures(lambda image, _: upright_size(image)[::-1], numbers_M, numbers_M)
        return np.array(sizes, dtype=np.int64).reshape(-1, 2)

    def crop_pictures(
        self, indices: Indices, boxes_MR3: NDArray[np.int64], side: int, device: torch.device
    ) -> Tensor:
        """Return square crops of the files, resized and normalised: float32 (M, R, C, side, side).

        boxes_MR3: top, left and side of the crops of each file, in its pixels. Raises as `picture_sizes`.
        """

        def decode(image: Image.Image, boxes_R3: NDArray[np.int64]) -> NDArray[Any]:
            boxes = [(left, top, left + extent, top + extent) for top, left, extent in boxes_R3.tolist()]
            return decode_crops(image, side, self.channels, boxes)

        crops_MRCTT = np.stack(self._map_pictures(decode, _to_index_array(indices), boxes_MR3))
        pixels = upload(torch.from_numpy(crops_MRCTT), device).float().div_(255.0)
        return normalise(pixels, self.mean, self.std)

    def _map_pictures(
        self, function: Callable[[Image.Image, Any], Any], indices: NDArray[Any], arguments: Iterable[Any]
    ) -> list[Any]:
        """Return function(opened file, argument) for each image, computed by threads."""
        assert self._files is not None
        pictures, numbers_N = self._files

        def apply(number: int, argument: Any) -> Any:
            try:
                with open_picture(pictures, number) as image:
                    return function(image, argument)
            except BadImage as error:
                raise _unreadable_error(pictures, number, error) from error

        with ThreadPoolExecutor(cpus()) as pool:
            return list(pool.map(apply, numbers_N[indices].tolist(), arguments))

    def batch(self, indices: Indices, device: torch.device | str, draw: Draw | None = None) -> Tensor:
        """Return normalised images on `device`, transformed by `draw`: float32 (M, C, size, size)."""
        pixels_MCHW, draw = self._load(indices, torch.device(device), draw)
        x_MCHW = pixels_MCHW.to(torch.float32).div_(255.0)
        if draw is not None:
            x_MCHW = augmentation.apply(draw, x_MCHW)
        return normalise(x_MCHW, self.mean, self.std)

    def _load(self, indices: Indices, device: torch.device, draw: Draw | None) -> tuple[Tensor, Draw | None]:
        """Return uint8 images on `device`, and what remains of `draw` to be applied to them."""
        if device.type == "cpu":
            return self.pixels(indices), draw
        if len(self) * self.channels * self.size**2 >= 2 * 1024**3:  # too large to be copied as a whole
            return upload(self.pixels(indices), device), draw
        if device not in self._resident:
            self._resident[device] = self.pixels(range(len(self))).to(device)
        indices_M = indices if isinstance(indices, Tensor) else torch.from_numpy(_to_index_array(indices))
        return self._resident[device].index_select(0, upload(indices_M.to(torch.int64), device)), draw


class StreamedImages(ImageSet):
    """An `ImageSet` whose images are decoded from their files on demand.

    An unreadable file raises UserError("data") on access.
    """

    def __init__(
        self,
        pictures: Pictures,
        rows: NDArray[Any],
        shape: Shape,
        classes: Sequence[str],
        mean: Sequence[float],
        std: Sequence[float],
        *,
        skipped: Sequence[str] = (),
    ) -> None:
        """rows: indices of the images of this split in `pictures`."""
        nothing = np.empty((0, shape.channels, shape.size, shape.size), np.uint8)
        labels = pictures.labels_N[rows]
        files = (pictures, rows)
        super().__init__(nothing, labels, classes, mean, std, rows=rows, skipped=skipped, pictures=files)
        self._pictures, self._picture_indices, self._resize = pictures, rows, shape.resize
        self._pool: ThreadPoolExecutor | None = None

    def pixels(self, indices: Indices) -> Tensor:
        """Return the frames of the images: uint8 (M, C, size, size), on the CPU."""
        return self._decode(_to_index_array(indices), None)

    def _load(self, indices: Indices, device: torch.device, draw: Draw | None) -> tuple[Tensor, Draw | None]:
        boxes_M4 = None
        if draw is not None and draw.source_M2S is None and draw.is_inside():
            boxes_M4 = draw.boxes_M4
            draw = replace(draw, boxes_M4=np.tile([0, 0, self.size, self.size], (len(boxes_M4), 1)))
        return upload(self._decode(_to_index_array(indices), boxes_M4), device), draw

    def _decode(self, indices: NDArray[Any], boxes_M4: NDArray[Any] | None) -> Tensor:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(cpus())
        boxes = [None] * len(indices) if boxes_M4 is None else np.broadcast_to(boxes_M4, (len(indices), 4))
        images = list(self._pool.map(self._decode_one, self._picture_indices[indices].tolist(), boxes))
        return torch.from_numpy(np.stack(images) if images else self._store)

    def _decode_one(self, index: int, box_4: NDArray[Any] | None) -> NDArray[Any]:
        try:
            with open_picture(self._pictures, index) as image:
                box = None if box_4 is None else _scale_box(box_4, self.size, *upright_size(image))
                return decode_square(image, self.size, self.channels, box, self._resize)
        except BadImage as error:
            raise _unreadable_error(self._pictures, index, error) from error


def _unreadable_error(pictures: Pictures, index: int, error: BadImage) -> UserError:
    hint = "repair or remove the file, or skip such files with --set data.on_bad_image=skip"
    return UserError("data", f"{pictures.name(index)} is unreadable: {error}", hint)


def _scale_box(box_4: NDArray[Any], size: int, width: int, height: int) -> tuple[float, float, float, float]:
    """Convert a box (top, left, height, width) of the square to left, top, right, bottom of the picture."""
    left, top, right, _ = frame_box(width, height)
    scale = (right - left) / size
    y, x, h, w = (float(value) * scale for value in box_4)
    return left + x, top + y, min(left + x + w, float(width)), min(top + y + h, float(height))


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
