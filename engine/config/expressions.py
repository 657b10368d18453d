"""Expressions of an eigenvalue, as a person writes f(λ): parsed into a small tree, checked, calculated.

Known are numbers, `lambda` or λ, `beta` or β, an objective's parameters by their names, + - * / **,
parentheses, sqrt, exp, log, abs, and geometric(x, n) = Σ_{p<n} x^p. A text is taken apart, never run.
Not here: what an expression makes of a whole correlation matrix (see `spectral`).
"""

from __future__ import annotations

import ast
import difflib
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")
MAX_LENGTH = 200  #: characters of an expression
MAX_DEPTH = 64  #: of its tree
MAX_POWER = 10_000  #: of whole exponents that a matrix is raised to, and of the terms of `geometric`
LAMBDA, BETA, ALPHA = "lambda", "beta", "alpha"
SPELT = {"λ": LAMBDA, "β": BETA, "α": ALPHA}
FUNCTIONS = {"sqrt": 1, "exp": 1, "log": 1, "abs": 1, "geometric": 2}  #: arguments of each
PROBES = np.geomspace(1e-4, 1e2, 61)  #: eigenvalues at which an expression is tried

_TOKEN = re.compile(
    r"\s*(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?(?![\w.])|[^\W\d]\w*|\*\*|[-+*/(),])"
)
_WORD = re.compile(r"\blambda\b")  # a keyword to Python's parser, and so written as λ for it
_SIGNS: dict[type[ast.operator], str] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.Pow: "**",
}
_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "**": operator.pow,
}
_NUMPY: dict[str, Callable[[Any], Any]] = {"sqrt": np.sqrt, "exp": np.exp, "log": np.log, "abs": np.abs}


class FormulaError(ValueError):
    """What is wrong with an expression, to be said after the expression itself."""


@dataclass(frozen=True)
class Number:
    """A constant."""

    value: float


@dataclass(frozen=True)
class Symbol:
    """`lambda`, `beta`, or a parameter."""

    name: str


@dataclass(frozen=True)
class Operation:
    """left, one of + - * / **, right."""

    sign: str
    left: Node
    right: Node


@dataclass(frozen=True)
class Call:
    """One of `FUNCTIONS` of its arguments."""

    name: str
    arguments: tuple[Node, ...]


Node = Number | Symbol | Operation | Call


# --- parsing -------------------------------------------------------------------------------------


@cache
def parse(text: str) -> Node:
    """The tree of an expression. Raises FormulaError; whether its names are known is left to `check`."""
    if len(text) > MAX_LENGTH:
        raise FormulaError(f"has {len(text)} characters, more than {MAX_LENGTH}")
    _require_tokens(text.rstrip())
    try:
        whole = ast.parse(" ".join(_WORD.sub("λ", text).split()), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise FormulaError("is no complete expression; write one as 1/(lambda + beta)**2") from None
    return _node(whole.body, 0)


def _require_tokens(text: str) -> None:
    """Refuse what no expression is made of before Python's parser sees it."""
    at = 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            wrong = text[at:].strip()[:12]
            advice = "; write ** for a power" if wrong.startswith("^") else ""
            raise FormulaError(f"has {wrong!r}, which means nothing here{advice}")
        at = found.end()


def _node(part: ast.expr, depth: int) -> Node:
    if depth > MAX_DEPTH:
        raise FormulaError(f"is nested deeper than {MAX_DEPTH} levels")
    match part:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return _number(number)
        case ast.Name(id=name):
            return Symbol(SPELT.get(name, name))
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return Operation("*", Number(-1.0), _node(inner, depth + 1))
        case ast.UnaryOp(op=ast.UAdd(), operand=inner):
            return _node(inner, depth + 1)
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _SIGNS:
            return Operation(_SIGNS[type(sign)], _node(left, depth + 1), _node(right, depth + 1))
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
            return _call(name, tuple(_node(each, depth + 1) for each in arguments))
    raise FormulaError("has more than numbers, names, + - * / **, parentheses and functions")


def _number(number: float) -> Number:
    try:
        value = float(number)
    except OverflowError:
        value = float("inf")
    if not np.isfinite(value):
        raise FormulaError("has a number that is too large")
    return Number(value)


def _call(name: str, arguments: tuple[Node, ...]) -> Call:
    if name not in FUNCTIONS:
        raise FormulaError(f"has no function '{name}' to call{_offer(name, FUNCTIONS)}")
    if len(arguments) != FUNCTIONS[name]:
        raise FormulaError(f"gives {name} {len(arguments)} values instead of {FUNCTIONS[name]}")
    return Call(name, arguments)


def _offer(name: str, known: Iterable[str]) -> str:
    names = {each.lower(): each for each in sorted(known)}
    close = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.6)
    offer = f"; did you mean '{names[close[0]]}'?" if close else ";"
    return f"{offer} Known: {', '.join(sorted(known))}"


# --- checking ------------------------------------------------------------------------------------


def names(node: Node) -> frozenset[str]:
    """All symbols of a tree."""
    match node:
        case Symbol(name):
            return frozenset((name,))
        case Operation(_, left, right):
            return names(left) | names(right)
        case Call(_, arguments):
            return frozenset(name for each in arguments for name in names(each))
    return frozenset()


