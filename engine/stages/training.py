"""Training code shared by teachers and students: optimisers, batches, and epochs reported in chunks.

Legend: S students trained together (1 for a teacher), M images in a batch, N images in a set, K classes.
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
    work_clock,
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

    precision: of forward and backward passes. epoch, batch: the next ones, counted from 0. total_S: the loss
    of the epoch so far, summed over images, of each member if the network is a stack; on the device.
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
        self.total_S = torch.zeros(count_members(model), device=next(model.parameters()).device)

    def steps(
        self,
        batches: Sequence[np.ndarray],
        compute_loss: Callable[[np.ndarray], Tensor],
        seed: int,
        *key: int | str,
    ) -> Iterator[None]:
        """Train on the remaining batches of the epoch, yielding after each batch except the last.

        batches: indices of images, shape (M,) or, with different ones for each member of a stack, (S, M).
        compute_loss: returns the mean losses, shape (S,), of the images with these indices. seed, key: seed
        the random numbers that libraries draw (dropout).
        """
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.settings, self.epoch, self.epochs)
        for indices in batches[self.batch :]:
            with torch_seeded(seed, *key, self.epoch, self.batch), conv_precision(self.precision):
                loss_S = compute_loss(indices)
                self.optimiser.zero_grad()
                loss_S.sum().backward()  # type: ignore[no-untyped-call]
                self.optimiser.step()
            self.total_S += loss_S.detach() * indices.shape[-1]
            self.batch += 1
            if self.batch < len(batches):
                yield

    def end_epoch(self, images: int) -> Tensor:
        """Start the next epoch, and return the finished one's mean losses, shape (S,), on the device."""
        loss_S = self.total_S / images
        self.epoch, self.batch, self.total_S = self.epoch + 1, 0, torch.zeros_like(self.total_S)
        return loss_S

    def state_dict(self) -> dict[str, Tensor]:
        """Return the tensors to save; the rest of the state is `epoch` and `batch`."""
        optimiser = add_prefix("optimiser", optimiser_tensors(self.optimiser))
        return {"total": self.total_S, **add_prefix("model", self.model.state_dict()), **optimiser}

    def load_state_dict(self, saved: StageState) -> None:
        """Restore tensors, epoch and batch from a checkpoint."""
        self.model.load_state_dict(strip_prefix("model", saved.tensors))
        restore_optimiser(self.optimiser, strip_prefix("optimiser", saved.tensors))
        self.total_S = clone_to(saved.tensors["total"].reshape(-1), self.total_S.device)
        self.epoch, self.batch = int(saved.metadata["epoch"]), int(saved.metadata["batch"])


def split_batches(order_N: np.ndarray, size: int) -> list[np.ndarray]:
    """Split into consecutive parts of `size`; a last part of one image is merged (BatchNorm needs two)."""
    parts = [order_N[start : start + size] for start in range(0, len(order_N), size)]
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [np.concatenate(parts[-2:])]
    return parts


