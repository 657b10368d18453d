"""Layers of settings merged into one `Config`, with where each value came from.

Low to high: defaults < protocol < preset < file < environment < flags. A preset or file may say
`extends:`, and under `protocols:` what holds under one protocol only. Naming a method (`objective:
sre2l`) puts the method's file below what that layer itself says of the objective; what presets, files
and the environment below it said of the objective is dropped, what the protocol says stays.
Not here: reading YAML (see `yaml_file`), what values are right (see `config`).
"""

from __future__ import annotations

import copy
import difflib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from engine import yaml_file
from engine.config import Config
from engine.documents import (
    PROTOCOLS,
    Document,
    describe,
    from_file,
    from_preset,
    from_protocol,
    method_names,
    preset_names,
    shipped,
    with_bases,
)
from engine.errors import UserError
from engine.problems import explain, leaves, unknown

__all__ = [
    "DEFAULT_PRESET",
    "ENVIRONMENT_NAMES",
    "PROTOCOLS",
    "Resolved",
    "describe",
    "flat",
    "method_names",
    "preset_names",
    "resolve",
    "to_yaml",
]

DEFAULT_PRESET = "digits"
#: Environment variables that stand for a key of another name; their values are taken as they are.
ENVIRONMENT_NAMES = {"CFM_DATA_ROOT": "data.root", "CFM_TEACHER": "backbone.teacher"}


@dataclass(frozen=True)
class Resolved:
    """A configuration, and for each dotted key the layer that set it (`default` if none did)."""

    config: Config
    origins: dict[str, str]


@dataclass(frozen=True)
class _Layer:
    """What one source says: nested keys, and its name in messages and origins."""

    label: str
    values: dict[str, Any]
    protocol: bool = False  #: part of a protocol: stays when a method is named above


# --- layers --------------------------------------------------------------------------------------


