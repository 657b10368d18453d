"""Reproducible random views of images: patches, crop, flip and roll as two small matrix products.

A view of an image X is R·X·Wᵀ, where R resamples rows and W resamples columns. Patch shuffling, cropping
with bilinear resizing, mirroring, padding and cyclic shifts all have this form, so recovery, students and
teachers share one differentiable, deterministic product on every device.

Legend: M images, C channels, H = W = size pixels, N images of a set, P patches.
Source: RandomResizedCrop, RandomCrop and HorizontalFlip as in torchvision; CutMix (Yun et al. 2019);
MixUp (Zhang et al. 2018).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.config import Views
from engine.device import upload


@dataclass(frozen=True)
class Draw:
    """Random parameters of views of M images of size×size pixels; enough to reproduce the views.

    boxes_M4: top, left, height, width of each crop in pixels; pixels outside the image are black.
    flip_M: whether to mirror left-right. roll_M2: cyclic shift down and right, in pixels, after the
    crop.
    source_M2S: the source row and the source column at each position after patches are shuffled, which
    precedes the crop; None without shuffling. With M = 1, a whole batch shares one draw.
    """

    boxes_M4: NDArray[np.int64]
    flip_M: NDArray[np.bool_]
    roll_M2: NDArray[np.int64]
    size: int
    source_M2S: NDArray[np.int64] | None = None

    def is_inside(self) -> bool:
        """Return whether all crops lie inside the image."""
        corner_M2, extent_M2 = self.boxes_M4[:, :2], self.boxes_M4[:, 2:]
        return bool((corner_M2 >= 0).all() and (corner_M2 + extent_M2 <= self.size).all())

    def take(self, indices: NDArray[np.int64]) -> Draw:
        """Return the draws of the images at `indices`."""
        flip_M, roll_M2 = self.flip_M[indices], self.roll_M2[indices]
        source_M2S = None if self.source_M2S is None else self.source_M2S[indices]
        return Draw(self.boxes_M4[indices], flip_M, roll_M2, self.size, source_M2S)


def draw(views: Views, size: int, count: int, rng: np.random.Generator, *, shared: bool = False) -> Draw:
    """Draw the parameters of `count` views of size×size images, or of one view that all images share."""
    count = 1 if shared else count
    if views.crop_scale is not None:
        boxes_M4 = _sample_resized_crops(views.crop_scale, size, count, rng)
    else:
        corner_M2 = rng.integers(-views.padding, views.padding + 1, (count, 2))
        boxes_M4 = np.concatenate([corner_M2, np.full((count, 2), size)], axis=1)
    flip_M = rng.random(count) < 0.5 if views.flip else np.zeros(count, dtype=bool)
    roll_M2 = rng.integers(-views.roll if views.roll_both_ways else 0, views.roll + 1, (count, 2))
    source_M2S = _shuffle_patches(views.patches, size, count, rng) if views.patches > 1 else None
    return Draw(boxes_M4, flip_M, roll_M2, size, source_M2S)


def _shuffle_patches(patches: int, size: int, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return source rows and columns (count, 2, size) that permute `patches` strips of each.

    The last strip also has the remainder of size / patches.
    """
    strips = np.split(np.arange(size), size // patches * np.arange(1, patches))
    order_M2P = rng.permuted(np.tile(np.arange(patches), (count, 2, 1)), axis=2)
    source_M2S = [[np.concatenate([strips[p] for p in order]) for order in pair] for pair in order_M2P]
    return np.array(source_M2S, dtype=np.int64).reshape(count, 2, size)


def _sample_resized_crops(
    scale: tuple[float, float], size: int, count: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Sample boxes as RandomResizedCrop: the first of ten tries that fits, else the whole image."""
    area_MT = size * size * rng.uniform(*scale, (count, 10))
    ratio_MT = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3), (count, 10)))
    width_MT = np.rint(np.sqrt(area_MT * ratio_MT)).astype(np.int64)
    height_MT = np.rint(np.sqrt(area_MT / ratio_MT)).astype(np.int64)
    fits_MT = (width_MT > 0) & (width_MT <= size) & (height_MT > 0) & (height_MT <= size)
    first_M = np.argmax(fits_MT, axis=1)
    rows_M = np.arange(count)
    fits_M = fits_MT[rows_M, first_M]
    height_M = np.where(fits_M, height_MT[rows_M, first_M], size)
    width_M = np.where(fits_M, width_MT[rows_M, first_M], size)
    top_M = np.floor(rng.random(count) * (size - height_M + 1)).astype(np.int64)
    left_M = np.floor(rng.random(count) * (size - width_M + 1)).astype(np.int64)
    return np.stack([top_M, left_M, height_M, width_M], axis=1)


def apply(draw: Draw, x_MCHW: Tensor) -> Tensor:
    """Return the views of a batch, shape (M, C, H, W); differentiable with respect to the images.

    draw: of M images, or one that all images share.
    """
    size = draw.size
    assert x_MCHW.shape[-1] == x_MCHW.shape[-2] == size, "views are drawn for square images"
    parameters_M7 = np.column_stack([draw.boxes_M4, draw.roll_M2, draw.flip_M]).astype(np.float32)
    top, left, height, width, down, right, flip = (
        upload(torch.from_numpy(parameters_M7), x_MCHW.device).unsqueeze(2).unbind(1)
    )
    output_H = torch.arange(size, device=x_MCHW.device, dtype=torch.float32)
    rows_MH = (output_H - down) % size
    columns_MW = (output_H - right) % size
    columns_MW = torch.where(flip > 0, size - 1 - columns_MW, columns_MW)
    rows_MHH = _build_resampling(rows_MH, top, height, output_H).to(x_MCHW.dtype)
    columns_MWW = _build_resampling(columns_MW, left, width, output_H).to(x_MCHW.dtype)
    if draw.source_M2S is not None:
        place_M2S = upload(torch.from_numpy(draw.source_M2S.argsort(axis=2)), x_MCHW.device)
        rows_MHH = rows_MHH.gather(2, place_M2S[:, :1].expand_as(rows_MHH))
        columns_MWW = columns_MWW.gather(2, place_M2S[:, 1:].expand_as(columns_MWW))
    return rows_MHH.unsqueeze(1) @ x_MCHW @ columns_MWW.transpose(1, 2).unsqueeze(1)


def _build_resampling(output_MH: Tensor, start_M1: Tensor, extent_M1: Tensor, pixel_H: Tensor) -> Tensor:
    """Return matrices (M, H, H) that resample [start, start + extent) to H pixels bilinearly.

    Pixel centres are at half-integers and positions are clamped at the edges of the crop, as in
    ``interpolate(align_corners=False)``. The weight of a source pixel is max(0, 1 − distance from the
    position of the output pixel), so positions outside the image have weight zero.
    """
    source_MH = (output_MH + 0.5) * (extent_M1 / len(pixel_H)) - 0.5
    source_MH = source_MH.clamp(min=0.0).minimum(extent_M1 - 1.0) + start_M1
    return (1.0 - (source_MH.unsqueeze(2) - pixel_H).abs()).clamp(min=0.0)


@dataclass(frozen=True)
class MixDraw:
    """Random parameters of CutMix or MixUp for M images.

    partner_M: index of the image that each is mixed with. boxes_M4: top, bottom, left, right of the patch
    that comes from it. share_M: instead of a patch, the share λ of the image itself in MixUp; None: CutMix.
    """

    partner_M: NDArray[np.int64]
    boxes_M4: NDArray[np.int64]
    share_M: NDArray[np.float32] | None = None

    def take(self, indices: NDArray[np.int64]) -> MixDraw:
        """Return the draws of the images at `indices`; partner indices are not renumbered."""
        share_M = None if self.share_M is None else self.share_M[indices]
        return MixDraw(self.partner_M[indices], self.boxes_M4[indices], share_M)


def draw_cutmix(
    size: int, batches: Sequence[NDArray[np.int64]], rng: np.random.Generator, *, shared: bool
) -> MixDraw:
    """Draw CutMix parameters for N images: patches of relative area 1 − λ with λ ~ Beta(1, 1).

    batches: indices of the images of each batch, together 0 … N − 1. shared: the images of a batch share
    λ and the patch, and partners come from the same batch; otherwise each image has its own λ and patch,
    and a partner from the whole set.
    """
    count = sum(map(len, batches))
    draws = len(batches) if shared else count
    half_P1 = (size * np.sqrt(1.0 - rng.beta(1.0, 1.0, (draws, 1)))).astype(np.int64) // 2
    centre_P2 = rng.integers(0, size, (draws, 2))
    low_P2, high_P2 = (centre_P2 - half_P1).clip(0, size), (centre_P2 + half_P1).clip(0, size)
    boxes_P4 = np.stack([low_P2, high_P2], axis=2).reshape(-1, 4)
    if not shared:
        return MixDraw(rng.permutation(count), boxes_P4)
    partner_N, boxes_N4 = np.empty(count, dtype=np.int64), np.empty((count, 4), dtype=np.int64)
    for batch, box_4 in zip(batches, boxes_P4, strict=True):
        partner_N[batch], boxes_N4[batch] = rng.permutation(batch), box_4
    return MixDraw(partner_N, boxes_N4)


def draw_mixup(batches: Sequence[NDArray[np.int64]], rng: np.random.Generator, alpha: float) -> MixDraw:
    """Draw MixUp parameters: one λ ~ Beta(α, α) per batch, and partners from the same batch.

    batches: as in `draw_cutmix`.
    """
    count = sum(map(len, batches))
    partner_N, share_N = np.empty(count, dtype=np.int64), np.empty(count, dtype=np.float32)
    for batch in batches:
        partner_N[batch], share_N[batch] = rng.permutation(batch), rng.beta(alpha, alpha)
    return MixDraw(partner_N, np.zeros((count, 4), dtype=np.int64), share_N)


def mix(draw: MixDraw, x_MCHW: Tensor, partner_MCHW: Tensor) -> Tensor:
    """Return `x_MCHW` with a patch of each image replaced by that of `partner_MCHW`, or both averaged."""
    if draw.share_M is not None:
        share_M111 = upload(torch.from_numpy(draw.share_M), x_MCHW.device)[:, None, None, None]
        return share_M111 * x_MCHW + (1 - share_M111) * partner_MCHW
    boxes_M4 = upload(torch.from_numpy(draw.boxes_M4), x_MCHW.device)
    top, bottom, left, right = boxes_M4[:, :, None].unbind(1)
    y_H = torch.arange(x_MCHW.shape[2], device=x_MCHW.device)
    x_W = torch.arange(x_MCHW.shape[3], device=x_MCHW.device)
    rows_MH = (y_H >= top) & (y_H < bottom)
    columns_MW = (x_W >= left) & (x_W < right)
    return torch.where((rows_MH[:, :, None] & columns_MW[:, None, :])[:, None], partner_MCHW, x_MCHW)
