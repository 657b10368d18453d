"""Spectral filters f(λ) applied to a feature-feature correlation matrix.

f(Ψ) = U f(Λ) Uᵀ for Ψ = U Λ Uᵀ; the named filters reach it without an eigendecomposition.
Legend: D feature dimension. Source: UniDD Eq. 2, 4, 20 and Table 1.
Not here: f(λ) of single eigenvalues (see `responses`), how correlations are estimated (see `moments`).
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
    """A function of the spectrum."""

    def response(self, eigenvalues_D: Tensor) -> Tensor:
        """f(λ), elementwise, shape (D,)."""

    def apply(self, cov_DD: Tensor) -> Tensor:
        """f(Ψ), shape (D, D); for the diagonal filter its diagonal, shape (D,)."""


@dataclass(frozen=True)
class Identity:
    """All-pass filter f(λ) = 1 (DM, Table 1)."""

    def response(self, eigenvalues_D: Tensor) -> Tensor:
        """1 for every eigenvalue."""
        return response("identity", eigenvalues_D, 0.0)

    def apply(self, cov_DD: Tensor) -> Tensor:
        """The identity matrix."""
        return torch.eye(cov_DD.shape[-1], dtype=cov_DD.dtype, device=cov_DD.device)


@dataclass(frozen=True)
class Lambda:
    """Low-pass filter f(λ) = λ (DC, Table 1)."""

    def response(self, eigenvalues_D: Tensor) -> Tensor:
        """The eigenvalues themselves."""
        return response("lambda", eigenvalues_D, 0.0)

    def apply(self, cov_DD: Tensor) -> Tensor:
        """Ψ itself."""
        return cov_DD


@dataclass(frozen=True)
class Diagonal:
    """diag(Ψ): the variances of the channels (SRe²L, Eq. 4); not a function of the spectrum alone."""

    def response(self, eigenvalues_D: Tensor) -> Tensor:
        """λ: what the filter does to a Ψ that is diagonal already."""
        return response("diagonal", eigenvalues_D, 0.0)

    def apply(self, cov_DD: Tensor) -> Tensor:
        """The diagonal, shape (D,)."""
        return cov_DD.diagonal()


@dataclass(frozen=True)
class Ridge:
    """High-pass filter f(λ) = 1/(λ + β) (FRePo, CFM; Eq. 20).

    beta: in units of feature variance; Ψ + βI must be positive definite.
    """

    beta: float

    def response(self, eigenvalues_D: Tensor) -> Tensor:
        """1/(λ + β)."""
        return response("ridge", eigenvalues_D, self.beta)

    def apply(self, cov_DD: Tensor) -> Tensor:
        """(Ψ + βI)⁻¹. NaN throughout where Ψ + βI is singular, so that nothing false goes on.

        Telling the user is left to who can afford to wait for the device.
        """
        inverse: Tensor = matrix_functions.Inverse.apply(cov_DD, self.beta)
        return inverse


@dataclass(frozen=True)
class Expression:
    """A person's own f(λ), every name but λ being a number already."""

    tree: expressions.Node

    def response(self, eigenvalues_D: Tensor) -> Tensor:
        """f(λ)."""
        found = expressions.evaluate(self.tree, eigenvalues_D, matrix_functions.FUNCTIONS)
        return found if isinstance(found, Tensor) else torch.full_like(eigenvalues_D, found)

    def apply(self, cov_DD: Tensor) -> Tensor:
        """f(Ψ); NaN throughout where f has no value at an eigenvalue."""
        return matrix_functions.apply(self.tree, cov_DD)


def build_filter(name: FilterName, beta: float) -> Filter:
    """The filter of that name; `beta` is used by the ridge alone."""
    known: dict[str, Filter] = {
        "identity": Identity(),
        "lambda": Lambda(),
        "ridge": Ridge(beta),
        "diagonal": Diagonal(),
    }
    return known[name]


def filter_of_term(
    term: Term,
    beta: float,
    parameters: Mapping[str, float | None],
    *,
    largest: float | None = None,
    synthetic: bool = False,
) -> Filter:
    """The filter of a term on its real or its synthetic side. largest: see `responses.bound`."""
    if term.filter is not None:
        return build_filter(term.filter, beta)
    return Expression(bound(term, beta, parameters, largest=largest, synthetic=synthetic))
