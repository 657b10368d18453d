"""Error messages about a configuration, made from pydantic's validation errors.

Every message names the dotted key, its value, what is allowed, and the layer that set it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import yaml
from pydantic import ValidationError

from engine.config import Node, yaml_io
from engine.errors import UserError, nearest_name

_BOUNDS = {
    "greater_than": ("gt", "greater than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}
_KINDS = {  # first word of pydantic's error type → the expected kind, how to write it
    "int": ("a whole number", "Write whole numbers in digits, such as 1000."),
    "float": ("a number", "Write numbers such as 0.1 or 1e-3."),
    "bool": ("true or false", "Write true or false."),
    "string": ("text", "Put quotes around text that YAML reads as something else, such as '2024'."),
    "tuple": ("a list", "Write lists as [a, b]."),
    "list": ("a list", "Write lists as [a, b]."),
    "model": ("a section of keys", "Set one of its keys instead."),
    "dict": ("a section of keys", "Set one of its keys instead."),
}


def unknown_name_error(what: str, name: object, known: Iterable[str], where: str = "") -> UserError:
    """Return the error for a name that is not in `known`; its hint has the most similar name and all names.

    what: the kind of name, such as "preset". where: the key or file that contains the name.
    """
    names = sorted(known)
    similar = nearest_name(str(name), names)
    suggestion = f"Did you mean '{similar}'? " if similar else ""
    quoted = f"'{name}'" if isinstance(name, str) and len(name) <= 60 else format_value(name)
    message = f"unknown {what} {quoted}" + (f" ({where})" if where else "")
    return UserError("config", message, f"{suggestion}Known: {', '.join(names)}.")


def format_validation_error(
    error: ValidationError,
    model: type[Node],
    origins: Mapping[str, str],
    where: str = "",
    hint: str = "See `cfm preset show NAME --resolved` for valid keys and values.",
) -> UserError:
    """Return one UserError("config") with all problems of `error`.

    origins: dotted key → layer, for every key that a layer set. where: the file, if there is only one.
    hint: used if no problem has a specific hint.
    """
    problems, hints = [], []
    for detail in error.errors(include_url=False):
        problem, problem_hint = _format_problem(detail, model, origins)
        problems.append(problem)
        if problem_hint and problem_hint not in hints:
            hints.append(problem_hint)
    count = f"{len(problems)} problems: " if len(problems) > 1 else ""
    place = f"{where}: " if where else ""
    return UserError("config", place + count + "; ".join(problems), " ".join(hints) or hint)


def _format_problem(detail: Any, model: type[Node], origins: Mapping[str, str]) -> tuple[str, str]:
    """Return the message and the specific hint, which may be empty, for one of pydantic's errors."""
    loc, kind, value = detail["loc"], detail["type"], detail.get("input")
    context = detail.get("ctx", {})
    key = _format_location(loc)
    origin = _find_origin(loc, origins)
    source = f" (from {origin})" if origin else ""
    if kind == "extra_forbidden":
        return _format_unknown_key(loc, model, source)
    if kind == "missing":
        return f"{key} is missing{source}", ""
    if kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        bound = f"{words} {context[name]:g}"
        problem = f"{key} = {format_value(value)} is out of range: it must be {bound}{source}"
        return problem, f"Set {key} to a value {bound}."
    if kind == "literal_error":
        similar = nearest_name(str(value), re.findall(r"'([^']*)'", context["expected"]))
        problem = f"{key} = {format_value(value)} must be one of {context['expected']}{source}"
        return problem, f"Did you mean {key}={similar}?" if similar else ""
    if kind == "finite_number":
        return f"{key} = {format_value(value)} must be a finite number{source}", ""
    if kind in ("too_long", "too_short"):
        bound = context.get("max_length", context.get("min_length"))
        return f"{key} has {context['actual_length']} entries instead of {bound}{source}", ""
    if kind == "value_error":
        return _format_validator_message(key, str(context["error"]), origins)
    expected = _KINDS.get(kind.split("_")[0])
    if expected is None:
        return f"{key or 'the configuration'}: {detail['msg']}{source}", ""
    return f"{key or 'the configuration'} = {format_value(value)} must be {expected[0]}{source}", expected[1]


def _format_validator_message(key: str, text: str, origins: Mapping[str, str]) -> tuple[str, str]:
    """Return the message and hint for an error that a validator of the settings tree raised.

    Its text may start with a key below `key`, where the problem is.
    """
    names_subkey = not key or text.startswith((f"{key}.", f"{key}["))
    path = re.match(r"[\w.]*", text if names_subkey else key)
    origin = _find_origin(tuple(path[0].split(".")), origins) if path else None
    message = (text if names_subkey else f"{key}: {text}") + (f" (from {origin})" if origin else "")
    hint = (
        "`cfm method show NAME` shows valid filters; define names other than lambda and beta in"
        " objective.parameters."
    )
    return message, hint if message.startswith("objective.terms") else ""


def _format_unknown_key(loc: tuple[int | str, ...], model: type[Node], source: str) -> tuple[str, str]:
    known = _list_keys(model, loc[:-1])
    name = str(loc[-1])
    similar = nearest_name(name, known)
    if similar is not None:
        suggestion = f"Did you mean '{_format_location((*loc[:-1], similar))}'? "
    else:
        elsewhere = [path for path in model.leaf_keys() if path.split(".")[-1] == name.split(".")[-1]]
        suggestion = f"Did you mean {' or '.join(repr(path) for path in elsewhere)}? " if elsewhere else ""
    section = f"Keys of {_format_location(loc[:-1])}" if len(loc) > 1 else "Known keys"
    return f"unknown key '{_format_location(loc)}'{source}", f"{suggestion}{section}: {', '.join(known)}."


def _format_location(loc: Iterable[int | str]) -> str:
    """Return a pydantic location as a dotted key, such as objective.terms[0].weight."""
    key = ""
    for part in loc:
        key += f"[{part}]" if isinstance(part, int) else f".{part}" if key else str(part)
    return key


def _list_keys(model: type[Node], loc: Iterable[int | str]) -> list[str]:
    current: Any = model
    for part in loc:
        if isinstance(part, str):
            current = current.fields_by_key()[part].annotation
        else:  # index into a list of models
            current = next(
                inner
                for inner in getattr(current, "__args__", ())
                if isinstance(inner, type) and issubclass(inner, Node)
            )
    return list(current.fields_by_key())


def _find_origin(loc: tuple[int | str, ...], origins: Mapping[str, str]) -> str | None:
    for length in range(len(loc), 0, -1):
        if (origin := origins.get(_format_location(loc[:length]))) is not None:
            return origin
    return None


def format_value(value: object) -> str:
    """Return a value as YAML on one line, shortened to 60 characters, for use in messages."""
    try:
        text = yaml_io.inline(value)
    except yaml.YAMLError:
        text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
