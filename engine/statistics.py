"""The real side: moments of every tap over the training set in one pass (Eq. 17, Algorithm 1 lines 1–4).

No gradient, no augmentation, evaluation mode, full float32. Legend: M images, K classes.
"""

from __future__ import annotations

import time
from collections.abc import Generator

import torch
from torch import nn

from engine.config import Config
from engine.data import ImageSet
from engine.events import Event, StageProgress
from engine.moments import Accumulator, Moments
from engine.rng import generator
from engine.taps import Tapped, running_moments


def measure(
    config: Config, model: nn.Module, images: ImageSet, device: torch.device
) -> Generator[Event, None, list[Moments]]:
    """Moments of each tap in forward order, float64 on the CPU.

    BatchNorm taps need no pass: their real side is the running mean and variance.
    """
    if config.objective.taps == "batchnorm":
        return [moments.to(torch.device("cpu"), torch.float64) for moments in running_moments(model)]
    moments, _ = yield from measure_set(config, Tapped(model, config.objective.taps, device), images, device)
    return moments


def measure_set(
    config: Config, network: Tapped, images: ImageSet, device: torch.device
) -> Generator[Event, None, tuple[list[Moments], float]]:
    """Moments of each tap over any set of images, and the mean cross-entropy of its labels."""
    estimator = config.statistics.estimator
    order_N = torch.arange(len(images))
    if config.statistics.order == "mixed":
        order_N = torch.from_numpy(generator(config.seed, "statistics").permutation(len(images)))
    accumulators = [Accumulator(name, len(images.classes), estimator) for name in network.names]
    ce = torch.zeros((), device=device)
    since, size = time.monotonic(), config.statistics.batch
    for start in range(0, len(images), size):
        indices = order_N[start : start + size]
        labels_M = images.labels_N[indices].to(device, non_blocking=True)
        with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            features, logits_MK = network(images.batch(indices, device))
            ce += nn.functional.cross_entropy(logits_MK.float(), labels_M, reduction="sum")
        for accumulator, x_MDHW in zip(accumulators, features, strict=True):
            accumulator.update(x_MDHW, labels_M)
        done = start + len(indices)
        yield StageProgress("statistics", done, done / max(time.monotonic() - since, 1e-9))
    cpu = torch.device("cpu")
    wide = torch.float64
    return [part.result().to(cpu, wide) for part in accumulators], float(ce) / max(len(images), 1)
