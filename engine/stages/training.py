"""Training code shared by teachers and students: optimisers, batches, and epochs reported in chunks.

Legend: M images in a batch, N images in a set, K classes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from engine import backbones
from engine.checkpoint import (
    Checkpoint,
    StageState,
    add_prefix,
    clone_to,
    optimiser_tensors,
    require_finite,
    restore_optimiser,
    strip_prefix,
)
from engine.config import Optimiser, Precision
from engine.data import ImageSet
from engine.device import conv_precision, explain_out_of_memory, upload
from engine.errors import UserError
from engine.events import EpochFinished, Event, Stage, SubsetEvaluated
from engine.rng import torch_seeded
from engine.spectral.schedules import learning_rate

CHUNK_SECONDS = 1.0  # how long losses may stay on the device before they are reported
EVALUATION_BATCH = 250


class Trainer:
    """An optimiser over a network's weights (Tables 8, 10), and the progress of its training.

    precision: of forward and backward passes. epoch, batch: the next ones, counted from 0. total: the loss of
    the epoch so far, summed over images; on the device.
    """

    def __init__(
        self, model: nn.Module, settings: Optimiser, epochs: int, precision: Precision = "float32"
    ) -> None:
        weights: list[Any] = list(model.parameters())
        if not settings.decay_norm_and_bias:
            matrices, vectors = (
                [weight for weight in weights if (weight.ndim > 1) == is_matrix]
                for is_matrix in (True, False)
            )
            weights = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
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
        self.model = model
        self.settings = settings
        self.epochs = epochs
        self.precision: Precision = precision
        self.epoch = self.batch = 0
        self.total = torch.zeros((), device=next(model.parameters()).device)

    def steps(
        self,
        batches: Sequence[np.ndarray],
        compute_loss: Callable[[np.ndarray], Tensor],
        seed: int,
        *key: int | str,
    ) -> Iterator[None]:
        """Train on the remaining batches of the epoch, yielding after each batch except the last.

        compute_loss: returns the mean loss of the images with these indices. seed, key: seed the random
        numbers that libraries draw (dropout).
        """
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.settings, self.epoch, self.epochs)
        for indices in batches[self.batch :]:
            with torch_seeded(seed, *key, self.epoch, self.batch), conv_precision(self.precision):
                loss = compute_loss(indices)
                self.optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                self.optimiser.step()
            self.total += loss.detach() * len(indices)
            self.batch += 1
            if self.batch < len(batches):
                yield

    def end_epoch(self, images: int) -> Tensor:
        """Start the next epoch, and return the mean loss over the finished epoch's images, on the device."""
        loss = self.total / images
        self.epoch, self.batch, self.total = self.epoch + 1, 0, torch.zeros_like(self.total)
        return loss

    def state_dict(self) -> dict[str, Tensor]:
        """Return the tensors to save; the rest of the state is `epoch` and `batch`."""
        optimiser = add_prefix("optimiser", optimiser_tensors(self.optimiser))
        return {"total": self.total, **add_prefix("model", self.model.state_dict()), **optimiser}

    def load_state_dict(self, saved: StageState) -> None:
        """Restore tensors, epoch and batch from a checkpoint."""
        self.model.load_state_dict(strip_prefix("model", saved.tensors))
        restore_optimiser(self.optimiser, strip_prefix("optimiser", saved.tensors))
        self.total = clone_to(saved.tensors["total"], self.total.device)
        self.epoch, self.batch = int(saved.metadata["epoch"]), int(saved.metadata["batch"])


def split_batches(order_N: np.ndarray, size: int) -> list[np.ndarray]:
    """Split into consecutive parts of `size`; a last part of one image is merged (BatchNorm needs two)."""
    parts = [order_N[start : start + size] for start in range(0, len(order_N), size)]
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [np.concatenate(parts[-2:])]
    return parts


