"""The filters of an objective over the eigenvalues of a layer: how much of each frequency they let pass.

Legend: D eigenvalues, largest first. Source: UniDD Eq. 2, Table 1. Not here: f(λ) itself (see
`engine.responses`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.config import Objective, Term
from engine.responses import distinct, has_beta, of_term

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Response:
    """A term's filter at one β. beta: None for one that does not read it; synthetic: the other side's f."""

    objective: Objective
    term: Term
    beta: float | None
    synthetic: bool = False

    @property
    def filter(self) -> str:
        """As tables and terms call it."""
        return self.term.label + (" of Ψ_s" if self.synthetic else "")

    @property
    def name(self) -> str:
        """As a legend tells it."""
        return self.filter if self.beta is None else f"{self.filter}, β = {self.beta:.3g}"

    def of(self, values_D: Floats) -> Floats:
        """f(λ); eigenvalues below zero, which rounding makes, are taken as zero."""
        beta = self.objective.beta if self.beta is None else self.beta
        with np.errstate(all="ignore"):
            values_D = np.maximum(values_D, 0.0)
            found = of_term(self.term, values_D, beta, self.objective.parameters, synthetic=self.synthetic)
        return np.asarray(found, np.float64)

    def share(self, values_D: Floats) -> Floats:
        """f(λ) / max f over these eigenvalues; NaN where f is not finite."""
        found_D = np.abs(self.of(values_D))
        found_D = np.where(np.isfinite(found_D), found_D, np.nan)
        most = np.nanmax(found_D, initial=0.0)
        share_D: Floats = found_D / most if most > 0 else found_D
        return share_D

    def told(self, values_D: Floats) -> dict[str, Any]:
        """As plain data."""
        return {"filter": self.filter, "beta": self.beta, "response": [float(f) for f in self.of(values_D)]}


def reads_beta(objective: Objective) -> bool:
    """Whether any f(λ) of an objective changes with β."""
    return any(has_beta(term) for term in objective.terms)


def of_objective(objective: Objective, betas: Sequence[float]) -> list[Response]:
    """Each filter once; one that reads β at the first and at the last of `betas`; each side's f, where two.

    The diagonal filter is left out: what it does is no function of the spectrum.
    """
    known = [beta for beta in betas if np.isfinite(beta)]
    ends: list[float | None] = list(dict.fromkeys([known[0], known[-1]])) if known else []
    return [
        Response(objective, term, beta, synthetic)
        for term in distinct(objective.terms)
        if term.filter != "diagonal"
        for beta in (ends if has_beta(term) else [None])
        for synthetic in (False, True)[: 1 if term.f_synthetic is None else 2]
    ]
