"""Filters f applied to a whole correlation matrix: f(Ψ) = U f(Λ) Uᵀ for Ψ = U Λ Uᵀ, and its gradient.

Named filters need no eigendecomposition, and rational expressions are computed from products and inverses of
the matrix. All others use its eigenvalues and eigenvectors; their gradient is U (F ∘ UᵀGU) Uᵀ (Daleckii and
Krein), where F_ij is (f(λ_i) − f(λ_j)) / (λ_i − λ_j), and f'(λ_i) where both are equal. F is composed along
the expression without subtracting nearly equal numbers, so it is accurate however close the eigenvalues are.
Legend: D feature dimension. Source: UniDD Eq. 2.
Not here: f(λ) of single eigenvalues (see `engine.config.filters`), and correlations (see `moments`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from engine.config import expressions
from engine.config.expressions import Call, Node, Number, Operation, Symbol
from engine.config.filters import Diagonal, Expression, Filter, Identity, Lambda, Ridge

BATCHED_DEVICES = {"cuda"}  #: types of device on which taps of the same shapes are inverted in one call


class Inverse(torch.autograd.Function):
    """f = (M + shift·I)⁻¹ of a symmetric M, with df = −f·dM·f.

    NaN throughout where M + shift·I is singular, so that a wrong inverse is never used.
    """

    @staticmethod
    def forward(ctx: Any, matrix_DD: Tensor, shift: float, definite: bool = True) -> Tensor:
        """Return the inverse, shape (…, D, D).

        definite: use a Cholesky factor, which treats every matrix that is not positive definite as singular;
        otherwise use a general inverse.
        """
        shifted_DD = matrix_DD.clone()
        shifted_DD.diagonal(dim1=-2, dim2=-1).add_(shift)
        if definite:
            factor_DD, info = torch.linalg.cholesky_ex(shifted_DD)
            diagonal_D = factor_DD.diagonal(dim1=-2, dim2=-1)
            diagonal_D.masked_fill_(diagonal_D == 0, 1.0)  # `info` reports it, without an exception
            inverse_DD = torch.cholesky_inverse(factor_DD)
        else:
            inverse_DD, info = torch.linalg.inv_ex(shifted_DD)
            inverse_DD = (inverse_DD + inverse_DD.mT) / 2
        inverse_DD += torch.where(info == 0, 0.0, torch.nan)[..., None, None]
        ctx.save_for_backward(inverse_DD)
        return inverse_DD

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None, None]:
        """Return −f·G·f."""
        (inverse_DD,) = ctx.saved_tensors
        return (inverse_DD @ gradients[0] @ inverse_DD).neg_(), None, None


class LowRankInverse(torch.autograd.Function):
    """f = (C⁻¹ + AᵀA)⁻¹ of A, shape (N, D), and a constant C, shape (D, D); cheap where N is less than D.

    With P = AC, LLᵀ = I + PAᵀ and V = L⁻¹P (Woodbury), f = C − VᵀV and Af = L⁻ᵀV. The gradient goes to A at
    once, as −Af·(G + Gᵀ)·f. NaN throughout where I + PAᵀ is not positive definite.
    """

    @staticmethod
    def forward(ctx: Any, rows_ND: Tensor, constant_DD: Tensor) -> Tensor:
        """Return the inverse, shape (…, D, D)."""
        product_ND = rows_ND @ constant_DD
        system_NN = product_ND @ rows_ND.mT
        system_NN.diagonal(dim1=-2, dim2=-1).add_(1.0)
        factor_NN, info = torch.linalg.cholesky_ex(system_NN)
        identity_NN = torch.eye(rows_ND.shape[-2], dtype=rows_ND.dtype, device=rows_ND.device)
        # Solved for N columns and then multiplied: faster than solved for D columns, and twice.
        half_NN: Tensor = torch.linalg.solve_triangular(factor_NN, identity_NN, upper=False)
        half_ND = half_NN @ product_ND
        inverse_DD = constant_DD - half_ND.mT @ half_ND
        inverse_DD += torch.where(info == 0, 0.0, torch.nan)[..., None, None]
        filtered_ND = half_NN.mT @ half_ND
        ctx.save_for_backward(filtered_ND, inverse_DD)
        return inverse_DD

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        """Return −Af·(G + Gᵀ)·f."""
        filtered_ND, inverse_DD = ctx.saved_tensors
        return (filtered_ND @ (gradients[0] + gradients[0].mT) @ inverse_DD).neg_(), None


def invert_constant(cov_DD: Tensor, share: float, beta: float) -> Tensor:
    """Return C = (share·Ψ + βI)⁻¹ of `LowRankInverse`, computed in float64 on the CPU, as Ψ's type.

    NaN throughout where the matrix is singular.
    """
    inverse_DD: Tensor = Inverse.apply(share * cov_DD.cpu().double(), beta)
    constant_DD: Tensor = inverse_DD.to(cov_DD.dtype).to(cov_DD.device)
    return constant_DD


def invert_ridges(operands: Sequence[Sequence[Tensor]], beta: float) -> list[Tensor]:
    """Return f(Ψ) = (Ψ + βI)⁻¹ of several taps, each given by Ψ alone or, in low-rank form, by A and C.

    On devices in BATCHED_DEVICES, taps of the same shapes are stacked and inverted in one call. This copies
    their operands and may round differently from inverting each tap by itself.
    """
    groups: dict[Any, list[int]] = {}
    for index, tensors in enumerate(operands):
        together = tensors[0].device.type in BATCHED_DEVICES
        groups.setdefault(tuple(x.shape for x in tensors) if together else index, []).append(index)
    inverses: dict[int, Tensor] = {}
    for indices in groups.values():
        stacked = operands[indices[0]]
        if len(indices) > 1:
            stacked = [torch.stack(each) for each in zip(*(operands[i] for i in indices), strict=True)]
        inverse = Inverse.apply(stacked[0], beta) if len(stacked) == 1 else LowRankInverse.apply(*stacked)
        inverses |= zip(indices, inverse.unbind() if len(indices) > 1 else [inverse], strict=True)
    return [inverses[index] for index in range(len(operands))]


def apply(spectral_filter: Filter, cov_DD: Tensor) -> Tensor:
    """Return f(Ψ), shape (D, D), and for the diagonal filter shape (D,).

    NaN throughout where f is undefined at an eigenvalue: no error is raised, because checking for one would
    synchronise with the device at every step. A rational expression is computed by products and inverses, any
    other by an eigendecomposition, which alone synchronises, inside PyTorch.
    """
    match spectral_filter:
        case Ridge(beta):
            inverse_DD: Tensor = Inverse.apply(cov_DD, beta)
            return inverse_DD
        case Lambda():
            return cov_DD
        case Diagonal():
            return cov_DD.diagonal()
        case Identity():
            return torch.eye(len(cov_DD), dtype=cov_DD.dtype, device=cov_DD.device)
        case Expression(tree) if expressions.is_rational(tree):
            return apply_rational(tree, cov_DD)
        case Expression(tree):
            return apply_by_eigenvalues(tree, cov_DD)
    raise AssertionError(spectral_filter)


# --- matrix form ---------------------------------------------------------------------------------


def apply_rational(bound: Node, cov_DD: Tensor) -> Tensor:
    """Return f(Ψ) of a rational f, by products and inverses; repeated subexpressions are computed once."""
    value = _MatrixEvaluator(cov_DD).evaluate(bound)
    if isinstance(value, Tensor):
        return value
    return torch.eye(len(cov_DD), dtype=cov_DD.dtype, device=cov_DD.device) * value


MatrixOrScalar = Tensor | float  #: a matrix, or a multiple of the identity


class _MatrixEvaluator:
    """Evaluates the subexpressions of one expression at one Ψ, each at most once."""

    def __init__(self, cov_DD: Tensor) -> None:
        self._cov_DD = cov_DD
        self._cache: dict[tuple[str, Node], MatrixOrScalar] = {}

    def evaluate(self, node: Node) -> MatrixOrScalar:
        """Return the value of a subexpression."""
        return self._compute_once("value", node, self._compute)

    def invert(self, node: Node) -> MatrixOrScalar:
        """Return the inverse of the value of a subexpression."""
        return self._compute_once("inverse", node, self._compute_inverse)

    def _compute_once(
        self, kind: str, node: Node, compute: Callable[[Node], MatrixOrScalar]
    ) -> MatrixOrScalar:
        if (kind, node) not in self._cache:
            self._cache[kind, node] = compute(node)
        return self._cache[kind, node]

    def _compute(self, node: Node) -> MatrixOrScalar:
        match node:
            case Number(value):
                return value
            case Symbol():
                return self._cov_DD
            case Operation("+", left, right):
                return _add(self.evaluate(left), self.evaluate(right))
            case Operation("-", left, right):
                return _add(self.evaluate(left), _multiply(-1.0, self.evaluate(right)))
            case Operation("*", left, right):
                return _multiply(self.evaluate(left), self.evaluate(right))
            case Operation("/", left, right):
                return _multiply(self.evaluate(left), self.invert(right))
            case Operation("**", base, Number(power)):
                return self._compute_power(base, int(power))
            case Call("geometric", (x, Number(count))):
                return _narrow(expressions.geometric(self.evaluate(x), int(count), _multiply, _add))
        raise AssertionError(node)

    def _compute_power(self, base: Node, count: int) -> MatrixOrScalar:
        if count == 0:
            return 1.0
        value = self.evaluate(base) if count > 0 else self.invert(base)
        return expressions.power(value, abs(count), _multiply)

    def _compute_inverse(self, node: Node) -> MatrixOrScalar:
        """Return the inverse, from inverses of factors: they are better conditioned than their product."""
        match node:
            case Operation("*", left, right):
                return _multiply(self.invert(left), self.invert(right))
            case Operation("/", left, right):
                return _multiply(self.invert(left), self.evaluate(right))
            case Operation("**", base, Number(power)):
                return self._compute_power(base, -int(power))
        value = self.evaluate(node)
        if isinstance(value, float):  # a multiple of the identity, as Ψ⁰ is
            return 1.0 / value if value else float("nan")
        return _narrow(Inverse.apply(value, 0.0, expressions.is_nonnegative(node)))


def _narrow(value: Any) -> MatrixOrScalar:
    """Narrow the type of a value that untyped code returned."""
    assert isinstance(value, Tensor | float)
    return value


def _add(a: MatrixOrScalar, b: MatrixOrScalar) -> MatrixOrScalar:
    if isinstance(a, Tensor) == isinstance(b, Tensor):
        return a + b
    matrix_DD, number = (a, b) if isinstance(a, Tensor) else (b, a)
    assert isinstance(matrix_DD, Tensor)
    shifted_DD = matrix_DD.clone()
    shifted_DD.diagonal().add_(number)
    return shifted_DD


def _multiply(a: MatrixOrScalar, b: MatrixOrScalar) -> MatrixOrScalar:
    return a @ b if isinstance(a, Tensor) and isinstance(b, Tensor) else a * b


# --- eigen form ----------------------------------------------------------------------------------


def apply_by_eigenvalues(bound: Node, cov_DD: Tensor) -> Tensor:
    """Return f(Ψ) of any f by an eigendecomposition; eigenvalues that rounding left below 0 are set to 0.

    NaN throughout where f is undefined at an eigenvalue, or has no derivative there and a gradient is needed.
    """
    filtered_DD: Tensor = _Spectral.apply(cov_DD, bound)
    return filtered_DD


class _Spectral(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, cov_DD: Tensor, bound: Node) -> Tensor:
        finite = cov_DD.isfinite().all()
        finite_DD = torch.where(finite, cov_DD, 0.0)
        if finite_DD.device.type == "mps":  # MPS has no eigendecomposition
            finite_DD = finite_DD.cpu()
        try:
            values_D, vectors_DD = (x.to(cov_DD.device) for x in torch.linalg.eigh(finite_DD))
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # it did not converge
            return torch.full_like(cov_DD, torch.nan)
        f_D, f_DD = compute_divided_differences(bound, values_D.clamp(min=0.0))
        is_valid = finite & f_D.isfinite().all()
        if ctx.needs_input_grad[0]:
            is_valid = is_valid & f_DD.isfinite().all()
            ctx.save_for_backward(vectors_DD, f_DD)
        filtered_DD: Tensor = (vectors_DD * f_D) @ vectors_DD.mT + torch.where(is_valid, 0.0, torch.nan)
        return filtered_DD

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, None]:
        if not ctx.saved_tensors:
            return torch.full_like(gradients[0], torch.nan), None
        vectors_DD, f_DD = ctx.saved_tensors
        inner_DD = vectors_DD.mT @ gradients[0] @ vectors_DD
        return vectors_DD @ (f_DD * (inner_DD + inner_DD.mT) / 2) @ vectors_DD.mT, None


Divided = tuple[Tensor, Tensor]  #: f(λ_i) of shape (D,), and F of shape (D, D)


def compute_divided_differences(  # noqa: C901 - one case for each kind of node
    bound: Node, values_D: Tensor
) -> Divided:
    """Return f of each value, and the divided differences of all pairs (the derivative where equal)."""
    ones_DD = values_D.new_ones(len(values_D), len(values_D))

    def constant(value: float) -> Divided:
        return torch.full_like(values_D, value), torch.zeros_like(ones_DD)

    def multiply(a: Divided | float, b: Divided | float) -> Divided:
        a, b = (constant(x) if isinstance(x, float) else x for x in (a, b))
        return a[0] * b[0], a[1] * b[0] + a[0].unsqueeze(1) * b[1]

    def add(a: Divided | float, b: Divided | float) -> Divided:
        a, b = (constant(x) if isinstance(x, float) else x for x in (a, b))
        return a[0] + b[0], a[1] + b[1]

    def evaluate(node: Node) -> Divided:
        match node:
            case Number(value):
                return constant(value)
            case Symbol():
                return values_D, ones_DD
            case Operation("+", left, right):
                return add(evaluate(left), evaluate(right))
            case Operation("-", left, right):
                return add(evaluate(left), multiply(-1.0, evaluate(right)))
            case Operation("*", left, right):
                return multiply(evaluate(left), evaluate(right))
            case Operation("/", left, right):
                return multiply(evaluate(left), _reciprocal(evaluate(right)))
            case Operation("**", base, exponent):
                return _raise_to_power(evaluate(base), exponent, evaluate, multiply)
            case Call("geometric", (x, Number(count))):
                series: Divided = expressions.geometric(evaluate(x), int(count), multiply, add)
                return series
            case Call(name, (x,)):
                return _CHAIN[name](*evaluate(x))
        raise AssertionError(node)

    return evaluate(bound)


def _raise_to_power(
    base: Divided,
    exponent: Node,
    evaluate: Callable[[Node], Divided],
    multiply: Callable[[Divided, Divided], Divided],
) -> Divided:
    """Return the base to the power of a number, or of another expression by way of exp and log."""
    if not isinstance(exponent, Number):
        return _exp(*multiply(evaluate(exponent), _log(*base)))
    if not expressions.is_whole(exponent):
        return _real_power(*base, exponent.value)
    count = int(exponent.value)
    if count == 0:
        return torch.ones_like(base[0]), torch.zeros_like(base[1])
    return expressions.power(base if count > 0 else _reciprocal(base), abs(count), multiply)


def _reciprocal(inner: Divided) -> Divided:
    g_D, g_DD = inner
    return 1.0 / g_D, -g_DD / (g_D.unsqueeze(1) * g_D)


def _order_pairs(g_D: Tensor) -> tuple[Tensor, Tensor]:
    """Return the greater and the lesser of each pair, shape (D, D) each."""
    return torch.maximum(g_D.unsqueeze(1), g_D), torch.minimum(g_D.unsqueeze(1), g_D)


def _exp(g_D: Tensor, g_DD: Tensor) -> Divided:
    high_DD, low_DD = _order_pairs(g_D)
    gap_DD = high_DD - low_DD
    share_DD = torch.where(gap_DD > 0, -torch.expm1(-gap_DD) / gap_DD, 1.0)
    return g_D.exp(), g_DD * high_DD.exp() * share_DD


def _log(g_D: Tensor, g_DD: Tensor) -> Divided:
    high_DD, low_DD = _order_pairs(g_D)
    gap_DD = (high_DD - low_DD) / high_DD
    share_DD = torch.where(gap_DD > 0, -torch.log1p(-gap_DD) / gap_DD, 1.0)
    return g_D.log(), g_DD * share_DD / high_DD


def _real_power(g_D: Tensor, g_DD: Tensor, power: float) -> Divided:
    """Return g^power for g ≥ 0; of a pair, high^(power−1) · (1 − r^power)/(1 − r) with r = low/high."""
    high_DD, low_DD = _order_pairs(g_D)
    gap_DD = torch.where(high_DD > 0, (high_DD - low_DD) / high_DD, 0.0)  # 1 − r
    share_DD = torch.where(gap_DD > 0, -torch.expm1(power * torch.log1p(-gap_DD)) / gap_DD, power)
    return g_D**power, g_DD * high_DD ** (power - 1.0) * share_DD


def _abs(g_D: Tensor, g_DD: Tensor) -> Divided:
    high_DD, low_DD = _order_pairs(g_D)
    sizes_DD = high_DD.abs() + low_DD.abs()
    return g_D.abs(), g_DD * torch.where(sizes_DD > 0, (high_DD + low_DD) / sizes_DD, 0.0)


_CHAIN: dict[str, Callable[[Tensor, Tensor], Divided]] = {
    "sqrt": lambda g_D, g_DD: _real_power(g_D, g_DD, 0.5),
    "exp": _exp,
    "log": _log,
    "abs": _abs,
}
