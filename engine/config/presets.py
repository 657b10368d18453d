"""The YAML documents that settings are made of: presets, protocols, methods, and a person's own files.

A person's own presets are the files NAME.yaml in ``$CFM_PRESETS``, else ``$XDG_CONFIG_HOME/cfm-tui/presets``,
else ``~/.config/cfm-tui/presets``, and their own methods those in the folder ``methods`` there; none may
have the name of one that ships.

A document holds keys of `Config`, and may say `description:`, `formula:`, `source:`, `extends:` (a preset;
in a file also another file) and `protocols:` (what holds under one protocol only).
Not here: in which order documents count (see `settings`).
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
from engine.config.messages import show, unknown_name_error
from engine.errors import UserError

PROTOCOLS: tuple[str, ...] = get_args(Config.model_fields["protocol"].annotation)
_NAME = re.compile(r"\w([\w .+-]{0,98}\w)?")  #: of an own preset; a leading underscore makes it a base
_SECTION_HINT = "Write `protocols: {paper: {validate: {batch: 64}}}`."


@dataclass(frozen=True)
class Document:
    """A preset, protocol or file as written, without what it extends."""

    label: str
    values: dict[str, Any]
    description: str = ""
    formula: str = ""
    source: str = ""
    extends: str | None = None
    sections: dict[str, dict[str, Any]] = field(default_factory=dict)
    datasets: dict[str, dict[str, Any]] = field(default_factory=dict)  #: of a method: by data set
    path: Path | None = None  #: None: ships with the package
    preset: bool = False  #: shipped or own, but not just a file


@dataclass(frozen=True)
class OwnPreset:
    """A preset, or a method, of the user's own. problem: why it cannot be used, or empty."""

    name: str
    path: Path
    description: str
    problem: str = ""

    def told(self) -> dict[str, str]:
        """As JSON documents tell of it."""
        told = {"name": self.name, "description": self.description, "path": str(self.path)}
        return {**told, "problem": self.problem} if self.problem else told


def preset_names() -> list[str]:
    """The presets that ship with the package; names with a leading underscore are their bases."""
    return [name for name in _names("") if not name.startswith("_")]


def method_names() -> list[str]:
    """The methods that ship with the package, then the user's own that can be used."""
    return [*_names("methods"), *(method.name for method in own_methods() if not method.problem)]


def sweep_names() -> list[str]:
    """The sweeps that ship with the package."""
    return _names("sweeps")


def paper_names() -> list[str]:
    """The tables of the paper whose numbers ship with the package."""
    return _names("paper")


def presets_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Where the user's own presets lie."""
    if own := environ.get("CFM_PRESETS"):
        return Path(os.path.expanduser(own))
    base = environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(os.path.expanduser(base)) / "cfm-tui" / "presets"


def methods_folder() -> Path:
    """Where the user's own methods lie."""
    return presets_folder() / "methods"


def own_presets() -> list[OwnPreset]:
    """The user's own presets, without their bases; those that cannot be used say why."""
    return _own("", from_preset)


def own_methods() -> list[OwnPreset]:
    """The user's own methods, likewise."""
    return _own("methods", from_method)


def _own(kind: str, read: Callable[[str], Document]) -> list[OwnPreset]:
    found = []
    for name in _own_names(kind):
        if not name.startswith("_"):
            path = _own_path(name, kind)
            try:
                found.append(OwnPreset(name, path, read(name).description))
            except UserError as error:
                found.append(OwnPreset(name, path, "", error.message))
    return found


def describe(name: str, kind: str = "") -> str:
    """The one-line description of a preset, or with kind `methods` or `protocols` of one of those."""
    return {"": from_preset, "methods": from_method, "protocols": from_protocol}[kind](name).description


def source_text(name: str) -> str:
    """A preset's file as it is written. Raises UserError("config") for an unknown name."""
    document = from_preset(name)
    if document.path is not None:
        return document.path.read_text(encoding="utf-8-sig")
    return files("presets").joinpath(f"{name}.yaml").read_text(encoding="utf-8")


def save_preset(name: str, text: str, *, replace: bool = False) -> Path:
    """Write a preset of the user's own; returns its file. replace: where there is one of that name.

    Raises UserError: "usage" for a name that cannot be used or is taken, "config" for a text that is no
    preset, "disk" where it cannot be written.
    """
    from engine.store import files as store

    path = presets_folder() / f"{name}.yaml"
    if not _NAME.fullmatch(name) or name.startswith("_") or name.endswith((".yaml", ".yml")):
        raise UserError(
            "usage", f"{name[:100]!r} cannot name a preset", "use letters, digits, - and ., without .yaml"
        )
    if name in _names(""):
        raise UserError("usage", f"a preset {name} ships with the program", "choose another name")
    if path.exists() and not replace:
        raise UserError(
            "usage", f"there is a preset {name} already: {path}", "choose another name, or replace it"
        )
    values = yaml_io.parse(text, f"preset {name}")
    if not isinstance(values, dict):
        raise UserError("config", f"preset {name} holds no keys", "Write `key: value` lines.")
    with_bases(_own_document(name, values))
    hint = "set CFM_PRESETS to a folder that can be written"
    store.make_folder(path.parent, hint)
    store.write(path, text.encode(), hint=hint)
    return path


