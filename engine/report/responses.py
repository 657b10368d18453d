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

from engine.config import Objective
from engine.responses import response

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Response:
    """A filter at one β. beta: None for a filter that does not read it."""

    filter: str
    beta: float | None

    @property
    def name(self) -> str:
        """As a legend tells it."""
        return self.filter if self.beta is None else f"{self.filter}, β = {self.beta:.3g}"

    def of(self, values_D: Floats) -> Floats:
        """f(λ); eigenvalues below zero, which rounding makes, are taken as zero."""
        with np.errstate(all="ignore"):
            return _respond(self.filter, np.maximum(values_D, 0.0), self.beta or 0.0)

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


def _respond(name: Any, values_D: Floats, beta: float) -> Floats:
    return np.asarray(response(name, values_D, beta), np.float64)


def _changes_with_beta(name: str) -> bool:
    probe_D = np.array([0.5, 1.0, 2.0])
    return not np.array_equal(_respond(name, probe_D, 0.5), _respond(name, probe_D, 1.0))


def reads_beta(objective: Objective) -> bool:
    """Whether any f(λ) of an objective changes with β."""
    return any(_changes_with_beta(str(term.filter)) for term in objective.terms)


def of_objective(objective: Objective, betas: Sequence[float]) -> list[Response]:
    """Each filter once; one that reads β at the first and at the last of `betas`.

    The diagonal filter is left out: what it does is no function of the spectrum.
    """
    known = [beta for beta in betas if np.isfinite(beta)]
    ends = list(dict.fromkeys([known[0], known[-1]])) if known else []
    found = []
    for name in dict.fromkeys(str(term.filter) for term in objective.terms):
        if name != "diagonal":
            found += (
                [Response(name, beta) for beta in ends]
                if _changes_with_beta(name)
                else [Response(name, None)]
            )
    return found
