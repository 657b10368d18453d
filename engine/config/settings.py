"""Resolution of settings: layers merged into one `Config`, with the origin of each value.

Precedence, low to high: defaults < protocol < preset < file < environment < flags. A preset or file may have
`extends:`, and `protocols:` with settings that apply under one protocol only.
A layer that names a method (`objective: sre2l`) inserts the method's file, with its settings for the current
data set, below itself. The objective of lower presets, files and variables is dropped; that of the protocol
is kept.
Not here: reading YAML (see `yaml_io`), which values are valid (see `schema`).
"""

from __future__ import annotations

import difflib
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from engine.config import Config, yaml_io
from engine.config.merge import SettingsLayer, expand_objective_name, insert_method, merge, nest
from engine.config.messages import format_validation_error, unknown_name_error
from engine.config.presets import (
    PROTOCOLS,
    Document,
    describe,
    from_file,
    from_preset,
    from_protocol,
    method_names,
    preset_names,
    save_preset,
    user_presets,
    with_bases,
)
from engine.errors import UserError

if TYPE_CHECKING:
    from engine.store import StoredRun

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
    "load_stored",
    "method_names",
    "preset_names",
    "resolve",
    "save_preset",
    "to_yaml",
    "user_presets",
]

DEFAULT_PRESET = "digits"
#: Environment variables for keys with another name; their values are plain text, not YAML.
ENVIRONMENT_NAMES = {"CFM_DATA_ROOT": "data.root", "CFM_TEACHER": "backbone.teacher"}


@dataclass(frozen=True)
class Resolved:
    """A configuration, and for each dotted key the label of the layer that set it, or `default`."""

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
    """Merge all layers into one validated configuration.

    preset: a name. file: a YAML file in the format of a preset. base: the preset if neither is given; None
    starts from the defaults of `Config`.
    sets: `key=value` with YAML values. overrides: dotted key → value of a dedicated flag, or None if it is
    not given; they take precedence over `sets`. environ: the process environment; only CFM_* is read.
    label: the label of `sets` and `overrides` in origins and messages.
    Raises UserError("config") with the key, the problem, its origin and how to fix it.
    """
    upper_layers = [*_read_environment(environ or {}), _build_flag_layer(sets, overrides or {}, label)]
    documents = _load_documents(preset if file or preset else base, file)
    document_layers = [SettingsLayer(each.label, each.values) for each in documents]
    protocols = _load_protocol_layers(_find_protocol([*document_layers, *upper_layers]))
    layers = list(protocols.values())
    for document in documents:
        layers.append(SettingsLayer(document.label, document.values))
        for name in protocols:
            if name in document.sections:
                label = f"{document.label}, protocol {name}"
                layers.append(SettingsLayer(label, document.sections[name], protocol=True))
    layers += upper_layers
    layers = [replace(layer, values=expand_objective_name(layer.values)) for layer in layers]
    return _merge_layers(insert_method(layers))


def load_stored(
    run: StoredRun, sets: Sequence[str] = (), overrides: Mapping[str, object] | None = None
) -> Resolved:
    """Return the settings of a run with changes applied; `sets` and `overrides` are those of `resolve`.

    Raises UserError: "disk" if the file is damaged, "config" if a change is invalid.
    """
    run.config_yaml()  # verifies the file
    return resolve(file=run.folder / "config.yaml", base=None, sets=sets, overrides=overrides)


def _load_documents(preset: str | None, file: Path | None) -> list[Document]:
    if file is None:
        return with_bases(from_preset(preset)) if preset is not None else []
    chain = with_bases(from_file(file))
    if preset is None:
        return chain
    if any(document.preset for document in chain):
        raise UserError(
            "config",
            f"{file} extends a preset, but preset '{preset}' is given as well",
            "Omit the preset, or remove the file's `extends:`.",
        )
    return with_bases(from_preset(preset)) + chain


def _find_protocol(layers: Sequence[SettingsLayer]) -> str:
    """Return the protocol that the highest layer names, or the default."""
    for layer in reversed(layers):
        if "protocol" in layer.values:
            name = layer.values["protocol"]
            if name not in PROTOCOLS:
                raise unknown_name_error("protocol", name, PROTOCOLS, f"protocol, from {layer.label}")
            return str(name)
    return str(Config.model_fields["protocol"].default)


def _load_protocol_layers(name: str) -> dict[str, SettingsLayer]:
    """Return protocol name → layer for a protocol and all that it extends, base first."""
    chain: dict[str, SettingsLayer] = {}
    next_name: str | None = name
    while next_name is not None:
        document = from_protocol(next_name)
        chain = {next_name: SettingsLayer(document.label, document.values, protocol=True), **chain}
        next_name = document.extends
    return chain


def _read_environment(environ: Mapping[str, str]) -> list[SettingsLayer]:
    """Return one layer per CFM_* variable that is a setting: CFM_OBJECTIVE__BETA is objective.beta."""
    layers = []
    for variable in sorted(name for name in environ if name.startswith("CFM_")):
        text = environ[variable]
        if variable in ENVIRONMENT_NAMES:
            layers.append(SettingsLayer(f"environment {variable}", nest(ENVIRONMENT_NAMES[variable], text)))
            continue
        path = variable[4:].lower().replace("__", ".")
        top = path.split(".")[0]
        if "." not in path and top not in _TOP_KEYS:
            _refuse_misspelled(variable)
            continue  # other variables of the program, such as CFM_CACHE, are not settings
        value = yaml_io.parse(text, f"environment {variable}")
        layers.append(SettingsLayer(f"environment {variable}", nest(path, value)))
    return layers


