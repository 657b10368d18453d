"""The responses f(λ) of an objective's filters, for charts and tables. Legend: D eigenvalues."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from engine.config import Objective, Term

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Response:
    """A filter of an objective at one β.

    beta: None if f does not depend on β. synthetic: use f_synthetic instead of f. largest: λ_max of the real
    Ψ; None: the largest of the eigenvalues.
    """

    objective: Objective
    term: Term
    beta: float | None
    synthetic: bool = False
    largest: float | None = None

    @property
    def filter(self) -> str:
        """The name of the filter, without β."""
        return self.term.label + (" of Ψ_s" if self.synthetic else "")

    @property
    def name(self) -> str:
        """The name of the filter with β, unique within the objective."""
        at = "" if self.beta is None else f" β {self.beta:.3g}"
        return f"{self.term.label}{at}{' of Ψ_s' if self.synthetic else ''}"

    def evaluate(self, eigenvalues_D: Floats) -> Floats:
        """Return f(λ); negative eigenvalues, which result from rounding, count as zero."""
        beta = self.objective.beta if self.beta is None else self.beta
        values_D = np.maximum(eigenvalues_D, 0.0)
        largest = self.largest or float(np.max(values_D, initial=0.0)) or 1.0
        bound = self.term.build_filter(
            beta, self.objective.parameters, largest=largest, synthetic=self.synthetic
        )
        with np.errstate(all="ignore"):
            return np.broadcast_to(bound.response(values_D), values_D.shape)

    def share(self, eigenvalues_D: Floats) -> Floats:
        """Return |f(λ)| divided by its maximum over these eigenvalues; NaN where f is not finite."""
        sizes_D = np.abs(self.evaluate(eigenvalues_D))
        sizes_D = np.where(np.isfinite(sizes_D), sizes_D, np.nan)
        most = np.nanmax(sizes_D, initial=0.0)
        share_D: Floats = sizes_D / most if most > 0 else sizes_D
        return share_D


def list_responses(objective: Objective, betas: Sequence[float]) -> list[Response]:
    """Return the distinct filters of an objective, at each β if f depends on it.

    A term with f_synthetic gives a second response for the synthetic images.
    """
    return [
        Response(objective, term, beta, synthetic)
        for term in objective.distinct_filters()
        for beta in (dict.fromkeys(betas) if term.uses_beta else (None,))
        for synthetic in (False, True)[: 1 if term.f_synthetic is None else 2]
    ]


def band(values: Floats) -> Literal["low-pass", "high-pass", "all-pass", "mixed"]:
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
