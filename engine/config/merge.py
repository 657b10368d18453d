"""Merge layers of settings, and insert the file of a method among them.

Not here: the layers and their precedence (see `settings`).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from engine.config import Config, Data, yaml_io
from engine.config.messages import unknown_name_error
from engine.config.presets import from_method
from engine.errors import UserError


@dataclass(frozen=True)
class SettingsLayer:
    """The settings from one source: nested keys, and the label of the source in messages and origins."""

    label: str
    values: dict[str, Any]
    protocol: bool = False  #: from a protocol: its objective is kept when a higher layer names a method


def nest(key: str, value: Any) -> dict[str, Any]:
    """Return a value nested under the parts of its dotted key.

    Raises UserError("config") if the key has too many parts.
    """
    parts = key.split(".")
    if len(parts) > yaml_io.MAX_DEPTH:
        raise unknown_name_error("key", key, Config.leaf_keys())
    nested = copy.deepcopy(value)
    for part in reversed(parts):
        nested = {part: nested}
    return dict(nested)


def expand_objective_name(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values with `objective: NAME` written as `objective: {method: NAME}`."""
    if isinstance(values.get("objective"), str):
        return {**values, "objective": {"method": values["objective"]}}
    return values


def _get_method_name(layer: SettingsLayer) -> str | None:
    objective = layer.values.get("objective")
    name = objective.get("method") if isinstance(objective, dict) else None
    return name if isinstance(name, str) else None


def insert_method(layers: list[SettingsLayer]) -> list[SettingsLayer]:
    """Insert the method's file right below the highest layer that names a method.

    The file's `datasets:` section for the current data set is inserted directly above the file. The
    objective is removed from all lower layers, except from those of a protocol.
    """
    naming = [index for index, layer in enumerate(layers) if _get_method_name(layer) is not None]
    if not naming:
        return layers
    top = naming[-1]
    name = str(_get_method_name(layers[top]))
    if _sets_whole_objective(layers[top]):
        return layers  # a run's config file must not depend on the method's current file
    method = from_method(name, f"objective.method, from {layers[top].label}")
    lower = [
        layer
        if layer.protocol and _get_method_name(layer) is None
        else replace(layer, values={key: part for key, part in layer.values.items() if key != "objective"})
        for layer in layers[:top]
    ]
    method_layers = [SettingsLayer(method.label, method.values)]
    data_name = _get_data_name(layers)
    if data_name in method.datasets:
        method_layers.append(SettingsLayer(f"{method.label}, {data_name}", method.datasets[data_name]))
    return [*lower, *method_layers, *layers[top:]]


def _sets_whole_objective(layer: SettingsLayer) -> bool:
    """Return whether the layer sets every key of the objective, so that the method's file is not needed."""
    keys: set[str] = set()

    def collect_keys(values: Mapping[str, Any], prefix: str) -> None:
        for key, value in values.items():
            keys.add(prefix + key)
            if isinstance(value, dict):
                collect_keys(value, f"{prefix}{key}.")

    collect_keys(layer.values, "")
    return keys.issuperset(key for key in Config.leaf_keys() if key.startswith("objective."))


def _get_data_name(layers: list[SettingsLayer]) -> str:
    """Return the data set that the highest layer names, or the default."""
    for layer in reversed(layers):
        data = layer.values.get("data")
        if isinstance(data, dict) and isinstance(data.get("name"), str):
            return str(data["name"])
    return str(Data.model_fields["name"].default)


def merge(
    tree: dict[str, Any], values: Mapping[str, Any], label: str, origins: dict[str, str], prefix: str = ""
) -> None:
    """Merge `values` into `tree` in place; a list replaces the previous list.

    origins: receives dotted key → label for every key that is set. prefix: of the keys of this subtree.
    """
    for key, value in values.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict) and isinstance(tree.get(key), dict):
            merge(tree[key], value, label, origins, path + ".")
            if value:
                origins[path] = label
        elif isinstance(value, dict) and value:
            tree[key] = {}
            origins[path] = label
            merge(tree[key], value, label, origins, path + ".")
        else:
            _require_utf8(path, value, label)
            tree[key] = copy.deepcopy(value)
            origins[path] = label


def _require_utf8(path: str, value: object, label: str) -> None:
    """Raise UserError("config") for text from bytes that are not UTF-8, which no file could store."""
    for text in (path, *(value if isinstance(value, list) else [value])):
        if (
            isinstance(text, str)
            and not text.isascii()
            and any("\ud800" <= character <= "\udfff" for character in text)
        ):
            key = path if path.isprintable() else ascii(path)
            raise UserError(
                "config",
                f"{key} = {text[:60]!a} is not UTF-8 text (from {label})",
                "Write it in UTF-8; if it is the name of a file, rename the file.",
            )
