"""Compare a given teacher with the labelled images it is used on: order of the classes, normalisation.

A teacher that numbers the classes differently, or that was trained on other pixel values, loads and runs, and
every result is near chance. Both show in a few hundred forward passes over training images.
Legend: N images of a sample, M of a batch, C channels, K classes, and as many outputs.
"""

from __future__ import annotations

import copy
import math
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from engine.backbones.graph import fold_batchnorm, place_on
from engine.config import settings
from engine.data import ImageSet, denormalise, normalise
from engine.data.catalogue import KNOWN
from engine.device import explain_out_of_memory
from engine.errors import UserError, format_names
from engine.rng import generator

SAMPLE = 300  #: training images on which a teacher is first examined
PER_CLASS = (3, 10)  #: images of each class with which another order is sought, then settled
BATCH = 100
SHOWN = 12  #: classes whose whole order is shown in a message
MeanStd = tuple[tuple[float, ...], tuple[float, ...]]

#: Normalisations beside those of the catalogue; one value stands for all channels.
_USUAL: dict[str, MeanStd] = {
    "pixels from −1 to 1": ((0.5,), (0.5,)),
    "pixels from 0 to 1": ((0.0,), (1.0,)),
    "pixels from 0 to 255": ((0.0,), (1 / 255,)),
    "that of DC and MTT for CIFAR": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
}


@dataclass(frozen=True)
class Examination:
    """How the answers of a teacher agree with the labels of a sample of training images.

    images: number in the sample. accuracy, confidence: right answers, and the mean of the largest
    probability, in percent. class_order: the class that each output stands for, if the outputs are in another
    order than the classes, and reordered_accuracy: the accuracy in that order, on other images than those
    with which it was found. normalisation: a clearly better mean and std, with its name and its accuracy.
    """

    images: int
    accuracy: float
    confidence: float
    class_order: tuple[str, ...] | None = None
    reordered_accuracy: float | None = None
    normalisation: tuple[str, MeanStd, float] | None = None

    def require_same_order(self, source: str, classes: tuple[str, ...]) -> None:
        """Raise UserError("teacher") if the outputs are in another order than `classes`.

        source: of the teacher, for the message.
        """
        if self.class_order is None:
            return
        raise UserError(
            "teacher",
            f"the outputs of teacher '{source}' are in another order than the classes of the data set: of"
            f" {self.images:,} training images it gets {self.accuracy:.1f} % right, although it is"
            f" {self.confidence:.1f} % sure, and {self.reordered_accuracy:.1f} % if"
            f" {_describe_order(self.class_order, classes)}",
            _suggest_order(self.class_order),
        )

    def warnings(self, source: str) -> Iterator[str]:
        """Yield a warning where another normalisation suits the teacher better. source: of the teacher."""
        if self.normalisation is not None:
            name, (mean, std), accuracy = self.normalisation
            assignments = settings.format_sets({"data.mean": list(mean), "data.std": list(std)})
            sets = " ".join(f"--set {shlex.quote(text)}" for text in assignments)
            yield (
                f"teacher '{source}' gets {self.accuracy:.1f} % of a sample of training images right, and"
                f" {accuracy:.1f} % with another normalisation ({name}): {sets}"
            )


def examine(
    model: nn.Module, train: ImageSet, device: torch.device, recorded: tuple[str, ...] | None = None
) -> Examination:
    """Examine a teacher on a seeded sample of training images, with equally many of each class.

    recorded: the class of each output according to the teacher's file. It is believed if it has the names of
    the data set, unless the answers contradict it; other names may be translations.
    The model is not changed, and no global random numbers are drawn. Only a teacher whose accuracy is below
    its confidence is shown more than the first images, to find an order of the classes that explains it.
    """
    sample = TeacherTrial(model, train, device)
    first = answers = sample.answer(SAMPLE)
    reordered = None if recorded is None else _apply_recorded_order(first, recorded, train.classes)
    if reordered is None and first.accuracy < 0.9 * first.confidence:
        for per_class in PER_CLASS:
            answers = sample.answer(max(SAMPLE, per_class * len(train.classes)))
            reordered = _find_order(answers)
            if reordered is None:
                answers = first
                break
    accuracies = len(answers.labels_N), answers.accuracy, answers.confidence
    if reordered is None:
        return Examination(*accuracies, normalisation=_find_normalisation(sample, first))
    order, reordered_accuracy = reordered
    return Examination(*accuracies, tuple(train.classes[label] for label in order), reordered_accuracy)


