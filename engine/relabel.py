"""FKD relabelling: the teacher's logits for replayable views of the distilled images.

Views are a function of (seed, epoch) and of the image's number, so labels do not depend on the order
in which they are made; nor, unless CutMix is a batch's own, on the size of the students' batches.
Legend: E stored epochs, N images, M images in a batch, C channels, H, W, K classes.
Source: FKD (Shen and Xing 2022) as used by SRe²L; pruned stores as in LPLD.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from engine import augment, backbones
from engine.config import Config
from engine.data import ImageSet
from engine.device import autocast
from engine.events import Event, StageProgress
from engine.rng import generator
from engine.training import batches_of

RELABEL_BATCH = 256


class FkdViews:
    """The augmented images of every epoch: crop, flip and CutMix, replayable.

    stream: number of an independent sequence of draws (0 is the stored one).
    """

    def __init__(self, config: Config, images: ImageSet, device: torch.device, stream: int = 0) -> None:
        self.config = config
        self.images = images
        self.device = device
        self.stream = stream
        self._epoch = -1

    def batches(self, epoch: int) -> list[np.ndarray]:
        """The numbers of the images of each of a student's batches, shuffled."""
        order_N = generator(self.config.seed, "order", self.stream, epoch).permutation(len(self.images))
        return batches_of(order_N, self.config.validate_.batch)

    def batch(self, epoch: int, indices_M: np.ndarray) -> Tensor:
        """Views (M, C, H, W) of the images with these numbers, normalised, channels-last."""
        settings, size = self.config.validate_, self.images.size
        if epoch != self._epoch:
            rng = generator(self.config.seed, "fkd", self.stream, epoch)
            self._views = augment.draw(settings.views, size, len(self.images), rng)
            shared = settings.cutmix == "batch"
            self._mix = augment.draw_cutmix(size, self.batches(epoch), rng, shared=shared)
            self._epoch = epoch
        x_MCHW = self._view(indices_M)
        if settings.cutmix != "none":
            mix = self._mix.take(indices_M)
            x_MCHW = augment.cutmix(mix, x_MCHW, self._view(mix.partner_M))
        return x_MCHW.contiguous(memory_format=torch.channels_last)

    def _view(self, indices_M: np.ndarray) -> Tensor:
        return self.images.batch(indices_M, self.device, self._views.take(indices_M))


class Labeller:
    """The frozen teacher, ready to label views: BatchNorm folded, channels-last."""

    def __init__(self, teacher: nn.Module, device: torch.device, precision: torch.dtype) -> None:
        self.network = backbones.placed(backbones.fold_batchnorm(teacher), device)
        self.device = device
        self.precision = precision

    @torch.no_grad()
    def __call__(self, x_MCHW: Tensor) -> Tensor:
        """Logits (M, K) in float32."""
        with autocast(self.device, self.precision):
            logits_MK: Tensor = self.network(x_MCHW)
        return logits_MK.float()


@dataclass(frozen=True)
class StoredLabels:
    """Logits (E, N, K) in float16 for E epochs of views; later epochs reuse them in turn."""

    logits_ENK: Tensor

    def epoch(self, epoch: int) -> int:
        """The stored epoch that a student's 0-based epoch replays."""
        return epoch % len(self.logits_ENK)


def relabel(
    config: Config, teacher: nn.Module, images: ImageSet, device: torch.device
) -> Generator[Event, None, StoredLabels]:
    """Label every view of `relabel.stored_epochs` epochs (all of them if None) once."""
    epochs = config.relabel.stored_epochs or config.validate_.epochs
    label = Labeller(teacher, device, getattr(torch, config.validate_.precision))
    views = FkdViews(config, images, device)
    logits_ENK = torch.empty((epochs, len(images), len(images.classes)), dtype=torch.float16)
    since = time.monotonic()
    for epoch in range(epochs):
        for start in range(0, len(images), RELABEL_BATCH):
            indices = np.arange(start, min(start + RELABEL_BATCH, len(images)))
            logits_ENK[epoch, start : start + len(indices)] = label(views.batch(epoch, indices)).half().cpu()
        done = epoch + 1
        yield StageProgress("relabel", done, done / max(time.monotonic() - since, 1e-9))
    return StoredLabels(logits_ENK)
