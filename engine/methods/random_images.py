"""`random`: the distilled set is real images as they are. Source: the control of every table.

Legend: M images of a batch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator
from functools import partial

import torch
from torch import Tensor, nn

from engine.backbones.labeller import Labeller
from engine.checkpoint import Checkpoint, StageState
from engine.config import Config
from engine.data import ImageSet, normalise
from engine.events import BatchRecovered, Event, RecoverLayout, StageProgress
from engine.spectral.recovery_batches import plan_batches

Keep = Callable[[Tensor, Tensor, int, float, Tensor], None]


def state_before_batch(batch: int) -> StageState:
    """The state before batch `batch` is made: batches do not depend on each other."""
    return StageState(metadata={"batch": batch, "iteration": 0})


def copy_real_images(
    config: Config,
    images: ImageSet,
    teacher: nn.Module,
    device: torch.device,
    keep: Keep,
    saved: StageState | None = None,
) -> Generator[Event, None, None]:
    """Hand over all of `images`, one of each class after another, as `recover` does its own; β is NaN.

    saved: goes on from another call's save point. Yields a layout without taps, and a save point a batch.
    """
    first = 1 if saved is None else int(saved.metadata["batch"])
    yield RecoverLayout([], [], [], first - 1)
    classes = len(images.classes)
    chunks = [rounds_M * classes + labels_M for rounds_M, labels_M in plan_batches(config, classes)]
    label, since = Labeller(teacher, device, "float32"), time.monotonic()
    for number, indices_M in list(enumerate(chunks, start=1))[first - 1 :]:
        x_MCHW = images.pixels(indices_M).float() / 255
        labels_M = images.labels_N[torch.from_numpy(indices_M)]
        keep(x_MCHW, labels_M, number, math.nan, confidence(label, x_MCHW, labels_M, images))
        rate = (number - first + 1) / max(time.monotonic() - since, 1e-9)
        yield BatchRecovered(number, len(chunks), math.nan, len(indices_M))
        yield StageProgress("recover", number, rate)
        yield Checkpoint("recover", partial(state_before_batch, number + 1), always=True)


def confidence(label: Labeller, x_MCHW: Tensor, labels_M: Tensor, like: ImageSet) -> Tensor:
    """The teacher's probability of each image's own class, shape (M,), on the CPU; images in [0, 1]."""
    logits_MK = label(normalise(x_MCHW, like.mean, like.std).to(label.device)).cpu()
    return logits_MK.softmax(dim=1).gather(1, labels_M.unsqueeze(1)).squeeze(1)
