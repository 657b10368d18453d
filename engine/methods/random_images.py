"""`random`: the distilled set consists of unchanged real images. Source: the control of every table.

Legend: M images of a batch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from functools import partial

import torch
from torch import Tensor, nn

from engine.backbones.labeller import Labeller
from engine.checkpoint import Checkpoint, StageState
from engine.config import Config
from engine.data import ImageSet, normalise
from engine.events import BatchRecovered, Event, RecoveredImages, RecoverLayout, StageProgress
from engine.spectral.recovery_batches import plan_batches


def state_before_batch(batch: int) -> StageState:
    """Return the state from which batch `batch` can be made; batches do not depend on each other."""
    return StageState(metadata={"batch": batch, "iteration": 0})


def copy_real_images(
    config: Config,
    images: ImageSet,
    teacher: nn.Module,
    device: torch.device,
    saved: StageState | None = None,
) -> Generator[Event, None, None]:
    """Yield all `images`, batch by batch, as `recover` yields optimised images; β is NaN.

    saved: resume from this state. Yields a layout without taps, and a checkpoint after each batch.
    """
    first = 1 if saved is None else int(saved.metadata["batch"])
    yield RecoverLayout([], [], [], first - 1)
    classes = len(images.classes)
    batches = [rounds_M * classes + labels_M for rounds_M, labels_M in plan_batches(config, classes)]
    labeller, started = Labeller(teacher, device, "float32"), time.monotonic()
    for number, indices_M in list(enumerate(batches, start=1))[first - 1 :]:
        x_MCHW = images.pixels(indices_M).float() / 255
        labels_M = images.labels_N[torch.from_numpy(indices_M)]
        confidence_M = compute_confidence(labeller, x_MCHW, labels_M, images)
        recovered = RecoveredImages(x_MCHW.numpy(), labels_M.numpy(), confidence_M.numpy())
        rate = (number - first + 1) / max(time.monotonic() - started, 1e-9)
        yield BatchRecovered(number, len(batches), math.nan, len(indices_M), recovered)
        yield StageProgress("recover", number, rate)
        yield Checkpoint("recover", partial(state_before_batch, number + 1), always=True)


def compute_confidence(labeller: Labeller, x_MCHW: Tensor, labels_M: Tensor, like: ImageSet) -> Tensor:
    """Return the teacher's probability of each image's class, shape (M,), on the CPU.

    x_MCHW: images in [0, 1]. like: the set whose normalisation the teacher expects.
    """
    logits_MK = labeller(normalise(x_MCHW, like.mean, like.std).to(labeller.device)).cpu()
    return logits_MK.softmax(dim=1).gather(1, labels_M.unsqueeze(1)).squeeze(1)
