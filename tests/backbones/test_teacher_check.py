"""Teachers that number the classes in another order, or read other pixel values, and teachers that do not."""

from __future__ import annotations

import copy
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from renamed_digits import CPU, digits, renamed, teacher

from engine.backbones.teacher_check import TeacherTrial, examine
from engine.data.image_set import ImageSet
from engine.errors import UserError

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def permuted(seed: int) -> list[str]:
    return [f"class_{number}" for number in np.random.default_rng(seed).permutation(10)]


NAMES = {
    "words": WORDS,
    "reversed": [f"{9 - digit}_{WORDS[digit]}" for digit in range(10)],
    "from 1": [f"class_{digit + 1}" for digit in range(10)],
    "from 5": [f"{digit + 5}" for digit in range(10)],
    "rotated": [f"class_{(digit + 1) % 10}" for digit in range(10)],
    "two swapped": ["1", "0", *"23456789"],
    "capitals first": ["zero", "One", "two", "Three", "four", "Five", "six", "Seven", "eight", "Nine"],
    **{f"permuted {seed}": permuted(seed) for seed in range(5)},
}


@pytest.mark.parametrize("kind", NAMES)
def test_another_order_of_the_classes_is_refused_with_the_order_of_the_outputs(kind: str) -> None:
    names = NAMES[kind]
    train = renamed(names).train
    found = examine(teacher(), train, CPU)
    assert found.class_order == tuple(names)  # output d stands for digit d
    assert found.reordered_accuracy is not None
    assert found.reordered_accuracy > 80
    with pytest.raises(UserError) as refused:
        found.require_same_order("t.pth", train.classes)
    assert refused.value.kind == "teacher"
    assert "--set 'data.class_order=[" in refused.value.hint
    moved = [digit for digit in range(10) if train.classes[digit] != names[digit]]
    outputs = {m[1]: int(m[2]) for m in re.finditer(r"(\w+) is its output (\d+)", refused.value.message)}
    assert outputs == {train.classes[label]: names.index(train.classes[label]) for label in moved}


def poor_teachers():
    """Twenty teachers of the digits: good, weak, overconfident and untrained ones."""
    yield from (teacher(epochs=3, seed=seed) for seed in range(3))
    yield from (teacher(epochs=1, lr=lr, seed=seed) for lr in (0.1, 0.003) for seed in range(3))
    yield from (
        teacher(epochs=20, lr=0.05, seed=seed, count=count) for seed, count in enumerate((10, 30, 80))
    )
    yield from (teacher(epochs=1, lr=lr, seed=9) for lr in (1e-6, 2.0))
    for seed, scale in enumerate((0.1, 5.0, 30.0, 30.0)):  # the classifier's weights, so the confidence
        model = copy.deepcopy(teacher(epochs=1, lr=1e-4 if seed > 1 else 0.01, seed=seed))
        for parameter in list(model.parameters())[-2:]:
            parameter.data.mul_(scale)
        yield model
    for seed in range(2):
        torch.manual_seed(seed)
        model = copy.deepcopy(teacher(epochs=1, lr=1e-6))
        for parameter in model.parameters():
            parameter.data.normal_()
        yield model


def test_honest_teachers_raise_no_alarm_however_poor() -> None:
    with torch.random.fork_rng():
        found = [examine(model, digits().train, CPU) for model in poor_teachers()]
    assert len(found) == 20
    assert min(each.accuracy for each in found) < 15
    assert max(each.confidence - each.accuracy for each in found) > 40
    assert [each.class_order for each in found] == [None] * 20
    assert [each.normalisation for each in found] == [None] * 20


def test_many_classes_are_settled_with_more_images_and_their_order_is_to_be_written() -> None:
    classes, rng = 120, np.random.default_rng(0)
    order = rng.permutation(classes)
    labels_N = np.arange(classes).repeat(15)
    pixels = np.zeros((len(labels_N), 1, 16, 16), np.uint8)
    pixels[np.arange(len(labels_N)), 0, labels_N // 16, labels_N % 16] = 255

    class Reader(torch.nn.Module):
        """Answers with the output of the bright pixel."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(()))

        def forward(self, x_M1SS: torch.Tensor) -> torch.Tensor:
            logits_MK = 6 * x_M1SS.flatten(1)[:, : len(order)][:, torch.from_numpy(order)]
            return logits_MK * self.weight

    names = [f"c{label:03d}" for label in range(classes)]
    train = ImageSet.from_arrays(pixels, labels_N, names, (0.0,), (1.0,))
    found = examine(Reader(), train, CPU)
    assert found.class_order == tuple(names[label] for label in order)
    assert found.images == 10 * classes
    with pytest.raises(UserError, match="and 1") as refused:
        found.require_same_order("t.pth", tuple(names))
    assert len(refused.value.message) < 700
    assert "--save-class-order" in refused.value.hint


@pytest.mark.parametrize(
    ("mean", "std", "said"),
    [((0.0,), (1 / 255,), "that of these images"), ((0.9,), (0.1,), "that of these images")],
)
def test_a_normalisation_that_suits_the_teacher_better_is_named_with_its_settings(mean, std, said) -> None:
    data = digits()
    train = ImageSet.from_arrays(
        data.train.pixels(range(len(data.train))), data.train.labels_N, data.train.classes, mean, std
    )
    found = examine(teacher(), train, CPU)
    (warning,) = found.warnings("t.pth")
    assert said in warning
    assert "--set 'data.mean=[0.3" in warning
    assert "--set 'data.std=[0.3" in warning


def test_a_teacher_of_bytes_is_recognised() -> None:
    mean, std = digits().train.mean[0], digits().train.std[0]

    class OfBytes(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = teacher()

        def forward(self, x_MCHW: torch.Tensor) -> torch.Tensor:
            return self.inner((x_MCHW / 255 - mean) / std)

    (warning,) = examine(OfBytes(), digits().train, CPU).warnings("t.pth")
    assert "pixels from 0 to 255" in warning


def test_a_recorded_order_is_believed_unless_the_answers_contradict_it() -> None:
    train, poor = digits().train, teacher(epochs=1, lr=1e-6)
    recorded = tuple("1023456789")
    for names in (train.classes, WORDS, tuple("012")):
        assert examine(poor, train, CPU, names).class_order is None
    found = examine(poor, train, CPU, recorded)  # the answers of this one tell nothing
    assert found.class_order == recorded
    with pytest.raises(UserError, match="0 is its output 1, 1 is its output 0"):
        found.require_same_order("t.pth", train.classes)
    assert examine(teacher(), train, CPU, recorded).class_order is None


def test_a_sample_is_balanced_seeded_and_draws_no_global_numbers() -> None:
    train = digits().train
    state = torch.get_rng_state(), np.random.get_state()[1].copy()
    first, second = (TeacherTrial(teacher(), train, CPU).answer(300) for _ in range(2))
    assert np.bincount(first.labels_N).tolist() == [30] * 10
    assert np.array_equal(first.p_NK, second.p_NK)
    assert torch.equal(torch.get_rng_state(), state[0])
    assert np.array_equal(np.random.get_state()[1], state[1])
    few = replace(first, p_NK=first.p_NK[:20], labels_N=first.labels_N[:20])
    assert few.accuracy == 100 * (few.p_NK.argmax(axis=1) == few.labels_N).mean()