def resolve(
    *,
    preset: str | None = None,
    file: Path | None = None,
    base: str | None = DEFAULT_PRESET,
    sets: Sequence[str] = (),
    overrides: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Resolved:
    """One checked configuration out of all layers.

    preset: a name. file: a YAML file in a preset's grammar. base: the preset where neither is given; None
    starts from the defaults of `config`.
    sets: `key=value` with YAML values. overrides: dotted key → value of a dedicated flag, None meaning
    not given; they win over `sets`. environ: the process's environment, of which CFM_* is read.
    Raises UserError("config") naming the key, what is wrong, where it came from and how to mend it.
    """
    above = [*_environment(environ or {}), _flags(sets, overrides or {})]
    documents = _documents(preset if file or preset else base, file)
    protocol = _protocol([*(_Layer(each.label, each.values) for each in documents), *above])
    protocols = _protocol_layers(protocol)
    layers = list(protocols.values())
    for document in documents:
        layers.append(_Layer(document.label, document.values))
        for name in protocols:
            if name in document.sections:
                label = f"{document.label}, protocol {name}"
                layers.append(_Layer(label, document.sections[name], protocol=True))
    return _build(_with_method([_named(layer) for layer in [*layers, *above]]))


def _documents(preset: str | None, file: Path | None) -> list[Document]:
    if file is None:
        return with_bases(from_preset(preset)) if preset is not None else []
    chain = with_bases(from_file(file))
    if preset is None:
        return chain
    if chain[0].path is None:
        raise UserError(
            "config",
            f"{file} extends a preset, and '{preset}' is asked for as well",
            "Leave out the preset, or the file's `extends:`.",
        )
    return with_bases(from_preset(preset)) + chain


def _protocol(layers: Sequence[_Layer]) -> str:
    """The protocol in force: what the highest layer that names one says."""
    for layer in reversed(layers):
        if "protocol" in layer.values:
            name = layer.values["protocol"]
            if name not in PROTOCOLS:
                raise unknown("protocol", name, PROTOCOLS, f"protocol, from {layer.label}")
            return str(name)
    return str(Config.model_fields["protocol"].default)


def _protocol_layers(name: str) -> dict[str, _Layer]:
    """Protocol name → layer, base first."""
    chain: dict[str, _Layer] = {}
    following: str | None = name
    while following is not None:
        document = from_protocol(following)
        chain = {following: _Layer(document.label, document.values, protocol=True), **chain}
        following = document.extends
    return chain


def _environment(environ: Mapping[str, str]) -> list[_Layer]:
    """One layer for each CFM_* variable that is a setting: CFM_OBJECTIVE__BETA is objective.beta."""
    layers = []
    for variable in sorted(name for name in environ if name.startswith("CFM_")):
        text = environ[variable]
        if variable in ENVIRONMENT_NAMES:
            layers.append(_Layer(f"environment {variable}", _nest(ENVIRONMENT_NAMES[variable], text)))
            continue
        path = variable[4:].lower().replace("__", ".")
        top = path.split(".")[0]
        if "." not in path and top not in _TOP_KEYS:
            _refuse_misspelt(variable)
            continue  # the program's own variables (CFM_CACHE, …) are no settings
        value = yaml_file.parse(text, f"environment {variable}")
        layers.append(_Layer(f"environment {variable}", _nest(path, value)))
    return layers


_TOP_KEYS = {path.split(".")[0] for path in leaves(Config)}


def _refuse_misspelt(variable: str) -> None:
    names = ["CFM_" + path.upper().replace(".", "__") for path in leaves(Config)]
    for name in names:
        if variable == name.replace("__", "_"):
            raise UserError("config", f"unknown variable {variable} (environment)", f"Did you mean {name}?")
    short = [name for name in names if "__" not in name] + list(ENVIRONMENT_NAMES)
    if close := difflib.get_close_matches(variable, short, n=1, cutoff=0.85):
        raise UserError("config", f"unknown variable {variable} (environment)", f"Did you mean {close[0]}?")


def _flags(sets: Sequence[str], overrides: Mapping[str, object]) -> _Layer:
    values: dict[str, Any] = {}
    for text in sets:
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals or not all(key.split(".")):
            raise UserError("config", f"--set {text[:60]!r} is not key=value", "Write --set recover.lr=0.1.")
        _merge(values, _normal(_nest(key, yaml_file.parse(value, f"--set {key}"))), "flag", {})
    for key, given in overrides.items():
        if given is not None:
            plain = os.fspath(given) if isinstance(given, os.PathLike) else given
            _merge(values, _normal(_nest(key, plain)), "flag", {})
    return _Layer("flag", values)


def _nest(key: str, value: Any) -> dict[str, Any]:
    parts = key.split(".")
    if len(parts) > yaml_file.MAX_DEPTH:
        raise unknown("key", key, leaves(Config))
    nested = copy.deepcopy(value)
    for part in reversed(parts):
        nested = {part: nested}
    return dict(nested)


# --- methods -------------------------------------------------------------------------------------


def _normal(values: dict[str, Any]) -> dict[str, Any]:
    """`objective: NAME` written out as `objective: {method: NAME}`."""
    if isinstance(values.get("objective"), str):
        return {**values, "objective": {"method": values["objective"]}}
    return values


def _named(layer: _Layer) -> _Layer:
    return replace(layer, values=_normal(layer.values))


def _method(layer: _Layer) -> str | None:
    objective = layer.values.get("objective")
    name = objective.get("method") if isinstance(objective, dict) else None
    return name if isinstance(name, str) else None


def _with_method(layers: list[_Layer]) -> list[_Layer]:
    """Put the file of the method that the highest layer names right below that layer."""
    naming = [index for index, layer in enumerate(layers) if _method(layer) is not None]
    if not naming:
        return layers
    top = naming[-1]
    name = str(_method(layers[top]))
    if name not in method_names():
        raise unknown("method", name, method_names(), f"objective.method, from {layers[top].label}")
    below = [_without_objective(layer) if _drops(layer) else layer for layer in layers[:top]]
    method = shipped("methods", name)
    values = {key: method[key] for key in method if key not in ("description", "formula", "source")}
    return [*below, _Layer(f"method {name}", values), *layers[top:]]


def _drops(layer: _Layer) -> bool:
    return not layer.protocol or _method(layer) is not None


def _without_objective(layer: _Layer) -> _Layer:
    return replace(layer, values={key: value for key, value in layer.values.items() if key != "objective"})


# --- merging -------------------------------------------------------------------------------------


def _build(layers: Sequence[_Layer]) -> Resolved:
    tree = Config().model_dump(mode="json", by_alias=True)
    said: dict[str, str] = {}
    for layer in layers:
        _merge(tree, layer.values, layer.label, said)
    try:
        config = Config.model_validate_json(json.dumps(tree), strict=True)
    except ValidationError as error:
        raise explain(error, Config, said) from None
    except (TypeError, ValueError) as error:
        raise UserError(
            "config", f"a value is no plain data: {error}", "Use numbers, text and lists."
        ) from None
    return Resolved(config, {key: said.get(key, "default") for key in leaves(Config)})


def _merge(
    tree: dict[str, Any], values: Mapping[str, Any], label: str, said: dict[str, str], at: str = ""
) -> None:
    """Lay `values` over `tree` in place; lists are replaced whole. `said` learns who set what."""
    for key, value in values.items():
        path = f"{at}{key}"
        if isinstance(value, dict) and isinstance(tree.get(key), dict):
            _merge(tree[key], value, label, said, path + ".")
        elif isinstance(value, dict) and value:
            tree[key] = {}
            said[path] = label
            _merge(tree[key], value, label, said, path + ".")
        else:
            _require_text(path, value, label)
            tree[key] = copy.deepcopy(value)
            said[path] = label


def _require_text(path: str, value: object, label: str) -> None:
    """Refuse what no file could hold: text that came from bytes which are not UTF-8."""
    for text in (path, *(value if isinstance(value, list) else [value])):
        if (
            isinstance(text, str)
            and not text.isascii()
            and any("\ud800" <= each <= "\udfff" for each in text)
        ):
            key = path if path.isprintable() else ascii(path)
            raise UserError(
                "config",
                f"{key} = {text[:60]!a} is no UTF-8 text (from {label})",
                "Rename what it names, or write it in UTF-8.",
            )


# --- writing -------------------------------------------------------------------------------------


def flat(config: Config) -> dict[str, Any]:
    """Dotted key → plain value, in the order of the tree."""
    tree = config.model_dump(mode="json", by_alias=True)
    values = {}
    for path in leaves(Config):
        value: Any = tree
        for part in path.split("."):
            value = value[part]
        values[path] = value
    return values


def to_yaml(config: Config, origins: Mapping[str, str] | None = None) -> str:
    """YAML that loads again as an equal configuration; with `origins`, each line says its layer."""
    lines: list[str] = []
    section: list[str] = []
    for path, value in flat(config).items():
        *parents, name = path.split(".")
        for depth, parent in enumerate(parents):
            if section[: depth + 1] != parents[: depth + 1]:
                lines.append("  " * depth + f"{parent}:")
        section = parents
        line = "  " * len(parents) + f"{name}: {yaml_file.inline(value)}"
        lines.append(f"{line:<48}  # {origins[path]}" if origins else line)
    return "\n".join(lines) + "\n"
