"""The objective of recovery: a sum of (filter, signal, weight) terms over taps, plus cross-entropy.

term = ‖ f(Ψ)·g(Φ) − f(Ψ_s)·g(Φ_s) ‖_F, unsquared (Eq. 20); loss = CE + Σ weight·term (Eq. 21).
Legend: M images, D features, K classes, L taps, T terms. Source: UniDD Eq. 1, 4, 20, 21.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from engine import config
from engine.config import expressions
from engine.config.filters import Diagonal, Filter, Identity, Ridge
from engine.errors import UserError
from engine.spectral import matrix_functions
from engine.spectral.moments import Moments, require_finite, widen


def filtered_signals(
    terms: Sequence[config.Term],
    term_filters: Sequence[Filter],
    moments: Moments,
    matrices: Mapping[Filter, Tensor] | None = None,
) -> list[Tensor]:
    """Return f(Ψ)·g(Φ) of one tap for each term and its filter, of shape (D, D), (D,) or (D, K).

    Terms that share a filter share its matrix f(Ψ). matrices: those that are already computed.
    """
    matrices = dict(matrices or {})
    filtered: list[Tensor] = []
    for term, term_filter in zip(terms, term_filters, strict=True):
        signal = {"none": None, "mean": moments.mean_D, "class": moments.flc_DK}[term.signal]
        if isinstance(term_filter, Diagonal):
            filtered.append(moments.var_D)
        elif isinstance(term_filter, Identity):
            assert signal is not None
            filtered.append(signal)
        else:
            if term_filter not in matrices:
                assert moments.cov_DD is not None
                matrices[term_filter] = matrix_functions.apply(term_filter, moments.cov_DD)
            matrix_DD = matrices[term_filter]
            filtered.append(matrix_DD if signal is None else matrix_DD @ signal)
    return filtered


class MatchingLoss:
    """The objective of one recovery batch; the constructor computes the real side of every term once.

    constants: C of `LowRankInverse` for every tap whose synthetic Ψ is in low-rank form, by the tap's name.
    needs_covariance, needs_labels: whether any term reads Ψ beyond its diagonal, and Φ. uses_alpha: whether a
    term uses α.
    Raises UserError("numeric") where a real statistic is not finite or a filter is undefined for a real tap
    (for example, where Ψ + βI is singular), and UserError("config") where α is too large for a tap.
    """

    def __init__(
        self,
        objective: config.Objective,
        real: Sequence[Moments],
        beta: float,
        constants: Mapping[str, Tensor] | None = None,
    ) -> None:
        require_finite(real, "the real statistics", "use another teacher, or measure the statistics again")
        self.beta = beta
        self._constants = constants or {}
        self.ce_weight = objective.ce
        self.terms = objective.resolve_terms()
        self.needs_covariance = any(term.filter_class.needs_covariance for term in self.terms)
        self.needs_labels = any(term.signal == "class" for term in self.terms)
        self.uses_alpha = _uses_alpha(self.terms)
        self._real, self._filters, self._alphas = [], [], list[float]()
        for moments in real:
            largest = _compute_lambda_max(objective, moments) if self.uses_alpha else None
            if largest is not None:
                self._alphas.append(objective.parameters[expressions.ALPHA] or 1.0 / largest)
            real_filters, synthetic_filters = (
                [
                    term.build_filter(beta, objective.parameters, largest=largest, synthetic=synthetic)
                    for term in self.terms
                ]
                for synthetic in (False, True)
            )
            self._real.append(filtered_signals(self.terms, real_filters, moments))
            self._filters.append(synthetic_filters)
            for term, real_filter, filtered in zip(self.terms, real_filters, self._real[-1], strict=True):
                if not bool(filtered.isfinite().all()):
                    raise _real_side_error(term, real_filter, moments, beta)
        device = real[0].mean_D.device
        weights_T1 = torch.tensor([term.weight for term in self.terms], device=device).reshape(-1, 1)
        weights_TL = weights_T1.repeat(1, len(real))
        patches = f"{real[0].name}/"  # the first layer's patches may be a second tap of that layer
        first = [n for n, tap in enumerate(real) if n == 0 or tap.name.startswith(patches)]
        weights_TL[:, first] *= objective.first_tap
        self._weights_TL = weights_TL

    def values(self, synthetic: Sequence[Moments]) -> Tensor:
        """Return every unweighted term at every tap, shape (T, L); differentiable."""
        columns = []
        sides = zip(synthetic, self._filters, self._real, self._invert_ridges(synthetic), strict=True)
        for moments, term_filters, real, inverses in sides:
            filtered = filtered_signals(self.terms, term_filters, moments, inverses)
            columns += [torch.linalg.vector_norm(s - r) for s, r in zip(filtered, real, strict=True)]
        if not columns:
            return self._weights_TL.new_zeros(0, len(self._real))
        return torch.stack(columns).reshape(len(self._real), -1).T

    def _invert_ridges(self, synthetic: Sequence[Moments]) -> list[dict[Filter, Tensor]]:
        """Return f(Ψ) of each tap for the ridge filter, if a term has it."""
        if not any(term.filter_class is Ridge for term in self.terms):
            return [{} for _ in synthetic]
        operands = list[tuple[Tensor, ...]]()
        for tap in synthetic:
            if tap.low_rank is None:
                assert tap.cov_DD is not None
                operands.append((tap.cov_DD,))
            else:
                operands.append((tap.low_rank.rows_ND, self._constants[tap.name]))
        inverses = matrix_functions.invert_ridges(operands, self.beta)
        return [{Ridge(self.beta): inverse_DD} for inverse_DD in inverses]

    def loss(self, values_TL: Tensor, ce: Tensor, scale: Tensor | None = None) -> Tensor:
        """Return the cross-entropy plus the weighted terms (Eq. 21). scale: another factor on all terms."""
        terms = (self._weights_TL * values_TL).sum()
        return self.ce_weight * ce + (terms if scale is None else scale * terms)

    def gradient_norms(self, values_TL: Tensor, ce: Tensor, images_MCHW: Tensor) -> Tensor:
        """Return ‖∇‖ of the weighted terms and of the weighted CE in the images, shape (2,).

        The graph is kept.
        """
        parts = ((self._weights_TL * values_TL).sum(), self.ce_weight * ce)
        gradients = [
            torch.autograd.grad(part, images_MCHW, retain_graph=True, materialize_grads=True)[0]
            for part in parts
        ]
        return torch.stack([torch.linalg.vector_norm(gradient) for gradient in gradients])

    def find_divergence(self, synthetic: Sequence[Moments]) -> tuple[str, float] | None:
        """Return the tap with the largest α·λ_max(Ψ_s) and that value; None where it is below 2 everywhere.

        From 2 on, the series of MTT's term diverges on the synthetic side.
        """
        products = [
            (alpha * moments.largest_eigenvalue, moments.name)
            for alpha, moments in zip(self._alphas, synthetic, strict=True)
            if moments.cov_DD is not None and bool(moments.cov_DD.isfinite().all())
        ]
        product, name = max(products, default=(0.0, ""))
        return (name, product) if product >= 2 else None


def non_finite_error(term: config.Term, where: str, beta: float) -> UserError:
    """Return the error for a filter that gives no finite value although the statistics are finite."""
    if term.filter_class is Ridge:
        return UserError(
            "numeric",
            f"Ψ + βI of {where} is singular at β = {beta:.3g}",
            "raise objective.beta, or give the schedule a floor with objective.schedule.beta_min",
        )
    if term.filter is not None:
        return UserError("numeric", f"the term {term.title} of {where} is not finite", "use another teacher")
    return UserError(
        "numeric",
        f"f = {' or '.join(term.sides)} has no finite value or derivative at an eigenvalue of {where},"
        f" at β = {beta:.3g}",
        "avoid poles, and roots and logarithms of 0, in f: write lambda + beta, with beta > 0",
    )


def _real_side_error(term: config.Term, real_filter: Filter, moments: Moments, beta: float) -> UserError:
    """Return the error for a filter that gives no finite value at a real tap.

    If f is finite at the eigenvalues of Ψ, Ψ + βI is too ill-conditioned for float32. An inverse of the real
    Ψ in float64 would not help: synthetic statistics, which approach the real ones, are filtered in float32.
    """
    if moments.cov_DD is None:
        return non_finite_error(term, f"real tap {moments.name}", beta)
    values_D = np.linalg.eigvalsh(moments.cov_DD.cpu().double().numpy()).clip(min=0.0)
    with np.errstate(all="ignore"):
        is_defined = bool(np.isfinite(real_filter.response(values_D)).all())
    if not is_defined:
        return non_finite_error(term, f"real tap {moments.name}", beta)
    smallest, largest = values_D[[0, -1]].tolist()
    return UserError(
        "numeric",
        f"Ψ + βI of real tap {moments.name} is too ill-conditioned for float32 at β = {beta:.3g}: its"
        f" condition number is {(largest + beta) / (smallest + beta):.1e}, and λ_max of Ψ is {largest:.3g}",
        f"raise objective.beta or objective.schedule.beta_min, to about {1e-6 * largest:.1g}, or use another"
        " teacher: the features of this one are very large",
    )


def placeholder_moments(objective: config.Objective, sizes: Mapping[str, int], classes: int) -> list[Moments]:
    """Return moments of the right shapes whose values do not matter.

    Ψ is λI, with the λ nearest to 1 at which every term is finite. sizes: D of each tap.
    """

    def is_finite_at(value: float) -> bool:
        with np.errstate(all="ignore"):
            return all(
                np.isfinite(term_filter.response(np.float64(value)))
                for synthetic in (False, True)
                for term_filter in (
                    term.build_filter(
                        objective.beta, objective.parameters, largest=value, synthetic=synthetic
                    )
                    for term in objective.terms
                )
            )

    probes = sorted(expressions.PROBES.tolist(), key=lambda value: abs(math.log(value)))
    value = next(filter(is_finite_at, probes), 1.0)
    return [
        Moments(name, torch.zeros(d), torch.ones(d), value * torch.eye(d), torch.zeros(d, classes))
        for name, d in sizes.items()
    ]


def _uses_alpha(terms: Sequence[config.Term]) -> bool:
    texts = (text for term in terms for text in term.sides)
    return any(expressions.ALPHA in expressions.names(expressions.parse(text)) for text in texts)


def _compute_lambda_max(objective: config.Objective, moments: Moments) -> float:
    """Return λ_max of a real tap.

    Raises UserError: "config" where α is not below 2/λ_max, "numeric" where Ψ is zero and α defaults to
    1/λ_max.
    """
    largest = moments.largest_eigenvalue
    alpha = objective.parameters[expressions.ALPHA]
    if alpha is None and largest <= 0:
        raise UserError(
            "numeric",
            f"Ψ of real tap {moments.name} is zero, so there is no α = 1/λ_max",
            "set objective.parameters.alpha to a number",
        )
    if alpha is not None and alpha * largest >= 2:
        raise UserError(
            "config",
            f"objective.parameters.alpha = {alpha:g} is too large for real tap {moments.name}: its λ_max is"
            f" {largest:.4g}, and alpha must be below 2/λ_max = {2 / largest:.4g}",
            "lower it, or set objective.parameters.alpha=null to use 1/λ_max of each tap",
        )
    return largest


def score(
    objective: config.Objective, real: Sequence[Moments], synthetic: Sequence[Moments], ce: float
) -> dict[str, Any]:
    """Compute the UniDD lens: every unweighted term and both spectra, in float64.

    Returns ``{"beta", "ce", "layers": [{"name", "eigenvalues_real", "eigenvalues_synthetic",
    "terms": [{"filter", "signal", "value"}]}]}``, with "f" where a term is an expression; eigenvalues
    descend, null where Ψ is not measured.
    """
    cpu = torch.device("cpu")
    real = [moments.to(cpu, torch.float64) for moments in real]
    synthetic = [moments.to(cpu, torch.float64) for moments in synthetic]
    matching_loss = MatchingLoss(objective, real, objective.beta)
    values_TL = matching_loss.values(synthetic)
    layers = []
    for index, (r, s) in enumerate(zip(real, synthetic, strict=True)):
        for term, value in zip(matching_loss.terms, values_TL[:, index].tolist(), strict=True):
            if not math.isfinite(value):
                raise non_finite_error(term, f"the scored images at tap {s.name}", objective.beta)
        terms = [
            {"filter": term.label, "signal": term.signal, "value": float(values_TL[t, index])}
            | ({"f": list(term.sides)} if term.sides else {})
            for t, term in enumerate(matching_loss.terms)
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
    """Return the eigenvalues of Ψ, largest first, or None where Ψ was not measured."""
    if moments.cov_DD is None:
        return None
    eigenvalues: list[float] = torch.linalg.eigvalsh(moments.cov_DD.cpu()).flip(0).tolist()
    return eigenvalues


SpectrumPair = tuple[NDArray[np.float32], NDArray[np.float32]]  #: eigenvalues of Ψ and Ψ_s, largest first


class Spectra:
    """Pairs of the spectra of Ψ and Ψ_s; the real spectra are computed once, on first use.

    real: the taps with a measured Ψ. sizes: the number of its eigenvalues by tap.
    """

    def __init__(self, real: Sequence[Moments]) -> None:
        self.sizes = {tap.name: len(tap.mean_D) for tap in real}
        self._taps = real
        self._real: dict[str, NDArray[np.float32] | None] = {}
        self._created = time.monotonic()
        self._seconds = 0.0

    def pair_with(self, synthetic: Sequence[Moments]) -> dict[str, SpectrumPair]:
        """Return (real, synthetic) eigenvalues by tap, largest first; taps without both are omitted."""
        began = time.monotonic()
        if not self._real:
            self._real = {tap.name: _compute_spectrum(tap) for tap in self._taps}
        spectra = {}
        for tap in synthetic:
            real_D = self._real.get(tap.name)
            synthetic_D = None if real_D is None else _compute_spectrum(tap)
            if real_D is not None and synthetic_D is not None:
                spectra[tap.name] = real_D, synthetic_D
        self._seconds += time.monotonic() - began
        return spectra

    def share_of_time(self) -> float:
        """Return the share of the time since the creation of this object that `pair_with` took."""
        return self._seconds / max(time.monotonic() - self._created, 1e-9)


def _compute_spectrum(tap: Moments) -> NDArray[np.float32] | None:
    """Return the spectrum of Ψ, or None where Ψ was not measured or its decomposition fails."""
    try:
        eigenvalues = spectrum(tap)
    except RuntimeError:  # the values are not finite, or the decomposition did not converge
        return None
    return None if eigenvalues is None else np.array(eigenvalues, np.float32)


def cross_entropy(logits_MK: Tensor, labels_M: Tensor) -> Tensor:
    """Return the mean cross-entropy of the true labels."""
    return F.cross_entropy(widen(logits_MK), labels_M)
