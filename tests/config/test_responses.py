"""f(λ) against the formulas, on floats, arrays and tensors alike."""

from __future__ import annotations

import sys
from subprocess import run

import numpy as np
import pytest
import torch

from engine.config.responses import response
from engine.spectral import filters

EIGENVALUES = np.array([0.0, 1e-6, 0.3, 2.0, 750.0])
FORMULAS = {
    "identity": lambda eigenvalue, beta: 1.0,
    "lambda": lambda eigenvalue, beta: eigenvalue,
    "ridge": lambda eigenvalue, beta: 1.0 / (eigenvalue + beta),
    "diagonal": lambda eigenvalue, beta: eigenvalue,
}


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("beta", [1e-4, 0.1, 1.0])
def test_responses_are_the_formulas(name, beta):
    expected = [FORMULAS[name](eigenvalue, beta) for eigenvalue in EIGENVALUES.tolist()]
    assert response(name, EIGENVALUES, beta) == pytest.approx(expected)
    assert [response(name, each, beta) for each in EIGENVALUES.tolist()] == pytest.approx(expected)
    through_filter = filters.build_filter(name, beta).response(torch.from_numpy(EIGENVALUES))
    assert through_filter.dtype == torch.float64
    assert through_filter.tolist() == pytest.approx(expected)


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
    code = "import sys, engine.config.responses; sys.exit('torch' in sys.modules)"
    assert run([sys.executable, "-c", code], check=False).returncode == 0
