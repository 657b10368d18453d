"""One source of settings laid over another, and the file of a method put where it belongs.

Not here: which sources there are, and in which order they count (see `settings`).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from engine.config import Config, Data, yaml_io
from engine.config.messages import leaves, unknown_name_error
from engine.config.presets import from_method
from engine.errors import UserError


@dataclass(frozen=True)
class Layer:
    """What one source says: nested keys, and its name in messages and origins."""

    label: str
    values: dict[str, Any]
    protocol: bool = False  #: part of a protocol: stays when a method is named above


def nest(key: str, value: Any) -> dict[str, Any]:
    """A dotted key and its value as nested keys. Raises UserError("config") where it is too deep."""
    parts = key.split(".")
    if len(parts) > yaml_io.MAX_DEPTH:
        raise unknown_name_error("key", key, leaves(Config))
    nested = copy.deepcopy(value)
    for part in reversed(parts):
        nested = {part: nested}
    return dict(nested)


def normal(values: dict[str, Any]) -> dict[str, Any]:
    """`objective: NAME` written out as `objective: {method: NAME}`."""
    if isinstance(values.get("objective"), str):
        return {**values, "objective": {"method": values["objective"]}}
    return values


def named(layer: Layer) -> Layer:
    """The layer, `normal`."""
    return replace(layer, values=normal(layer.values))


def _method(layer: Layer) -> str | None:
    objective = layer.values.get("objective")
    name = objective.get("method") if isinstance(objective, dict) else None
    return name if isinstance(name, str) else None


def with_method(layers: list[Layer]) -> list[Layer]:
    """Put the file of the method that the highest layer names right below that layer.

    Above it, but below that layer, comes what the file says under `datasets:` of the data set in force.
    """
    naming = [index for index, layer in enumerate(layers) if _method(layer) is not None]
    if not naming:
        return layers
    top = naming[-1]
    name = str(_method(layers[top]))
    if _is_whole(layers[top]):
        return layers  # a run's own file means the same wherever it is read
    method = from_method(name, f"objective.method, from {layers[top].label}")
    below = [_without_objective(layer) if _drops(layer) else layer for layer in layers[:top]]
    found = [Layer(method.label, method.values)]
    data = _data_set(layers)
    if data in method.datasets:
        found.append(Layer(f"{method.label}, {data}", method.datasets[data]))
    return [*below, *found, *layers[top:]]


def _is_whole(layer: Layer) -> bool:
    """Whether it says everything of the objective, so that no method's file is asked."""
    said: set[str] = set()

    def look(values: Mapping[str, Any], at: str) -> None:
        for key, value in values.items():
            said.add(at + key)
            if isinstance(value, dict):
                look(value, f"{at}{key}.")

    look(layer.values, "")
    return said.issuperset(key for key in leaves(Config) if key.startswith("objective."))


def _data_set(layers: list[Layer]) -> str:
    """The data set that the highest layer names."""
    for layer in reversed(layers):
        data = layer.values.get("data")
        if isinstance(data, dict) and isinstance(data.get("name"), str):
            return str(data["name"])
    return str(Data.model_fields["name"].default)


def _drops(layer: Layer) -> bool:
    return not layer.protocol or _method(layer) is not None


def _without_objective(layer: Layer) -> Layer:
    return replace(layer, values={key: value for key, value in layer.values.items() if key != "objective"})


def merge(
    tree: dict[str, Any], values: Mapping[str, Any], label: str, said: dict[str, str], at: str = ""
) -> None:
    """Lay `values` over `tree` in place; lists are replaced whole. `said` learns who set what."""
    for key, value in values.items():
        path = f"{at}{key}"
        if isinstance(value, dict) and isinstance(tree.get(key), dict):
            merge(tree[key], value, label, said, path + ".")
            if value:
                said[path] = label
        elif isinstance(value, dict) and value:
            tree[key] = {}
            said[path] = label
            merge(tree[key], value, label, said, path + ".")
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
