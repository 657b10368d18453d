"""Queries over the settings and results of runs: `method=cfm ipc>=10 acc>50 state=running`.

A query is a list of conditions, which must all hold. A condition is a key, an operator and a value without
blanks between them, or a word that the run's name contains. Quotes enclose a value with blanks.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cfm_tui.display.run_summary import RunSummary
from engine.errors import UserError, nearest_name

Value = str | float | bool | None

OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "!=": operator.ne, "<=": operator.le, ">=": operator.ge,
    "=": operator.eq, "<": operator.lt, ">": operator.gt,
}  # fmt: skip
_WORD = re.compile(r"""(?:[^\s"']|"[^"]*"|'[^']*')+""")
_CONDITION = re.compile(r"([A-Za-z_][\w.-]*)(!=|<=|>=|=|<|>)(.*)", re.DOTALL)
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_DURATION = re.compile(r"(\d+\.?\d*|\.\d+) ?(s|min|h|d)")
_SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_ABSENT = ("none", "null")

TEXTS: dict[str, Callable[[RunSummary], str | None]] = {
    "name": lambda run: run.name,
    "state": lambda run: run.state,
    "stage": lambda run: run.stage,
    "data": lambda run: run.data,
    "network": lambda run: run.network,
    "method": lambda run: run.method,
    "verdict": lambda run: run.verdict,
}
NUMBERS: dict[str, Callable[[RunSummary], float | None]] = {
    "ipc": lambda run: run.ipc,
    "seed": lambda run: run.seed,
    "acc": lambda run: None if run.accuracy is None else run.accuracy["mean"],
    "control": lambda run: None if run.control is None else run.control["mean"],
    "diff": lambda run: run.difference,
    "teacher": lambda run: run.teacher,
}
DURATIONS: dict[str, Callable[[RunSummary], float | None]] = {
    "age": lambda run: run.age_seconds,
    "time": lambda run: run.seconds,
    "left": lambda run: run.seconds_left,
}
KEYS = (*TEXTS, *NUMBERS, *DURATIONS)  #: the short ones; every dotted key of a setting is one, too


@dataclass(frozen=True)
class Condition:
    """One condition. key: empty for a part of the name, whose `value` is in lower case. read: its value."""

    key: str
    symbol: str
    value: Value
    read: Callable[[RunSummary], Any]

    def matches(self, run: RunSummary) -> bool:
        """Return whether the condition holds; one that compares what is unknown does not, but for `!=`."""
        actual = self.read(run)
        if not self.key:
            return str(self.value) in str(actual).lower()
        if isinstance(actual, str):
            actual = actual.lower()
        if self.symbol in ("=", "!="):
            return OPERATORS[self.symbol](actual, self.value)
        return _is_number(actual) and OPERATORS[self.symbol](actual, self.value)


@dataclass(frozen=True)
class Query:
    """A parsed query, which an empty text makes true for every run."""

    text: str
    conditions: tuple[Condition, ...]

    def matches(self, run: RunSummary) -> bool:
        """Return whether all conditions hold for a run."""
        return all(condition.matches(run) for condition in self.conditions)


def parse(text: str) -> Query:
    """Parse a query. Raises UserError("usage") that names the problem and where it is."""
    conditions, position = [], 0
    while position < len(text):
        if text[position].isspace():
            position += 1
            continue
        word = _WORD.match(text, position)
        if word is None or (word.end() < len(text) and text[word.end()] in "\"'"):
            raise UserError(
                "usage",
                f"query {text!r}, character {(word.end() if word else position) + 1}: a quote is not closed",
                "enclose a value with blanks in two equal quotes, such as name='my run'",
            )
        conditions.append(_parse_condition(word[0], f"query {text!r}, character {position + 1}"))
        position = word.end()
    return Query(text, tuple(conditions))


def _parse_condition(word: str, where: str) -> Condition:
    split = _CONDITION.fullmatch(word)
    if split is None:
        if word[0] in "=<>!":
            hint = "write a condition without blanks, such as ipc>=10; quote it in a shell"
            raise UserError("usage", f"{where}: {word!r} has no key", hint)
        return Condition("", "", _unquote(word).lower(), TEXTS["name"])
    key, symbol, value = split[1], split[2], _unquote(split[3])
    if not split[3] or split[3][0] in "=<>":
        hint = f"write {key}{symbol} and a value without blanks, such as ipc>=10; the operators are "
        raise UserError("usage", f"{where}: {key}{symbol} has no value", hint + " ".join(OPERATORS))
    if key in TEXTS:
        if symbol not in ("=", "!="):
            problem = f"{where}: {key} is text, which {symbol} does not compare"
            raise UserError("usage", problem, f"use {key}= or {key}!=")
        return Condition(key, symbol, _parse_absent(value, value.lower()), TEXTS[key])
    if key in NUMBERS:
        return Condition(key, symbol, _parse_number(key, symbol, value, where), NUMBERS[key])
    if key in DURATIONS:
        return Condition(key, symbol, _parse_duration(key, symbol, value, where), DURATIONS[key])
    return _parse_setting(key, symbol, value, where)


def _parse_setting(key: str, symbol: str, value: str, where: str) -> Condition:
    """Return a condition on a setting, whose default tells whether it is a number."""
    from engine.config import Config, yaml_io

    defaults = Config().flatten()
    if key not in defaults:
        nearest = nearest_name(key, [*KEYS, *defaults]) or next(
            (known for known in defaults if known.rpartition(".")[2] == key), None
        )
        known = f"known are {', '.join(KEYS)}, and the settings that `cfm preset show --resolved` lists"
        hint = f"did you mean {nearest}?" if nearest else known
        raise UserError("usage", f"{where}: there is no key {key}", hint)

    def read(run: RunSummary) -> Value:
        stored = run.setting(key)
        is_plain = stored is None or isinstance(stored, (bool, int, float, str))
        return stored if is_plain else yaml_io.inline(stored)

    parsed: Value
    if _is_number(defaults[key]) or symbol not in ("=", "!="):
        parsed = _parse_number(key, symbol, value, where)
    elif value.lower() in ("true", "false"):
        parsed = value.lower() == "true"
    else:
        parsed = _parse_absent(value, float(value) if _NUMBER.fullmatch(value) else value.lower())
    return Condition(key, symbol, parsed, read)


def _parse_number(key: str, symbol: str, value: str, where: str) -> float | None:
    if _is_absent(symbol, value):
        return None
    if not _NUMBER.fullmatch(value):
        hint = f"write a number, such as {key}{symbol}10"
        raise UserError("usage", f"{where}: {key} is a number, and {value!r} is not", hint)
    return float(value)


def _parse_duration(key: str, symbol: str, value: str, where: str) -> float | None:
    if _is_absent(symbol, value):
        return None
    duration = _DURATION.fullmatch(value)
    if duration is None:
        hint = f"write a number and s, min, h or d, such as {key}{symbol}12h"
        raise UserError("usage", f"{where}: {key} is a time, and {value!r} is not", hint)
    return float(duration[1]) * _SECONDS[duration[2]]


def _parse_absent(value: str, otherwise: Value) -> Value:
    return None if value.lower() in _ABSENT else otherwise


def _is_absent(symbol: str, value: str) -> bool:
    return symbol in ("=", "!=") and value.lower() in _ABSENT


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and not math.isnan(value)


def _unquote(text: str) -> str:
    return re.sub(r""""([^"]*)"|'([^']*)'""", lambda match: match[1] or match[2] or "", text)