def compare_weights(
    source: str,
    model: nn.Module,
    others: Mapping[str, Mapping[str, Tensor]],
    train: ImageSet,
    device: torch.device,
) -> Iterator[str]:
    """Yield a warning for each further set of weights that is clearly better than that of `model`.

    source: of the teacher. others: weights of the same network, by name.
    """
    chosen, file = TeacherTrial(model, train, device).answer(SAMPLE), source.rpartition("#")[0]
    for name, weights in others.items():
        other = copy.deepcopy(model)
        other.load_state_dict({**model.state_dict(), **weights})
        answers = TeacherTrial(other, train, device).answer(SAMPLE)
        if _is_clearly_better(answers, chosen):
            yield (
                f"teacher '{source}' gets {chosen.accuracy:.1f} % of a sample of training images right,"
                f" and {file}#{name} {answers.accuracy:.1f} %"
            )


def _describe_order(class_order: tuple[str, ...], classes: tuple[str, ...]) -> str:
    """Return which output stands for each class that is not at its place, shortened."""
    moved = [
        f"{name} is its output {class_order.index(name)}"
        for name, output_name in zip(classes, class_order, strict=True)
        if name != output_name
    ]
    return f"{format_names(moved, SHOWN)} (counted from 0)"


def _suggest_order(class_order: tuple[str, ...]) -> str:
    """Return the hint for a teacher whose outputs stand for the classes in another order."""
    if len(class_order) > SHOWN:
        return (
            "`cfm data check NAME --root DIR --teacher FILE --save-class-order order.txt`, with the network"
            " as in --set backbone.name=…, writes its order; then add --set data.class_order=order.txt"
        )
    assignment = settings.format_sets({"data.class_order": list(class_order)})[0]
    return f"if that is so, add --set {shlex.quote(assignment)}"


@dataclass(frozen=True)
class Answers:
    """Probabilities and labels of a sample. ranks_N: the number of each image within its class, from 0."""

    p_NK: NDArray[np.float64]
    labels_N: NDArray[np.int64]
    ranks_N: NDArray[np.int64]

    @property
    def is_right_N(self) -> NDArray[np.bool_]:
        """Whether the most probable output has the number of the image's class."""
        return np.asarray(self.p_NK.argmax(axis=1) == self.labels_N)

    @property
    def accuracy(self) -> float:
        """Right answers in percent."""
        return 100.0 * float(self.is_right_N.mean())

    @property
    def loss(self) -> float:
        """The mean cross-entropy of the labels."""
        p_N = self.p_NK[np.arange(len(self.labels_N)), self.labels_N]
        return float(-np.log(np.maximum(p_N, np.finfo(np.float32).tiny)).mean())

    @property
    def confidence(self) -> float:
        """The mean of the largest probability, in percent."""
        return 100.0 * float(self.p_NK.max(axis=1).mean())


class TeacherTrial:
    """A network, and a seeded order of images in which every beginning has equally many of each class."""

    def __init__(self, model: nn.Module, images: ImageSet, device: torch.device) -> None:
        self.network = place_on(fold_batchnorm(model), device)
        self.images, self.device = images, device
        labels_N, rng = images.labels_N.numpy(), generator(0, "teacher check")
        shuffled_N = rng.permutation(len(labels_N))
        by_class_N = shuffled_N[np.argsort(labels_N[shuffled_N], kind="stable")]
        counts_K = np.bincount(labels_N, minlength=len(images.classes))
        self.ranks_N = np.empty(len(labels_N), np.int64)
        self.ranks_N[by_class_N] = np.concatenate([np.arange(count) for count in counts_K])
        self.indices_N = np.lexsort((rng.permutation(len(images.classes))[labels_N], self.ranks_N))

    @torch.no_grad()
    def answer(self, count: int, normalisation: MeanStd | None = None) -> Answers:
        """Return the answers to the first `count` images. normalisation: instead of that of the data set."""
        indices_N, parts = self.indices_N[:count], []
        for start in range(0, len(indices_N), BATCH):
            with explain_out_of_memory(self.device, "trying the teacher", "use a device with more memory"):
                x_MCHW = self.images.batch(indices_N[start : start + BATCH], self.device)
                if normalisation is not None:
                    x_MCHW = normalise(denormalise(x_MCHW, self.images.mean, self.images.std), *normalisation)
                logits_MK = self.network(x_MCHW.contiguous(memory_format=torch.channels_last))
                parts.append(logits_MK.float().softmax(dim=1).cpu())
        p_NK = torch.cat(parts).double().nan_to_num(0.0).numpy()
        return Answers(p_NK, self.images.labels_N.numpy()[indices_N], self.ranks_N[indices_N])


def _apply_recorded_order(
    answers: Answers, recorded: tuple[str, ...], classes: tuple[str, ...]
) -> tuple[NDArray[np.int64], float] | None:
    """Return the class of each output, (K,), and the accuracy in that order; None if classes are in order."""
    if recorded == classes or sorted(recorded) != sorted(classes):
        return None
    output_of_K = np.array([recorded.index(name) for name in classes])
    is_reordered_N = answers.p_NK.argmax(axis=1) == output_of_K[answers.labels_N]
    if _standard_errors(answers.is_right_N, is_reordered_N) > 3:
        return None
    return np.argsort(output_of_K), 100.0 * float(is_reordered_N.mean())


