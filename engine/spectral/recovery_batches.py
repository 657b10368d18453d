"""What recovery begins with: which images make a batch, which real ones it starts from, how it sees them.

Legend: K classes, N images of a set.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from engine.config import Config, Views
from engine.data import ImageSet
from engine.errors import UserError
from engine.rng import generator
from engine.spectral import schedules


def plan_batches(config: Config, classes: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Every recovery batch in order: of each of its images the 0-based IPC round, and the class."""
    if config.recover.algorithm == "select":
        return [(np.arange(config.ipc), np.full(config.ipc, label)) for label in range(classes)]
    if config.recover.group == "class":
        size, images = config.recover.classes_per_batch, np.arange(classes * config.ipc)
        cuts = np.split(images, range(size, len(images), size))
        return [(own % config.ipc, own // config.ipc) for own in cuts]
    count = schedules.chunks(classes, config.recover.classes_per_batch)
    chunks = np.array_split(np.arange(classes), count)
    return [(np.full(len(chunk), b), chunk) for b in range(config.ipc) for chunk in chunks]


def total_work(config: Config, classes: int) -> tuple[int, str]:
    """How much work recovery is, and in which units; `done` counts the same."""
    count = len(plan_batches(config, classes))
    if config.recover.algorithm == "optimise":
        return count * config.recover.iterations, "iterations"
    return count, "batches"


def completed_work(config: Config, facts: Mapping[str, Any]) -> int:
    """How much of it lies behind a state with these facts."""
    each = config.recover.iterations if config.recover.algorithm == "optimise" else 1
    return int((facts["batch"] - 1) * each + facts["iteration"])


def initial_indices(config: Config, train: ImageSet) -> np.ndarray:
    """Real images that recovery starts from, shape (ipc, K); also the `random` control.

    The b-th of each class in file order, or a seeded choice without repetition.
    Raises UserError("data") naming a class that has too few.
    """
    labels_N = train.labels_N.numpy()
    columns = []
    for label, name in enumerate(train.classes):
        members = np.flatnonzero(labels_N == label)
        if len(members) < config.ipc:
            raise UserError(
                "data",
                f"class {name!r} has {len(members)} training images, fewer than ipc = {config.ipc}",
                f"set ipc to {len(members)} or less, or add images to the class",
            )
        if config.recover.init != "first":
            members = generator(config.seed, "initial", label).permutation(members)
        columns.append(members[: config.ipc])
    return np.stack(columns, axis=1)


def control_set(config: Config, train: ImageSet) -> ImageSet:
    """The `random` control: the real images of `initial_indices`, unchanged."""
    indices = initial_indices(config, train).reshape(-1)
    return ImageSet.from_arrays(
        train.pixels(indices), train.labels_N[torch.from_numpy(indices)], train.classes, train.mean, train.std
    )


def first_images(
    config: Config, train: ImageSet, number: int, indices_M: np.ndarray, device: torch.device
) -> torch.Tensor:
    """The images of batch `number` before its first step: real, or Gaussian noise in normalised space."""
    if config.recover.init != "noise":
        return train.batch(indices_M, device)
    shape = (len(indices_M), train.channels, train.size, train.size)
    noise = generator(config.seed, "noise", number).standard_normal(shape, dtype=np.float32)
    return torch.from_numpy(noise)


def views_at_iteration(config: Config, iteration: int) -> Views:
    """The views that are drawn for an iteration.

    With `crop_curriculum` the least crop falls along a cosine: low + (1 − low)·(1 + cos(π·t/T))/2 (CDA).
    """
    settings = config.recover
    scale = settings.views.crop_scale
    if not settings.crop_curriculum or scale is None:
        return settings.views
    least = scale[0] + schedules.cosine_to_zero(1.0 - scale[0], iteration, settings.iterations)
    return settings.views.model_copy(update={"crop_scale": (min(least, 1.0), max(least, scale[1]))})


def pool_size(config: Config) -> int:
    """How many real images of a class crops are selected from: at least as many as there are tiles of it."""
    return max(config.recover.select.pool, config.ipc * config.recover.select.factor**2)


def require_enough(config: Config, train: ImageSet) -> None:
    """Raise UserError("data") naming a class that has too few real images for the set or its control."""
    initial_indices(config, train)
    settings = config.recover.select
    needed = config.ipc * settings.factor**2
    counts = np.bincount(train.labels_N.numpy(), minlength=len(train.classes)).tolist()
    for name, count in zip(train.classes, counts, strict=True):
        if config.recover.algorithm == "select" and count < needed:
            raise UserError(
                "data",
                f"ipc = {config.ipc} images of {settings.factor}×{settings.factor} crops need {needed} images"
                f" of class {name!r}, which has {count}",
                "lower ipc or recover.select.factor",
            )
