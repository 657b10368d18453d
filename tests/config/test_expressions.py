"""Expressions: their values against NumPy, and the refusal of everything else."""

from __future__ import annotations

import math
import sys
from subprocess import run

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.config import expressions
from engine.config.expressions import FormulaError, Number

BETA = 0.1
EIGENVALUES = np.array([0.0, 1e-6, 0.3, 2.0, 7.5])
SCOPE = {"beta": BETA, "alpha": 0.1, "P": 4.0}
MEANINGS = {
    "1/(lambda+beta)**2": lambda x: 1 / (x + BETA) ** 2,
    "1/(λ + β)": lambda x: 1 / (x + BETA),
    "-lambda**2 + 3": lambda x: 3 - x**2,
    "+lambda - 1e-1 - .5": lambda x: x - 0.6,
    "2**-lambda": lambda x: 0.5**x,
    "2**3**2*lambda": lambda x: 512 * x,
    "lambda/2/2*3": lambda x: 0.75 * x,
    "sqrt(lambda + beta)": lambda x: np.sqrt(x + BETA),
    "exp(-lambda) + log(lambda + 1)": lambda x: np.exp(-x) + np.log1p(x),
    "abs(lambda - 1)": lambda x: np.abs(x - 1),
    "(1 - α*lambda)**P": lambda x: (1 - 0.1 * x) ** 4,
    "alpha*geometric(1 - alpha*lambda, P)": lambda x: sum(0.1 * (1 - 0.1 * x) ** p for p in range(4)),
    "geometric(lambda, 1)": np.ones_like,
    "lambda**0": np.ones_like,
    "lambda\n + 1": lambda x: x + 1,
}


@pytest.mark.parametrize("text", MEANINGS)
def test_an_expression_agrees_with_numpy(text):
    bound = expressions.bind(expressions.parse(text), SCOPE)
    np.testing.assert_allclose(
        expressions.evaluate(bound, EIGENVALUES), MEANINGS[text](EIGENVALUES), rtol=1e-13
    )


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 13, 100])
def test_geometric_is_the_sum_of_powers(count):
    x = np.array([0.0, 0.5, 1.0, -0.9])
    bound = expressions.check(f"geometric(lambda, {count})", {"beta": BETA})
    np.testing.assert_allclose(expressions.evaluate(bound, x), sum(x**p for p in range(count)), rtol=1e-13)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a complete expression"),
        ("1/(lambda", "not a complete expression"),
        ("lambda lambda", "not a complete expression"),
        ("lambda^2", "write ** for a power"),
        ("lambda;1", "';1', which is not valid"),
        ("lambda.real", "is not valid"),
        ("lambda[0]", "is not valid"),
        ("'a'", "is not valid"),
        ("1_000*lambda", "is not valid"),
        ("2lambda", "is not valid"),
        ("lambda if lambda else 1", "only numbers, names"),
        ("lambda: 1", "is not valid"),
        ("(lambda, 1)", "only numbers, names"),
        ("lambda // 2", "only numbers, names"),
        ("not lambda", "only numbers, names"),
        ("True*lambda", "only numbers, names"),
        ("exp(lambda)(1)", "only numbers, names"),
        ("exp(*lambda)", "only numbers, names"),
        ("geometric(lambda, n)", "unknown name 'n'"),
        ("eval(lambda)", "unknown function 'eval'"),
        ("sqr(lambda)", "did you mean 'sqrt'?"),
        ("exp(lambda, 2)", "exp with 2 arguments instead of 1"),
        ("lamda + beta", "did you mean 'lambda'?"),
        ("p*lambda", "did you mean 'P'?"),
        ("exp*lambda", "unknown name 'exp'"),
        ("geometric(lambda, 2.5)", "whole n"),
        ("geometric(lambda, 0)", "whole n"),
        ("geometric(lambda, 1e9)", "whole n"),
        ("geometric(lambda, 1/0)", "whole n"),
        ("geometric(lambda, beta)", "without lambda, beta or alpha"),
        ("1e999*lambda", "too large"),
        ("1/0 + lambda", "no finite value"),
        ("log(-1 - lambda)", "no finite value"),
        ("9**9**9**9 * lambda", "no finite value"),
        ("-" * 100 + "lambda", "nested deeper"),
        ("lambda" + "+1" * 120, "more than 200"),
    ],
)
def test_an_invalid_expression_is_refused_with_the_reason(text, message):
    with pytest.raises(FormulaError) as caught:
        expressions.check(text, SCOPE)
    assert message in str(caught.value)


@given(st.text(alphabet="λβab1.e+-*/(), \n_lambdexpogi[]'\"\\^:;=\x00²٣", max_size=60) | st.text(max_size=40))
def test_any_text_is_an_expression_or_refused(text):
    try:
        bound = expressions.check(text, SCOPE)
    except FormulaError:
        return
    assert expressions.names(bound) <= {"lambda"}


def test_constants_are_recognised():
    for text, constant in (("beta", True), ("lambda/lambda", True), ("lambda - lambda", True), ("λ", False)):
        assert expressions.is_constant(expressions.bind(expressions.parse(text), SCOPE)) is constant
    assert expressions.bind(expressions.parse("2*beta + 1/0"), SCOPE) == Number(math.inf)


@pytest.mark.parametrize(
    ("text", "rational"),
    [
        ("1/(lambda+beta)**2", True),
        ("lambda**-3 * (2 - lambda)", True),
        ("geometric(1 - lambda, 10)", True),
        ("lambda**beta", False),
        ("2**lambda", False),
        ("geometric(exp(lambda), 3)", False),
        ("lambda**10001", False),
        ("1 + sqrt(lambda)", False),
    ],
)
def test_rational_expressions_are_recognised(text, rational):
    assert expressions.is_rational(expressions.bind(expressions.parse(text), SCOPE)) is rational


@pytest.mark.parametrize("text", MEANINGS)
def test_nonnegative_expressions_are_nonnegative(text):
    bound = expressions.bind(expressions.parse(text), SCOPE)
    if expressions.is_nonnegative(bound):
        assert (np.asarray(expressions.evaluate(bound, expressions.PROBES)) >= 0).all()
    assert not expressions.is_nonnegative(expressions.parse("1 - lambda"))
    assert expressions.is_nonnegative(expressions.parse("(1 - lambda)**2 + lambda"))


def test_they_need_no_torch():
    code = "import sys, engine.config.expressions; sys.exit('torch' in sys.modules)"
    assert run([sys.executable, "-c", code], check=False).returncode == 0
