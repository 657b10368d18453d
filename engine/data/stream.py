"""A split too large for memory: images are decoded on demand in a thread pool.

Legend: M images in a batch, C channels, S side in pixels.
Crops are taken from the full-resolution picture, so that small crops keep their detail: the boxes of a
`Draw`, which are in pixels of the S×S frame (see `decode`), are scaled to the picture. If boxes extend beyond
the frame, they are applied to the decoded frame instead. Flip and roll are computed on the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from engine import device as devices
from engine.data import augmentation
from engine.data.cache import Shape
from engine.data.decode import BadImage, frame_box, opened, square
from engine.data.image_set import ImageSet, Indices, normalise, to_index_array
from engine.data.pictures import Pictures
from engine.errors import UserError

if TYPE_CHECKING:
    from engine.data.augmentation import Draw

Array = np.ndarray[Any, Any]


class StreamedImages(ImageSet):
    """An `ImageSet` whose images are decoded from their files on demand.

    An unreadable file raises UserError("data") on access.
    """

    def __init__(
        self,
        pictures: Pictures,
        rows: Array,
        shape: Shape,
        classes: Sequence[str],
        mean: Sequence[float],
        std: Sequence[float],
        *,
        skipped: Sequence[str] = (),
    ) -> None:
        """rows: indices of the images of this split in `pictures`."""
        self._pictures = pictures
        self._picture_indices = rows
        self._pool: ThreadPoolExecutor | None = None
        labels = pictures.labels_N[rows]
        self._set_attributes(labels, classes, mean, std, shape.channels, shape.size, skipped)

    def pixels(self, indices: Indices) -> Tensor:
        """Return the frames of the images: uint8 (M, C, size, size), on the CPU."""
        return self._decode(to_index_array(indices), None)

    def batch(self, indices: Indices, device: torch.device | str, draw: Draw | None = None) -> Tensor:
        """Return normalised images on `device`, transformed by `draw`: float32 (M, C, size, size)."""
        boxes_M4 = None
        if draw is not None and draw.source_M2S is None and _are_inside(draw.boxes_M4, self.size):
            boxes_M4 = draw.boxes_M4
            draw = replace(draw, boxes_M4=np.tile([0, 0, self.size, self.size], (len(boxes_M4), 1)))
        x_MCSS = devices.upload(self._decode(to_index_array(indices), boxes_M4), torch.device(device))
        x_MCSS = x_MCSS.to(torch.float32).div_(255.0)
        if draw is not None:
            x_MCSS = augmentation.apply(draw, x_MCSS)
        return normalise(x_MCSS, self.mean, self.std)

    def _decode(self, indices: Array, boxes_M4: Array | None) -> Tensor:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(devices.cpus())
        boxes = [None] * len(indices) if boxes_M4 is None else np.broadcast_to(boxes_M4, (len(indices), 4))
        images = list(self._pool.map(self._decode_one, self._picture_indices[indices].tolist(), boxes))
        empty = np.zeros((0, self.channels, self.size, self.size), dtype=np.uint8)
        return torch.from_numpy(np.stack(images) if images else empty)

    def _decode_one(self, index: int, box_4: Array | None) -> Array:
        try:
            with opened(self._pictures, index) as image:
                box = None if box_4 is None else _scale_box(box_4, self.size, *image.size)
                return square(image, self.size, self.channels, box)
        except BadImage as error:
            raise UserError(
                "data",
                f"{self._pictures.name(index)} is unreadable: {error}",
                "repair or remove the file, or skip such files with --set data.on_bad_image=skip",
            ) from error


def _are_inside(boxes_M4: Array, size: int) -> bool:
    return bool((boxes_M4[:, :2] >= 0).all() and (boxes_M4[:, :2] + boxes_M4[:, 2:] <= size).all())


def _scale_box(box_4: Array, size: int, width: int, height: int) -> tuple[float, float, float, float]:
    """Convert a box (top, left, height, width) of the frame to left, top, right, bottom of the picture."""
    left, top, right, _ = frame_box(width, height)
    scale = (right - left) / size
    y, x, h, w = (float(value) * scale for value in box_4)
    return left + x, top + y, min(left + x + w, float(width)), min(top + y + h, float(height))