def _find_order(answers: Answers) -> tuple[NDArray[np.int64], float] | None:
    """Return the class of each output, (K,), and the accuracy in that order; None if classes are in order.

    The order gives every class the output that is most probable for it, such that no two share one. It is
    accepted if an order that is found with one half of the images makes many more answers of the other half
    right. Untrained and poor networks tell some classes apart, too, and an order of their own suits them
    better than that of the labels; they reach a quarter of the images with it.
    """
    classes = answers.p_NK.shape[1]
    halves_N = answers.ranks_N % 2
    expected_N = np.empty_like(answers.labels_N)
    for half in (0, 1):
        output_of_K = _assign_outputs(answers, halves_N != half)
        expected_N[halves_N == half] = output_of_K[answers.labels_N[halves_N == half]]
    is_reordered_N = answers.p_NK.argmax(axis=1) == expected_N
    is_moved_N = expected_N != answers.labels_N
    if not is_moved_N.any():
        return None
    plain, reordered = answers.is_right_N[is_moved_N].mean(), is_reordered_N[is_moved_N].mean()
    is_explained = reordered > 0.3 + 0.7 / classes and reordered > 3 * plain
    if not is_explained or _standard_errors(is_reordered_N, answers.is_right_N) < 5:
        return None
    order_K = np.argsort(_assign_outputs(answers, np.full(len(halves_N), True)))
    return order_K, 100.0 * float(is_reordered_N.mean())


def _assign_outputs(answers: Answers, is_used_N: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the output of each class, (K,), that maximises the mean probability; by number where equal."""
    classes = answers.p_NK.shape[1]
    sums_KK, labels_N = np.zeros((classes, classes)), answers.labels_N[is_used_N]
    np.add.at(sums_KK, labels_N, answers.p_NK[is_used_N])
    counts_K1 = np.maximum(np.bincount(labels_N, minlength=classes), 1)[:, None]
    outputs_K: NDArray[np.int64] = linear_sum_assignment(
        sums_KK / counts_K1 + 1e-6 * np.eye(classes), maximize=True
    )[1]
    return outputs_K


def _find_normalisation(sample: TeacherTrial, answers: Answers) -> tuple[str, MeanStd, float] | None:
    """Return a mean and std with which the teacher's accuracy is clearly higher, or None."""
    train, best = sample.images, None
    few = sample.answer(BATCH)
    for name, candidate in _list_normalisations(train, sample.indices_N[: len(answers.labels_N)]).items():
        if answers.accuracy > 95 or _is_alike(candidate, (train.mean, train.std)):
            continue
        if sample.answer(BATCH, candidate).accuracy <= few.accuracy:
            continue
        theirs = sample.answer(SAMPLE, candidate)
        if _is_clearly_better(theirs, answers) and (best is None or theirs.accuracy > best[2] + 2):
            best = name, candidate, theirs.accuracy
    return best


def _list_normalisations(train: ImageSet, indices_N: NDArray[np.int64]) -> dict[str, MeanStd]:
    """Return well-known normalisations for images with these channels, and that of the images themselves."""
    x_NCHW = train.pixels(indices_N).float() / 255
    mean_C, std_C = x_NCHW.mean(dim=(0, 2, 3)), x_NCHW.std(dim=(0, 2, 3)).clamp(min=1e-4)
    measured_mean, measured_std = (
        tuple(round(value, 4) for value in each.tolist()) for each in (mean_C, std_C)
    )
    candidates: dict[str, MeanStd] = {"that of these images": (measured_mean, measured_std)}
    named = {f"that of {name}": (known.mean, known.std) for name, known in KNOWN.items()}
    for name, (mean, std) in {**named, **_USUAL}.items():
        if mean is not None and std is not None and len(mean) in (1, train.channels):
            copies = train.channels // len(mean)
            candidates[name] = (mean * copies, std * copies)
    return candidates


def _is_alike(one: MeanStd, other: MeanStd) -> bool:
    """Return whether two normalisations differ as little as those of natural images do."""
    (mean, std), (other_mean, other_std) = np.array(one), np.array(other)
    return bool((abs(mean - other_mean) < 0.1).all() and (abs(np.log(std / other_std)) < math.log(1.4)).all())


def _is_clearly_better(answers: Answers, than: Answers) -> bool:
    """Return whether answers to the same images are right more often: 5 points, 3.3 standard errors."""
    gain = answers.accuracy - than.accuracy
    return gain > 5 and _standard_errors(answers.is_right_N, than.is_right_N) > 3.3


def _standard_errors(is_right_N: NDArray[np.bool_], was_right_N: NDArray[np.bool_]) -> float:
    """Return by how many standard errors the first are right more often (McNemar)."""
    gained, lost = (is_right_N & ~was_right_N).sum(), (was_right_N & ~is_right_N).sum()
    return float(gained - lost) / math.sqrt(max(gained + lost, 1))
