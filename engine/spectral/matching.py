"""The objective of recovery: a sum of (filter, signal, weight) terms over taps, plus cross-entropy.

term = ‖ f(Ψ)·g(Φ) − f(Ψ_s)·g(Φ_s) ‖_F, unsquared (Eq. 20); loss = CE + Σ weight·term (Eq. 21).
Legend: M images, D features, K classes, L taps, T terms. Source: UniDD Eq. 1, 4, 20, 21.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from engine import config
from engine.config import expressions
from engine.errors import UserError
from engine.spectral import filters
from engine.spectral.moments import Moments, require_finite, widen


def resolved_terms(objective: config.Objective) -> tuple[config.Term, ...]:
    """The terms with `chosen` replaced by the signal that the objective chooses.

    A chosen term that says what another says already is left out: with the signal `none`, CFM is its
    filter term alone (Table 5, first row).
    """
    found = [term for term in objective.terms if term.signal != "chosen"]
    for term in objective.terms:
        if term.signal == "chosen":
            named = term.model_copy(update={"signal": objective.signal})
            if not any(named.same_as(other) for other in found):
                found.append(named)
    return tuple(found)


def needs_covariance(terms: Sequence[config.Term]) -> bool:
    """Whether any term reads more of Ψ than its diagonal."""
    return any(term.filter in ("lambda", "ridge", None) for term in terms)


def needs_labels(terms: Sequence[config.Term]) -> bool:
    """Whether any term reads Φ."""
    return any(term.signal == "class" for term in terms)


def filtered_signals(
    terms: Sequence[config.Term], applied: Sequence[filters.Filter], moments: Moments
) -> list[Tensor]:
    """f(Ψ)·g(Φ) of one tap for each term and its filter: (D, D), (D,) or (D, K)."""
    matrices: dict[filters.Filter, Tensor] = {}
    found: list[Tensor] = []
    for term, own in zip(terms, applied, strict=True):
        signal = {"none": None, "mean": moments.mean_D, "class": moments.flc_DK}[term.signal]
        if term.filter == "diagonal":
            found.append(moments.var_D)
        elif term.filter == "identity":
            assert signal is not None
            found.append(signal)
        else:
            if own not in matrices:
                assert moments.cov_DD is not None
                matrices[own] = own.apply(moments.cov_DD)
            matrix_DD = matrices[own]
            found.append(matrix_DD if signal is None else matrix_DD @ signal)
    return found


class MatchingLoss:
    """The objective of one recovery batch: the real side of every term is computed once, here.

    Raises UserError("numeric") where a real statistic is not finite, or a filter has no value for a real tap,
    as where Ψ + βI is singular; UserError("config") where α is too large for one.
    """

    def __init__(self, objective: config.Objective, real: Sequence[Moments], beta: float) -> None:
        require_finite(real, "the real statistics", "use another teacher, or measure them again")
        self.beta = beta
        self.ce_weight = objective.ce
        self.terms = resolved_terms(objective)
        self.covariance = needs_covariance(self.terms)
        self.labels = needs_labels(self.terms)
        self._real, self._filters = [], []
        for moments in real:
            own, synthetic = _filters(objective, self.terms, moments, beta)
            self._real.append(filtered_signals(self.terms, own, moments))
            self._filters.append(synthetic)
            for term, side in zip(self.terms, self._real[-1], strict=True):
                if not bool(side.isfinite().all()):
                    raise non_finite_error(term, f"real tap {moments.name}", beta)
        device = real[0].mean_D.device
        weights_T1 = torch.tensor([term.weight for term in self.terms], device=device).reshape(-1, 1)
        weights_TL = weights_T1.repeat(1, len(real))
        second = f"{real[0].name}/"  # the first layer's patches, where they have a tap of their own
        first = [n for n, tap in enumerate(real) if n == 0 or tap.name.startswith(second)]
        weights_TL[:, first] *= objective.first_tap
        self._weights_TL = weights_TL

    def values(self, synthetic: Sequence[Moments]) -> Tensor:
        """Every unweighted term at every tap, shape (T, L); differentiable."""
        columns = []
        for moments, own, real in zip(synthetic, self._filters, self._real, strict=True):
            found = filtered_signals(self.terms, own, moments)
            columns += [torch.linalg.vector_norm(s - r) for s, r in zip(found, real, strict=True)]
        if not columns:
            return self._weights_TL.new_zeros(0, len(self._real))
        return torch.stack(columns).reshape(len(self._real), -1).T

    def loss(self, values_TL: Tensor, ce: Tensor) -> Tensor:
        """Eq. 21: cross-entropy plus the weighted terms."""
        return self.ce_weight * ce + (self._weights_TL * values_TL).sum()


def singular_error(where: str, beta: float) -> UserError:
    """The report that Ψ + βI has no inverse in the arithmetic at hand."""
    return UserError(
        "numeric",
        f"Ψ + βI of {where} is singular at β = {beta:.3g}",
        "raise objective.beta, or give the schedule a floor with objective.schedule.beta_min",
    )


def non_finite_error(term: config.Term, where: str, beta: float) -> UserError:
    """The report that a term's filter gave no finite number for finite statistics."""
    if term.filter == "ridge":
        return singular_error(where, beta)
    if term.filter is not None:
        return UserError("numeric", f"the term {term.title} of {where} is not finite", "use another teacher")
    return UserError(
        "numeric",
        f"f = {' or '.join(term.sides)} has no finite value, or no slope, at an eigenvalue of {where},"
        f" at β = {beta:.3g}",
        "keep f away from poles, and from roots and logarithms of 0: write lambda + beta, with beta > 0",
    )


