"""What training a teacher and training a student share: optimisers, batches, epochs reported in chunks.

Legend: M images in a batch, N images in a set, K classes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from engine import backbones
from engine.config import Optimiser
from engine.data import ImageSet
from engine.errors import UserError
from engine.events import EpochFinished, Stage
from engine.schedules import learning_rate

CHUNK_SECONDS = 1.0  # how long losses may stay on the device before a person sees them
EVALUATION_BATCH = 250


class Trainer:
    """An optimiser over a network's weights, its learning rate set epoch by epoch (Tables 8, 10)."""

    def __init__(self, model: nn.Module, settings: Optimiser, epochs: int) -> None:
        weights = list(model.parameters())
        if settings.name == "sgd":
            self.optimiser: torch.optim.Optimizer = torch.optim.SGD(
                weights,
                lr=settings.lr,
                momentum=settings.momentum,
                weight_decay=settings.weight_decay,
                fused=True,
            )
        else:
            kind = torch.optim.Adam if settings.name == "adam" else torch.optim.AdamW
            self.optimiser = kind(weights, lr=settings.lr, weight_decay=settings.weight_decay, fused=True)
        self.settings = settings
        self.epochs = epochs

    def begin(self, epoch: int) -> None:
        """Set the learning rate of a 0-based epoch."""
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.settings, epoch, self.epochs)

    def step(self, loss: Tensor) -> None:
        """Back-propagate and update the weights."""
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()


def batches_of(order_N: np.ndarray, size: int) -> list[np.ndarray]:
    """Consecutive parts of `size`; a last part of one image joins its neighbour (BatchNorm needs two)."""
    parts = [order_N[start : start + size] for start in range(0, len(order_N), size)]
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [np.concatenate(parts[-2:])]
    return parts


class EpochLog:
    """Losses wait on the device and become events about once a second, or with a measured accuracy."""

    def __init__(self, stage: Stage, architecture: str, source: str, seed: int, epochs: int) -> None:
        self.stage: Stage = stage
        self.architecture = architecture
        self.source = source
        self.seed = seed
        self.epochs = epochs
        self._waiting: list[tuple[int, Tensor, float | None]] = []
        self._since = time.monotonic()

    def add(self, epoch: int, loss: Tensor, accuracy: float | None = None) -> Iterator[EpochFinished]:
        """Take in a 0-based epoch; yields the events that are due.

        Raises UserError("numeric") naming the first epoch whose loss is not finite.
        """
        self._waiting.append((epoch, loss.detach(), accuracy))
        due = time.monotonic() - self._since >= CHUNK_SECONDS
        if not (due or accuracy is not None or epoch == self.epochs - 1):
            return
        losses = torch.stack([loss for _, loss, _ in self._waiting]).tolist()
        for (number, _, measured), value in zip(self._waiting, losses, strict=True):
            if not np.isfinite(value):
                raise UserError(
                    "numeric",
                    f"the loss of {self.architecture} ({self.source}, seed {self.seed}) became {value} "
                    f"in epoch {number + 1} of {self.stage}",
                    f"lower {self.stage}.optimiser.lr",
                )
            yield EpochFinished(
                self.stage,
                self.architecture,
                self.source,
                self.seed,
                number + 1,
                self.epochs,
                value,
                measured,
            )
        self._waiting, self._since = [], time.monotonic()


@torch.no_grad()
def accuracy(model: nn.Module, images: ImageSet, device: torch.device) -> float:
    """Top-1 accuracy in percent, of a copy in evaluation mode."""
    network = backbones.placed(backbones.fold_batchnorm(model), device)
    correct = torch.zeros((), dtype=torch.int64, device=device)
    for start in range(0, len(images), EVALUATION_BATCH):
        indices = torch.arange(start, min(start + EVALUATION_BATCH, len(images)))
        x_MCHW = images.batch(indices, device).contiguous(memory_format=torch.channels_last)
        labels_M = images.labels_N[indices].to(device, non_blocking=True)
        correct += (network(x_MCHW).argmax(dim=1) == labels_M).sum()
    return 100.0 * int(correct) / len(images)
