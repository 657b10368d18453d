"""Spectral filters f(λ) applied to a feature-feature correlation matrix.

f(Ψ) = U f(Λ) Uᵀ for Ψ = U Λ Uᵀ; the named filters compute it without an eigendecomposition.
Legend: D feature dimension. Source: UniDD Eq. 2, 4, 20 and Table 1.
Not here: f(λ) of single eigenvalues (see `responses`) and the estimation of correlations (see `moments`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from engine.config import FilterName, Term, expressions
from engine.config.responses import bound, response
from engine.spectral import matrix_functions


class Filter(Protocol):
    """A function f of the spectrum of a correlation matrix."""

    def response(self, eigenvalues_D: Tensor) -> Tensor:
        """Return f(λ), elementwise, shape (D,)."""

    def apply(self, cov_DD: Tensor) -> Tensor:
        """Return f(Ψ), shape (D, D); the diagonal filter returns the diagonal of Ψ, shape (D,)."""


@dataclass(frozen=True)
class Identity:
    """All-pass filter f(λ) = 1 (DM, Table 1)."""

    def response(self, eigenvalues_D: Tensor) -> Tensor:
        """Return 1 for every eigenvalue."""
        return response("identity", eigenvalues_D, 0.0)

    def apply(self, cov_DD: Tensor) -> Tensor:
        """Return the identity matrix."""
        return torch.eye(cov_DD.shape[-1], dtype=cov_DD.dtype, device=cov_DD.device)


@dataclass(frozen=True)
class Lambda:
    """Low-pass filter f(λ) = λ (DC, Table 1)."""

    def response(self, eigenvalues_D: Tensor) -> Tensor:
        """Return the eigenvalues unchanged."""
        return response("lambda", eigenvalues_D, 0.0)

    def apply(self, cov_DD: Tensor) -> Tensor:
        """Return Ψ unchanged."""
        return cov_DD


@dataclass(frozen=True)
class Diagonal:
    """diag(Ψ), the variances of the channels (SRe²L, Eq. 4); not a function of the spectrum alone."""

    def response(self, eigenvalues_D: Tensor) -> Tensor:
        """Return λ, which is the response where Ψ is diagonal."""
        return response("diagonal", eigenvalues_D, 0.0)

    def apply(self, cov_DD: Tensor) -> Tensor:
        """Return the diagonal of Ψ, shape (D,)."""
        return cov_DD.diagonal()


@dataclass(frozen=True)
class Ridge:
    """High-pass filter f(λ) = 1/(λ + β) (FRePo, CFM; Eq. 20).

    beta: in units of feature variance; Ψ + βI must be positive definite.
    """

    beta: float

    def response(self, eigenvalues_D: Tensor) -> Tensor:
        """Return 1/(λ + β)."""
        return response("ridge", eigenvalues_D, self.beta)

    def apply(self, cov_DD: Tensor) -> Tensor:
        """Return (Ψ + βI)⁻¹, NaN throughout where Ψ + βI is singular.

        No error is raised here, because checking for one would synchronise with the device at every step.
        """
        inverse: Tensor = matrix_functions.Inverse.apply(cov_DD, self.beta)
        return inverse


@dataclass(frozen=True)
class Expression:
    """A user-defined f(λ) in which every name except λ is bound to a number."""

    tree: expressions.Node

    def response(self, eigenvalues_D: Tensor) -> Tensor:
        """Return f(λ)."""
        response_D = expressions.evaluate(self.tree, eigenvalues_D, matrix_functions.FUNCTIONS)
        return response_D if isinstance(response_D, Tensor) else torch.full_like(eigenvalues_D, response_D)

    def apply(self, cov_DD: Tensor) -> Tensor:
        """Return f(Ψ), NaN throughout where f is undefined at an eigenvalue."""
        return matrix_functions.apply(self.tree, cov_DD)


def build_filter(name: FilterName, beta: float) -> Filter:
    """Return the filter of that name. Only the ridge filter uses `beta`."""
    filters: dict[str, Filter] = {
        "identity": Identity(),
        "lambda": Lambda(),
        "ridge": Ridge(beta),
        "diagonal": Diagonal(),
    }
    return filters[name]


def build_term_filter(
    term: Term,
    beta: float,
    parameters: Mapping[str, float | None],
    *,
    largest: float | None = None,
    synthetic: bool = False,
) -> Filter:
    """Return the filter of a term on its real or its synthetic side.

    largest: λ_max of the real Ψ; see `responses.bound`.
    """
    if term.filter is not None:
        return build_filter(term.filter, beta)
    return Expression(bound(term, beta, parameters, largest=largest, synthetic=synthetic))
