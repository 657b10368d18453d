"""Filters and the objective against independent float64 NumPy evaluations and finite differences."""

import re

import numpy as np
import pytest
import torch

from engine import config
from engine.config.filters import FILTERS, Ridge
from engine.errors import UserError
from engine.spectral import matrix_functions
from engine.spectral.matching import MatchingLoss, filtered_signals, score
from engine.spectral.moments import Moments, batch_moments

CASES = [
    ("identity", "class"),
    ("identity", "mean"),
    ("lambda", "none"),
    ("lambda", "class"),
    ("lambda", "mean"),
    ("ridge", "none"),
    ("ridge", "class"),
    ("ridge", "mean"),
    ("diagonal", "none"),
]
BETA = 0.1


def random_moments(seed, dimension=6, classes=3, rank=None):
    rng = np.random.default_rng(seed)
    factor = rng.normal(size=(dimension, rank or dimension))
    cov = torch.tensor(factor @ factor.T)
    mean, flc = torch.tensor(rng.normal(size=dimension)), torch.tensor(rng.normal(size=(dimension, classes)))
    return Moments("tap", mean, cov.diagonal(), cov, flc)


def numpy_side(filter_name, signal, moments, beta):
    cov = moments.cov_DD.numpy()
    values, vectors = np.linalg.eigh(cov)
    if filter_name == "diagonal":
        return np.diag(cov)
    response = {"identity": np.ones_like(values), "lambda": values, "ridge": 1 / (values + beta)}[filter_name]
    filtered = vectors @ np.diag(response) @ vectors.T
    return {
        "none": filtered,
        "class": filtered @ moments.flc_DK.numpy(),
        "mean": filtered @ moments.mean_D.numpy(),
    }[signal]


def objective_config(*cases, **others):
    terms = tuple({"filter": f, "signal": s, "weight": 0.1} for f, s in cases)
    return config.Objective.model_validate({"terms": terms, "beta": BETA, **others})


@pytest.mark.parametrize(("filter_name", "signal"), CASES)
def test_every_term_equals_numpy(filter_name, signal):
    real, synthetic = random_moments(0), random_moments(1)
    expected = np.linalg.norm(
        numpy_side(filter_name, signal, real, BETA) - numpy_side(filter_name, signal, synthetic, BETA)
    )
    value = MatchingLoss(objective_config((filter_name, signal)), [real], BETA).values([synthetic])
    assert float(value) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("name", ["identity", "lambda", "ridge"])
def test_matrix_form_agrees_with_the_response_of_the_spectrum(name):
    cov = random_moments(2).cov_DD
    values, vectors = torch.linalg.eigh(cov)
    spectral = Ridge(BETA) if name == "ridge" else FILTERS[name]()
    responses = torch.from_numpy(spectral.response(values.numpy()))
    torch.testing.assert_close(
        matrix_functions.apply(spectral, cov), vectors @ torch.diag(responses) @ vectors.T
    )


@pytest.mark.parametrize(("filter_name", "signal"), CASES)
def test_gradient_of_every_term_equals_finite_differences(filter_name, signal):
    rng = np.random.default_rng(3)
    features = torch.tensor(rng.normal(size=(3, 4, 2, 2)), requires_grad=True)
    onehot = torch.eye(3).double()
    real = [batch_moments("tap", torch.tensor(rng.normal(size=(3, 4, 2, 2))), onehot)]
    terms = MatchingLoss(objective_config((filter_name, signal)), real, BETA)
    assert torch.autograd.gradcheck(lambda x: terms.values([batch_moments("tap", x, onehot)]), (features,))


def test_ridge_gradient_is_minus_f_dpsi_f():
    cov = random_moments(4).cov_DD.requires_grad_()
    direction = torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    inverse = matrix_functions.apply(Ridge(BETA), cov)
    (gradient,) = torch.autograd.grad((inverse * direction).sum(), cov)
    expected = -(inverse @ direction @ inverse).detach()
    torch.testing.assert_close(gradient, expected)


def test_loss_is_ce_plus_weighted_terms_and_first_tap_factor():
    real, synthetic = [random_moments(5), random_moments(6)], [random_moments(7), random_moments(8)]
    settings = objective_config(("ridge", "none"), ("ridge", "mean"), ce=0.5, first_tap=10.0)
    terms = MatchingLoss(settings, real, BETA)
    values = terms.values(synthetic)
    expected = 0.5 * 2.0 + 0.1 * (10.0 * values[:, 0].sum() + values[:, 1].sum())
    assert float(terms.loss(values, torch.tensor(2.0))) == pytest.approx(float(expected), rel=1e-6)