def _own_names(kind: str = "") -> list[str]:
    try:
        names = [entry[:-5] for entry in os.listdir(presets_folder() / kind) if entry.endswith(".yaml")]
    except OSError:
        return []
    return sorted(name for name in names if _NAME.fullmatch(name))


def _own_path(name: str, kind: str = "") -> Path:
    return presets_folder() / kind / f"{name}.yaml"


def _names(kind: str) -> list[str]:
    folder = files("presets").joinpath(kind) if kind else files("presets")
    return sorted(entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith(".yaml"))


@cache
def shipped(kind: str, name: str) -> dict[str, Any]:
    """A file that ships with the package, as plain data that is not to be changed."""
    folder = files("presets").joinpath(kind) if kind else files("presets")
    with as_file(folder.joinpath(f"{name}.yaml")) as path:
        return yaml_io.read(path)


def _document(values: Mapping[str, Any], label: str, path: Path | None = None) -> Document:
    rest = copy.deepcopy(dict(values))
    description, formula, source = (str(rest.pop(key, "")) for key in ("description", "formula", "source"))
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
            raise unknown_name_error("protocol", name, PROTOCOLS, f"protocols of {label}")
        if not isinstance(section, dict):
            raise UserError(
                "config", f"protocols.{name} = {show(section)} must be a section ({label})", _SECTION_HINT
            )
        if "protocol" in section:
            raise UserError("config", f"protocols.{name}.protocol cannot be set ({label})", "Leave it out.")
    return Document(label, rest, description, formula, source, extends, sections, path=path)


def from_preset(name: str, where: str = "") -> Document:
    """The preset, or base of presets, of that name. where: what asked for it, for the message.

    Raises UserError("config"): unknown, or both shipped and the user's own.
    """
    own = _own_names()
    if name not in _names(""):
        if name not in own:
            shown = [*preset_names(), *(each for each in own if not each.startswith("_"))]
            raise unknown_name_error("preset", name, shown, where)
        return _own_document(name, yaml_io.read(_own_path(name)))
    if name in own:
        raise UserError(
            "config",
            f"preset {name} ships with the program, and {_own_path(name)} has the same name",
            "Rename your file.",
        )
    return replace(_document(shipped("", name), f"preset {name}"), preset=True)


def _own_document(name: str, values: Mapping[str, Any]) -> Document:
    path = _own_path(name).resolve()
    return replace(_document(values, f"own preset {name}", path), preset=True)


def from_method(name: str, where: str = "") -> Document:
    """The method of that name, shipped or the user's own. where: what asked for it, for the message.

    Raises UserError("config"): unknown, of a shipped one's name, or of keys that no method has.
    """
    own, path = _own_names("methods"), _own_path(name, "methods")
    if name not in _names("methods"):
        if name not in own:
            raise unknown_name_error("method", name, [*_names("methods"), *own], where)
        return _required_method(_method(yaml_io.read(path), f"own method {name}", path.resolve()))
    if name in own:
        raise UserError(
            "config",
            f"method {name} ships with the program, and {path} has the same name",
            "Rename your file.",
        )
    return _method(shipped("methods", name), f"method {name}")


def _method(values: Mapping[str, Any], label: str, path: Path | None = None) -> Document:
    """A method's file, whose `datasets:` says what holds on one data set alone."""
    datasets = values.get("datasets", {})
    if not isinstance(datasets, dict) or not all(isinstance(each, dict) for each in datasets.values()):
        raise UserError(
            "config",
            f"datasets = {show(datasets)} must be a section of sections ({label})",
            "Write `datasets: {cifar10: {recover: {lr: 0.25}}}`.",
        )
    rest = {key: value for key, value in values.items() if key != "datasets"}
    return replace(_document(rest, label, path), datasets=copy.deepcopy(datasets))


def _required_method(document: Document) -> Document:
    """Refuse what is more than a method."""
    if document.extends is not None:
        raise UserError("config", f"{document.label} extends something", "Write its terms out.")
    objective = document.values.get("objective")
    if not isinstance(objective, dict) or "method" in objective:
        raise UserError(
            "config",
            f"{document.label} has no section objective of its own",
            "Write `objective: {terms: [{filter: ridge, signal: class}]}`.",
        )
    return document


def from_protocol(name: str) -> Document:
    """The protocol of that name, one of `PROTOCOLS`."""
    return _document(shipped("protocols", name), f"protocol {name}")


def from_file(path: Path) -> Document:
    """A person's own YAML file, in a preset's grammar."""
    return _document(yaml_io.read(path), f"file {path.name}", path.resolve())


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
