"""Validation: train students from scratch on a distilled set and on its control, and test them (FKD).

Legend: M images in a batch, N images in a set, K classes. Source: UniDD Table 10, SRe²L.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
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
from engine.fingerprint import fingerprint_tensors
from engine.rng import torch_seeded
from engine.stages.losses import student_loss
from engine.stages.relabel import FkdViews, StoredLabels
from engine.stages.training import EpochLog, SubsetEvaluator, Trainer, evaluate_accuracies

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


@dataclass(frozen=True)
class Member:
    """A student to train: its seed, the name of its images, and the images.

    labels: stored labels; None: the teacher labels every batch.
    """

    seed: int
    source: Source
    images: ImageSet
    labels: StoredLabels | None = None


def validate(
    config: Config,
    teacher: nn.Module,
    sources: Mapping[Source, ImageSet],
    test: ImageSet,
    device: torch.device,
    labels: Mapping[Source, StoredLabels] | None = None,
    saved: StageState | None = None,
    together: Collection[str] = (),
) -> Generator[Event, None, list[StudentResult]]:
    """Train every student of every seed on every source.

    labels: stored labels; None: the teacher labels every batch. saved: resume from this state. together: the
    architectures whose students are trained as one stack. Raises UserError("numeric") naming the student and
    the epoch whose loss is not finite.
    """
    settings = config.validate_
    labeller = Labeller(teacher, device, settings.precision, settings.teacher_batchnorm)
    members = [
        Member(seed, source, images, None if labels is None else labels[source])
        for seed in range(settings.seeds)
        for source, images in sources.items()
    ]
    architectures = settings.students or (config.backbone.name,)
    evaluator = SubsetEvaluator(test, settings.preview_images, device)
    results = [  # from JSON, where tuples became lists
        StudentResult(**{**fields, "curve": _parse_curve(fields["curve"])})
        for fields in ([] if saved is None else saved.metadata["finished"])
    ]
    students = [(architecture, member) for architecture in architectures for member in members]
    size = None if saved is None else len(_read_curves(saved.metadata))
    for architecture, group in _group(students[len(results) :], together, size):
        work = Students(config, architecture, group, device)
        results += yield from work.train(labeller, test, results, saved, evaluator)
        saved = None
    return results


def _group(
    students: Sequence[tuple[str, Member]], together: Collection[str], size: int | None
) -> Iterator[tuple[str, list[Member]]]:
    """Yield the students that are trained at a time. size: of the first group, if it is already begun."""
    while students:
        architecture = students[0][0]
        same = [member for name, member in students if name == architecture]
        size = size or (len(same) if architecture in together else 1)
        yield architecture, same[:size]
        students, size = students[size:], None


def completed_epochs(config: Config, metadata: Mapping[str, Any]) -> int:
    """Return the number of epochs of all students that are finished, given a state's metadata."""
    training = int(metadata["epoch"]) * len(_read_curves(metadata))
    return len(metadata["finished"]) * config.validate_.epochs + training


def _read_curves(metadata: Mapping[str, Any]) -> list[list[tuple[int, float]]]:
    """Return the measurements of the students that a state has begun; earlier versions wrote one curve."""
    return [_parse_curve(curve) for curve in metadata.get("curves") or [metadata["curve"]]]


def _parse_curve(curve: Sequence[Sequence[Any]]) -> list[tuple[int, float]]:
    return [(int(epoch), float(accuracy)) for epoch, accuracy in curve]


def is_measured_epoch(settings: Validate, epoch: int) -> bool:
    """Return whether students are tested after this 0-based epoch.

    Of 1000 epochs, every tenth, from 0.8, the first that is measured is the 810th, as in the released code.
    """
    done = epoch + 1
    due = done > settings.evaluate_from * settings.epochs
    return done == settings.epochs or (due and done % settings.evaluate_every == 0)