def _filters(
    objective: config.Objective, terms: Sequence[config.Term], moments: Moments, beta: float
) -> tuple[list[filters.Filter], list[filters.Filter]]:
    """The filters of all terms for one real tap and for what is matched to it."""
    largest = _largest(objective, terms, moments)

    def of(*, synthetic: bool) -> list[filters.Filter]:
        return [
            filters.filter_of_term(term, beta, objective.parameters, largest=largest, synthetic=synthetic)
            for term in terms
        ]

    return of(synthetic=False), of(synthetic=True)


def placeholder_moments(objective: config.Objective, sizes: Mapping[str, int], classes: int) -> list[Moments]:
    """Moments of the right shapes whose values decide nothing: Ψ = λI, λ near 1, where no term lacks a value.

    sizes: D of each tap.
    """
    terms = resolved_terms(objective)

    def fits(value: float) -> bool:
        applied = (
            filters.filter_of_term(
                term, objective.beta, objective.parameters, largest=value, synthetic=synthetic
            )
            for term in terms
            for synthetic in (False, True)
        )
        return all(bool(each.response(torch.tensor([value])).isfinite().all()) for each in applied)

    probes = sorted(expressions.PROBES.tolist(), key=lambda value: abs(math.log(value)))
    value = next(filter(fits, probes), 1.0)
    return [
        Moments(name, torch.zeros(d), torch.ones(d), value * torch.eye(d), torch.zeros(d, classes))
        for name, d in sizes.items()
    ]


def _largest(objective: config.Objective, terms: Sequence[config.Term], moments: Moments) -> float | None:
    """λ_max of a real tap where a term has α, which must be below 2/λ_max; None where none has.

    Raises UserError: "config" for an α that is too large, "numeric" where Ψ is zero and α was to be 1/λ_max.
    """
    texts = [text for term in terms for text in term.sides]
    if not any(expressions.ALPHA in expressions.names(expressions.parse(text)) for text in texts):
        return None
    assert moments.cov_DD is not None
    largest = float(torch.linalg.eigvalsh(moments.cov_DD.cpu().double())[-1])
    alpha = objective.parameters[expressions.ALPHA]
    if alpha is None and largest <= 0:
        raise UserError(
            "numeric",
            f"Ψ of real tap {moments.name} is zero, so there is no α = 1/λ_max",
            "give alpha a value",
        )
    if alpha is not None and alpha * largest >= 2:
        raise UserError(
            "config",
            f"objective.parameters.alpha = {alpha:g} is too large for real tap {moments.name}: its λ_max is"
            f" {largest:.4g}, and alpha must be below 2/λ_max = {2 / largest:.4g}",
            "lower it, or set objective.parameters.alpha=null for 1/λ_max of each tap",
        )
    return largest


def score(
    objective: config.Objective, real: Sequence[Moments], synthetic: Sequence[Moments], ce: float
) -> dict[str, Any]:
    """The UniDD lens: every unweighted term and both spectra, in float64.

    Returns ``{"beta", "ce", "layers": [{"name", "eigenvalues_real", "eigenvalues_synthetic",
    "terms": [{"filter", "signal", "value"}]}]}``, with "f" where a term is an expression; eigenvalues
    descend, null where Ψ is not measured.
    """
    cpu = torch.device("cpu")
    real = [moments.to(cpu, torch.float64) for moments in real]
    synthetic = [moments.to(cpu, torch.float64) for moments in synthetic]
    whole = MatchingLoss(objective, real, objective.beta)
    values_TL = whole.values(synthetic)
    layers = []
    for index, (r, s) in enumerate(zip(real, synthetic, strict=True)):
        for term, value in zip(whole.terms, values_TL[:, index].tolist(), strict=True):
            if not math.isfinite(value):
                raise non_finite_error(term, f"the scored images at tap {s.name}", objective.beta)
        terms = [
            {"filter": term.label, "signal": term.signal, "value": float(values_TL[t, index])}
            | ({"f": list(term.sides)} if term.sides else {})
            for t, term in enumerate(whole.terms)
        ]
        layers.append(
            {
                "name": r.name,
                "eigenvalues_real": spectrum(r),
                "eigenvalues_synthetic": spectrum(s),
                "terms": terms,
            }
        )
    return {"beta": objective.beta, "ce": ce, "layers": layers}


def spectrum(moments: Moments) -> list[float] | None:
    """Eigenvalues of Ψ, largest first; None where Ψ was not measured."""
    if moments.cov_DD is None:
        return None
    eigenvalues: list[float] = torch.linalg.eigvalsh(moments.cov_DD.cpu()).flip(0).tolist()
    return eigenvalues


class Spectra:
    """Eigenvalues of Ψ beside those of Ψ_s; the real ones are computed when first asked for."""

    def __init__(self, real: Sequence[Moments]) -> None:
        self._taps = real
        self._real: list[NDArray[np.float32] | None] | None = None

    def beside(
        self, synthetic: Sequence[Moments]
    ) -> dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Both by tap, largest first; taps where one of them is not measured are left out."""
        if self._real is None:
            self._real = [_eigenvalues(tap) for tap in self._taps]
        pairs = zip(synthetic, self._real, strict=True)
        found = {tap.name: (real_D, _eigenvalues(tap)) for tap, real_D in pairs if real_D is not None}
        return {name: (real_D, own_D) for name, (real_D, own_D) in found.items() if own_D is not None}


def _eigenvalues(tap: Moments) -> NDArray[np.float32] | None:
    """The spectrum; None where Ψ was not measured, or no spectrum can be found."""
    try:
        found = spectrum(tap)
    except RuntimeError:  # the values are not finite, or too far apart
        return None
    return None if found is None else np.array(found, np.float32)


def cross_entropy(logits_MK: Tensor, labels_M: Tensor) -> Tensor:
    """Mean cross-entropy of the true labels."""
    return F.cross_entropy(widen(logits_MK), labels_M)
