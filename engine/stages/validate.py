"""Validation: train students from scratch on a distilled set and on its control, and test them (FKD).

Legend: M images in a batch, N images in a set, K classes. Source: UniDD Table 10, SRe²L.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from engine import backbones
from engine.backbones.labeller import Labeller
from engine.checkpoint import IntervalTimer, StageState, add_prefix, capture_state, strip_prefix
from engine.config import Config, Validate
from engine.data import ImageSet
from engine.device import autocast, explain_out_of_memory, upload
from engine.events import Event
from engine.rng import torch_seeded
from engine.stages.losses import student_loss
from engine.stages.relabel import FkdViews, StoredLabels
from engine.stages.training import EpochLog, SubsetEvaluator, Trainer, evaluate_accuracy

Source = Literal["distilled", "random", "start"]  #: the distilled images, or a control


@dataclass(frozen=True)
class StudentResult:
    """The accuracy of one student.

    last: accuracy (%) after the last epoch. best: the highest accuracy measured, which is selected on the
    test set. curve: (epoch, accuracy) of each measurement; epochs count from 1. weights: SHA-256 of the final
    network, the averaged one where weights are averaged.
    """

    architecture: str
    seed: int
    source: Source
    last: float
    best: float
    curve: list[tuple[int, float]]
    weights: str


def validate(
    config: Config,
    teacher: nn.Module,
    sources: Mapping[Source, ImageSet],
    test: ImageSet,
    device: torch.device,
    labels: Mapping[Source, StoredLabels] | None = None,
    saved: StageState | None = None,
) -> Generator[Event, None, list[StudentResult]]:
    """Train every student of every seed on every source.

    labels: stored labels; None: the teacher labels every batch. saved: resume from this state. Raises
    UserError("numeric") naming the student and the epoch whose loss is not finite.
    """
    settings = config.validate_
    labeller = Labeller(teacher, device, settings.precision, settings.teacher_batchnorm)
    students = [
        (architecture, seed, source)
        for architecture in config.validate_.students or (config.backbone.name,)
        for seed in range(config.validate_.seeds)
        for source in sources
    ]
    evaluator = SubsetEvaluator(test, settings.preview_images, device)
    results = [  # from JSON, where tuples became lists
        StudentResult(**{**fields, "curve": _parse_curve(fields["curve"])})
        for fields in ([] if saved is None else saved.metadata["finished"])
    ]
    for architecture, seed, source in students[len(results) :]:
        student = Student(config, architecture, seed, source, sources[source], device)
        stored = None if labels is None else labels[source]
        results.append((yield from student.train(labeller, stored, test, results, saved, evaluator)))
        saved = None
    return results


def _parse_curve(curve: Sequence[Sequence[Any]]) -> list[tuple[int, float]]:
    return [(int(epoch), float(accuracy)) for epoch, accuracy in curve]


def is_measured_epoch(settings: Validate, epoch: int) -> bool:
    """Return whether students are tested after this 0-based epoch.

    Of 1000 epochs, every tenth, from 0.8, the first that is measured is the 810th, as in the released code.
    """
    done = epoch + 1
    due = done > settings.evaluate_from * settings.epochs
    return done == settings.epochs or (due and done % settings.evaluate_every == 0)


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
        self.labels_N = upload(images.labels_N, device)
        self.device = device
        with torch_seeded(config.seed, "student", architecture, seed):
            model = backbones.build(
                config.backbone,
                classes=len(images.classes),
                channels=images.channels,
                image_size=images.size,
                name=architecture,
                stem_init=config.validate_.stem_init,
            )
        self.model = backbones.place_on(model, device)
        self.average: AveragedModel | None = None

    def train(
        self,
        labeller: Labeller,
        stored: StoredLabels | None,
        test: ImageSet,
        finished: Sequence[StudentResult] = (),
        saved: StageState | None = None,
        evaluator: SubsetEvaluator | None = None,
    ) -> Generator[Event, None, StudentResult]:
        """Train for all epochs, and test after some of them and always after the last.

        finished: results of earlier students, which checkpoints include. saved: resume from this state.
        evaluator: shows the accuracy on some test images.
        """
        evaluator = evaluator or SubsetEvaluator(test, 0, self.device)
        epochs, timer = self.settings.epochs, IntervalTimer(self.config.checkpoint_seconds)
        trainer = Trainer(self.model, self.settings.optimiser, epochs, self.settings.precision)
        log = EpochLog("validate", self.architecture, self.source, self.seed, epochs)
        # Stored labels use stream 0; with online labels each seed draws from another stream.
        views = FkdViews(self.config, self.images, self.device, 0 if stored else self.seed + 1)
        if stored is not None and stored.views is not None:
            views = stored.views(self.images, self.device)
        curve = [] if saved is None else self._restore(trainer, saved)

        def capture() -> StageState:
            position = {"epoch": trainer.epoch, "batch": trainer.batch, "curve": list(curve)}
            position["finished"] = [asdict(result) for result in finished]
            average = {} if self.average is None else add_prefix("average", self.average.state_dict())
            tensors = {**trainer.state_dict(), **average}
            return capture_state(tensors, log.describe_position(trainer), log.hint, **position)

        while trainer.epoch < epochs:
            epoch = trainer.epoch
            what = f"training {self.architecture} with batches of {self.settings.batch}"
            hint = "set validate.precision=bfloat16, or lower validate.batch; both change the result"
            with explain_out_of_memory(self.device, what, hint):
                for _ in evaluator.watch(self.epoch(trainer, views, labeller, stored)):
                    if timer.due():
                        yield from log.checkpoint(capture)
            loss = trainer.end_epoch(len(self.images))
            self._update_average(epoch)
            accuracy = subset = None
            if is_measured_epoch(self.settings, epoch):
                accuracy = evaluate_accuracy(self._final_network(), test, self.device)
                curve.append((epoch + 1, accuracy))
            else:
                subset = evaluator.evaluate(self._final_network())
            yield from log.add(epoch, loss, accuracy, subset)
            if timer.due():
                yield from log.checkpoint(capture)
        log.require_finite(self._final_network())
        best = max(accuracy for _, accuracy in curve)
        weights = backbones.fingerprint(self._final_network())
        return StudentResult(self.architecture, self.seed, self.source, curve[-1][1], best, curve, weights)

    def epoch(
        self, trainer: Trainer, views: FkdViews, labeller: Labeller, stored: StoredLabels | None
    ) -> Iterator[None]:
        """Train on the remaining batches of the epoch, yielding after each batch except the last."""
        settings, targets_NK = self.settings, None
        self.model.train()
        replayed = trainer.epoch if stored is None else stored.epoch(trainer.epoch)
        if stored is not None:
            targets_NK = upload(stored.logits(replayed), self.device)

        def compute_loss(indices: np.ndarray) -> Tensor:
            x_MCHW = views.batch(replayed, indices)
            indices_M = upload(torch.from_numpy(indices), self.device)
            target_MK = labeller(x_MCHW) if targets_NK is None else targets_NK.index_select(0, indices_M)
            with autocast(self.device, settings.precision):
                logits_MK = self.model(x_MCHW)
            labels_M = self.labels_N.index_select(0, indices_M)
            return student_loss(settings, logits_MK, target_MK, labels_M)

        key = ("student", self.architecture, self.seed)
        return trainer.steps(views.batches(replayed), compute_loss, self.config.seed, *key)

    def _final_network(self) -> nn.Module:
        return self.model if self.average is None else self.average.module

    def _restore(self, trainer: Trainer, saved: StageState) -> list[tuple[int, float]]:
        trainer.load_state_dict(saved)
        average = strip_prefix("average", saved.tensors)
        if average:
            self.average = AveragedModel(self.model, use_buffers=True)
            self.average.load_state_dict(average)
        return _parse_curve(saved.metadata["curve"])

    def _update_average(self, epoch: int) -> None:
        share = self.settings.average
        if share > 0 and epoch >= (1.0 - share) * self.settings.epochs:
            if self.average is None:
                self.average = AveragedModel(self.model, use_buffers=True)
            self.average.update_parameters(self.model)
