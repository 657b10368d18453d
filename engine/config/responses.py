"""The response f(λ) of a filter to an eigenvalue, as plain arithmetic.

Works on floats, NumPy arrays and any other type with their arithmetic. Source: UniDD Table 1, Eq. 20.
Legend: D eigenvalues.
Not here: the application of a filter to a whole correlation matrix (see `filters`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from engine.config import Config, FilterName, Objective, Term, expressions

T = TypeVar("T")
Floats = NDArray[np.float64]
Band = Literal["low-pass", "high-pass", "all-pass", "mixed"]


def response(name: FilterName, eigenvalues: T, beta: float) -> T:
    """Return f(λ) elementwise: 1, λ, or 1/(λ + β), which is infinite where λ + β is zero.

    The response of the diagonal filter is that to a diagonal Ψ, which is λ. beta: used only by the ridge.
    """
    values: Any = np.float64(eigenvalues) if isinstance(eigenvalues, int | float) else eigenvalues
    if name == "identity":
        response_values = values**0
    elif name == "ridge":
        with np.errstate(divide="ignore"):
            response_values = 1.0 / (values + beta)
    else:
        response_values = values
    return response_values  # type: ignore[no-any-return]


def bound(
    term: Term,
    beta: float,
    parameters: Mapping[str, float | None],
    *,
    largest: float | None = None,
    synthetic: bool = False,
) -> expressions.Node:
    """Return the expression of a term, for real or synthetic images, with numbers for all names but λ.

    largest: λ_max of the real Ψ; its inverse is the value of α if α is null.
    """
    text = term.f_synthetic if synthetic and term.f_synthetic is not None else term.f
    assert text is not None
    scope = {name: value for name, value in parameters.items() if value is not None}
    if largest and expressions.ALPHA in parameters:
        scope.setdefault(expressions.ALPHA, 1.0 / largest)
    return expressions.bind(expressions.parse(text), scope | {expressions.BETA: beta})


def of_term(
    term: Term,
    eigenvalues: Floats,
    beta: float,
    parameters: Mapping[str, float | None],
    *,
    largest: float | None = None,
    synthetic: bool = False,
) -> Floats:
    """Return f(λ) of a term at eigenvalues; NaN or infinite where it is not defined.

    largest: λ_max of the real Ψ; None: the largest of the eigenvalues.
    """
    if term.filter is not None:
        return response(term.filter, eigenvalues, beta)
    largest = largest or float(np.max(eigenvalues, initial=0.0)) or 1.0
    tree = bound(term, beta, parameters, largest=largest, synthetic=synthetic)
    with np.errstate(all="ignore"):
        return np.broadcast_to(expressions.evaluate(tree, eigenvalues), eigenvalues.shape)


def distinct(terms: Sequence[Term]) -> list[Term]:
    """Return the first term of each filter, in order."""
    first_terms: dict[object, Term] = {}
    for term in terms:
        first_terms.setdefault((term.filter, term.sides), term)
    return list(first_terms.values())


def has_beta(term: Term) -> bool:
    """Return whether f depends on β."""
    texts = term.sides
    return term.filter == "ridge" or any(
        expressions.BETA in expressions.names(expressions.parse(text)) for text in texts
    )


def reads_beta(config: Config) -> bool:
    """Return whether β affects an experiment: its images are optimised, and a filter depends on β."""
    return config.optimises and any(map(has_beta, config.objective.terms))


@dataclass(frozen=True)
class Response:
    """A filter of an objective at one β.

    beta: None if f does not depend on β. synthetic: use f_synthetic instead of f.
    """

    objective: Objective
    term: Term
    beta: float | None
    synthetic: bool = False

    @property
    def filter(self) -> str:
        """The name of the filter, without β."""
        return self.term.label + (" of Ψ_s" if self.synthetic else "")

    @property
    def name(self) -> str:
        """The name of the filter with β, unique within the objective."""
        at = "" if self.beta is None else f" β {self.beta:.3g}"
        return f"{self.term.label}{at}{' of Ψ_s' if self.synthetic else ''}"

    def of(self, eigenvalues_D: Floats) -> Floats:
        """Return f(λ); negative eigenvalues, which result from rounding, count as zero."""
        beta = self.objective.beta if self.beta is None else self.beta
        with np.errstate(all="ignore"):
            values_D = np.maximum(eigenvalues_D, 0.0)
            return of_term(self.term, values_D, beta, self.objective.parameters, synthetic=self.synthetic)

    def share(self, eigenvalues_D: Floats) -> Floats:
        """Return |f(λ)| divided by its maximum over these eigenvalues; NaN where f is not finite."""
        sizes_D = np.abs(self.of(eigenvalues_D))
        sizes_D = np.where(np.isfinite(sizes_D), sizes_D, np.nan)
        most = np.nanmax(sizes_D, initial=0.0)
        share_D: Floats = sizes_D / most if most > 0 else sizes_D
        return share_D


def of_objective(objective: Objective, betas: Sequence[float]) -> list[Response]:
    """Return the distinct filters of an objective, at each β if f depends on it.

    A term with f_synthetic gives a second response for the synthetic images.
    """
    return [
        Response(objective, term, beta, synthetic)
        for term in distinct(objective.terms)
        for beta in (dict.fromkeys(betas) if has_beta(term) else (None,))
        for synthetic in (False, True)[: 1 if term.f_synthetic is None else 2]
    ]


def band(values: Floats) -> Band:
    """Classify a filter by |f| at ascending eigenvalues; large eigenvalues are low frequencies.

    all-pass: |f| is constant; mixed: |f| both rises and falls, or is not finite somewhere.
    """
    sizes = np.abs(values)
    if not np.isfinite(sizes).all():
        return "mixed"
    steps = np.diff(sizes)
    steps[np.abs(steps) <= 1e-12 * sizes.max(initial=0.0)] = 0.0
    rises, falls = bool((steps > 0).any()), bool((steps < 0).any())
    if rises and falls:
        return "mixed"
    return "low-pass" if rises else "high-pass" if falls else "all-pass"
