"""The spectral filters f(λ) of the objective: one class for each, and what follows from it without a matrix.

Works on floats, NumPy arrays, tensors and any other type with their arithmetic.
Source: UniDD Eq. 2, 4, 20 and Table 1.
Not here: the application of a filter to a whole correlation matrix (see `engine.spectral.matrix_functions`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from engine.config import expressions


@dataclass(frozen=True)
class Filter(ABC):
    """A function f of the spectrum of a correlation matrix Ψ.

    needs_covariance: whether f(Ψ) depends on more of Ψ than its diagonal.
    """

    formula: ClassVar[str]
    uses_beta: ClassVar[bool] = False
    needs_covariance: ClassVar[bool] = True

    @abstractmethod
    def response(self, eigenvalues: Any) -> Any:
        """Return f(λ), elementwise."""


@dataclass(frozen=True)
class Identity(Filter):
    """All-pass filter f(λ) = 1 (DM, Table 1)."""

    formula = "1"
    needs_covariance = False

    def response(self, eigenvalues: Any) -> Any:
        """Return 1 for every eigenvalue."""
        return eigenvalues**0


@dataclass(frozen=True)
class Lambda(Filter):
    """Low-pass filter f(λ) = λ (DC, Table 1)."""

    formula = "λ"

    def response(self, eigenvalues: Any) -> Any:
        """Return the eigenvalues unchanged."""
        return eigenvalues


@dataclass(frozen=True)
class Ridge(Filter):
    """High-pass filter f(λ) = 1/(λ + β) (UniDD Eq. 20).

    beta: in units of feature variance; Ψ + βI must be positive definite.
    """

    beta: float
    formula = "1/(λ + β)"
    uses_beta = True

    def response(self, eigenvalues: Any) -> Any:
        """Return 1/(λ + β), which is infinite where λ + β is zero."""
        values = np.float64(eigenvalues) if isinstance(eigenvalues, int | float) else eigenvalues
        with np.errstate(divide="ignore"):
            return 1.0 / (values + self.beta)


@dataclass(frozen=True)
class Diagonal(Filter):
    """diag(Ψ), the variances of the channels (SRe²L, Eq. 4); not a function of the spectrum alone."""

    formula = "diag Ψ"
    needs_covariance = False

    def response(self, eigenvalues: Any) -> Any:
        """Return λ, which is the response where Ψ is diagonal."""
        return eigenvalues


@dataclass(frozen=True)
class Expression(Filter):
    """A user-defined f(λ) in which every name except λ is bound to a number."""

    tree: expressions.Node

    def response(self, eigenvalues: Any) -> Any:
        """Return f(λ)."""
        return expressions.evaluate(self.tree, eigenvalues)


FILTERS: dict[str, type[Filter]] = {
    "identity": Identity,
    "lambda": Lambda,
    "ridge": Ridge,
    "diagonal": Diagonal,
}
