"""Resolution of settings: layers merged into one `Config`, with the origin of each value.

Precedence, low to high: defaults < protocol < preset < file < environment < flags. A preset or file may have
`extends:`, and `protocols:` with settings that apply under one protocol only, some of them (`by_ipc:`) only
with one number of images per class.
A layer that names a method (`objective: sre2l`) inserts the method's file, with its settings for the current
data set, below itself; and its authors' settings of students, where `validate.settings` is `own`. The
objective of lower presets, files and variables is dropped; that of the protocol is kept.
Not here: reading YAML (see `yaml_io`), which values are valid (see `schema`).
"""

from __future__ import annotations

import copy
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from engine import environment
from engine.config import Config, yaml_io
from engine.config.messages import format_validation_error, unknown_name_error
from engine.config.presets import (
    PROTOCOLS,
    Document,
    describe,
    find_base_preset,
    load_document,
    load_file,
    method_names,
    preset_names,
    save_preset,
    user_presets,
)
from engine.errors import UserError, nearest_name
from engine.version import product_version

if TYPE_CHECKING:
    from engine.store import StoredRun

__all__ = [
    "DEFAULT_PRESET",
    "PROTOCOLS",
    "Resolved",
    "changes",
    "describe",
    "find_base_preset",
    "format_command",
    "format_preset",
    "format_sets",
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
_ENVIRONMENT_NAMES = {"CFM_DATA_ROOT": "data.root", "CFM_TEACHER": "backbone.teacher"}
_MISSING = object()


@dataclass(frozen=True)
class Resolved:
    """A configuration, and for each dotted key the label of the layer that set it, or `default`."""

    config: Config
    origins: dict[str, str]

    def settings_from_method(self) -> dict[str, object]:
        """Return dotted key → value for the settings that come from the method's file."""
        values = self.config.flatten()
        return {key: values[key] for key, origin in self.origins.items() if origin.startswith("method ")}


@dataclass(frozen=True)
class _Layer:
    """The settings from one source: nested keys, and the label of the source in messages and origins."""

    label: str
    values: dict[str, Any]
    protocol: bool = False  #: from a protocol: its objective is kept when a higher layer names a method

    def get(self, path: str) -> Any:
        """Return the value of a dotted key; `_MISSING` if the layer does not set it."""
        value: Any = self.values
        for part in path.split("."):
            if not isinstance(value, dict) or part not in value:
                return _MISSING
            value = value[part]
        return value


def resolve(
    *,
    preset: str | None = None,
    file: Path | None = None,
    base: str | None = DEFAULT_PRESET,
    sets: Sequence[str] = (),
    overrides: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    label: str = "flag",
    stored: bool = False,
) -> Resolved:
    """Merge all layers into one validated configuration.

    preset: a name. file: a YAML file in the format of a preset. base: the preset if neither is given; None
    starts from the defaults of `Config`.
    sets: `key=value` with YAML values. overrides: dotted key → value of a dedicated flag, or None if it is
    not given; they take precedence over `sets`. environ: the process environment; only CFM_* is read.
    label: the label of `sets` and `overrides` in origins and messages. stored: the file is that of a run,
    which names every setting of its version; those that are newer have the defaults of `Config`.
    Raises UserError("config") with the key, the problem, its origin and how to fix it.
    """
    upper_layers = [*_read_environment(environ or {}), _build_flag_layer(sets, overrides or {}, label)]
    documents = _load_documents(preset if file or preset else base, file)
    if stored:
        documents = [_complete(document) for document in documents]
    plain_layers = [*(_Layer(each.label, each.values) for each in documents), *upper_layers]
    protocols = _load_protocols(plain_layers)
    layers = list(protocols.values())
    values = (layer.values["ipc"] for layer in reversed(plain_layers) if "ipc" in layer.values)
    ipc = next(values, Config.model_fields["ipc"].default)
    for document in documents:
        layers.append(_Layer(document.label, document.values))
        for name in protocols:
            if name in document.sections:
                section = f"{document.label}, protocol {name}"
                layers.append(_Layer(section, document.sections[name], protocol=True))
                if (settings := document.by_ipc[name].get(str(ipc))) is not None:
                    layers.append(_Layer(f"{section}, ipc {ipc}", settings, protocol=True))
    layers = _insert_method([*layers, *upper_layers])
    tree = Config().to_dict()
    origins: dict[str, str] = {}
    for layer in layers:
        _merge(tree, layer.values, layer.label, origins)
    try:
        config = Config.from_dict(tree)
    except ValidationError as error:
        raise format_validation_error(error, Config, origins) from None
    except (TypeError, ValueError) as error:
        raise UserError(
            "config", f"a value is not plain data: {error}", "Use numbers, text and lists."
        ) from None
    return Resolved(config, {key: origins.get(key, "default") for key in Config.leaf_keys()})


def load_stored(
    run: StoredRun, sets: Sequence[str] = (), overrides: Mapping[str, object] | None = None
) -> Resolved:
    """Return the settings of a run with changes applied; `sets` and `overrides` are those of `resolve`.

    Settings that are newer than the run have the defaults of `Config`, which are how it was computed.
    Raises UserError: "disk" if the file is damaged, "config" if a change is invalid.
    """
    run.config_yaml()  # verifies the file
    file = run.folder / "config.yaml"
    try:
        stored = resolve(file=file, base=None, stored=True)
    except UserError as error:
        from engine.store.reader import written_by

        message = (
            f"{run.folder} was written by cfm-tui {written_by(run.manifest())}, this is {product_version()}"
        )
        hint = "use the version that wrote it"
        raise UserError(
            "config", f"{message}, which cannot read its settings: {error.message}", hint
        ) from error
    if not (sets or overrides):
        return stored
    return resolve(file=file, base=None, sets=sets, overrides=overrides, stored=True)


def _complete(document: Document) -> Document:
    """Return a document with the defaults of `Config` for the settings that it lacks."""
    values = Config().to_dict()
    _merge(values, document.values, document.label, {})
    return replace(document, values=values)


def _load_documents(preset: str | None, file: Path | None) -> list[Document]:
    chain = [] if file is None else load_file(file).with_bases()
    if preset is None:
        return chain
    if any(document.preset for document in chain):
        raise UserError(
            "config",
            f"{file} extends a preset, but preset '{preset}' is given as well",
            "Omit the preset, or remove the file's `extends:`.",
        )
    return load_document(preset).with_bases() + chain


# --- layers --------------------------------------------------------------------------------------


def _load_protocols(layers: Sequence[_Layer]) -> dict[str, _Layer]:
    """Return name → layer for the protocol that the highest layer names, and all that it extends.

    The base comes first.
    """
    naming = (layer for layer in reversed(layers) if "protocol" in layer.values)
    name = Config.model_fields["protocol"].default
    if (highest := next(naming, None)) is not None:
        name = highest.values["protocol"]
        if name not in PROTOCOLS:
            raise unknown_name_error("protocol", name, PROTOCOLS, f"protocol, from {highest.label}")
    chain: dict[str, _Layer] = {}
    while name is not None:
        document = load_document(name, "protocols")
        chain = {name: _Layer(document.label, document.values, protocol=True), **chain}
        name = document.extends
    return chain


def _read_environment(environ: Mapping[str, str]) -> list[_Layer]:
    """Return one layer per CFM_* variable that is a setting: CFM_OBJECTIVE__BETA is objective.beta."""
    require_known_variables(environ)
    layers = []
    for variable in sorted(name for name in environ if name.startswith("CFM_")):
        text, label = environ[variable], f"environment {variable}"
        if variable in _ENVIRONMENT_NAMES:
            layers.append(_Layer(label, _nest(_ENVIRONMENT_NAMES[variable], text)))
            continue
        path = variable[4:].lower().replace("__", ".")
        if "." in path or path in Config.fields_by_key():
            layers.append(_Layer(label, _nest(path, yaml_io.parse(text, label))))
    return layers


def require_known_variables(environ: Mapping[str, str]) -> None:
    """Raise UserError("config") if a CFM_* variable is neither a setting nor one of the program.

    Of variables with two underscores, `resolve` checks the names.
    """
    settings = {"CFM_" + path.upper().replace(".", "__") for path in Config.leaf_keys()}
    sections = {"CFM_" + path.upper() for path in Config.fields_by_key() if "." not in path}
    known = {*environment.VARIABLES, *settings, *sections}
    for variable in sorted(name for name in environ if name.startswith("CFM_")):
        if variable in known or "__" in variable:
            continue
        similar = next((name for name in settings if variable == name.replace("__", "_")), None)
        if similar is None and (nearest := nearest_name(variable[4:], [name[4:] for name in known])):
            similar = f"CFM_{nearest}"
        known_names = ", ".join([*environment.VARIABLES, "CFM_SECTION__KEY for settings"])
        hint = f"Did you mean {similar}?" if similar else f"Known: {known_names}."
        raise UserError("config", f"unknown variable {variable} (environment)", hint)


def _build_flag_layer(sets: Sequence[str], overrides: Mapping[str, object], label: str) -> _Layer:
    values: dict[str, Any] = {}
    for text in sets:
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals or not all(key.split(".")):
            problem = f"--set {text[:60]!r} is not key=value"
            raise UserError("config", problem, "Write it as --set recover.lr=0.1.")
        _merge(values, _nest(key, yaml_io.parse(value, f"--set {key}")), label, {})
    for key, override in overrides.items():
        if override is not None:
            plain = os.fspath(override) if isinstance(override, os.PathLike) else override
            _merge(values, _nest(key, plain), label, {})
    return _Layer(label, values)


def _nest(key: str, value: Any) -> dict[str, Any]:
    """Return a value nested under the parts of its dotted key.

    Raises UserError("config") if the key has too many parts.
    """
    parts = key.split(".")
    if len(parts) > yaml_io.MAX_DEPTH:
        raise unknown_name_error("key", key, Config.leaf_keys())
    if key == "objective" and isinstance(value, str):
        parts.append("method")
    nested = copy.deepcopy(value)
    for part in reversed(parts):
        nested = {part: nested}
    return dict(nested)


# --- merging -------------------------------------------------------------------------------------


def _insert_method(layers: list[_Layer]) -> list[_Layer]:
    """Insert the method's file right below the highest layer that names a method.

    The file's `datasets:` section for the current data set is inserted directly above the file, and its
    `students:` sections above that if `validate.settings` is `own`. The objective is removed from all lower
    layers, except from those of a protocol.
    """
    names = [layer.get("objective.method") for layer in layers]
    naming = [index for index, name in enumerate(names) if isinstance(name, str)]
    if not naming:
        return layers
    top = naming[-1]
    whole = [key for key in Config.leaf_keys() if key.startswith("objective.")]
    if all(layers[top].get(key) is not _MISSING for key in whole):
        return layers  # a run's config file must not depend on the method's current file
    method = load_document(names[top], "methods", f"objective.method, from {layers[top].label}")
    lower = [
        layer
        if layer.protocol and index not in naming
        else replace(layer, values={key: part for key, part in layer.values.items() if key != "objective"})
        for index, layer in enumerate(layers[:top])
    ]
    method_layers = [_Layer(method.label, method.values)]
    data_name = _find_value(layers, "data.name", str)
    if data_name in method.datasets:
        method_layers.append(_Layer(f"{method.label}, {data_name}", method.datasets[data_name]))
    if _find_value([*lower, *method_layers, *layers[top:]], "validate.settings", str) == "own":
        label = f"{method.label}, students"
        for section in method.student_sections(data_name, _find_value(layers, "ipc", int)):
            method_layers.append(_Layer(label, {"validate": section}))
    return [*lower, *method_layers, *layers[top:]]


def _find_value(layers: Sequence[_Layer], key: str, kind: type) -> Any:
    """Return the value of a dotted key in the highest layer that has one of this type, or the default."""
    values = (layer.get(key) for layer in reversed(layers))
    default = Config().flatten()[key]
    return next((value for value in values if isinstance(value, kind)), default)


def _merge(
    tree: dict[str, Any], values: Mapping[str, Any], label: str, origins: dict[str, str], prefix: str = ""
) -> None:
    """Merge `values` into `tree` in place; a list replaces the previous list.

    origins: receives dotted key → label for every key that is set. prefix: of the keys of this subtree.
    """
    for key, value in values.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict) and (value or isinstance(tree.get(key), dict)):
            if not isinstance(tree.get(key), dict):
                tree[key] = {}
            _merge(tree[key], value, label, origins, path + ".")
            if value:
                origins[path] = label
            continue
        for text in (path, *(value if isinstance(value, list) else [value])):
            if isinstance(text, str) and not text.isascii() and re.search(r"[\ud800-\udfff]", text):
                shown = path if path.isprintable() else ascii(path)
                raise UserError(
                    "config",
                    f"{shown} = {text[:60]!a} is not UTF-8 text (from {label})",  # no file could store it
                    "Write it in UTF-8; if it is the name of a file, rename the file.",
                )
        tree[key] = copy.deepcopy(value)
        origins[path] = label


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
    # These change other settings, too.
    leading_keys = ("protocol", "objective.method", "data.name", "validate.settings", "ipc")
    leading = {key: wanted[key] for key in leading_keys if wanted[key] != base[key]}
    if leading:
        try:
            base = resolve(preset=preset, base=None, overrides=leading, environ=environ).config.flatten()
        except UserError:  # their settings are not compatible with those of the preset
            base = {}
    return {
        key: wanted[key] for key in wanted if key in leading or key not in base or wanted[key] != base[key]
    }


def format_sets(changed: Mapping[str, object]) -> list[str]:
    """Return dotted keys and values as `key=value` texts, for `resolve` and ``--set``."""
    return [f"{key}={yaml_io.inline(value)}" for key, value in changed.items()]


def format_command(preset: str, sets: Sequence[str]) -> str:
    """Return the ``cfm run`` command for a preset and ``key=value`` texts, quoted for a shell."""
    return shlex.join(
        ["cfm", "run", "--preset", preset, *(word for text in sets for word in ("--set", text))]
    )


def format_preset(name: str, preset: str, config: Config, description: str = "") -> str:
    """Return the text of a preset that extends `preset` and resolves to `config`, for `save_preset`.

    name: of the new preset. If it equals `preset`, the new text extends what that preset extends.
    """
    base: str | None = preset
    if preset == name:
        base = load_document(preset).extends
        base = None if base is None or base.endswith((".yaml", ".yml")) else base
    header = {"description": description, "extends": base}
    return _format_nested({key: value for key, value in header.items() if value} | changes(base, config))
