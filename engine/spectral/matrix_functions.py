"""f(Ψ) = U f(Λ) Uᵀ of any expression f(λ), and its gradient.

Rational expressions are calculated with the matrix itself. All others go by its eigenvalues and
eigenvectors; their gradient is U (F ∘ UᵀGU) Uᵀ (Daleckii and Krein), where F_ij is
(f(λ_i) − f(λ_j)) / (λ_i − λ_j), and f'(λ_i) where both are equal. F is put together along the expression
without a difference of nearly equal numbers, so eigenvalues may lie as close as they like.
Legend: D feature dimension. Source: UniDD Eq. 2.
Not here: which expressions there are (see `formula`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from engine.config import expressions
from engine.config.expressions import Call, Node, Number, Operation, Symbol

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sqrt": torch.sqrt,
    "exp": torch.exp,
    "log": torch.log,
    "abs": torch.abs,
}


class Inverse(torch.autograd.Function):
    """(M + shift·I)⁻¹ of a symmetric M; the gradient through it is −f·dM·f.

    NaN throughout where it is singular, so that nothing false goes on.
    """

    @staticmethod
    def forward(ctx: Any, matrix_DD: Tensor, shift: float, definite: bool = True) -> Tensor:
        """definite: by Cholesky, where only what is positive definite is regular; else by a general solve."""
        shifted_DD = matrix_DD.clone()
        shifted_DD.diagonal().add_(shift)
        if definite:
            factor_DD, info = torch.linalg.cholesky_ex(shifted_DD)
            diagonal_D = factor_DD.diagonal()
            diagonal_D.masked_fill_(diagonal_D == 0, 1.0)  # `info` tells; an exception would lose the place
            inverse_DD = torch.cholesky_inverse(factor_DD)
        else:
            inverse_DD, info = torch.linalg.inv_ex(shifted_DD)
            inverse_DD = (inverse_DD + inverse_DD.mT) / 2
        inverse_DD += torch.where(info == 0, 0.0, torch.nan)
        ctx.save_for_backward(inverse_DD)
        return inverse_DD

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None, None]:
        """−f·G·f."""
        (inverse_DD,) = ctx.saved_tensors
        return (inverse_DD @ gradients[0] @ inverse_DD).neg_(), None, None


def apply(bound: Node, cov_DD: Tensor) -> Tensor:
    """f(Ψ), shape (D, D), by whichever form fits; NaN throughout where f has no value at an eigenvalue.

    Nothing here waits for the device, but for the eigenvalues that PyTorch itself waits for.
    """
    return by_matrix(bound, cov_DD) if expressions.is_rational(bound) else by_eigenvalues(bound, cov_DD)


# --- matrix form ---------------------------------------------------------------------------------


def by_matrix(bound: Node, cov_DD: Tensor) -> Tensor:
    """f(Ψ) of a rational f, by products and inverses; a part that comes twice is calculated once."""
    found = _Matrices(cov_DD).of(bound)
    if isinstance(found, Tensor):
        return found
    return torch.eye(len(cov_DD), dtype=cov_DD.dtype, device=cov_DD.device) * found


Part = Tensor | float  #: a matrix, or a multiple of the identity


class _Matrices:
    """What parts of one expression make of one Ψ."""

    def __init__(self, cov_DD: Tensor) -> None:
        self._cov_DD = cov_DD
        self._known: dict[tuple[str, Node], Part] = {}

    def of(self, node: Node) -> Part:
        """The part itself."""
        return self._once("itself", node, self._calculated)

    def inverse(self, node: Node) -> Part:
        """Its inverse."""
        return self._once("inverse", node, self._inverted)

    def _once(self, what: str, node: Node, calculate: Callable[[Node], Part]) -> Part:
        if (what, node) not in self._known:
            self._known[what, node] = calculate(node)
        return self._known[what, node]

    def _calculated(self, node: Node) -> Part:
        match node:
            case Number(value):
                return value
            case Symbol():
                return self._cov_DD
            case Operation("+", left, right):
                return _plus(self.of(left), self.of(right))
            case Operation("-", left, right):
                return _plus(self.of(left), _times(-1.0, self.of(right)))
            case Operation("*", left, right):
                return _times(self.of(left), self.of(right))
            case Operation("/", left, right):
                return _times(self.of(left), self.inverse(right))
            case Operation("**", base, Number(power)):
                return self._power(base, int(power))
            case Call("geometric", (x, Number(count))):
                return _part(expressions.geometric(self.of(x), int(count), _times, _plus))
        raise AssertionError(node)

    def _power(self, base: Node, count: int) -> Part:
        if count == 0:
            return 1.0
        return expressions.power(self.of(base) if count > 0 else self.inverse(base), abs(count), _times)

    def _inverted(self, node: Node) -> Part:
        """By inverses of factors: they are better conditioned than what they multiply to."""
        match node:
            case Operation("*", left, right):
                return _times(self.inverse(left), self.inverse(right))
            case Operation("/", left, right):
                return _times(self.inverse(left), self.of(right))
            case Operation("**", base, Number(power)):
                return self._power(base, -int(power))
        found = self.of(node)
        if isinstance(found, float):  # a multiple of the identity, as Ψ⁰ is
            return 1.0 / found if found else float("nan")
        return _part(Inverse.apply(found, 0.0, expressions.is_nonnegative(node)))


def _part(found: Any) -> Part:
    assert isinstance(found, Tensor | float)
    return found


def _plus(a: Part, b: Part) -> Part:
    if isinstance(a, Tensor) == isinstance(b, Tensor):
        return a + b
    matrix_DD, number = (a, b) if isinstance(a, Tensor) else (b, a)
    assert isinstance(matrix_DD, Tensor)
    shifted_DD = matrix_DD.clone()
    shifted_DD.diagonal().add_(number)
    return shifted_DD


def _times(a: Part, b: Part) -> Part:
    return a @ b if isinstance(a, Tensor) and isinstance(b, Tensor) else a * b


# --- eigen form ----------------------------------------------------------------------------------


def by_eigenvalues(bound: Node, cov_DD: Tensor) -> Tensor:
    """f(Ψ) of any f by an eigendecomposition. Rounding may leave an eigenvalue below 0: it counts as 0.

    NaN throughout also where a gradient is wanted and f has no derivative at an eigenvalue.
    """
    found_DD: Tensor = _Spectral.apply(cov_DD, bound)
    return found_DD


class _Spectral(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, cov_DD: Tensor, bound: Node) -> Tensor:
        finite = cov_DD.isfinite().all()
        known_DD = torch.where(finite, cov_DD, 0.0)
        if known_DD.device.type == "mps":  # which knows no eigendecomposition
            known_DD = known_DD.cpu()
        try:
            values_D, vectors_DD = (x.to(cov_DD.device) for x in torch.linalg.eigh(known_DD))
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # it did not converge
            return torch.full_like(cov_DD, torch.nan)
        f_D, f_DD = divided(bound, values_D.clamp(min=0.0))
        fit = finite & f_D.isfinite().all()
        if ctx.needs_input_grad[0]:
            fit = fit & f_DD.isfinite().all()
            ctx.save_for_backward(vectors_DD, f_DD)
        found_DD: Tensor = (vectors_DD * f_D) @ vectors_DD.mT + torch.where(fit, 0.0, torch.nan)
        return found_DD

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, None]:
        if not ctx.saved_tensors:
            return torch.full_like(gradients[0], torch.nan), None
        vectors_DD, f_DD = ctx.saved_tensors
        inner_DD = vectors_DD.mT @ gradients[0] @ vectors_DD
        return vectors_DD @ (f_DD * (inner_DD + inner_DD.mT) / 2) @ vectors_DD.mT, None


Divided = tuple[Tensor, Tensor]  #: f(λ_i) of shape (D,), and F of shape (D, D)


def divided(bound: Node, values_D: Tensor) -> Divided:  # noqa: C901 - one case for each kind of node
    """f of each value, and its divided differences between all pairs; the derivative where both are equal."""
    ones_DD = values_D.new_ones(len(values_D), len(values_D))

    def constant(value: float) -> Divided:
        return torch.full_like(values_D, value), torch.zeros_like(ones_DD)

    def times(a: Divided | float, b: Divided | float) -> Divided:
        a, b = (constant(x) if isinstance(x, float) else x for x in (a, b))
        return a[0] * b[0], a[1] * b[0] + a[0].unsqueeze(1) * b[1]

    def plus(a: Divided | float, b: Divided | float) -> Divided:
        a, b = (constant(x) if isinstance(x, float) else x for x in (a, b))
        return a[0] + b[0], a[1] + b[1]

    def of(node: Node) -> Divided:
        match node:
            case Number(value):
                return constant(value)
            case Symbol():
                return values_D, ones_DD
            case Operation("+", left, right):
                return plus(of(left), of(right))
            case Operation("-", left, right):
                return plus(of(left), times(-1.0, of(right)))
            case Operation("*", left, right):
                return times(of(left), of(right))
            case Operation("/", left, right):
                return times(of(left), _reciprocal(of(right)))
            case Operation("**", base, exponent):
                return _raised(of(base), exponent, of, times)
            case Call("geometric", (x, Number(count))):
                found: Divided = expressions.geometric(of(x), int(count), times, plus)
                return found
            case Call(name, (x,)):
                return _CHAIN[name](*of(x))
        raise AssertionError(node)

    return of(bound)


def _raised(
    base: Divided,
    exponent: Node,
    of: Callable[[Node], Divided],
    times: Callable[[Divided, Divided], Divided],
) -> Divided:
    """base to the power of a number, or of another expression by way of exp and log."""
    if not isinstance(exponent, Number):
        return _exp(*times(of(exponent), _log(*base)))
    if not expressions.is_whole(exponent):
        return _real_power(*base, exponent.value)
    count = int(exponent.value)
    if count == 0:
        return torch.ones_like(base[0]), torch.zeros_like(base[1])
    return expressions.power(base if count > 0 else _reciprocal(base), abs(count), times)


def _reciprocal(inner: Divided) -> Divided:
    g_D, g_DD = inner
    return 1.0 / g_D, -g_DD / (g_D.unsqueeze(1) * g_D)


def _ends(g_D: Tensor) -> tuple[Tensor, Tensor]:
    """The greater and the lesser of each pair."""
    return torch.maximum(g_D.unsqueeze(1), g_D), torch.minimum(g_D.unsqueeze(1), g_D)


def _exp(g_D: Tensor, g_DD: Tensor) -> Divided:
    high_DD, low_DD = _ends(g_D)
    gap_DD = high_DD - low_DD
    share_DD = torch.where(gap_DD > 0, -torch.expm1(-gap_DD) / gap_DD, 1.0)
    return g_D.exp(), g_DD * high_DD.exp() * share_DD


def _log(g_D: Tensor, g_DD: Tensor) -> Divided:
    high_DD, low_DD = _ends(g_D)
    gap_DD = (high_DD - low_DD) / high_DD
    share_DD = torch.where(gap_DD > 0, -torch.log1p(-gap_DD) / gap_DD, 1.0)
    return g_D.log(), g_DD * share_DD / high_DD


def _real_power(g_D: Tensor, g_DD: Tensor, power: float) -> Divided:
    """g^power with g at least 0: of a pair, high^(power−1) · (1 − r^power)/(1 − r), r = low/high."""
    high_DD, low_DD = _ends(g_D)
    gap_DD = torch.where(high_DD > 0, (high_DD - low_DD) / high_DD, 0.0)  # 1 − r
    share_DD = torch.where(gap_DD > 0, -torch.expm1(power * torch.log1p(-gap_DD)) / gap_DD, power)
    return g_D**power, g_DD * high_DD ** (power - 1.0) * share_DD


def _abs(g_D: Tensor, g_DD: Tensor) -> Divided:
    high_DD, low_DD = _ends(g_D)
    sizes_DD = high_DD.abs() + low_DD.abs()
    return g_D.abs(), g_DD * torch.where(sizes_DD > 0, (high_DD + low_DD) / sizes_DD, 0.0)


_CHAIN: dict[str, Callable[[Tensor, Tensor], Divided]] = {
    "sqrt": lambda g_D, g_DD: _real_power(g_D, g_DD, 0.5),
    "exp": _exp,
    "log": _log,
    "abs": _abs,
}
