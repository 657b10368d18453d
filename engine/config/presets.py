"""YAML documents with settings: shipped presets, protocols and methods, and the user's own files.

User presets are the files NAME.yaml in ``$CFM_PRESETS``, else in ``$XDG_CONFIG_HOME/cfm-tui/presets``, else
in ``~/.config/cfm-tui/presets``. User methods are the files in the subfolder ``methods``. Their names must
differ from those of the shipped files.

A document contains keys of `Config`, and optionally `description:`, `formula:`, `source:`, `extends:` (a
preset; in a file also another file) and `protocols:` (settings that apply under one protocol only).
Not here: the precedence of documents (see `settings`).
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, get_args

from engine.config import Config, yaml_io
from engine.config.messages import format_value, unknown_name_error
from engine.errors import UserError

PROTOCOLS: tuple[str, ...] = get_args(Config.model_fields["protocol"].annotation)
_NAME = re.compile(r"\w([\w .+-]{0,98}\w)?")  #: of a user preset; a leading underscore marks a base
_SECTION_HINT = "Write `protocols: {paper: {validate: {batch: 64}}}`."


@dataclass(frozen=True)
class Document:
    """One preset, protocol, method or file as written, without the documents that it extends."""

    label: str
    values: dict[str, Any]
    description: str = ""
    formula: str = ""
    source: str = ""
    extends: str | None = None
    sections: dict[str, dict[str, Any]] = field(default_factory=dict)
    datasets: dict[str, dict[str, Any]] = field(default_factory=dict)  #: of a method: data set → settings
    path: Path | None = None  #: None: shipped with the package
    preset: bool = False  #: a shipped or user preset, not another file


@dataclass(frozen=True)
class UserPreset:
    """A preset or method of the user. problem: why it cannot be used; empty if it can."""

    name: str
    path: Path
    description: str
    problem: str = ""

    def to_dict(self) -> dict[str, str]:
        """Return its entry in JSON output."""
        entry = {"name": self.name, "description": self.description, "path": str(self.path)}
        return {**entry, "problem": self.problem} if self.problem else entry


def preset_names() -> list[str]:
    """Return the names of the shipped presets, without the bases, whose names start with an underscore."""
    return [name for name in _list_shipped_names("") if not name.startswith("_")]


def method_names() -> list[str]:
    """Return the names of the shipped methods, followed by those of the valid user methods."""
    usable = (method.name for method in user_methods() if not method.problem)
    return [*_list_shipped_names("methods"), *usable]


def sweep_names() -> list[str]:
    """Return the names of the shipped sweeps."""
    return _list_shipped_names("sweeps")


def paper_names() -> list[str]:
    """Return the names of the paper's tables whose numbers are shipped."""
    return _list_shipped_names("paper")


def presets_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the folder of the user presets, which may not exist."""
    if folder := environ.get("CFM_PRESETS"):
        return Path(os.path.expanduser(folder))
    base = environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(os.path.expanduser(base)) / "cfm-tui" / "presets"


def methods_folder() -> Path:
    """Return the folder of the user methods, which may not exist."""
    return presets_folder() / "methods"


def user_presets() -> list[UserPreset]:
    """Return the user presets, without bases; invalid ones have a `problem`."""
    return _load_user_presets("", from_preset)


def user_methods() -> list[UserPreset]:
    """Return the user methods; invalid ones have a `problem`."""
    return _load_user_presets("methods", from_method)


def _load_user_presets(kind: str, read: Callable[[str], Document]) -> list[UserPreset]:
    presets = []
    for name in _list_user_names(kind):
        if not name.startswith("_"):
            path = _get_user_path(name, kind)
            try:
                presets.append(UserPreset(name, path, read(name).description))
            except UserError as error:
                presets.append(UserPreset(name, path, "", error.message))
    return presets


def describe(name: str, kind: str = "") -> str:
    """Return the one-line description of a preset. kind: `methods` or `protocols` for one of those."""
    return {"": from_preset, "methods": from_method, "protocols": from_protocol}[kind](name).description


def source_text(name: str) -> str:
    """Return the text of a preset's file. Raises UserError("config") if the name is unknown."""
    document = from_preset(name)
    if document.path is not None:
        return document.path.read_text(encoding="utf-8-sig")
    return files("presets").joinpath(f"{name}.yaml").read_text(encoding="utf-8")