_TOP_KEYS = {path.split(".")[0] for path in Config.leaf_keys()}


def _refuse_misspelled(variable: str) -> None:
    """Raise UserError("config") if a variable is not a setting, but similar to the name of one."""
    names = ["CFM_" + path.upper().replace(".", "__") for path in Config.leaf_keys()]
    for name in names:
        if variable == name.replace("__", "_"):
            raise UserError("config", f"unknown variable {variable} (environment)", f"Did you mean {name}?")
    top_level = [name for name in names if "__" not in name] + list(ENVIRONMENT_NAMES)
    if similar := difflib.get_close_matches(variable, top_level, n=1, cutoff=0.85):
        raise UserError("config", f"unknown variable {variable} (environment)", f"Did you mean {similar[0]}?")


def _build_flag_layer(sets: Sequence[str], overrides: Mapping[str, object], label: str) -> SettingsLayer:
    values: dict[str, Any] = {}
    for text in sets:
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals or not all(key.split(".")):
            raise UserError(
                "config", f"--set {text[:60]!r} is not key=value", "Write it as --set recover.lr=0.1."
            )
        merge(values, expand_objective_name(nest(key, yaml_io.parse(value, f"--set {key}"))), label, {})
    for key, override in overrides.items():
        if override is not None:
            plain = os.fspath(override) if isinstance(override, os.PathLike) else override
            merge(values, expand_objective_name(nest(key, plain)), label, {})
    return SettingsLayer(label, values)


# --- merging -------------------------------------------------------------------------------------


def _merge_layers(layers: Sequence[SettingsLayer]) -> Resolved:
    tree = Config().to_dict()
    origins: dict[str, str] = {}
    for layer in layers:
        merge(tree, layer.values, layer.label, origins)
    try:
        config = Config.from_dict(tree)
    except ValidationError as error:
        raise format_validation_error(error, Config, origins) from None
    except (TypeError, ValueError) as error:
        raise UserError(
            "config", f"a value is not plain data: {error}", "Use numbers, text and lists."
        ) from None
    return Resolved(config, {key: origins.get(key, "default") for key in Config.leaf_keys()})


# --- writing -------------------------------------------------------------------------------------


def to_yaml(config: Config, origins: Mapping[str, str] | None = None) -> str:
    """Return YAML that loads as an equal configuration; with `origins`, each line names its layer."""
    return _format_nested(config.flatten(), origins)


def _format_nested(values: Mapping[str, Any], origins: Mapping[str, str] | None = None) -> str:
    """Return the values of dotted keys, which are in the order of the tree, as nested YAML."""
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
    """Return the settings that turn a preset into `config`: dotted key → value, in the order of the tree.

    preset: None for the defaults of `Config`. environ: as in `resolve`. A different protocol, method or data
    set changes other settings too; those are returned only if they still differ from `config`.
    Raises UserError as `resolve` does.
    """
    wanted = config.flatten()
    base = resolve(preset=preset, base=None, environ=environ).config.flatten()
    leading_keys = ("protocol", "objective.method", "data.name")  # these change other settings too
    leading = {key: wanted[key] for key in leading_keys if wanted[key] != base[key]}
    if leading:
        try:
            base = resolve(preset=preset, base=None, overrides=leading, environ=environ).config.flatten()
        except UserError:  # their settings are not compatible with those of the preset
            base = {}
    return {
        key: wanted[key] for key in wanted if key in leading or key not in base or wanted[key] != base[key]
    }


def as_sets(changed: Mapping[str, object]) -> list[str]:
    """Return dotted keys and values as `key=value` texts, for `resolve` and ``--set``."""
    return [f"{key}={yaml_io.inline(value)}" for key, value in changed.items()]


def by_method(resolved: Resolved) -> dict[str, object]:
    """Return dotted key → value for the settings that come from the method's file."""
    values = resolved.config.flatten()
    return {key: values[key] for key, origin in resolved.origins.items() if origin.startswith("method ")}


def command_line(preset: str, sets: Sequence[str]) -> str:
    """Return the ``cfm run`` command for a preset and ``key=value`` texts, quoted for a shell."""
    return shlex.join(
        ["cfm", "run", "--preset", preset, *(word for text in sets for word in ("--set", text))]
    )


def as_preset(name: str, preset: str, config: Config, description: str = "") -> str:
    """Return the text of a preset that extends `preset` and resolves to `config`, for `save_preset`.

    name: of the new preset. If it equals `preset`, the new text extends what that preset extends.
    """
    base: str | None = preset
    if preset == name:
        base = from_preset(preset).extends
        base = None if base is None or base.endswith((".yaml", ".yml")) else base
    header = {"description": description, "extends": base}
    return _format_nested({key: value for key, value in header.items() if value} | changes(base, config))
