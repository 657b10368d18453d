"""Validation: train students from scratch on a distilled set and on its control, and measure them (FKD).

Legend: M images in a batch, N images in a set, K classes. Source: UniDD Table 10, SRe²L.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from engine import backbones
from engine.config import Config
from engine.data import ImageSet
from engine.device import autocast
from engine.events import Event
from engine.relabel import FkdViews, Labeller, StoredLabels
from engine.rng import torch_seeded
from engine.training import EpochLog, Trainer, accuracy

Source = Literal["distilled", "random"]


@dataclass(frozen=True)
class StudentResult:
    """One student.

    last: accuracy (%) after the last epoch. best: of all measured, which peeks at the test set.
    curve: (epoch, accuracy) wherever it was measured; epochs count from 1.
    """

    architecture: str
    seed: int
    source: Source
    last: float
    best: float
    curve: list[tuple[int, float]]


def validate(
    config: Config,
    teacher: nn.Module,
    sources: Mapping[Source, ImageSet],
    test: ImageSet,
    device: torch.device,
    labels: Mapping[Source, StoredLabels] | None = None,
) -> Generator[Event, None, list[StudentResult]]:
    """Train every student of every seed on every source; labels come online unless given."""
    label = Labeller(teacher, device, getattr(torch, config.validate_.precision))
    results = []
    for architecture in config.validate_.students or (config.backbone.name,):
        for seed in range(config.validate_.seeds):
            for source, images in sources.items():
                student = Student(config, architecture, seed, source, images, device)
                stored = None if labels is None else labels[source]
                results.append((yield from student.train(label, stored, test)))
    return results


def kd_loss(student_MK: Tensor, teacher_MK: Tensor, temperature: float) -> Tensor:
    """KL(teacher/T ‖ student/T), batch mean, without the T² factor."""
    return F.kl_div(
        F.log_softmax(student_MK.float() / temperature, dim=1),
        F.log_softmax(teacher_MK.float() / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )


class Student:
    """One network trained from scratch on soft labels."""

    def __init__(
        self,
        config: Config,
        architecture: str,
        seed: int,
        source: Source,
        images: ImageSet,
        device: torch.device,
    ) -> None:
        self.config = config
        self.settings = config.validate_
        self.architecture = architecture
        self.seed = seed
        self.source: Source = source
        self.images = images
        self.device = device
        with torch_seeded(config.seed, "student", architecture, seed):
            model = backbones.build(
                config.backbone,
                classes=len(images.classes),
                channels=images.channels,
                image_size=images.size,
                name=architecture,
            )
        self.model = backbones.placed(model, device)
        self.average: AveragedModel | None = None

    def train(
        self, label: Labeller, stored: StoredLabels | None, test: ImageSet
    ) -> Generator[Event, None, StudentResult]:
        """All epochs, measuring after some and always after the last."""
        epochs = self.settings.epochs
        trainer = Trainer(self.model, self.settings.optimiser, epochs)
        log = EpochLog("validate", self.architecture, self.source, self.seed, epochs)
        # Stored labels belong to stream 0; online every student draws views of its own.
        views = FkdViews(self.config, self.images, self.device, 0 if stored else self.seed + 1)
        curve: list[tuple[int, float]] = []
        for epoch in range(epochs):
            trainer.begin(epoch)
            loss = self._epoch(epoch, trainer, views, label, stored)
            self._update_average(epoch)
            measured = None
            if self._measures(epoch):
                final = self.model if self.average is None else self.average.module
                measured = accuracy(final, test, self.device)
                curve.append((epoch + 1, measured))
            yield from log.add(epoch, loss, measured)
        best = max(value for _, value in curve)
        return StudentResult(self.architecture, self.seed, self.source, curve[-1][1], best, curve)

    def _epoch(
        self, epoch: int, trainer: Trainer, views: FkdViews, label: Labeller, stored: StoredLabels | None
    ) -> Tensor:
        settings = self.settings
        self.model.train()
        replayed, targets_NK = epoch, None
        if stored is not None:
            replayed = stored.epoch(epoch)
            targets_NK = stored.logits_ENK[replayed].to(self.device, non_blocking=True)
        total = torch.zeros((), device=self.device)
        with torch_seeded(self.config.seed, "student", self.architecture, self.seed, epoch):
            for indices in views.batches(replayed):
                x_MCHW = views.batch(replayed, indices)
                if targets_NK is None:
                    target_MK = label(x_MCHW)
                else:
                    where = torch.from_numpy(indices).to(self.device, non_blocking=True)
                    target_MK = targets_NK.index_select(0, where)
                with autocast(self.device, getattr(torch, settings.precision)):
                    logits_MK = self.model(x_MCHW)
                loss = kd_loss(logits_MK, target_MK, settings.temperature)
                trainer.step(loss)
                total += loss.detach() * len(indices)
        return total / len(self.images)

    def _measures(self, epoch: int) -> bool:
        done = epoch + 1
        due = done >= self.settings.evaluate_from * self.settings.epochs
        return done == self.settings.epochs or (due and done % self.settings.evaluate_every == 0)

    def _update_average(self, epoch: int) -> None:
        share = self.settings.average
        if share > 0 and epoch >= (1.0 - share) * self.settings.epochs:
            if self.average is None:
                self.average = AveragedModel(self.model, use_buffers=True)
            self.average.update_parameters(self.model)