def save_preset(name: str, text: str, *, replace: bool = False) -> Path:
    """Write a user preset and return its path. replace: allow replacing a user preset of that name.

    Raises UserError: "usage" if the name is invalid or taken, "config" if the text is not a valid preset,
    "disk" if the file cannot be written.
    """
    from engine.store import files as store

    path = presets_folder() / f"{name}.yaml"
    if not _NAME.fullmatch(name) or name.startswith("_") or name.endswith((".yaml", ".yml")):
        raise UserError(
            "usage",
            f"{name[:100]!r} is not a valid preset name",
            "use letters, digits, - and ., without .yaml",
        )
    if name in _list_shipped_names(""):
        raise UserError("usage", f"a preset named {name} ships with the program", "choose another name")
    if path.exists() and not replace:
        raise UserError(
            "usage", f"preset {name} already exists: {path}", "choose another name, or replace it"
        )
    values = yaml_io.parse(text, f"preset {name}")
    if not isinstance(values, dict):
        raise UserError("config", f"preset {name} contains no keys", "Write `key: value` lines.")
    with_bases(_build_user_document(name, values))
    hint = "set CFM_PRESETS to a writable folder"
    store.make_folder(path.parent, hint)
    store.write(path, text.encode(), hint=hint)
    return path


def _list_user_names(kind: str = "") -> list[str]:
    try:
        names = [entry[:-5] for entry in os.listdir(presets_folder() / kind) if entry.endswith(".yaml")]
    except OSError:
        return []
    return sorted(name for name in names if _NAME.fullmatch(name))


def _get_user_path(name: str, kind: str = "") -> Path:
    return presets_folder() / kind / f"{name}.yaml"


def _list_shipped_names(kind: str) -> list[str]:
    folder = files("presets").joinpath(kind) if kind else files("presets")
    return sorted(entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith(".yaml"))


@cache
def shipped(kind: str, name: str) -> dict[str, Any]:
    """Return the content of a shipped file as plain data, which callers must not modify."""
    folder = files("presets").joinpath(kind) if kind else files("presets")
    with as_file(folder.joinpath(f"{name}.yaml")) as path:
        return yaml_io.read(path)


def _build_document(values: Mapping[str, Any], label: str, path: Path | None = None) -> Document:
    rest = copy.deepcopy(dict(values))
    description, formula, source = (str(rest.pop(key, "")) for key in ("description", "formula", "source"))
    extends = rest.pop("extends", None)
    sections = rest.pop("protocols", {})
    if extends is not None and not isinstance(extends, str):
        raise UserError(
            "config",
            f"extends = {format_value(extends)} must be one name ({label})",
            "Give the name of a preset or a file.",
        )
    if not isinstance(sections, dict):
        raise UserError(
            "config", f"protocols = {format_value(sections)} must be a section ({label})", _SECTION_HINT
        )
    for name, section in sections.items():
        if name not in PROTOCOLS:
            raise unknown_name_error("protocol", name, PROTOCOLS, f"protocols of {label}")
        if not isinstance(section, dict):
            raise UserError(
                "config",
                f"protocols.{name} = {format_value(section)} must be a section ({label})",
                _SECTION_HINT,
            )
        if "protocol" in section:
            raise UserError("config", f"protocols.{name}.protocol cannot be set ({label})", "Remove it.")
    return Document(label, rest, description, formula, source, extends, sections, path=path)


