"""RDED: tiles of the most likely crops of real images, without optimisation.

From each class, a pool of images is cropped at random (squares of 8 to 100 % of the area), several times
each. A crop's score is the teacher's cross-entropy of the crop, padded with the mean colour to an image's
size. The best crop of each image is selected, then the best ipc·factor² of those, and factor×factor of them
make one image.
Legend: M images, R crops of each, C channels, S side of an image, T side of a crop, P pixels of a line.
Source: RDED (Sun et al. 2024) and its released code. Crops are taken from the files at full resolution where
they show more than the decoded S×S frames.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from engine.backbones.labeller import Labeller
from engine.checkpoint import Checkpoint, IntervalTimer, StageState
from engine.config import Config
from engine.data import ImageSet, denormalise
from engine.events import BatchRecovered, Event, RecoveredImages, RecoverLayout, StageProgress
from engine.methods.random_images import compute_confidence, state_before_batch
from engine.rng import generator
from engine.spectral.recovery_batches import pool_size

SCALE = (0.08, 1.0)  #: range of the share of an image's area that a crop covers
CHUNK = 64  #: number of images that are scored at once


def select(
    config: Config, teacher: nn.Module, train: ImageSet, device: torch.device, saved: StageState | None = None
) -> Generator[Event, None, None]:
    """Select `config.ipc` images of every class; each class is one batch.

    Batches are yielded as `recover` yields optimised images; β is NaN. saved: resume from this state; an
    interrupted class is selected again, from the same crops.
    """
    classes = len(train.classes)
    first = 1 if saved is None else int(saved.metadata["batch"])
    yield RecoverLayout([], [], [], first - 1)
    labeller = Labeller(teacher, device, config.recover.precision)
    timer, started = IntervalTimer(config.checkpoint_seconds), time.monotonic()
    for number in range(first, classes + 1):
        checkpoint = Checkpoint("recover", partial(state_before_batch, number))
        tiles_MCSS = yield from select_images(config, labeller, train, number - 1, timer, checkpoint)
        x_MCSS = denormalise(tiles_MCSS, train.mean, train.std).clamp(0, 1)
        labels_M = torch.full((len(x_MCSS),), number - 1)
        confidence_M = compute_confidence(labeller, x_MCSS, labels_M, train)
        recovered = RecoveredImages(x_MCSS.numpy(), labels_M.numpy(), confidence_M.numpy())
        yield BatchRecovered(number, classes, math.nan, len(x_MCSS), recovered)
        yield StageProgress("recover", number, (number - first + 1) / max(time.monotonic() - started, 1e-9))
        yield Checkpoint("recover", partial(state_before_batch, number + 1), always=True)


def select_images(
    config: Config,
    labeller: Labeller,
    train: ImageSet,
    label: int,
    timer: IntervalTimer,
    checkpoint: Checkpoint,
) -> Generator[Event, None, Tensor]:
    """Return the `config.ipc` images of one class, best crops first, normalised, on the CPU: (M, C, S, S).

    Yields `checkpoint` while crops are scored, whenever `timer` is due.
    """
    settings = config.recover.select
    pool_M, boxes_MR3 = draw_crops(config, train, label)
    best: list[tuple[Tensor, Tensor]] = []
    for start in range(0, len(pool_M), CHUNK):
        part = slice(start, start + CHUNK)
        best.append(best_crops(labeller, train, pool_M[part], boxes_MR3[part], settings.factor))
        if start + CHUNK < len(pool_M) and timer.due():
            yield checkpoint
    crops_MCTT, scores_M = (torch.cat(parts) for parts in zip(*best, strict=True))
    best_N = np.argsort(scores_M.numpy(), kind="stable")[: config.ipc * settings.factor**2]
    return tile(crops_MCTT[best_N], settings.factor, train.size)


def draw_crops(config: Config, train: ImageSet, label: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw the pool of a class, shape (M,), and top, left and side of each image's crops, shape (M, R, 3).

    As with RandomResizedCrop, the first of ten areas whose square fits into the picture counts, else the
    largest central square.
    """
    settings = config.recover.select
    rng = generator(config.seed, "select", label)
    members = np.flatnonzero(train.labels_N.numpy() == label)
    pool_M = rng.permutation(members)[: pool_size(config)]
    shape = (len(pool_M), settings.crops)
    first_MR1, corner_MR2 = rng.uniform(*SCALE, shape)[..., None], rng.random((*shape, 2))
    scale_MRT = np.concatenate([first_MR1, rng.uniform(*SCALE, (*shape, 9))], axis=2)
    size_M12 = train.picture_sizes(pool_M)[:, None, :]
    shorter_M1 = size_M12.min(axis=2)
    side_MRT = np.rint(np.sqrt(scale_MRT * size_M12.prod(axis=2)[..., None])).astype(np.int64).clip(min=1)
    fits_MRT = side_MRT <= shorter_M1[..., None]
    first_MR = fits_MRT.argmax(axis=2)[..., None]
    fits_MR = np.take_along_axis(fits_MRT, first_MR, axis=2)[..., 0]
    side_MR = np.where(fits_MR, np.take_along_axis(side_MRT, first_MR, axis=2)[..., 0], shorter_M1)
    room_MR2 = size_M12 - side_MR[..., None]
    drawn_MR2 = np.floor(corner_MR2 * (room_MR2 + 1)).astype(np.int64)
    corner_MR2 = np.where(fits_MR[..., None], drawn_MR2, room_MR2 // 2)
    return pool_M, np.concatenate([corner_MR2, side_MR[..., None]], axis=2)


def best_crops(
    labeller: Labeller,
    train: ImageSet,
    indices_M: NDArray[np.int64],
    boxes_MR3: NDArray[np.int64],
    factor: int,
) -> tuple[Tensor, Tensor]:
    """Return the most likely crop of each image, normalised, and its cross-entropy; on the CPU.

    Shapes (M, C, T, T) and (M,).
    """
    side, device = train.size // factor, labeller.device
    labels_M = train.labels_N[torch.from_numpy(indices_M)].to(device)
    if train.has_pictures:
        crops_RMCTT = train.crop_pictures(indices_M, boxes_MR3, side, device).transpose(0, 1)
    else:
        x_MCSS, boxes_RM3 = train.batch(indices_M, device), torch.from_numpy(boxes_MR3).transpose(0, 1)
        crops_RMCTT = torch.stack([crop(x_MCSS, boxes_M3.to(device), side) for boxes_M3 in boxes_RM3])
    scored = []
    for crops_MCTT in crops_RMCTT:
        logits_MK = labeller(pad_to_size(crops_MCTT, train.size))
        scored.append(F.cross_entropy(logits_MK, labels_M, reduction="none"))
    scores_M, best_M = torch.stack(scored).min(dim=0)
    return crops_RMCTT[best_M, torch.arange(len(best_M), device=best_M.device)].cpu(), scores_M.cpu()


def crop(x_MCSS: Tensor, boxes_M3: Tensor, side: int) -> Tensor:
    """Resize square crops, given by top, left and side, to `side` pixels; bilinear, antialiased."""
    top_M, left_M, extent_M = boxes_M3.unbind(1)
    rows_MTS = _build_resampling_matrices(top_M, extent_M, side, x_MCSS)
    columns_MTS = _build_resampling_matrices(left_M, extent_M, side, x_MCSS)
    return rows_MTS.unsqueeze(1) @ x_MCSS @ columns_MTS.transpose(1, 2).unsqueeze(1)


def _build_resampling_matrices(start_M: Tensor, extent_M: Tensor, side: int, like: Tensor) -> Tensor:
    """Return matrices (M, T, S); a row is a triangle over a crop's pixels, of half-width max(extent/T, 1)."""
    pixel_P = torch.arange(like.shape[-1], device=like.device, dtype=like.dtype)
    new_T = torch.arange(side, device=like.device, dtype=like.dtype)
    start_M11, extent_M11 = (value.to(like.dtype)[:, None, None] for value in (start_M, extent_M))
    scale_M11 = extent_M11 / side
    centre_MT1 = start_M11 + (new_T[:, None] + 0.5) * scale_M11 - 0.5
    weights_MTP = (1 - (pixel_P - centre_MT1).abs() / scale_M11.clamp(min=1)).clamp(min=0)
    weights_MTP = weights_MTP * ((pixel_P >= start_M11) & (pixel_P < start_M11 + extent_M11))
    return weights_MTP / weights_MTP.sum(dim=2, keepdim=True)


def pad_to_size(crops_MCTT: Tensor, size: int) -> Tensor:
    """Pad crops to size×size with zeros, the mean colour of normalised pixels."""
    before = (size - crops_MCTT.shape[-1]) // 2
    after = size - crops_MCTT.shape[-1] - before
    return F.pad(crops_MCTT, (before, after, before, after))


def tile(crops_NCTT: Tensor, factor: int, size: int) -> Tensor:
    """Tile crops, sorted best first, into images of factor×factor crops.

    Image m of M has the crops ranked m, m + M, m + 2M…, row by row. Where `factor` does not divide the size,
    the first rows and columns of tiles are one pixel larger.
    """
    count = len(crops_NCTT) // factor**2
    sides = [size // factor + (tile < size % factor) for tile in range(factor)]
    rows = []
    for row, height in enumerate(sides):
        tiles = [
            F.interpolate(crops_NCTT[rank * count : (rank + 1) * count], (height, width))
            for rank, width in enumerate(sides, start=row * factor)
        ]
        rows.append(torch.cat(tiles, dim=3))
    return torch.cat(rows, dim=2)
