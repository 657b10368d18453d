"""Layers of settings merged into one `Config`, with where each value came from.

Low to high: defaults < protocol < preset < file < environment < flags. A preset or file may say
`extends:`, and under `protocols:` what holds under one protocol only. Naming a method (`objective:
sre2l`) puts the method's file, with what it says of the data set in force, below what that layer itself
says; what presets, files and the environment below it said of the objective is dropped, what the protocol
says stays.
Not here: reading YAML (see `yaml_file`), what values are right (see `config`).
"""

from __future__ import annotations

import difflib
import json
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from engine.config import Config, yaml_io
from engine.config.merge import Layer, merge, named, nest, normal, with_method
from engine.config.messages import format_validation_error, leaves, unknown_name_error
from engine.config.presets import (
    PROTOCOLS,
    Document,
    describe,
    from_file,
    from_preset,
    from_protocol,
    method_names,
    own_presets,
    preset_names,
    save_preset,
    with_bases,
)
from engine.errors import UserError

__all__ = [
    "DEFAULT_PRESET",
    "ENVIRONMENT_NAMES",
    "PROTOCOLS",
    "Resolved",
    "as_preset",
    "as_sets",
    "changes",
    "command_line",
    "describe",
    "flat",
    "method_names",
    "own_presets",
    "preset_names",
    "resolve",
    "save_preset",
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


# --- layers --------------------------------------------------------------------------------------


def resolve(
    *,
    preset: str | None = None,
    file: Path | None = None,
    base: str | None = DEFAULT_PRESET,
    sets: Sequence[str] = (),
    overrides: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    label: str = "flag",
) -> Resolved:
    """One checked configuration out of all layers.

    preset: a name. file: a YAML file in a preset's grammar. base: the preset where neither is given; None
    starts from the defaults of `config`.
    sets: `key=value` with YAML values. overrides: dotted key → value of a dedicated flag, None meaning
    not given; they win over `sets`. environ: the process's environment, of which CFM_* is read.
    label: what origins and messages call those two.
    Raises UserError("config") naming the key, what is wrong, where it came from and how to mend it.
    """
    above = [*_environment(environ or {}), _flags(sets, overrides or {}, label)]
    documents = _documents(preset if file or preset else base, file)
    protocol = _protocol([*(Layer(each.label, each.values) for each in documents), *above])
    protocols = _protocol_layers(protocol)
    layers = list(protocols.values())
    for document in documents:
        layers.append(Layer(document.label, document.values))
        for name in protocols:
            if name in document.sections:
                label = f"{document.label}, protocol {name}"
                layers.append(Layer(label, document.sections[name], protocol=True))
    return _build(with_method([named(layer) for layer in [*layers, *above]]))


def _documents(preset: str | None, file: Path | None) -> list[Document]:
    if file is None:
        return with_bases(from_preset(preset)) if preset is not None else []
    chain = with_bases(from_file(file))
    if preset is None:
        return chain
    if any(document.preset for document in chain):
        raise UserError(
            "config",
            f"{file} extends a preset, and '{preset}' is asked for as well",
            "Leave out the preset, or the file's `extends:`.",
        )
    return with_bases(from_preset(preset)) + chain


def _protocol(layers: Sequence[Layer]) -> str:
    """The protocol in force: what the highest layer that names one says."""
    for layer in reversed(layers):
        if "protocol" in layer.values:
            name = layer.values["protocol"]
            if name not in PROTOCOLS:
                raise unknown_name_error("protocol", name, PROTOCOLS, f"protocol, from {layer.label}")
            return str(name)
    return str(Config.model_fields["protocol"].default)


def _protocol_layers(name: str) -> dict[str, Layer]:
    """Protocol name → layer, base first."""
    chain: dict[str, Layer] = {}
    following: str | None = name
    while following is not None:
        document = from_protocol(following)
        chain = {following: Layer(document.label, document.values, protocol=True), **chain}
        following = document.extends
    return chain


def _environment(environ: Mapping[str, str]) -> list[Layer]:
    """One layer for each CFM_* variable that is a setting: CFM_OBJECTIVE__BETA is objective.beta."""
    layers = []
    for variable in sorted(name for name in environ if name.startswith("CFM_")):
        text = environ[variable]
        if variable in ENVIRONMENT_NAMES:
            layers.append(Layer(f"environment {variable}", nest(ENVIRONMENT_NAMES[variable], text)))
            continue
        path = variable[4:].lower().replace("__", ".")
        top = path.split(".")[0]
        if "." not in path and top not in _TOP_KEYS:
            _refuse_misspelt(variable)
            continue  # the program's own variables (CFM_CACHE, …) are no settings
        value = yaml_io.parse(text, f"environment {variable}")
        layers.append(Layer(f"environment {variable}", nest(path, value)))
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


def _flags(sets: Sequence[str], overrides: Mapping[str, object], label: str) -> Layer:
    values: dict[str, Any] = {}
    for text in sets:
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals or not all(key.split(".")):
            raise UserError("config", f"--set {text[:60]!r} is not key=value", "Write --set recover.lr=0.1.")
        merge(values, normal(nest(key, yaml_io.parse(value, f"--set {key}"))), label, {})
    for key, given in overrides.items():
        if given is not None:
            plain = os.fspath(given) if isinstance(given, os.PathLike) else given
            merge(values, normal(nest(key, plain)), label, {})
    return Layer(label, values)


# --- merging -------------------------------------------------------------------------------------


def _build(layers: Sequence[Layer]) -> Resolved:
    tree = Config().model_dump(mode="json", by_alias=True)
    said: dict[str, str] = {}
    for layer in layers:
        merge(tree, layer.values, layer.label, said)
    try:
        config = Config.model_validate_json(json.dumps(tree), strict=True)
    except ValidationError as error:
        raise format_validation_error(error, Config, said) from None
    except (TypeError, ValueError) as error:
        raise UserError(
            "config", f"a value is no plain data: {error}", "Use numbers, text and lists."
        ) from None
    return Resolved(config, {key: said.get(key, "default") for key in leaves(Config)})


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
    return _sections(flat(config), origins)


def _sections(values: Mapping[str, Any], origins: Mapping[str, str] | None = None) -> str:
    """Dotted keys, in the order of the tree, as nested YAML."""
    lines: list[str] = []
    section: list[str] = []
    for path, value in values.items():
        *parents, name = path.split(".")
        for depth, parent in enumerate(parents):
            if section[: depth + 1] != parents[: depth + 1]:
                lines.append("  " * depth + f"{parent}:")
        section = parents
        line = "  " * len(parents) + f"{name}: {yaml_io.inline(value)}"
        lines.append(f"{line:<48}  # {origins[path]}" if origins else line)
    return "".join(f"{line}\n" for line in lines)


def changes(
    preset: str | None, config: Config, environ: Mapping[str, str] | None = None
) -> dict[str, object]:
    """What must be set beside a preset to arrive at `config`: dotted key → value, in the tree's order.

    preset: None for the defaults of `config`. environ: what holds besides, as in `resolve`. Of what another
    protocol, method or data set brings along, only what differs is named. Raises UserError as `resolve` does.
    """
    wanted = flat(config)
    left = flat(resolve(preset=preset, base=None, environ=environ).config)
    leading = ("protocol", "objective.method", "data.name")  # what brings other settings along
    first = {key: wanted[key] for key in leading if wanted[key] != left[key]}
    if first:
        try:
            left = flat(resolve(preset=preset, base=None, overrides=first, environ=environ).config)
        except UserError:  # what it brings along does not fit the preset's own
            left = {}
    return {key: wanted[key] for key in wanted if key in first or key not in left or wanted[key] != left[key]}


def as_sets(changed: Mapping[str, object]) -> list[str]:
    """Dotted keys and values as `resolve` and ``--set`` take them: key=value."""
    return [f"{key}={yaml_io.inline(value)}" for key, value in changed.items()]


def by_method(resolved: Resolved) -> dict[str, object]:
    """Dotted key → value of what the method set, for the data set or for all."""
    values = flat(resolved.config)
    return {key: values[key] for key, origin in resolved.origins.items() if origin.startswith("method ")}


def command_line(preset: str, sets: Sequence[str]) -> str:
    """The ``cfm run`` command of a preset and ``key=value`` texts, quoted for a shell."""
    return shlex.join(
        ["cfm", "run", "--preset", preset, *(word for text in sets for word in ("--set", text))]
    )


def as_preset(name: str, preset: str, config: Config, description: str = "") -> str:
    """The text of a preset `name` that means `config` and extends `preset`, for `save_preset`.

    One that replaces itself extends what it extended before.
    """
    base: str | None = preset
    if preset == name:
        base = from_preset(preset).extends
        base = None if base is None or base.endswith((".yaml", ".yml")) else base
    said = {"description": description, "extends": base}
    return _sections({key: value for key, value in said.items() if value} | changes(base, config))