def from_preset(name: str, where: str = "") -> Document:
    """Return the preset, or base of presets, of that name. where: the key that names it, for the message.

    Raises UserError("config") if it is unknown, or the name of both a shipped and a user preset.
    """
    user_names = _list_user_names()
    if name not in _list_shipped_names(""):
        if name not in user_names:
            listed = [*preset_names(), *(each for each in user_names if not each.startswith("_"))]
            raise unknown_name_error("preset", name, listed, where)
        return _build_user_document(name, yaml_io.read(_get_user_path(name)))
    if name in user_names:
        raise UserError(
            "config",
            f"preset {name} ships with the program, and {_get_user_path(name)} has the same name",
            "Rename your file.",
        )
    return replace(_build_document(shipped("", name), f"preset {name}"), preset=True)


def _build_user_document(name: str, values: Mapping[str, Any]) -> Document:
    path = _get_user_path(name).resolve()
    return replace(_build_document(values, f"user preset {name}", path), preset=True)


def from_method(name: str, where: str = "") -> Document:
    """Return the shipped or user method of that name. where: the key that names it, for the message.

    Raises UserError("config") if it is unknown, the name of both a shipped and a user method, or not valid.
    """
    user_names, path = _list_user_names("methods"), _get_user_path(name, "methods")
    if name not in _list_shipped_names("methods"):
        if name not in user_names:
            known = [*_list_shipped_names("methods"), *user_names]
            raise unknown_name_error("method", name, known, where)
        document = _build_method_document(yaml_io.read(path), f"user method {name}", path.resolve())
        _require_method(document)
        return document
    if name in user_names:
        raise UserError(
            "config",
            f"method {name} ships with the program, and {path} has the same name",
            "Rename your file.",
        )
    return _build_method_document(shipped("methods", name), f"method {name}")


def _build_method_document(values: Mapping[str, Any], label: str, path: Path | None = None) -> Document:
    """Return the document of a method's file, with its `datasets:` section of settings by data set."""
    datasets = values.get("datasets", {})
    if not isinstance(datasets, dict) or not all(isinstance(each, dict) for each in datasets.values()):
        raise UserError(
            "config",
            f"datasets = {format_value(datasets)} must be a section of sections ({label})",
            "Write `datasets: {cifar10: {recover: {lr: 0.25}}}`.",
        )
    rest = {key: value for key, value in values.items() if key != "datasets"}
    return replace(_build_document(rest, label, path), datasets=copy.deepcopy(datasets))


def _require_method(document: Document) -> None:
    """Raise UserError("config") if a user's file is not a valid method."""
    if document.extends is not None:
        raise UserError(
            "config",
            f"{document.label} has `extends:`, which methods do not support",
            "Remove it, and write the terms in the file.",
        )
    objective = document.values.get("objective")
    if not isinstance(objective, dict) or "method" in objective:
        raise UserError(
            "config",
            f"{document.label} has no objective section, or one that names another method",
            "Write `objective: {terms: [{filter: ridge, signal: class}]}`.",
        )


def from_protocol(name: str) -> Document:
    """Return the protocol of that name, one of `PROTOCOLS`."""
    return _build_document(shipped("protocols", name), f"protocol {name}")


def from_file(path: Path) -> Document:
    """Return the document of any YAML file, which has the format of a preset."""
    return _build_document(yaml_io.read(path), f"file {path.name}", path.resolve())


def with_bases(document: Document) -> list[Document]:
    """Return the document and all that it extends, base first. Raises UserError("config") on a circle."""
    chain = [document]
    while (base := chain[0].extends) is not None:
        path = chain[0].path
        if path is not None and base.endswith((".yaml", ".yml")):
            base_document = from_file(path.parent / base)
        else:
            base_document = from_preset(base, f"extends in {chain[0].label}")
        if any((base_document.label, base_document.path) == (each.label, each.path) for each in chain):
            names = " → ".join(each.label for each in [*reversed(chain), base_document])
            raise UserError("config", f"extends forms a circle: {names}", "Remove one `extends:`.")
        chain.insert(0, base_document)
    return chain
