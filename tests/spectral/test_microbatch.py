"""Micro-batches: the loss, the gradient and the images of a whole batch, in the memory of a part."""

import numpy as np
import pytest
import torch
from stages import distil, drive, small

from engine.config import Config, settings
from engine.config.identity import config_hash
from engine.data import ImageSet
from engine.methods import dwa
from engine.spectral import microbatch
from engine.spectral.moments import batch_moments, merge
from engine.spectral.taps import Tapped
from engine.stages import statistics

METHODS = ["cfm", "sre2l", "mtt", "frepo", "gvbsm"]


@pytest.fixture
def batch(digits, cpu):
    """Nine images, whose parts of 4, 4 and 1 have different means and labels."""
    indices = np.arange(9)
    labels_M = digits.train.labels_N[indices]
    return digits.train.batch(indices, cpu), labels_M, torch.nn.functional.one_hot(labels_M, 10).float()


def observed(teacher, batch, cpu, taps, size, *, covariance, flc, patch=0, centre="set"):
    """Moments, cross-entropy, and the gradient of a sum over all of them."""
    x_MCHW, labels_M, onehot_MK = batch
    view_MCHW = x_MCHW.clone().requires_grad_()
    network = Tapped(teacher, taps, cpu, patch=patch)
    observe = microbatch.Observer(network, labels_M, onehot_MK, covariance, flc, size, centre)
    found, ce = observe(view_MCHW)
    weights = np.random.default_rng(0)
    total = ce
    for tap in found:
        for value in tap.tensors().values():  # the diagonal of Ψ, too, has a gradient of its own
            total = total + (value * torch.from_numpy(weights.normal(size=value.shape)).float()).sum()
    (gradient,) = torch.autograd.grad(total, view_MCHW)
    return found, ce.detach(), gradient


@pytest.mark.parametrize(
    ("taps", "covariance", "flc", "patch", "centre"),
    [
        ("conv-input", True, False, 0, "set"),
        ("conv-input", True, True, 0, "set"),
        ("conv-input", True, True, 0, "image"),
        ("conv-output", False, True, 0, "set"),
        ("batchnorm", False, False, 0, "set"),
        ("bn-conv", False, False, 4, "set"),
    ],
)
def test_parts_give_what_the_whole_gives(teacher, batch, cpu, taps, covariance, flc, patch, centre):
    kinds = {"covariance": covariance, "flc": flc, "patch": patch, "centre": centre}
    whole, whole_ce, whole_gradient = observed(teacher, batch, cpu, taps, None, **kinds)
    parts, ce, gradient = observed(teacher, batch, cpu, taps, 4, **kinds)
    torch.testing.assert_close(ce, whole_ce)
    assert (gradient - whole_gradient).norm() < 1e-5 * whole_gradient.norm()
    for one, other in zip(parts, whole, strict=True):
        assert one.name == other.name
        assert one.tensors().keys() == other.tensors().keys()
        for name, value in one.tensors().items():
            torch.testing.assert_close(value, other.tensors()[name], rtol=1e-4, atol=1e-5)


def test_merged_moments_are_those_of_all_images():
    rng = np.random.default_rng(0)
    x_MDHW = torch.from_numpy(rng.normal(5.0, size=(9, 6, 3, 2)))
    onehot_MK = torch.eye(4, dtype=torch.float64)[torch.from_numpy(rng.integers(0, 4, 9))]
    for covariance in (True, False):
        parts = [
            batch_moments("tap", x_MDHW[part], onehot_MK[part], covariance=covariance)
            for part in (slice(0, 4), slice(4, 8), slice(8, 9))
        ]
        merged = merge(parts, [4 / 9, 4 / 9, 1 / 9])
        rows = x_MDHW.numpy().transpose(0, 2, 3, 1).reshape(-1, 6)
        np.testing.assert_allclose(merged.mean_D, rows.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(merged.var_D, rows.var(axis=0), rtol=1e-12)
        flc = x_MDHW.numpy().mean(axis=(2, 3)).T @ onehot_MK.numpy() / 9
        np.testing.assert_allclose(merged.flc_DK, flc, rtol=1e-12, atol=1e-12)
        if covariance:
            np.testing.assert_allclose(merged.cov_DD, np.cov(rows.T, bias=True), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_recovery_of_every_method_goes_the_same_way(teacher, digits, cpu, method):
    """After a few steps, rounding apart; with several batches, so that moving statistics take part."""
    changes = [f"objective={method}", "recover.iterations=4", "recover.lr=0.01", "ipc=2", "backbone.width=16"]
    config = settings.resolve(preset="digits", sets=[*changes, "backbone.also=[]"]).config
    _, real = drive(statistics.measure(config, teacher, digits.train, cpu))
    _, whole = distil(config, teacher, real, digits.train, cpu)
    parts = config.model_copy(update={"recover": config.recover.model_copy(update={"micro_batch": 3})})
    events, found = distil(parts, teacher, real, digits.train, cpu)
    assert events[0].terms
    assert (found.images_NCHW - whole.images_NCHW).abs().max() < 2e-3
    torch.testing.assert_close(found.confidence_N, whole.confidence_N, atol=1e-3, rtol=1e-3)


def test_the_teacher_is_perturbed_by_the_gradient_of_the_whole_batch(teacher, batch):
    x_MCHW, labels_M, _ = batch
    given = Config.model_validate({"recover": {"perturb": {"steps": 3}}}).recover.perturb
    whole = dwa.perturb_teacher(teacher, x_MCHW, labels_M, given)
    parts = dwa.perturb_teacher(teacher, x_MCHW, labels_M, given, 4)
    for one, other, before in zip(parts.parameters(), whole.parameters(), teacher.parameters(), strict=True):
        assert (one - other).norm() <= 1e-4 * (other - before).norm() + 1e-7


def test_a_micro_batch_is_no_other_experiment():
    assert config_hash(small()) == config_hash(small(recover={"micro_batch": 4}))


def test_parts_need_less_memory(teacher, digits, cpu):
    """What a step holds at once, counted by a dispatch mode, falls with the size of a part."""
    from engine.runs.estimates import _TensorMeter

    config = small(backbone={"width": 16})
    rng = np.random.default_rng(0)
    images = ImageSet.from_arrays(
        rng.integers(0, 256, (64, 1, 16, 16), dtype=np.uint8), np.arange(64) % 10, digits.train.classes,
        (0.5,), (0.25,),
    )  # fmt: skip
    x_MCHW, labels_M = images.batch(np.arange(64), cpu), images.labels_N
    onehot_MK = torch.nn.functional.one_hot(labels_M, 10).float()
    peaks = []
    for size in (None, 8):
        view_MCHW = x_MCHW.clone().requires_grad_()
        network = Tapped(teacher, config.objective.taps, cpu)
        meter = _TensorMeter()
        with meter:
            found, ce = microbatch.Observer(network, labels_M, onehot_MK, True, False, size, "set")(view_MCHW)
            (ce + sum(tap.cov_DD.square().sum() for tap in found)).backward()
        peaks.append(meter.peak)
    assert peaks[1] < peaks[0] / 3