class Students:
    """Networks of one architecture that are trained from scratch on soft labels, several of them together.

    Each has its own images, views and labels, and learns what it would learn alone, up to rounding.
    Legend: S students.
    """

    def __init__(
        self, config: Config, architecture: str, members: Sequence[Member], device: torch.device
    ) -> None:
        self.config = config
        self.settings = config.validate_
        self.architecture = architecture
        self.members = members
        self.device = device
        self.labels_SN = upload(torch.stack([member.images.labels_N for member in members]), device)
        networks = [build_student(config, architecture, member.seed, member.images) for member in members]
        model = networks[0] if len(networks) == 1 else backbones.Stack(networks)
        self.model = backbones.place_on(model, device)
        self.average: AveragedModel | None = None

    def train(
        self,
        labeller: Labeller,
        test: ImageSet,
        finished: Sequence[StudentResult] = (),
        saved: StageState | None = None,
        evaluator: SubsetEvaluator | None = None,
    ) -> Generator[Event, None, list[StudentResult]]:
        """Train for all epochs, and test after some of them and always after the last.

        finished: results of earlier students, which checkpoints include. saved: resume from this state.
        evaluator: shows the accuracy on some test images.
        """
        evaluator = evaluator or SubsetEvaluator(test, 0, self.device)
        epochs, timer = self.settings.epochs, IntervalTimer(self.config.checkpoint_seconds)
        trainer = Trainer(self.model, self.settings.optimiser, epochs, self.settings.precision)
        names = [(member.source, member.seed) for member in self.members]
        log = EpochLog("validate", self.architecture, names, epochs)
        views = [self._build_views(member) for member in self.members]
        curves: list[list[tuple[int, float]]] = [[] for _ in self.members]
        if saved is not None:
            curves = self._restore(trainer, saved)

        def capture() -> StageState:
            position: dict[str, Any] = {"epoch": trainer.epoch, "batch": trainer.batch}
            position["curves"] = [list(curve) for curve in curves]
            position["finished"] = [asdict(result) for result in finished]
            average = {} if self.average is None else add_prefix("average", self.average.state_dict())
            tensors = {**trainer.state_dict(), **average}
            return capture_state(tensors, log.describe_position(trainer), log.hint, **position)

        while trainer.epoch < epochs:
            epoch = trainer.epoch
            what = f"training {self.architecture} with batches of {self.settings.batch}"
            hint = "set validate.precision=bfloat16, or lower validate.batch; both change the result"
            with explain_out_of_memory(self.device, what, hint):
                for _ in evaluator.watch(self.epoch(trainer, views, labeller)):
                    if timer.due():
                        yield from log.checkpoint(capture)
            loss_S = trainer.end_epoch(self.labels_SN.shape[1])
            self._update_average(epoch)
            accuracies = subset = None
            if is_measured_epoch(self.settings, epoch):
                accuracies = evaluate_accuracies(self._final_network(), test, self.device)
                for curve, accuracy in zip(curves, accuracies, strict=True):
                    curve.append((epoch + 1, accuracy))
            else:
                subset = evaluator.evaluate(self._final_network())
            yield from log.add(epoch, loss_S, accuracies, subset)
            if timer.due():
                yield from log.checkpoint(capture)
        log.require_finite(self._final_network())
        return [self._build_result(number, curve) for number, curve in enumerate(curves)]

    def epoch(self, trainer: Trainer, views: Sequence[FkdViews], labeller: Labeller) -> Iterator[None]:
        """Train on the remaining batches of the epoch, yielding after each batch except the last.

        views: of each member's images.
        """
        self.model.train()
        epochs, stored = [], []
        for member in self.members:
            number = trainer.epoch if member.labels is None else member.labels.epoch(trainer.epoch)
            epochs.append(number)
            if member.labels is not None:
                stored.append(member.labels.logits(number))
        stored_SNK = upload(torch.stack(stored), self.device) if stored else None
        member_S1 = torch.arange(len(self.members), device=self.device)[:, None]

        def compute_loss(indices_SM: np.ndarray) -> Tensor:
            x_S = [
                each.batch(number, indices_M)
                for each, number, indices_M in zip(views, epochs, indices_SM, strict=True)
            ]
            chosen_SM = upload(torch.from_numpy(indices_SM), self.device)
            if stored_SNK is None:
                target_SMK = self._label(labeller, x_S)
            else:
                target_SMK = stored_SNK[member_S1, chosen_SM]
            with autocast(self.device, self.settings.precision):
                logits_SMK = self._forward(x_S)
            return student_loss(self.settings, logits_SMK, target_SMK, self.labels_SN.gather(1, chosen_SM))

        batches_S = (each.batches(number) for each, number in zip(views, epochs, strict=True))
        batches = [np.stack(parts) for parts in zip(*batches_S, strict=True)]
        key = ("student", self.architecture, self.members[0].seed)  # a stack draws no random numbers
        return trainer.steps(batches, compute_loss, self.config.seed, *key)

    def _build_views(self, member: Member) -> FkdViews:
        """Return the views of a member's images: those of stored labels, else those of its own seed."""
        if member.labels is None:
            return FkdViews(self.config, member.images, self.device, member.seed + 1)
        if member.labels.views is None:
            return FkdViews(self.config, member.images, self.device)
        return member.labels.views(member.images, self.device)

    def _label(self, labeller: Labeller, x_S: Sequence[Tensor]) -> Tensor:
        """Return the teacher's logits, shape (S, M, K), of each member's views."""
        if len(x_S) == 1 or self.settings.teacher_batchnorm == "batch":
            return torch.stack([labeller(x_MCHW) for x_MCHW in x_S])
        logits_XK = labeller(torch.cat(list(x_S)))
        return logits_XK.reshape(len(x_S), -1, logits_XK.shape[1])

    def _forward(self, x_S: Sequence[Tensor]) -> Tensor:
        """Return each member's logits, shape (S, M, K), of its views."""
        if len(x_S) == 1:
            logits_MK: Tensor = self.model(x_S[0])
            return logits_MK.unsqueeze(0)
        x_MCHW = torch.cat(list(x_S), dim=1).contiguous(memory_format=torch.channels_last)
        logits_MSK: Tensor = self.model(x_MCHW)
        return logits_MSK.transpose(0, 1)

    def _build_result(self, number: int, curve: list[tuple[int, float]]) -> StudentResult:
        """Return the result of a member from its measurements."""
        member, network = self.members[number], self._final_network()
        state = network.state_dict()
        if isinstance(network, backbones.Stack):
            state = network.member_state(number)
        best, weights = max(accuracy for _, accuracy in curve), fingerprint_tensors(state)
        return StudentResult(
            self.architecture, member.seed, member.source, curve[-1][1], best, curve, weights
        )

    def _final_network(self) -> nn.Module:
        return self.model if self.average is None else self.average.module

    def _restore(self, trainer: Trainer, saved: StageState) -> list[list[tuple[int, float]]]:
        trainer.load_state_dict(saved)
        average = strip_prefix("average", saved.tensors)
        if average:
            self.average = AveragedModel(self.model, use_buffers=True)
            self.average.load_state_dict(average)
        return _read_curves(saved.metadata)

    def _update_average(self, epoch: int) -> None:
        share = self.settings.average
        if share > 0 and epoch >= (1.0 - share) * self.settings.epochs:
            if self.average is None:
                self.average = AveragedModel(self.model, use_buffers=True)
            self.average.update_parameters(self.model)


def build_student(config: Config, architecture: str, seed: int, images: ImageSet) -> nn.Module:
    """Build an untrained student for a set of images, initialised from its seed."""
    with torch_seeded(config.seed, "student", architecture, seed):
        return backbones.build(
            config.backbone,
            classes=len(images.classes),
            channels=images.channels,
            image_size=images.size,
            name=architecture,
            stem_init=config.validate_.stem_init,
        )