def test_chosen_signal_follows_the_objective():
    real, synthetic = [random_moments(9)], [random_moments(10)]
    for signal in ("class", "mean", "none"):
        chosen = MatchingLoss(objective_config(("ridge", "chosen"), signal=signal), real, BETA).values(
            synthetic
        )
        named = MatchingLoss(objective_config(("ridge", signal)), real, BETA).values(synthetic)
        assert torch.equal(chosen, named)


def test_identical_statistics_give_zero_terms_and_zero_gradients():
    features = torch.randn(3, 4, 2, 2, dtype=torch.float64).requires_grad_()
    onehot = torch.eye(3).double()
    real = [batch_moments("tap", features.detach(), onehot)]
    terms = MatchingLoss(objective_config(*CASES), real, BETA)
    values = terms.values([batch_moments("tap", features, onehot)])
    values.sum().backward()
    assert values.abs().max() < 1e-12
    assert features.grad.isfinite().all()


@pytest.mark.parametrize("f", [{"filter": "ridge"}, {"f": "1/(lambda+beta)"}])
def test_a_real_tap_that_float32_cannot_invert_is_reported_with_its_condition_number(f):
    vectors = torch.linalg.eigh(random_moments(3, dimension=64).cov_DD)[1]
    cov = vectors @ torch.diag(torch.logspace(-9, 7, 64).double()) @ vectors.T
    tap = Moments("layer3.1.conv1", torch.ones(64).double(), cov.diagonal(), cov)
    objective = config.Objective.model_validate({"terms": [{**f, "signal": "mean", "weight": 1}]})
    with pytest.raises(UserError, match=r"layer3\.1\.conv1 is too ill-conditioned for float32") as caught:
        MatchingLoss(objective, [tap.to(torch.device("cpu"))], 1e-3)
    assert re.search(
        r"at β = 0\.001.*condition number is 1\.0e\+10, .*λ_max of Ψ is 1e\+07", caught.value.message
    )
    assert "to about 1e+01" in caught.value.hint
    MatchingLoss(objective, [tap], 1e-3)  # in float64, as `cfm score` computes


def test_singular_correlation_is_reported_with_layer_and_beta():
    zero = torch.zeros(6, 6, dtype=torch.float64)
    flat = Moments("tap", torch.ones(6, dtype=torch.float64), zero.diagonal(), zero)
    ridge = objective_config(("ridge", "none"), beta=1e-320)  # what is left of β at the end of a schedule
    with pytest.raises(UserError, match=r"real tap tap is singular at β = 1e-320"):
        MatchingLoss(ridge, [flat], 1e-320)
    with pytest.raises(UserError, match=r"scored images at tap tap is singular at β = 1e-320"):
        score(ridge, [random_moments(12)], [flat], 0.0)
    assert matrix_functions.apply(Ridge(0.0), -torch.eye(3)).isnan().all()


def test_score_returns_spectra_and_unweighted_terms():
    real, synthetic = random_moments(13), random_moments(14)
    settings = objective_config(*CASES, first_tap=10.0)
    layer = score(settings, [real], [synthetic], 1.5)["layers"][0]
    np.testing.assert_allclose(
        layer["eigenvalues_real"], np.linalg.eigvalsh(real.cov_DD.numpy())[::-1], rtol=1e-9
    )
    np.testing.assert_allclose(
        layer["eigenvalues_synthetic"], np.linalg.eigvalsh(synthetic.cov_DD.numpy())[::-1], rtol=1e-9
    )
    for (name, signal), term in zip(CASES, layer["terms"], strict=True):
        gap = numpy_side(name, signal, real, BETA) - numpy_side(name, signal, synthetic, BETA)
        assert term == {
            "filter": name,
            "signal": signal,
            "value": pytest.approx(np.linalg.norm(gap), rel=1e-9),
        }


def test_terms_of_one_filter_share_its_matrix(monkeypatch):
    calls = []
    original = matrix_functions.apply
    monkeypatch.setattr(matrix_functions, "apply", lambda *args: calls.append(1) or original(*args))
    terms = objective_config(("ridge", "none"), ("ridge", "mean"), ("ridge", "class")).terms
    filtered_signals(terms, [term.build_filter(BETA, {}) for term in terms], random_moments(15))
    assert len(calls) == 1


def test_a_signal_of_none_leaves_the_filter_term_once():
    settings = objective_config(("ridge", "none"), ("ridge", "chosen"), signal="none")
    terms = MatchingLoss(settings, [random_moments(0)], BETA)
    assert [(term.filter, term.signal) for term in terms.terms] == [("ridge", "none")]


def test_without_terms_the_objective_is_the_cross_entropy():
    terms = MatchingLoss(objective_config(), [random_moments(0), random_moments(1)], BETA)
    values = terms.values([random_moments(2), random_moments(3)])
    assert values.shape == (0, 2)
    assert float(terms.loss(values, torch.tensor(1.5))) == 1.5
