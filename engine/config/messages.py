"""Pydantic's complaints about a configuration, as sentences that a person can act on.

Every sentence names the dotted key, the value, what would be right, and the layer it came from.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from engine.config import yaml_io
from engine.errors import UserError

HINT = "See `cfm preset show NAME --resolved` for keys and values that work."
TERMS_HINT = (
    "`cfm method show NAME` has filters that work; what is not lambda or beta is set in objective.parameters."
)
_BOUNDS = {
    "greater_than": ("gt", "greater than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}
_KINDS = {  # first word of pydantic's error type → what is wanted, how to write it
    "int": ("a whole number", "Write whole numbers in digits, as 1000."),
    "float": ("a number", "Write numbers as 0.1 or 1e-3."),
    "bool": ("true or false", "Write true or false."),
    "string": ("text", "Put quotes around text that reads as something else, as '2024'."),
    "tuple": ("a list", "Write lists as [a, b]."),
    "list": ("a list", "Write lists as [a, b]."),
    "model": ("a section of keys", "Set a key below it."),
    "dict": ("a section of keys", "Set a key below it."),
}


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that `name` was probably meant to be."""
    found = difflib.get_close_matches(name.lower(), list(known), n=1, cutoff=0.6)
    return found[0] if found else None


def unknown_name_error(what: str, name: object, known: Iterable[str], where: str = "") -> UserError:
    """The error for a name that is not among `known`: offers the nearest, and all."""
    names = sorted(known)
    close = nearest(str(name), names)
    offer = f"Did you mean '{close}'? " if close else ""
    shown = f"'{name}'" if isinstance(name, str) and len(name) <= 60 else show(name)
    message = f"unknown {what} {shown}" + (f" ({where})" if where else "")
    return UserError("config", message, f"{offer}Known: {', '.join(names)}.")


def format_validation_error(
    error: ValidationError,
    model: type[BaseModel],
    origins: Mapping[str, str],
    where: str = "",
    hint: str = HINT,
) -> UserError:
    """All complaints of `error` as one UserError("config").

    origins: dotted key → layer, for whatever the layers said. where: the file, where there is but one.
    hint: where no complaint has its own.
    """
    problems, hints = [], []
    for detail in error.errors(include_url=False):
        problem, own = _sentence(detail, model, origins)
        problems.append(problem)
        if own and own not in hints:
            hints.append(own)
    count = f"{len(problems)} problems: " if len(problems) > 1 else ""
    place = f"{where}: " if where else ""
    return UserError("config", place + count + "; ".join(problems), " ".join(hints) or hint)


def _sentence(detail: Any, model: type[BaseModel], origins: Mapping[str, str]) -> tuple[str, str]:
    loc, kind, value = detail["loc"], detail["type"], detail.get("input")
    context = detail.get("ctx", {})
    key = dotted(loc)
    origin = _origin(loc, origins)
    came = f" (from {origin})" if origin else ""
    if kind == "extra_forbidden":
        return _unknown_key(loc, model, came)
    if kind == "missing":
        return f"{key} is missing{came}", ""
    if kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        return f"{key} = {show(value)} is out of range: it must be {words} {context[name]:g}{came}", (
            f"Set {key} to a value {words} {context[name]:g}."
        )
    if kind == "literal_error":
        return _not_one_of(key, value, context, came)
    if kind == "finite_number":
        return f"{key} = {show(value)} must be a finite number{came}", ""
    if kind in ("too_long", "too_short"):
        bound = context.get("max_length", context.get("min_length"))
        return f"{key} has {context['actual_length']} entries instead of {bound}{came}", ""
    if kind == "value_error":
        return _own_words(key, str(context["error"]), origins)
    wanted = _KINDS.get(kind.split("_")[0])
    if wanted is None:
        return f"{key or 'the configuration'}: {detail['msg']}{came}", ""
    return f"{key or 'the configuration'} = {show(value)} must be {wanted[0]}{came}", wanted[1]


def _own_words(key: str, said: str, origins: Mapping[str, str]) -> tuple[str, str]:
    """A complaint of our own models, which may name what is wrong below the key."""
    deeper = not key or said.startswith((f"{key}.", f"{key}["))
    named = re.match(r"[\w.]*", said if deeper else key)
    origin = _origin(tuple(named[0].split(".")), origins) if named else None
    sentence = (said if deeper else f"{key}: {said}") + (f" (from {origin})" if origin else "")
    return sentence, TERMS_HINT if sentence.startswith("objective.terms") else ""


def _unknown_key(loc: tuple[int | str, ...], model: type[BaseModel], came: str) -> tuple[str, str]:
    known = _keys_at(model, loc[:-1])
    name = str(loc[-1])
    close = nearest(name, known)
    if close is not None:
        offer = f"Did you mean '{dotted((*loc[:-1], close))}'? "
    else:
        elsewhere = [path for path in leaves(model) if path.split(".")[-1] == name.split(".")[-1]]
        offer = f"Did you mean {' or '.join(repr(path) for path in elsewhere)}? " if elsewhere else ""
    section = f"Keys of {dotted(loc[:-1])}" if len(loc) > 1 else "Known keys"
    return f"unknown key '{dotted(loc)}'{came}", f"{offer}{section}: {', '.join(known)}."


def _not_one_of(key: str, value: object, context: Mapping[str, Any], came: str) -> tuple[str, str]:
    close = nearest(str(value), re.findall(r"'([^']*)'", context["expected"]))
    hint = f"Did you mean {key}={close}?" if close else ""
    return f"{key} = {show(value)} must be one of {context['expected']}{came}", hint


def dotted(loc: Iterable[int | str]) -> str:
    """A pydantic location as a key: objective.terms[0].weight."""
    key = ""
    for part in loc:
        key += f"[{part}]" if isinstance(part, int) else f".{part}" if key else str(part)
    return key


def fields(model: type[BaseModel]) -> dict[str, Any]:
    """Key as written in YAML → pydantic field."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def leaves(model: type[BaseModel], prefix: str = "") -> list[str]:
    """The dotted keys of all values in a tree of models."""
    found: list[str] = []
    for name, field in fields(model).items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found += leaves(inner, f"{prefix}{name}.")
        else:
            found.append(prefix + name)
    return found


def _keys_at(model: type[BaseModel], loc: Iterable[int | str]) -> list[str]:
    current: Any = model
    for part in loc:
        if isinstance(part, str):
            current = fields(current)[part].annotation
        else:  # an entry of a list of models
            current = next(
                inner
                for inner in getattr(current, "__args__", ())
                if isinstance(inner, type) and issubclass(inner, BaseModel)
            )
    return list(fields(current))


def _origin(loc: tuple[int | str, ...], origins: Mapping[str, str]) -> str | None:
    for length in range(len(loc), 0, -1):
        if (origin := origins.get(dotted(loc[:length]))) is not None:
            return origin
    return None


def show(value: object) -> str:
    """`value` on one line, shortened, as messages quote it."""
    try:
        text = yaml_io.inline(value)
    except yaml.YAMLError:
        text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
