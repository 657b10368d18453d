"""The YAML documents that settings are made of: presets, protocols, methods, and a person's own files.

A document holds keys of `Config`, and may say `description:`, `extends:` (a preset; in a file also
another file) and `protocols:` (what holds under one protocol only).
Not here: in which order documents count (see `settings`).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, get_args

from engine import yaml_file
from engine.config import Config
from engine.errors import UserError
from engine.problems import show, unknown

PROTOCOLS: tuple[str, ...] = get_args(Config.model_fields["protocol"].annotation)
_SECTION_HINT = "Write `protocols: {paper: {validate: {batch: 64}}}`."


@dataclass(frozen=True)
class Document:
    """A preset, protocol or file as written, without what it extends."""

    label: str
    values: dict[str, Any]
    description: str = ""
    extends: str | None = None
    sections: dict[str, dict[str, Any]] = field(default_factory=dict)
    path: Path | None = None  #: None: ships with the package


def preset_names() -> list[str]:
    """The presets that ship with the package; names with a leading underscore are their bases."""
    return [name for name in _names("") if not name.startswith("_")]


def method_names() -> list[str]:
    """The methods that ship with the package."""
    return _names("methods")


def describe(name: str, kind: str = "") -> str:
    """The one-line description of a preset, or with kind `methods` or `protocols` of one of those."""
    return str(shipped(kind, name).get("description", ""))


def source_text(name: str) -> str:
    """A shipped preset's file as it is written. Raises UserError("config") for an unknown name."""
    if name not in _names(""):
        raise unknown("preset", name, preset_names())
    return files("presets").joinpath(f"{name}.yaml").read_text(encoding="utf-8")


def _names(kind: str) -> list[str]:
    folder = files("presets").joinpath(kind) if kind else files("presets")
    return sorted(entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith(".yaml"))


@cache
def shipped(kind: str, name: str) -> dict[str, Any]:
    """A file that ships with the package, as plain data that is not to be changed."""
    folder = files("presets").joinpath(kind) if kind else files("presets")
    with as_file(folder.joinpath(f"{name}.yaml")) as path:
        return yaml_file.read(path)


def _document(values: Mapping[str, Any], label: str, path: Path | None = None) -> Document:
    rest = copy.deepcopy(dict(values))
    description = rest.pop("description", "")
    extends = rest.pop("extends", None)
    sections = rest.pop("protocols", {})
    if extends is not None and not isinstance(extends, str):
        raise UserError(
            "config", f"extends = {show(extends)} must be one name ({label})", "Name a preset or file."
        )
    if not isinstance(sections, dict):
        raise UserError("config", f"protocols = {show(sections)} must be a section ({label})", _SECTION_HINT)
    for name, section in sections.items():
        if name not in PROTOCOLS:
            raise unknown("protocol", name, PROTOCOLS, f"protocols of {label}")
        if not isinstance(section, dict):
            raise UserError(
                "config", f"protocols.{name} = {show(section)} must be a section ({label})", _SECTION_HINT
            )
        if "protocol" in section:
            raise UserError("config", f"protocols.{name}.protocol cannot be set ({label})", "Leave it out.")
    return Document(label, rest, str(description), extends, sections, path)


def from_preset(name: str, where: str = "") -> Document:
    """The preset, or base of presets, of that name. where: what asked for it, for the message."""
    if name not in _names(""):
        raise unknown("preset", name, preset_names(), where)
    return _document(shipped("", name), f"preset {name}")


def from_protocol(name: str) -> Document:
    """The protocol of that name, one of `PROTOCOLS`."""
    return _document(shipped("protocols", name), f"protocol {name}")


def from_file(path: Path) -> Document:
    """A person's own YAML file, in a preset's grammar."""
    return _document(yaml_file.read(path), f"file {path.name}", path.resolve())


def with_bases(document: Document) -> list[Document]:
    """The document and all that it extends, base first. Raises UserError("config") on a circle."""
    chain = [document]
    while (base := chain[0].extends) is not None:
        path = chain[0].path
        if path is not None and base.endswith((".yaml", ".yml")):
            below = from_file(path.parent / base)
        else:
            below = from_preset(base, f"extends in {chain[0].label}")
        if any((below.label, below.path) == (each.label, each.path) for each in chain):
            names = " → ".join(each.label for each in [*reversed(chain), below])
            raise UserError("config", f"extends goes round in a circle: {names}", "Remove one `extends:`.")
        chain.insert(0, below)
    return chain
