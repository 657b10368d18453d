"""f(λ) against the formulas, on floats and arrays alike."""

from __future__ import annotations

import sys
from subprocess import run
from typing import get_args

import numpy as np
import pytest

from engine.config import Term
from engine.config.fields import FilterName
from engine.config.filters import FILTERS

EIGENVALUES = np.array([0.0, 1e-6, 0.3, 2.0, 750.0])
FORMULAS = {
    "identity": lambda eigenvalue, beta: 1.0,
    "lambda": lambda eigenvalue, beta: eigenvalue,
    "ridge": lambda eigenvalue, beta: 1.0 / (eigenvalue + beta),
    "diagonal": lambda eigenvalue, beta: eigenvalue,
}


def response(name, eigenvalues, beta):
    signal = "none" if name in ("diagonal", "ridge", "lambda") else "mean"
    return Term(filter=name, signal=signal).build_filter(beta, {}).response(eigenvalues)


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("beta", [1e-4, 0.1, 1.0])
def test_responses_are_the_formulas(name, beta):
    expected = [FORMULAS[name](eigenvalue, beta) for eigenvalue in EIGENVALUES.tolist()]
    assert response(name, EIGENVALUES, beta) == pytest.approx(expected)
    assert [response(name, each, beta) for each in EIGENVALUES.tolist()] == pytest.approx(expected)


def test_every_name_has_one_filter():
    assert list(FILTERS) == list(get_args(FilterName)) == list(FORMULAS)


def test_ridge_is_high_pass_and_lambda_is_low_pass():
    ascending = np.sort(EIGENVALUES)
    assert (np.diff(response("ridge", ascending, 0.1)) < 0).all()
    assert (np.diff(response("lambda", ascending, 0.1)) > 0).all()


def test_a_smaller_beta_lets_the_ridge_rise_at_the_low_end():
    low, high = (response("ridge", np.array([0.0, 100.0]), beta) for beta in (1.0, 0.01))
    assert high[0] / low[0] == pytest.approx(100.0)
    assert high[1] / low[1] == pytest.approx(1.0, rel=0.02)


@pytest.mark.parametrize("zero", [0, 0.0, np.zeros(2)])
def test_without_beta_the_ridge_is_infinite_at_zero(zero):
    assert np.isinf(response("ridge", zero, 0.0)).all()


def test_they_need_no_torch():
    code = "import sys, engine.config.filters, engine.config.responses; sys.exit('torch' in sys.modules)"
    assert run([sys.executable, "-c", code], check=False).returncode == 0