class EpochLog:
    """Buffers losses on the device and reports them about once a second, or with a measured accuracy.

    members: source and seed of each network that is trained.
    """

    def __init__(
        self, stage: Stage, architecture: str, members: Sequence[tuple[str, int]], epochs: int
    ) -> None:
        self.stage: Stage = stage
        self.architecture = architecture
        self.members = members
        self.epochs = epochs
        self.hint = f"lower {stage}.optimiser.lr"
        self._pending: list[tuple[int, Tensor, Sequence[float | None]]] = []
        self._since = work_clock()

    def add(
        self,
        epoch: int,
        loss_S: Tensor,
        accuracies: Sequence[float] | None = None,
        subset: tuple[int, Sequence[float]] | None = None,
    ) -> Iterator[Event]:
        """Add a 0-based epoch, and yield the events that are due.

        subset: a number of test images, and the accuracies on them. Raises UserError("numeric") naming the
        first epoch whose loss is not finite.
        """
        self._pending.append((epoch, loss_S.detach(), accuracies or [None] * len(self.members)))
        due = work_clock() - self._since >= CHUNK_SECONDS
        if due or accuracies is not None or subset is not None or epoch == self.epochs - 1:
            yield from self._flush()
        if subset is not None:
            images, values = subset
            for (source, seed), value in zip(self.members, values, strict=True):
                yield SubsetEvaluated(self.stage, self.architecture, source, seed, epoch + 1, images, value)

    def checkpoint(self, capture: Callable[[], StageState]) -> Iterator[Event]:
        """Yield all pending events, then a checkpoint. Raises UserError as `add` does."""
        if self._pending:
            yield from self._flush()
        yield Checkpoint(self.stage, capture)

    def describe_position(self, trainer: Trainer) -> str:
        """Return the network and its progress, as a phrase for error messages."""
        position = f"epoch {trainer.epoch + 1}, after {trainer.batch} batches"
        return f"{self._name()} in {position} of {self.stage}"

    def require_finite(self, model: nn.Module) -> None:
        """Raise UserError("numeric") naming a weight that is not finite at the end of training."""
        require_finite(model.state_dict(), f"{self._name()} at the end of {self.stage}", self.hint)

    def _name(self) -> str:
        if len(self.members) > 1:
            return f"{self.architecture} ({len(self.members)} students together)"
        source, seed = self.members[0]
        return f"{self.architecture} ({source}, seed {seed})"

    def _flush(self) -> Iterator[EpochFinished]:
        losses = torch.stack([loss_S for _, loss_S, _ in self._pending]).tolist()
        rate = len(losses) * len(self.members) / max(work_clock() - self._since, 1e-9)
        for (number, _, accuracies), values in zip(self._pending, losses, strict=True):
            for (source, seed), value, accuracy in zip(self.members, values, accuracies, strict=True):
                if not np.isfinite(value):
                    raise UserError(
                        "numeric",
                        f"the loss of {self.architecture} ({source}, seed {seed}) became {value} "
                        f"in epoch {number + 1} of {self.stage}",
                        self.hint,
                    )
                yield EpochFinished(
                    self.stage,
                    self.architecture,
                    source,
                    seed,
                    number + 1,
                    self.epochs,
                    value,
                    accuracy,
                    rate,
                )
        self._pending, self._since = [], work_clock()


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

    def evaluate(self, model: nn.Module) -> tuple[int, list[float]] | None:
        """Return the number of images and the accuracies on them in percent, of each member if it is a stack.

        Return None if it would take too long.
        """
        count = len(self._indices)
        cost = self._trained / max(self._steps, 1) if self._cost is None else self._cost
        if count == 0 or self._spent + cost > self.SHARE * self._trained:
            return None
        began = time.perf_counter()
        accuracies = evaluate_accuracies(model, self._test, self._device, self._indices)
        self._cost = time.perf_counter() - began
        self._spent += self._cost
        return count, accuracies


def count_members(model: nn.Module) -> int:
    """Return the number of networks that a model consists of: those of a stack, else one."""
    return model.size if isinstance(model, backbones.Stack) else 1


def evaluate_accuracy(model: nn.Module, images: ImageSet, device: torch.device) -> float:
    """Return the top-1 accuracy of a single network in percent; `model` itself is not modified."""
    (accuracy,) = evaluate_accuracies(model, images, device)
    return accuracy


@torch.no_grad()
def evaluate_accuracies(
    model: nn.Module, images: ImageSet, device: torch.device, indices_N: Tensor | None = None
) -> list[float]:
    """Return the top-1 accuracy of each member of a model in percent; `model` itself is not modified.

    indices_N: of the images; None: all.
    """
    chosen_N = torch.arange(len(images)) if indices_N is None else indices_N
    network, members = backbones.place_on(backbones.fold_batchnorm(model), device), count_members(model)
    what, hint = f"measuring accuracy in batches of {EVALUATION_BATCH}", "use a device with more memory"
    correct_S = torch.zeros(members, dtype=torch.int64, device=device)
    for indices in torch.split(chosen_N, EVALUATION_BATCH):
        with explain_out_of_memory(device, what, hint):
            x_MCHW = images.batch(indices, device).repeat(1, members, 1, 1)
            logits_MSK = network(x_MCHW.contiguous(memory_format=torch.channels_last))
            labels_M = upload(images.labels_N[indices], device)
            correct_S += (logits_MSK.argmax(dim=-1).view(-1, members) == labels_M[:, None]).sum(dim=0)
    return [100.0 * correct / len(chosen_N) for correct in correct_S.tolist()]
