"""Moments against an independent float64 NumPy evaluation."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from engine.config import Config
from engine.spectral import moments
from engine.spectral.moments import Accumulator, batch_moments, cumulative_mean


def numpy_moments(x_MDHW, labels_M, classes):
    rows = x_MDHW.transpose(0, 2, 3, 1).reshape(-1, x_MDHW.shape[1])
    onehot = np.eye(classes)[labels_M]
    flc = x_MDHW.mean(axis=(2, 3)).T @ onehot / len(labels_M)
    return rows.mean(axis=0), np.cov(rows.T, bias=True), flc


@pytest.fixture
def features():
    rng = np.random.default_rng(0)
    # Offsets a hundred times the spread: what a one-pass E[x²] − E[x]² in float32 would get wrong.
    x = (
        rng.normal(size=(90, 7, 3, 4)) * rng.uniform(0.01, 3.0, (1, 7, 1, 1))
        + rng.normal(size=(1, 7, 1, 1)) * 100
    )
    return x.astype(np.float32).astype(np.float64), rng.integers(0, 5, 90)


def relative(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize("batch", [1, 7, 32, 90])
@pytest.mark.parametrize("order", ["file", "shuffled"])
@pytest.mark.parametrize("widened", [1, 50, 200, moments.PART])  # less than a pixel, an image of 84, a batch
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_pooled_is_the_exact_covariance_for_any_batch_size_and_order(
    features, batch, order, widened, layout, monkeypatch
):
    monkeypatch.setattr(moments, "PART", widened)
    x, labels = features
    mean, cov, flc = numpy_moments(x, labels, 5)
    indices = np.arange(90) if order == "file" else np.random.default_rng(1).permutation(90)
    accumulator = Accumulator("tap", 5, "pooled")
    for start in range(0, 90, batch):
        part = indices[start : start + batch]
        batch_MDHW = torch.tensor(x[part], dtype=torch.float32).to(memory_format=layout)
        accumulator.update(batch_MDHW, torch.tensor(labels[part]))
    found = accumulator.result()
    assert relative(found.cov_DD.numpy(), cov) < 1e-11
    assert relative(found.mean_D.numpy(), mean) < 1e-12
    assert relative(found.flc_DK.numpy(), flc) < 1e-12
    assert torch.equal(found.var_D, found.cov_DD.diagonal())


def test_pooled_accepts_a_last_batch_of_another_size():
    x = np.random.default_rng(2).normal(size=(10, 3, 2, 2))
    accumulator = Accumulator("tap", 2, "pooled")
    for part in (slice(0, 7), slice(7, 10)):
        accumulator.update(torch.tensor(x[part]), torch.zeros(len(x[part]), dtype=torch.int64))
    _, cov, _ = numpy_moments(x, np.zeros(10, dtype=int), 2)
    np.testing.assert_allclose(accumulator.result().cov_DD.numpy(), cov, rtol=1e-12, atol=1e-14)


def test_batched_is_the_mean_of_within_batch_covariances_and_loses_class_variance():
    rng = np.random.default_rng(3)
    labels = np.repeat([0, 1], 40)
    x = rng.normal(size=(80, 4, 2, 2)) + labels[:, None, None, None] * 5.0
    pooled, batched = Accumulator("tap", 2, "pooled"), Accumulator("tap", 2, "batched")
    parts = [slice(0, 40), slice(40, 80)]
    for part in parts:
        for accumulator in (pooled, batched):
            accumulator.update(torch.tensor(x[part]), torch.tensor(labels[part]))
    expected = np.mean([numpy_moments(x[part], labels[part], 2)[1] for part in parts], axis=0)
    np.testing.assert_allclose(batched.result().cov_DD.numpy(), expected, rtol=1e-10)
    assert batched.result().var_D.sum() < 0.5 * pooled.result().var_D.sum()


@pytest.mark.parametrize("estimator", ["pooled", "batched"])
@pytest.mark.parametrize("widened", [1, 200, moments.PART])
def test_variances_alone_are_those_beside_which_covariances_are_kept(
    features, estimator, widened, monkeypatch
):
    monkeypatch.setattr(moments, "PART", widened)
    x, labels = (torch.tensor(part) for part in features)
    whole, alone = (Accumulator("tap", 5, estimator, covariance=kept) for kept in (True, False))
    for part in (slice(0, 40), slice(40, 50), slice(50, 90)):
        for accumulator in (whole, alone):
            accumulator.update(x[part], labels[part])
    found, expected = alone.result(), whole.result()
    torch.testing.assert_close(found.mean_D, expected.mean_D, rtol=1e-12, atol=0)
    torch.testing.assert_close(found.var_D, expected.var_D, rtol=1e-12, atol=0)
    assert found.cov_DD is found.flc_DK is None


def test_statistics_stay_float32_when_features_are_half():
    x = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    found = batch_moments("tap", x.bfloat16(), torch.eye(4))
    assert found.cov_DD.dtype == found.mean_D.dtype == found.flc_DK.dtype == torch.float32


@pytest.mark.parametrize("covariance", [True, False])
def test_batch_moments_equal_numpy_and_their_gradients_finite_differences(covariance):
    rng = np.random.default_rng(4)
    x = torch.tensor(rng.normal(size=(3, 4, 2, 3)), requires_grad=True)
    labels = torch.tensor([0, 2, 1])
    onehot = F.one_hot(labels, 3).double()

    def moments(x):
        found = batch_moments("tap", x, onehot, covariance=covariance)
        parts = (found.mean_D, found.var_D, found.flc_DK)
        return (*parts, found.cov_DD) if covariance else parts

    mean, cov, flc = numpy_moments(x.detach().numpy(), labels.numpy(), 3)
    found = moments(x)
    for ours, theirs in zip(found, (mean, np.diag(cov), flc, cov), strict=False):
        np.testing.assert_allclose(ours.detach().numpy(), theirs, rtol=1e-12, atol=1e-14)
    assert torch.autograd.gradcheck(moments, (x,))


def test_moving_statistics_weigh_every_batch_alike_and_give_the_newest_the_gradient():
    rng = np.random.default_rng(5)
    onehot = torch.eye(2).double()
    batches = [
        batch_moments("tap", torch.tensor(rng.normal(size=(2, 3, 2, 2)), requires_grad=b == 2), onehot)
        for b in range(3)
    ]
    running = None
    for number, batch in enumerate(batches, start=1):
        running = cumulative_mean(batch, None if running is None else running.detach(), number)
    expected = sum(batch.cov_DD.detach() for batch in batches) / 3
    torch.testing.assert_close(running.cov_DD.detach(), expected)
    torch.testing.assert_close(running.flc_DK.detach(), sum(b.flc_DK.detach() for b in batches) / 3)
    torch.testing.assert_close(running.mean_D.detach(), sum(b.mean_D.detach() for b in batches) / 3)
    assert running.cov_DD.requires_grad


@pytest.mark.parametrize("covariance", [True, False])
def test_batches_count_by_their_images_in_batched_statistics(features, covariance):
    x, labels = features
    accumulator = Accumulator("tap", 5, "batched", covariance=covariance)
    parts = [slice(0, 40), slice(40, 80), slice(80, 90)]
    for part in parts:
        accumulator.update(torch.tensor(x[part]), torch.tensor(labels[part]))
    measured = [numpy_moments(x[part], labels[part], 5) for part in parts]
    mean, cov, flc = (
        sum(n * part[k] for n, part in zip((40, 40, 10), measured, strict=True)) / 90 for k in range(3)
    )
    found = accumulator.result()
    assert relative(found.mean_D.numpy(), mean) < 1e-12
    assert relative(found.var_D.numpy(), np.diag(cov)) < 1e-12
    if covariance:
        assert relative(found.cov_DD.numpy(), cov) < 1e-12
        assert relative(found.flc_DK.numpy(), flc) < 1e-12


def numpy_centred_on_images(x_MDHW):
    """Ψ of Eq. 16–17 read literally, image by image."""
    total = 0.0
    for x_DHW in x_MDHW:
        rows = x_DHW.reshape(len(x_DHW), -1).T
        centred = rows - rows.mean(axis=0)
        total = total + centred.T @ centred
    return total / (len(x_MDHW) * x_MDHW.shape[2] * x_MDHW.shape[3])


@pytest.mark.parametrize("batch", [7, 32, 90])
@pytest.mark.parametrize("estimator", ["pooled", "batched"])
def test_a_covariance_centred_on_each_image_equals_numpy_for_any_batch_size(features, batch, estimator):
    x, labels = features
    accumulator = Accumulator("tap", 5, estimator, centre="image")
    for start in range(0, 90, batch):
        part = slice(start, start + batch)
        accumulator.update(torch.tensor(x[part]), torch.tensor(labels[part]))
    found, (mean, whole, flc) = accumulator.result(), numpy_moments(x, labels, 5)
    expected = numpy_centred_on_images(x)
    assert np.trace(expected) < 0.99 * np.trace(whole)
    assert relative(found.cov_DD.numpy(), expected) < 1e-9
    assert relative(found.mean_D.numpy(), mean) < 1e-12
    assert relative(found.flc_DK.numpy(), flc) < 1e-12


def test_the_synthetic_side_centred_on_each_image_equals_numpy_and_finite_differences():
    rng = np.random.default_rng(6)
    x = torch.tensor(rng.normal(size=(3, 4, 2, 3)) + rng.normal(size=(3, 4, 1, 1)), requires_grad=True)
    onehot = torch.eye(3).double()

    def moments(x):
        found = batch_moments("tap", x, onehot, centre="image")
        return found.mean_D, found.var_D, found.flc_DK, found.cov_DD

    found = moments(x)
    expected = numpy_centred_on_images(x.detach().numpy())
    np.testing.assert_allclose(found[3].detach().numpy(), expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(found[1].detach().numpy(), np.diag(expected), rtol=1e-12, atol=1e-14)
    assert torch.autograd.gradcheck(moments, (x,))


def test_centring_on_each_image_is_refused_where_it_cannot_be_done():
    objective = {"method": "sre2l", "taps": "batchnorm", "terms": [{"filter": "diagonal"}]}
    with pytest.raises(ValueError, match=r"centre = image needs Ψ, which objective.taps = batchnorm"):
        Config.model_validate({"statistics": {"centre": "image"}, "objective": objective})
    with pytest.raises(ValueError, match=r"given\.statistics are centred on the mean of all images"):
        Config.model_validate({"statistics": {"centre": "image"}, "given": {"statistics": "x"}})