def check(text: str, scope: Mapping[str, float]) -> Node:
    """The tree of an expression with numbers in place of all names but `lambda`.

    scope: beta and the parameters. Raises FormulaError: an unknown name, a number of terms that is not whole,
    or no finite value at any of `PROBES`.
    """
    tree = parse(text)
    for name in sorted(names(tree)):
        if name != LAMBDA and name not in scope:
            known = {LAMBDA, *scope}
            raise FormulaError(f"has the unknown name '{name}'{_offer(name, known)}")
    _require_counts(tree, scope)
    bound = bind(tree, scope)
    with np.errstate(all="ignore"):
        if not np.isfinite(evaluate(bound, PROBES)).any():
            raise FormulaError(f"has no finite value at any λ from {PROBES[0]:g} to {PROBES[-1]:g}")
    return bound


def _require_counts(node: Node, scope: Mapping[str, float]) -> None:
    """Every `geometric` has a whole number of terms that stays the same."""
    match node:
        case Call("geometric", (_, count)):
            if names(count) & {LAMBDA, BETA, ALPHA}:
                raise FormulaError("counts the terms of geometric by lambda, beta or alpha")
            terms = bind(count, scope)
            if not isinstance(terms, Number) or not is_whole(terms) or terms.value < 1:
                raise FormulaError(f"needs a whole n from 1 to {MAX_POWER} in geometric(x, n)")
    for part in _parts(node):
        _require_counts(part, scope)


def _parts(node: Node) -> tuple[Node, ...]:
    match node:
        case Operation(_, left, right):
            return left, right
        case Call(_, arguments):
            return arguments
    return ()


def is_constant(bound: Node) -> bool:
    """Whether a bound tree has one value whatever λ is, as λ/λ has."""
    with np.errstate(all="ignore"):
        values = np.broadcast_to(evaluate(bound, PROBES), PROBES.shape)
    return bool(np.allclose(values, values[0], rtol=1e-12, atol=0.0))


def is_whole(node: Node) -> bool:
    """Whether it is a whole number that a matrix can be raised to."""
    return isinstance(node, Number) and abs(node.value) <= MAX_POWER and node.value == int(node.value)


def is_rational(bound: Node) -> bool:
    """Whether a bound tree has sums, products, quotients and whole powers alone."""
    match bound:
        case Operation("**", base, power):
            return is_whole(power) and is_rational(base)
        case Operation(_, left, right):
            return is_rational(left) and is_rational(right)
        case Call("geometric", (x, _)):
            return is_rational(x)
        case Call():
            return False
    return True


def is_nonnegative(bound: Node) -> bool:
    """Whether a bound tree is seen to be at least 0 wherever λ is; False where that is not plain."""
    match bound:
        case Number(value):
            return value >= 0
        case Symbol():
            return True
        case Operation("**", _, Number(power)) if power % 2 == 0:
            return True
        case Operation("**", base, _):
            return is_nonnegative(base)
        case Operation("-", _, _):
            return False
        case Operation(_, left, right):
            return is_nonnegative(left) and is_nonnegative(right)
        case Call("geometric", (x, _)):
            return is_nonnegative(x)
        case Call(name):
            return name != "log"
    return False


# --- calculating ---------------------------------------------------------------------------------


def bind(node: Node, scope: Mapping[str, float]) -> Node:
    """The tree with numbers in place of all names but `lambda`; what is left of constants is one number."""
    match node:
        case Symbol(name) if name != LAMBDA:
            return Number(float(scope[name]))
        case Operation(sign, left, right):
            node = Operation(sign, bind(left, scope), bind(right, scope))
        case Call(name, arguments):
            node = Call(name, tuple(bind(each, scope) for each in arguments))
    parts = _parts(node)
    if parts and all(isinstance(part, Number) for part in parts):
        with np.errstate(all="ignore"):
            return Number(float(evaluate(node, np.float64(0.0))))
    return node


def evaluate(bound: Node, eigenvalues: Any, functions: Mapping[str, Callable[[Any], Any]] = _NUMPY) -> Any:
    """f(λ), elementwise, of whatever calculates as NumPy's arrays do. functions: its sqrt, exp, log, abs."""
    match bound:
        case Symbol():
            return eigenvalues
        case Number(value):
            return np.float64(value) if isinstance(eigenvalues, np.generic) else value
        case Operation(sign, left, right):
            sides = (evaluate(side, eigenvalues, functions) for side in (left, right))
            return _ARITHMETIC[sign](*sides)
        case Call("geometric", (x, Number(count))):
            x = evaluate(x, eigenvalues, functions)
            return geometric(x, int(count), operator.mul, operator.add)
        case Call(name, (x,)):
            return functions[name](evaluate(x, eigenvalues, functions))
    raise AssertionError(bound)


def power(x: T, count: int, times: Callable[[T, T], T]) -> T:
    """x^count for a count of at least 1, by squaring; times: multiplies two of a kind."""
    found = x
    for bit in f"{count:b}"[1:]:
        found = times(found, found)
        if bit == "1":
            found = times(found, x)
    return found


def geometric(x: Any, count: int, times: Callable[[Any, Any], Any], plus: Callable[[Any, Any], Any]) -> Any:
    """Σ_{p<count} x^p by doubling, also where x = 1; times, plus: of two of a kind, or of a number and one.

    With T_m = x + … + x^m: T_2m = T_m + x^m·T_m, T_m+1 = x + x·T_m, and the sum is 1 + T_count-1.
    """
    if count == 1:
        return plus(1.0, times(0.0, x))
    total, last = x, x  # T_m and x^m
    for bit in f"{count - 1:b}"[1:]:
        total, last = plus(total, times(last, total)), times(last, last)
        if bit == "1":
            total, last = plus(x, times(x, total)), times(last, x)
    return plus(1.0, total)
