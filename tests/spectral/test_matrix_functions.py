"""Expressions of a whole Ψ: both forms against NumPy, and gradients where eigenvalues coincide."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine.config import expressions
from engine.config.filters import Expression
from engine.spectral import matrix_functions
from engine.spectral.moments import batch_moments

BETA = 0.1
RATIONAL = {
    "1/(lambda+beta)**2": lambda x: 1 / (x + BETA) ** 2,
    "lambda/(lambda+beta)": lambda x: x / (x + BETA),
    "(lambda+beta)**-3 - 2": lambda x: (x + BETA) ** -3 - 2,
    "1/((lambda+beta)*(lambda+1)) + 1/(lambda+beta)": lambda x: 1 / ((x + BETA) * (x + 1)) + 1 / (x + BETA),
    "1/(2/(lambda+1) + 1)": lambda x: 1 / (2 / (x + 1) + 1),
    "1/(lambda/(lambda+1))": lambda x: (x + 1) / x,
    "1/(lambda - 100)": lambda x: 1 / (x - 100),  # not positive definite
    "(1 - 0.05*lambda)**5": lambda x: (1 - 0.05 * x) ** 5,
    "0.05*geometric(1 - 0.05*lambda, 10)": lambda x: sum(0.05 * (1 - 0.05 * x) ** p for p in range(10)),
    "2*lambda**0 + lambda": lambda x: 2 + x,
    "1/(1 + lambda**P)": lambda x: np.full_like(x, 0.5),  # P is 0
    "lambda/(lambda**0 + 1)": lambda x: x / 2,
    "2/geometric(lambda**P, 3)": lambda x: np.full_like(x, 2 / 3),
    "3": lambda x: np.full_like(x, 3.0),
}
OTHERS = {
    "sqrt(lambda + beta)": lambda x: np.sqrt(x + BETA),
    "exp(-lambda/2)": lambda x: np.exp(-x / 2),
    "log(lambda + beta)": lambda x: np.log(x + BETA),
    "abs(lambda - 2)": lambda x: np.abs(x - 2),
    "lambda**1.5/(lambda + 1)": lambda x: x**1.5 / (x + 1),
    "(lambda + 1)**(-lambda)": lambda x: (x + 1) ** (-x),
    "2**lambda - geometric(exp(-lambda), 6)": lambda x: 2**x - sum(np.exp(-x) ** p for p in range(6)),
    "1/exp(lambda)**2 + sqrt(4)": lambda x: np.exp(-2 * x) + 2,
}
EVERY = {**RATIONAL, **OTHERS}


def bound(text):
    return expressions.check(text, {"beta": BETA, "P": 0.0})


def psi(values, seed=0):
    """A correlation with these eigenvalues."""
    rotation = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(values), len(values))))[0]
    return torch.tensor((rotation * values) @ rotation.T)


def by_numpy(f, cov_DD):
    values, vectors = np.linalg.eigh(cov_DD.numpy())
    return (vectors * f(values)) @ vectors.T


@pytest.mark.parametrize("text", EVERY)
def test_every_form_equals_numpy(text):
    for seed in range(3):
        cov_DD = psi(np.random.default_rng(seed).uniform(0.01, 9, 8), seed)
        expected = by_numpy(EVERY[text], cov_DD)
        tree = bound(text)
        found = [
            matrix_functions.apply_by_eigenvalues(tree, cov_DD),
            matrix_functions.apply(Expression(tree), cov_DD),
        ]
        if text in RATIONAL:
            found.append(matrix_functions.apply_rational(tree, cov_DD))
        for each in found:
            np.testing.assert_allclose(each.numpy(), expected, atol=1e-9 * abs(expected).max())


@pytest.mark.parametrize("text", EVERY)
def test_its_response_is_the_function_itself(text):
    at = np.array([0.2, 1.0, 3.0])
    found = Expression(bound(text)).response(at)
    np.testing.assert_allclose(found, EVERY[text](at), rtol=1e-12)


@pytest.mark.parametrize("text", EVERY)
def test_gradients_equal_finite_differences(text):
    tree = bound(text)
    onehot = torch.eye(3).double()
    features = torch.tensor(np.random.default_rng(3).normal(size=(3, 4, 2, 2)), requires_grad=True)
    forms = (
        [matrix_functions.apply_rational, matrix_functions.apply_by_eigenvalues]
        if text in RATIONAL
        else [matrix_functions.apply_by_eigenvalues]
    )
    for form in forms:

        def filtered(x, form=form):
            return form(tree, batch_moments("tap", x, onehot).cov_DD) * 1.0

        assert torch.autograd.gradcheck(filtered, (features,))


@pytest.mark.parametrize("text", [text for text in EVERY if not expressions.is_constant(bound(text))])
@pytest.mark.parametrize("values", [[2.5] * 4, [1.0, 1.0, 3.0, 3.0], [1.0, 1.0 + 1e-14, 1.0 + 1e-9, 3.0]])
def test_gradients_where_eigenvalues_coincide(text, values):
    """Against differences of NumPy's f(Ψ ± hE), which know nothing of divided differences."""
    cov_DD = psi(np.array(values)).requires_grad_()
    rng = np.random.default_rng(5)
    weights, towards = (torch.tensor(x + x.T) for x in rng.normal(size=(2, 4, 4)))
    found = matrix_functions.apply(Expression(bound(text)), cov_DD)
    (gradient,) = torch.autograd.grad((found * weights).sum(), cov_DD)
    step = 1e-5
    ends = [by_numpy(EVERY[text], cov_DD.detach() + sign * step * towards) for sign in (1, -1)]
    expected = float((weights.numpy() * (ends[0] - ends[1])).sum() / (2 * step))
    assert float((gradient * towards).sum()) == pytest.approx(expected, rel=1e-6, abs=1e-7)


