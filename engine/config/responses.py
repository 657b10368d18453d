"""What a filter does to one eigenvalue: f(λ), as plain arithmetic.

Works on floats, on NumPy arrays and on whatever else calculates like them. Source: UniDD Table 1, Eq. 20.
Legend: D eigenvalues.
Not here: what a filter does to a whole correlation matrix (see `filters`).
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
    """f(λ), elementwise: 1, λ, or 1/(λ + β); infinite where λ + β is zero.

    Of the diagonal filter, what it does to a Ψ that is diagonal already: λ. beta: used by the ridge alone.
    """
    values: Any = np.float64(eigenvalues) if isinstance(eigenvalues, int | float) else eigenvalues
    if name == "identity":
        found = values**0
    elif name == "ridge":
        with np.errstate(divide="ignore"):
            found = 1.0 / (values + beta)
    else:
        found = values
    return found  # type: ignore[no-any-return]


def bound(
    term: Term,
    beta: float,
    parameters: Mapping[str, float | None],
    *,
    largest: float | None = None,
    synthetic: bool = False,
) -> expressions.Node:
    """The expression of a term, on its real or its synthetic side, with numbers for all names but λ.

    largest: λ_max of the real Ψ, whose inverse is α where that is null.
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
    """f(λ) of a term, named or an expression, at eigenvalues; NaN or infinite where it has no value.

    largest: λ_max of the real Ψ; None: the largest of these.
    """
    if term.filter is not None:
        return response(term.filter, eigenvalues, beta)
    largest = largest or float(np.max(eigenvalues, initial=0.0)) or 1.0
    tree = bound(term, beta, parameters, largest=largest, synthetic=synthetic)
    with np.errstate(all="ignore"):
        return np.broadcast_to(expressions.evaluate(tree, eigenvalues), eigenvalues.shape)


def distinct(terms: Sequence[Term]) -> list[Term]:
    """One term of each filter."""
    found: dict[object, Term] = {}
    for term in terms:
        found.setdefault((term.filter, term.sides), term)
    return list(found.values())


def has_beta(term: Term) -> bool:
    """Whether f changes with β."""
    texts = term.sides
    return term.filter == "ridge" or any(
        expressions.BETA in expressions.names(expressions.parse(text)) for text in texts
    )


def reads_beta(config: Config) -> bool:
    """Whether β changes anything of an experiment: its images are optimised, and a filter has it."""
    return config.optimises and any(map(has_beta, config.objective.terms))


@dataclass(frozen=True)
class Response:
    """An objective's filter at one β. beta: None where f has none; synthetic: the other side's own f."""

    objective: Objective
    term: Term
    beta: float | None
    synthetic: bool = False

    @property
    def filter(self) -> str:
        """What it is called, whatever β."""
        return self.term.label + (" of Ψ_s" if self.synthetic else "")

    @property
    def name(self) -> str:
        """What tells it from an objective's others."""
        at = "" if self.beta is None else f" β {self.beta:.3g}"
        return f"{self.term.label}{at}{' of Ψ_s' if self.synthetic else ''}"

    def of(self, eigenvalues_D: Floats) -> Floats:
        """f(λ); eigenvalues below zero, which rounding makes, are taken as zero."""
        beta = self.objective.beta if self.beta is None else self.beta
        with np.errstate(all="ignore"):
            values_D = np.maximum(eigenvalues_D, 0.0)
            return of_term(self.term, values_D, beta, self.objective.parameters, synthetic=self.synthetic)

    def share(self, eigenvalues_D: Floats) -> Floats:
        """|f(λ)| as a share of its largest over these eigenvalues; NaN where f is not finite."""
        sizes_D = np.abs(self.of(eigenvalues_D))
        sizes_D = np.where(np.isfinite(sizes_D), sizes_D, np.nan)
        most = np.nanmax(sizes_D, initial=0.0)
        share_D: Floats = sizes_D / most if most > 0 else sizes_D
        return share_D


def of_objective(objective: Objective, betas: Sequence[float]) -> list[Response]:
    """Each filter of an objective once, at each β where it has one; each side's f where there are two."""
    return [
        Response(objective, term, beta, synthetic)
        for term in distinct(objective.terms)
        for beta in (dict.fromkeys(betas) if has_beta(term) else (None,))
        for synthetic in (False, True)[: 1 if term.f_synthetic is None else 2]
    ]


def band(values: Floats) -> Band:
    """What a filter lets through: |f| at ascending eigenvalues, of which large ones are low frequencies.

    all-pass where |f| is constant; mixed where it both rises and falls, or has no value somewhere.
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
