"""Losses of students against float64 NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine.config import Validate
from engine.stages.losses import student_loss


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return rng.normal(size=(4, 5)) * 3, rng.normal(size=(4, 5)) * 3, np.array([0, 4, 2, 2])


def softmax(x, temperature=1.0):
    powers = np.exp(x / temperature)
    return powers / powers.sum(axis=1, keepdims=True)


def loss(batch, **settings):
    one = (torch.tensor(values).unsqueeze(0) for values in batch)
    return float(student_loss(Validate.model_validate(settings), *one))


def test_kl_is_that_of_the_softened_softmax_without_the_temperature_factor(batch):
    student, teacher, _ = batch
    p, q = softmax(teacher, 20.0), softmax(student, 20.0)
    assert loss(batch, temperature=20.0) == pytest.approx((p * np.log(p / q)).sum(axis=1).mean(), rel=1e-12)
    assert loss((student, student, batch[2])) == pytest.approx(0.0, abs=1e-15)


def test_t2_scales_the_divergence_and_its_gradient(batch):
    assert loss(batch, loss_scale="t2") == pytest.approx(400 * loss(batch), rel=1e-12)
    student, teacher, labels = (torch.tensor(values).unsqueeze(0) for values in batch)
    student.requires_grad_()
    settings = Validate(temperature=20.0, loss_scale="t2")
    (gradient,) = torch.autograd.grad(student_loss(settings, student, teacher, labels), student)
    wanted = 400 * (softmax(batch[0], 20.0) - softmax(batch[1], 20.0)) / 4 / 20.0
    np.testing.assert_allclose(gradient[0].numpy(), wanted, rtol=1e-9)


def test_squared_error_is_the_mean_over_images_and_classes(batch):
    student, teacher, _ = batch
    assert loss(batch, loss="mse") == pytest.approx(((student - teacher) ** 2).mean(), rel=1e-12)


def test_cross_entropy_of_the_own_class_is_added_with_its_weight(batch):
    student, _, labels = batch
    ce = -np.log(softmax(student)[np.arange(4), labels]).mean()
    for name in ("kl", "mse"):
        added = loss(batch, loss=name, ce_weight=0.15) - loss(batch, loss=name)
        assert added == pytest.approx(0.15 * ce, rel=1e-12)


def test_each_student_has_its_own_loss():
    rng = np.random.default_rng(1)
    student, teacher = (torch.tensor(rng.normal(size=(3, 4, 5))) for _ in range(2))
    labels = torch.tensor(rng.integers(0, 5, (3, 4)))
    for settings in (Validate(ce_weight=0.2), Validate(loss="mse", ce_weight=0.2)):
        together = student_loss(settings, student, teacher, labels)
        alone = [
            student_loss(settings, student[s : s + 1], teacher[s : s + 1], labels[s : s + 1])
            for s in range(3)
        ]
        torch.testing.assert_close(together, torch.cat(alone), rtol=1e-14, atol=0)