def test_divided_differences_lose_nothing_where_eigenvalues_nearly_coincide():
    near = torch.tensor([1.0, 1.0 + 1e-13, 1e-9, 1.1e-9], dtype=torch.float64)
    for text, slope in (("exp(lambda)", np.exp), ("log(lambda)", lambda x: 1 / x)):
        f_DD = matrix_functions.compute_divided_differences(bound(text), near)[1]
        assert float(f_DD[0, 1]) == pytest.approx(slope(1.0), rel=1e-12)
    f_DD = matrix_functions.compute_divided_differences(bound("sqrt(lambda)"), near)[1]
    assert float(f_DD[2, 3]) == pytest.approx(1 / (1e-9**0.5 + 1.1e-9**0.5), rel=1e-12)
    far = torch.tensor([0.0, 2000.0], dtype=torch.float64)
    f_DD = matrix_functions.compute_divided_differences(bound("exp(-lambda)"), far)[1]
    assert float(f_DD[0, 1]) == pytest.approx(-1 / 2000)


@pytest.mark.parametrize("text", ["1/lambda", "1/(lambda - 1)", "log(lambda)", "lambda**-0.5"])
def test_without_a_value_there_is_no_number_at_all(text):
    cov_DD = torch.diag(torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64))
    assert matrix_functions.apply(Expression(bound(text)), cov_DD).isnan().all()


def test_without_a_slope_there_is_none_where_one_is_wanted():
    cov_DD = torch.diag(torch.tensor([0.0, 0.0, 2.0], dtype=torch.float64))
    root = bound("sqrt(lambda)")
    assert matrix_functions.apply(Expression(root), cov_DD).isfinite().all()
    assert matrix_functions.apply(Expression(root), cov_DD.requires_grad_()).isnan().all()
    assert matrix_functions.apply(Expression(bound("lambda**1.5")), cov_DD).isfinite().all()


def test_what_is_not_finite_is_not_finite_afterwards():
    for wrong in (float("nan"), float("inf")):
        cov_DD = torch.eye(3, dtype=torch.float64)
        cov_DD[0, 1] = cov_DD[1, 0] = wrong
        for text in ("exp(lambda)", "1/(lambda+beta)", "lambda**2"):
            assert not matrix_functions.apply(Expression(bound(text)), cov_DD).isfinite().all()


def test_rounding_below_zero_counts_as_zero():
    cov_DD = psi(np.array([-1e-17, 1.0, 2.0]))
    assert matrix_functions.apply(Expression(bound("sqrt(lambda)")), cov_DD).isfinite().all()


def test_a_part_that_comes_twice_is_inverted_once(monkeypatch):
    calls = []
    original = torch.linalg.cholesky_ex
    monkeypatch.setattr(torch.linalg, "cholesky_ex", lambda *words: calls.append(1) or original(*words))
    matrix_functions.apply(
        Expression(bound("1/(lambda+beta) + 2/(lambda+beta)**2 + (lambda+beta)**-3")), psi(np.ones(3))
    )
    assert len(calls) == 1