class EpochLog:
    """Buffers losses on the device and reports them about once a second, or with a measured accuracy."""

    def __init__(self, stage: Stage, architecture: str, source: str, seed: int, epochs: int) -> None:
        self.stage: Stage = stage
        self.architecture = architecture
        self.source = source
        self.seed = seed
        self.epochs = epochs
        self.hint = f"lower {stage}.optimiser.lr"
        self._pending: list[tuple[int, Tensor, float | None]] = []
        self._since = time.monotonic()

    def add(
        self, epoch: int, loss: Tensor, accuracy: float | None = None, subset: tuple[int, float] | None = None
    ) -> Iterator[Event]:
        """Add a 0-based epoch, and yield the events that are due.

        subset: a number of test images, and the accuracy on them. Raises UserError("numeric") naming the
        first epoch whose loss is not finite.
        """
        self._pending.append((epoch, loss.detach(), accuracy))
        due = time.monotonic() - self._since >= CHUNK_SECONDS
        if due or accuracy is not None or subset is not None or epoch == self.epochs - 1:
            yield from self._flush()
        if subset is not None:
            yield SubsetEvaluated(self.stage, self.architecture, self.source, self.seed, epoch + 1, *subset)

    def checkpoint(self, capture: Callable[[], StageState]) -> Iterator[Event]:
        """Yield all pending events, then a checkpoint. Raises UserError as `add` does."""
        if self._pending:
            yield from self._flush()
        yield Checkpoint(self.stage, capture)

    def describe_position(self, trainer: Trainer) -> str:
        """Return the network and its progress, as a phrase for error messages."""
        position = f"epoch {trainer.epoch + 1}, after {trainer.batch} batches"
        return f"{self.architecture} ({self.source}, seed {self.seed}) in {position} of {self.stage}"

    def require_finite(self, model: nn.Module) -> None:
        """Raise UserError("numeric") naming a weight that is not finite at the end of training."""
        where = f"{self.architecture} ({self.source}, seed {self.seed}) at the end of {self.stage}"
        require_finite(model.state_dict(), where, self.hint)

    def _flush(self) -> Iterator[EpochFinished]:
        losses = torch.stack([loss for _, loss, _ in self._pending]).tolist()
        rate = len(losses) / max(time.monotonic() - self._since, 1e-9)
        for (number, _, measured), value in zip(self._pending, losses, strict=True):
            if not np.isfinite(value):
                raise UserError(
                    "numeric",
                    f"the loss of {self.architecture} ({self.source}, seed {self.seed}) became {value} "
                    f"in epoch {number + 1} of {self.stage}",
                    self.hint,
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
                rate,
            )
        self._pending, self._since = [], time.monotonic()


def choose_subset(labels_N: np.ndarray, count: int) -> np.ndarray:
    """Return the indices of `count` images, all if there are fewer, as many of each class as possible.

    They are spread evenly over the images of their class, and over the classes where these are more. They
    depend on the labels alone.
    """
    classes = np.unique(labels_N)
    shares = np.full(len(classes), count // len(classes))
    shares[_spread(len(classes), count % len(classes))] += 1
    members = [np.flatnonzero(labels_N == label) for label in classes]
    pairs = zip(members, shares.tolist(), strict=True)
    return np.sort(np.concatenate([each[_spread(len(each), min(share, len(each)))] for each, share in pairs]))


def _spread(size: int, count: int) -> np.ndarray:
    """Return `count` different indices below `size`, evenly spread."""
    return np.arange(count) * size // max(count, 1)


class SubsetEvaluator:
    """Measures the accuracy on a fixed part of the test images, for display, between epochs of training.

    It does so where all its measurements take at most 2 % of the time of the steps that it watches. The first
    is expected to take as long as a step; if it takes longer, the next ones are later. `evaluate` changes
    neither the network nor random numbers. count: how many images to use; 0: none, and nothing is measured.
    """

    SHARE = 0.02

    def __init__(self, test: ImageSet, count: int, device: torch.device) -> None:
        self._test = test
        self._device = device
        self._indices = torch.from_numpy(choose_subset(test.labels_N.numpy(), count))
        self._trained = self._spent = 0.0  # seconds
        self._steps = 0
        self._cost: float | None = None  # of the latest measurement

    def watch(self, steps: Iterator[None]) -> Iterator[None]:
        """Pass on the steps of an epoch, and measure their time."""
        while True:
            began = time.perf_counter()
            try:
                next(steps)
            except StopIteration:
                break
            finally:
                self._trained += time.perf_counter() - began
                self._steps += 1
            yield

    def evaluate(self, model: nn.Module) -> tuple[int, float] | None:
        """Return the number of images and the accuracy on them in percent; None if it would take too long."""
        count = len(self._indices)
        cost = self._trained / max(self._steps, 1) if self._cost is None else self._cost
        if count == 0 or self._spent + cost > self.SHARE * self._trained:
            return None
        began = time.perf_counter()
        accuracy = evaluate_accuracy(model, self._test, self._device, self._indices)
        self._cost = time.perf_counter() - began
        self._spent += self._cost
        return count, accuracy


@torch.no_grad()
def evaluate_accuracy(
    model: nn.Module, images: ImageSet, device: torch.device, indices_N: Tensor | None = None
) -> float:
    """Return the top-1 accuracy in percent; `model` itself is not modified.

    indices_N: of the images; None: all.
    """
    chosen_N = torch.arange(len(images)) if indices_N is None else indices_N
    network = backbones.place_on(backbones.fold_batchnorm(model), device)
    what, hint = f"measuring accuracy in batches of {EVALUATION_BATCH}", "use a device with more memory"
    correct = torch.zeros((), dtype=torch.int64, device=device)
    for indices in torch.split(chosen_N, EVALUATION_BATCH):
        with explain_out_of_memory(device, what, hint):
            x_MCHW = images.batch(indices, device).contiguous(memory_format=torch.channels_last)
            labels_M = upload(images.labels_N[indices], device)
            correct += (network(x_MCHW).argmax(dim=1) == labels_M).sum()
    return 100.0 * int(correct) / len(chosen_N)
