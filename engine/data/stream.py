"""A split too large to hold: every image is decoded when it is asked for, in a thread pool.

Legend: M images in a batch, C channels, S side in pixels.
A crop is taken from the full-resolution picture: the boxes of a `Draw` are in pixels of the S×S frame
(see `decode`), scaled to the picture, so that a small crop keeps its detail. Boxes that stick out of the
frame are applied to the decoded frame instead. Flip and roll happen on the device.
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
from engine.data.image_set import ImageSet, Indices, as_array, normalise
from engine.data.pictures import Pictures
from engine.errors import UserError

if TYPE_CHECKING:
    from engine.data.augmentation import Draw

Array = np.ndarray[Any, Any]


class StreamedImages(ImageSet):
    """An `ImageSet` whose images stay in their files.

    An unreadable file raises UserError("data") when it is met.
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
        """`rows` picks the images of this split out of `pictures`."""
        self._pictures = pictures
        self._picked = rows
        self._pool: ThreadPoolExecutor | None = None
        labels = pictures.labels_N[rows]
        self._describe(labels, classes, mean, std, shape.channels, shape.size, skipped)

    def pixels(self, indices: Indices) -> Tensor:
        """The frames of the images: uint8, (M, C, size, size), on the CPU."""
        return self._decode(as_array(indices), None)

    def batch(self, indices: Indices, device: torch.device | str, draw: Draw | None = None) -> Tensor:
        """Normalised images on `device`: float32, (M, C, size, size), seen through `draw` if given."""
        boxes_M4 = None
        if draw is not None and draw.source_M2S is None and _inside(draw.boxes_M4, self.size):
            boxes_M4 = draw.boxes_M4
            draw = replace(draw, boxes_M4=np.tile([0, 0, self.size, self.size], (len(boxes_M4), 1)))
        x_MCSS = devices.upload(self._decode(as_array(indices), boxes_M4), torch.device(device))
        x_MCSS = x_MCSS.to(torch.float32).div_(255.0)
        if draw is not None:
            x_MCSS = augmentation.apply(draw, x_MCSS)
        return normalise(x_MCSS, self.mean, self.std)

    def _decode(self, indices: Array, boxes_M4: Array | None) -> Tensor:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(devices.cpus())
        boxes = [None] * len(indices) if boxes_M4 is None else np.broadcast_to(boxes_M4, (len(indices), 4))
        images = list(self._pool.map(self._one, self._picked[indices].tolist(), boxes))
        empty = np.zeros((0, self.channels, self.size, self.size), dtype=np.uint8)
        return torch.from_numpy(np.stack(images) if images else empty)

    def _one(self, index: int, box_4: Array | None) -> Array:
        try:
            with opened(self._pictures, index) as image:
                box = None if box_4 is None else _scaled(box_4, self.size, *image.size)
                return square(image, self.size, self.channels, box)
        except BadImage as error:
            raise UserError(
                "data",
                f"{self._pictures.name(index)} is unreadable: {error}",
                "mend or remove the file, or leave such files out with --set data.on_bad_image=skip",
            ) from error


def _inside(boxes_M4: Array, size: int) -> bool:
    return bool((boxes_M4[:, :2] >= 0).all() and (boxes_M4[:, :2] + boxes_M4[:, 2:] <= size).all())


def _scaled(box_4: Array, size: int, width: int, height: int) -> tuple[float, float, float, float]:
    """A box (top, left, height, width) of the frame as left, top, right, bottom in the picture."""
    left, top, right, _ = frame_box(width, height)
    scale = (right - left) / size
    y, x, h, w = (float(value) * scale for value in box_4)
    return left + x, top + y, min(left + x + w, float(width)), min(top + y + h, float(height))
