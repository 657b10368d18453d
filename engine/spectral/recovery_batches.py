"""The plan of recovery: the images of each batch, the real images they start from, and their views.

Legend: K classes, N images of a set.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from engine.config import Config, Views
from engine.config.fields import ControlName
from engine.data import ImageSet
from engine.errors import UserError
from engine.rng import generator
from engine.spectral import schedules


def plan_batches(config: Config, classes: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return every recovery batch in order, as the 0-based IPC round and the class of each of its images."""
    if config.recover.algorithm == "select":
        return [(np.arange(config.ipc), np.full(config.ipc, label)) for label in range(classes)]
    if config.recover.group == "class":
        size = config.recover.classes_per_batch
        parts = np.array_split(np.arange(config.ipc), config.recover.class_parts)
        rounds_N = np.concatenate([np.tile(part, classes) for part in parts])
        labels_N = np.concatenate([np.repeat(np.arange(classes), len(part)) for part in parts])
        cuts = range(size, len(labels_N), size)
        return list(zip(np.split(rounds_N, cuts), np.split(labels_N, cuts), strict=True))
    count = schedules.batches_per_round(classes, config.recover.classes_per_batch)
    chunks = np.array_split(np.arange(classes), count)
    return [(np.full(len(chunk), b), chunk) for b in range(config.ipc) for chunk in chunks]


def total_work(config: Config, classes: int) -> tuple[int, str]:
    """Return the total work of recovery and its unit; `completed_work` uses the same unit."""
    count = len(plan_batches(config, classes))
    if config.recover.algorithm == "optimise":
        return count * config.recover.iterations, "iterations"
    return count, "batches"


def completed_work(config: Config, metadata: Mapping[str, Any]) -> int:
    """Return the work that is complete in a state with this metadata, in the unit of `total_work`."""
    work_per_batch = config.recover.iterations if config.recover.algorithm == "optimise" else 1
    return int((metadata["batch"] - 1) * work_per_batch + metadata["iteration"])


def initial_indices(config: Config, train: ImageSet) -> np.ndarray:
    """Return the indices of the real images that recovery starts from, shape (ipc, K).

    Row b holds the b-th image of each class in file order, or of a permutation seeded by the run's seed.
    Raises UserError("data") naming a class that has too few images.
    """
    return _choose_indices(config, train, "initial" if config.recover.init != "first" else None)


def control_indices(config: Config, train: ImageSet, name: ControlName) -> np.ndarray:
    """Return the indices of the real images of a control, shape (ipc, K); for `random`, drawn by the seed.

    Raises UserError("data") naming a class that has too few images.
    """
    if name == "start":
        return initial_indices(config, train)
    return _choose_indices(config, train, "control")


def _choose_indices(config: Config, train: ImageSet, stream: str | None) -> np.ndarray:
    """Return `ipc` images of each class, shape (ipc, K): of the permutation of a stream, or in file order."""
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
        if stream is not None:
            members = generator(config.seed, stream, label).permutation(members)
        columns.append(members[: config.ipc])
    return np.stack(columns, axis=1)


def control_set(config: Config, train: ImageSet, name: ControlName = "random") -> ImageSet:
    """Return the unchanged real images of a control."""
    indices = control_indices(config, train, name).reshape(-1)
    return ImageSet.from_arrays(
        train.pixels(indices), train.labels_N[torch.from_numpy(indices)], train.classes, train.mean, train.std
    )


def first_images(
    config: Config, train: ImageSet, number: int, indices_M: np.ndarray, device: torch.device
) -> torch.Tensor:
    """Return the images of batch `number` before its first step: real ones, or noise.

    Noise is Gaussian in normalised space.
    """
    if config.recover.init != "noise":
        return train.batch(indices_M, device)
    shape = (len(indices_M), train.channels, train.size, train.size)
    noise = generator(config.seed, "noise", number).standard_normal(shape, dtype=np.float32)
    return torch.from_numpy(noise)


def views_at_iteration(config: Config, iteration: int) -> Views:
    """Return the settings of the views that are drawn for an iteration.

    With `crop_curriculum` the smallest crop scale follows a cosine: low + (1 − low)·(1 + cos(π·t/T))/2 (CDA).
    """
    settings = config.recover
    scale = settings.views.crop_scale
    if not settings.crop_curriculum or scale is None:
        return settings.views
    smallest = scale[0] + schedules.cosine_to_zero(1.0 - scale[0], iteration, settings.iterations)
    return settings.views.model_copy(update={"crop_scale": (min(smallest, 1.0), max(smallest, scale[1]))})


def pool_size(config: Config) -> int:
    """Return how many real images of a class crops are selected from: at least the number of its tiles."""
    return max(config.recover.select.pool, config.ipc * config.recover.select.factor**2)


def require_enough(config: Config, train: ImageSet) -> None:
    """Raise UserError("data") naming a class with too few real images for the set or its control."""
    initial_indices(config, train)
    tiled = config.recover.algorithm == "select" or (config.optimises and config.recover.init == "tiles")
    settings = config.recover.select
    needed = config.ipc * settings.factor**2
    counts = np.bincount(train.labels_N.numpy(), minlength=len(train.classes)).tolist()
    for name, count in zip(train.classes, counts, strict=True):
        if tiled and count < needed:
            raise UserError(
                "data",
                f"ipc = {config.ipc} images of {settings.factor}×{settings.factor} crops need {needed} images"
                f" of class {name!r}, which has {count}",
                "lower ipc or recover.select.factor",
            )
