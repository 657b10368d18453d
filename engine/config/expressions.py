"""Expressions f(λ) of an eigenvalue, as users write them: parsed into a small tree, checked and evaluated.

An expression may contain numbers, `lambda` or λ, `beta` or β, the objective's parameters by name, + - * / **,
parentheses, sqrt, exp, log, abs, and geometric(x, n) = Σ_{p<n} x^p. The text is parsed and never executed.
Not here: the application of an expression to a whole correlation matrix (see `spectral`).
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import numpy as np

from engine.errors import nearest_name

T = TypeVar("T")
MAX_LENGTH = 200  #: maximum number of characters in an expression
MAX_DEPTH = 64  #: maximum depth of its tree
MAX_POWER = 10_000  #: maximum integer exponent of a matrix, and number of terms of `geometric`
LAMBDA, BETA, ALPHA = "lambda", "beta", "alpha"
GREEK_NAMES = {"λ": LAMBDA, "β": BETA, "α": ALPHA}
FUNCTIONS = {"sqrt": 1, "exp": 1, "log": 1, "abs": 1, "geometric": 2}  #: name → number of arguments
PROBES = np.geomspace(1e-4, 1e2, 61)  #: eigenvalues at which an expression is tested

_TOKEN = re.compile(
    r"\s*(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?(?![\w.])|[^\W\d]\w*|\*\*|[-+*/(),])"
)
_WORD = re.compile(r"\blambda\b")  # a Python keyword, replaced by λ before parsing
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
    """A problem with an expression. The message continues a sentence that starts with the expression."""


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
    """A binary operation; sign is one of + - * / **."""

    sign: str
    left: Node
    right: Node


@dataclass(frozen=True)
class Call:
    """A call of one of `FUNCTIONS`."""

    name: str
    arguments: tuple[Node, ...]


Node = Number | Symbol | Operation | Call


# --- parsing -------------------------------------------------------------------------------------


@cache
def parse(text: str) -> Node:
    """Return the tree of an expression, whose names are not checked yet (see `check`).

    Raises FormulaError on a syntax error.
    """
    if len(text) > MAX_LENGTH:
        raise FormulaError(f"has {len(text)} characters, more than {MAX_LENGTH}")
    _require_valid_tokens(text.rstrip())
    try:
        python_tree = ast.parse(" ".join(_WORD.sub("λ", text).split()), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise FormulaError("is not a complete expression; write one such as 1/(lambda + beta)**2") from None
    return _build_node(python_tree.body, 0)


def _require_valid_tokens(text: str) -> None:
    """Raise FormulaError at the first characters that are no token, before Python parses the text."""
    position = 0
    while position < len(text):
        token = _TOKEN.match(text, position)
        if token is None:
            invalid = text[position:].strip()[:12]
            advice = "; write ** for a power" if invalid.startswith("^") else ""
            raise FormulaError(f"contains {invalid!r}, which is not valid in an expression{advice}")
        position = token.end()


def _build_node(part: ast.expr, depth: int) -> Node:
    if depth > MAX_DEPTH:
        raise FormulaError(f"is nested deeper than {MAX_DEPTH} levels")
    match part:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return _build_number(number)
        case ast.Name(id=name):
            return Symbol(GREEK_NAMES.get(name, name))
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return Operation("*", Number(-1.0), _build_node(inner, depth + 1))
        case ast.UnaryOp(op=ast.UAdd(), operand=inner):
            return _build_node(inner, depth + 1)
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _SIGNS:
            operands = _build_node(left, depth + 1), _build_node(right, depth + 1)
            return Operation(_SIGNS[type(sign)], *operands)
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
            return _build_call(name, tuple(_build_node(each, depth + 1) for each in arguments))
    raise FormulaError("may contain only numbers, names, + - * / **, parentheses and functions")


def _build_number(number: float) -> Number:
    try:
        value = float(number)
    except OverflowError:
        value = float("inf")
    if not np.isfinite(value):
        raise FormulaError("contains a number that is too large")
    return Number(value)


def _build_call(name: str, arguments: tuple[Node, ...]) -> Call:
    if name not in FUNCTIONS:
        raise FormulaError(f"calls the unknown function '{name}'{_suggest_name(name, FUNCTIONS)}")
    if len(arguments) != FUNCTIONS[name]:
        raise FormulaError(f"calls {name} with {len(arguments)} arguments instead of {FUNCTIONS[name]}")
    return Call(name, arguments)


def _suggest_name(name: str, known: Iterable[str]) -> str:
    similar = nearest_name(name, sorted(known))
    suggestion = f"; did you mean '{similar}'?" if similar else "."
    return f"{suggestion} Known: {', '.join(sorted(known))}"


# --- checking ------------------------------------------------------------------------------------


def names(node: Node) -> frozenset[str]:
    """Return the names of all symbols in a tree."""
    if isinstance(node, Symbol):
        return frozenset((node.name,))
    return frozenset(name for child in _get_children(node) for name in names(child))


def check(text: str, scope: Mapping[str, float]) -> Node:
    """Parse and check an expression; return its tree with every name but `lambda` replaced by its number.

    scope: the values of beta and of the parameters. Raises FormulaError: a syntax error, an unknown name, a
    number of terms that is not an integer, or no finite value at any of `PROBES`.
    """
    tree = parse(text)
    for name in sorted(names(tree)):
        if name != LAMBDA and name not in scope:
            known = {LAMBDA, *scope}
            raise FormulaError(f"contains the unknown name '{name}'{_suggest_name(name, known)}")
    _require_constant_counts(tree, scope)
    bound = bind(tree, scope)
    with np.errstate(all="ignore"):
        if not np.isfinite(evaluate(bound, PROBES)).any():
            raise FormulaError(f"has no finite value at any λ from {PROBES[0]:g} to {PROBES[-1]:g}")
    return bound


def _require_constant_counts(node: Node, scope: Mapping[str, float]) -> None:
    """Raise FormulaError unless the number of terms of every `geometric` is a constant integer."""
    match node:
        case Call("geometric", (_, count)):
            if names(count) & {LAMBDA, BETA, ALPHA}:
                raise FormulaError("needs an n in geometric(x, n) without lambda, beta or alpha")
            terms = bind(count, scope)
            if not isinstance(terms, Number) or not is_whole(terms) or terms.value < 1:
                raise FormulaError(f"needs a whole n from 1 to {MAX_POWER} in geometric(x, n)")
    for child in _get_children(node):
        _require_constant_counts(child, scope)


def _get_children(node: Node) -> tuple[Node, ...]:
    match node:
        case Operation(_, left, right):
            return left, right
        case Call(_, arguments):
            return arguments
    return ()


def is_constant(bound: Node) -> bool:
    """Return whether a bound tree has the same value at every λ, as λ/λ has."""
    with np.errstate(all="ignore"):
        values = np.broadcast_to(evaluate(bound, PROBES), PROBES.shape)
    return bool(np.allclose(values, values[0], rtol=1e-12, atol=0.0))


def is_whole(node: Node) -> bool:
    """Return whether a node is an integer exponent that a matrix can be raised to."""
    return isinstance(node, Number) and abs(node.value) <= MAX_POWER and node.value == int(node.value)


def is_rational(bound: Node) -> bool:
    """Return whether a bound tree contains only sums, products, quotients and integer powers."""
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
    """Return whether a bound tree is provably at least 0 for every λ ≥ 0; False if in doubt."""
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


# --- evaluating ----------------------------------------------------------------------------------


def bind(node: Node, scope: Mapping[str, float]) -> Node:
    """Return the tree with every name but `lambda` replaced by its number, and constant parts evaluated."""
    match node:
        case Symbol(name) if name != LAMBDA:
            return Number(float(scope[name]))
        case Operation(sign, left, right):
            node = Operation(sign, bind(left, scope), bind(right, scope))
        case Call(name, arguments):
            node = Call(name, tuple(bind(each, scope) for each in arguments))
    children = _get_children(node)
    if children and all(isinstance(child, Number) for child in children):
        with np.errstate(all="ignore"):
            return Number(float(evaluate(node, np.float64(0.0))))
    return node


def evaluate(bound: Node, eigenvalues: Any) -> Any:
    """Return f(λ) elementwise, for a NumPy number or array."""
    match bound:
        case Symbol():
            return eigenvalues
        case Number(value):
            return np.float64(value) if isinstance(eigenvalues, np.generic) else value
        case Operation(sign, left, right):
            operands = (evaluate(operand, eigenvalues) for operand in (left, right))
            return _ARITHMETIC[sign](*operands)
        case Call("geometric", (x, Number(count))):
            return geometric(evaluate(x, eigenvalues), int(count), operator.mul, operator.add)
        case Call(name, (x,)):
            return _NUMPY[name](evaluate(x, eigenvalues))
    raise AssertionError(bound)


def power(x: T, count: int, times: Callable[[T, T], T]) -> T:
    """Return x^count by repeated squaring, for count ≥ 1. times: multiplies two values of the type of x."""
    product = x
    for bit in f"{count:b}"[1:]:
        product = times(product, product)
        if bit == "1":
            product = times(product, x)
    return product


def geometric(x: Any, count: int, times: Callable[[Any, Any], Any], plus: Callable[[Any, Any], Any]) -> Any:
    """Return Σ_{p<count} x^p by doubling, which is also correct at x = 1.

    times, plus: multiply and add two values of the type of x, or a number and such a value.
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
