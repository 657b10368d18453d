"""YAML documents with settings: shipped presets, protocols and methods, and the user's own files.

User presets are the files NAME.yaml in ``$CFM_PRESETS``, else in ``$XDG_CONFIG_HOME/cfm-tui/presets``, else
in ``~/.config/cfm-tui/presets``. User methods are the files in the subfolder ``methods``. Their names must
differ from those of the shipped files.

A document contains keys of `Config`, and optionally `description:`, `formula:`, `source:`, `extends:` (a
preset; in a file also another file) and `protocols:` (settings that apply under one protocol only; in each, a
section `by_ipc:` has settings that apply with that number of images per class only). A method may have
`datasets:`, and there and at its top `students:`, its authors' settings of `validate`, also with `by_ipc:`.
Not here: the precedence of documents (see `settings`).
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, get_args

from engine import environment
from engine.config import Config, yaml_io
from engine.config.messages import format_value, unknown_name_error
from engine.errors import UserError

PROTOCOLS: tuple[str, ...] = get_args(Config.model_fields["protocol"].annotation)
_NAME = re.compile(r"\w([\w .+-]{0,98}\w)?")  #: of a user preset; a leading underscore marks a base


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
    by_ipc: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)  #: protocol → ipc → settings
    datasets: dict[str, dict[str, Any]] = field(default_factory=dict)  #: of a method: data set → settings
    #: of a method: data set, or empty for all → settings of students; those of an ipc are under `by_ipc`
    students: dict[str, dict[str, Any]] = field(default_factory=dict)
    path: Path | None = None  #: None: shipped with the package
    preset: bool = False  #: a shipped or user preset, not another file

    def student_sections(self, data_name: str, ipc: int) -> list[dict[str, Any]]:
        """Return the sections of the method's `students:` that apply to a data set and ipc, lowest first."""
        sections = []
        for name in ("", data_name):
            settings = dict(self.students.get(name, {}))
            by_ipc = settings.pop("by_ipc", {})
            sections += [settings, by_ipc.get(str(ipc), {})]
        return [section for section in sections if section]

    def with_bases(self) -> list[Document]:
        """Return this document and all that it extends, base first.

        Raises UserError("config") on a circle.
        """
        chain = [self]
        while (base := chain[0].extends) is not None:
            path = chain[0].path
            if path is not None and base.endswith((".yaml", ".yml")):
                base_document = load_file(path.parent / base)
            else:
                base_document = load_document(base, where=f"extends in {chain[0].label}")
            if any((base_document.label, base_document.path) == (each.label, each.path) for each in chain):
                names = " → ".join(each.label for each in [*reversed(chain), base_document])
                raise UserError("config", f"extends forms a circle: {names}", "Remove one `extends:`.")
            chain.insert(0, base_document)
        return chain


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


def list_shipped(kind: str) -> list[str]:
    """Return the names of the shipped files of a kind, such as `sweeps`; of presets, the kind is empty."""
    folder = files("presets").joinpath(kind)
    return sorted(entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def preset_names() -> list[str]:
    """Return the names of the shipped presets, without the bases, whose names start with an underscore."""
    return [name for name in list_shipped("") if not name.startswith("_")]


def method_names() -> list[str]:
    """Return the names of the shipped methods, followed by those of the valid user methods."""
    return [*list_shipped("methods"), *(each.name for each in user_presets("methods") if not each.problem)]


def user_folder(kind: str = "") -> Path:
    """Return the folder of the user presets, or of the user's `methods`; it may not exist."""
    if os.environ.get("CFM_PRESETS"):
        return environment.user_folder("config", "CFM_PRESETS") / kind
    return environment.user_folder("config") / "presets" / kind


def user_presets(kind: str = "") -> list[UserPreset]:
    """Return the user presets, or the user's `methods`, without bases; invalid ones have a `problem`."""
    presets = []
    for name in _list_user_names(kind):
        if not name.startswith("_"):
            path = user_folder(kind) / f"{name}.yaml"
            try:
                presets.append(UserPreset(name, path, describe(name, kind)))
            except UserError as error:
                presets.append(UserPreset(name, path, "", error.message))
    return presets


def _list_user_names(kind: str = "") -> list[str]:
    try:
        names = [entry[:-5] for entry in os.listdir(user_folder(kind)) if entry.endswith(".yaml")]
    except OSError:
        return []
    return sorted(name for name in names if _NAME.fullmatch(name))


def describe(name: str, kind: str = "") -> str:
    """Return the one-line description of a preset. kind: `methods` or `protocols` for one of those."""
    return load_document(name, kind).description


def source_text(name: str) -> str:
    """Return the text of a preset's file. Raises UserError("config") if the name is unknown."""
    document = load_document(name)
    if document.path is not None:
        return document.path.read_text(encoding="utf-8-sig")
    return files("presets").joinpath(f"{name}.yaml").read_text(encoding="utf-8")


def save_preset(name: str, text: str, *, replace: bool = False) -> Path:
    """Write a user preset and return its path. replace: allow replacing a user preset of that name.

    Raises UserError: "usage" if the name is invalid or taken, "config" if the text is not a valid preset,
    "disk" if the file cannot be written.
    """
    from engine.store import files as store

    path = user_folder() / f"{name}.yaml"
    if not _NAME.fullmatch(name) or name.startswith("_") or name.endswith((".yaml", ".yml")):
        problem = f"{name[:100]!r} is not a valid preset name"
        raise UserError("usage", problem, "use letters, digits, - and ., without .yaml")
    if name in list_shipped(""):
        raise UserError("usage", f"a preset named {name} ships with the program", "choose another name")
    if path.exists() and not replace:
        raise UserError(
            "usage", f"preset {name} already exists: {path}", "choose another name, or replace it"
        )
    values = yaml_io.parse(text, f"preset {name}")
    if not isinstance(values, dict):
        raise UserError("config", f"preset {name} contains no keys", "Write `key: value` lines.")
    _build_document(values, f"user preset {name}", path.resolve(), "").with_bases()
    hint = "set CFM_PRESETS to a writable folder"
    store.make_folders(path.parent, hint=hint)
    store.write(path, text.encode(), hint=hint)
    return path


@cache
def load_shipped(kind: str, name: str) -> dict[str, Any]:
    """Return the content of a shipped file as plain data, which callers must not modify."""
    with as_file(files("presets").joinpath(kind).joinpath(f"{name}.yaml")) as path:
        return yaml_io.read(path)


def load_document(name: str, kind: str = "", where: str = "") -> Document:
    """Return the preset of that name, base of presets, or one of the `methods` or `protocols`.

    where: the key that names it, for messages. Raises UserError("config") if it is unknown, the name of both
    a shipped and a user's file, or a user's method that is not valid.
    """
    noun = kind.removesuffix("s") or "preset"
    user_names = [] if kind == "protocols" else _list_user_names(kind)
    path = user_folder(kind) / f"{name}.yaml"
    if name in list_shipped(kind):
        if name in user_names:
            problem = f"{noun} {name} ships with the program, and {path} has the same name"
            raise UserError("config", problem, "Rename your file.")
        return _build_document(load_shipped(kind, name), f"{noun} {name}", kind=kind)
    if name not in user_names:
        known = [each for each in [*list_shipped(kind), *user_names] if kind or not each.startswith("_")]
        raise unknown_name_error(noun, name, known, where)
    document = _build_document(yaml_io.read(path), f"user {noun} {name}", path.resolve(), kind)
    if kind == "methods":
        _require_method(document)
    return document


def load_file(path: Path) -> Document:
    """Return the document of any YAML file, which has the format of a preset."""
    return _build_document(yaml_io.read(path), f"file {path.name}", path.resolve())


def find_base_preset(path: Path) -> str | None:
    """Return the preset that a file extends, directly or through other files; None if there is none."""
    own = next(each for each in load_file(path).with_bases() if not each.preset)
    return own.extends


def _build_document(
    values: Mapping[str, Any], label: str, path: Path | None = None, kind: str | None = None
) -> Document:
    """Return the document of a file's content. kind: as in `load_document`; None: any other file."""
    rest = copy.deepcopy(dict(values))
    datasets = rest.pop("datasets", {}) if kind == "methods" else {}
    if not isinstance(datasets, dict) or not all(isinstance(each, dict) for each in datasets.values()):
        raise UserError(
            "config",
            f"datasets = {format_value(datasets)} must be a section of sections ({label})",
            "Write `datasets: {cifar10: {recover: {lr: 0.25}}}`.",
        )
    students = _take_students(rest, datasets, label) if kind == "methods" else {}
    description, formula, source = (str(rest.pop(key, "")) for key in ("description", "formula", "source"))
    extends = rest.pop("extends", None)
    sections = rest.pop("protocols", {})
    if extends is not None and not isinstance(extends, str):
        problem = f"extends = {format_value(extends)} must be one name ({label})"
        raise UserError("config", problem, "Give the name of a preset or a file.")
    if not isinstance(sections, dict):
        raise _section_error("protocols", sections, label)
    for name, section in sections.items():
        if name not in PROTOCOLS:
            raise unknown_name_error("protocol", name, PROTOCOLS, f"protocols of {label}")
        if not isinstance(section, dict):
            raise _section_error(f"protocols.{name}", section, label)
        if "protocol" in section:
            raise UserError("config", f"protocols.{name}.protocol cannot be set ({label})", "Remove it.")
    by_ipc = {name: _pop_by_ipc(section, f"protocols.{name}", label) for name, section in sections.items()}
    for section in (rest, *sections.values(), *(each for one in by_ipc.values() for each in one.values())):
        if isinstance(section.get("objective"), str):
            section["objective"] = {"method": section["objective"]}
    texts = (description, formula, source, extends)
    return Document(label, rest, *texts, sections, by_ipc, datasets, students, path, preset=kind == "")


def _pop_by_ipc(section: dict[str, Any], key: str, label: str) -> dict[str, dict[str, Any]]:
    """Remove the key `by_ipc` from a protocol's section, and return its settings by images per class."""
    by_ipc = section.pop("by_ipc", {})
    valid = isinstance(by_ipc, dict) and all(
        ipc.isdecimal() and isinstance(each, dict) and not {"ipc", "protocol"} & each.keys()
        for ipc, each in by_ipc.items()
    )
    if not valid:
        raise UserError(
            "config",
            f"{key}.by_ipc must be a section of sections ({label})",
            'Write `by_ipc: {"1": {validate: {batch: 20}}}`; ipc and protocol cannot be set there.',
        )
    return dict(by_ipc)


def _take_students(
    rest: dict[str, Any], datasets: dict[str, dict[str, Any]], label: str
) -> dict[str, dict[str, Any]]:
    """Remove and return the `students:` of a method and of its data sets, by data set; empty: of all."""
    students = {name: section.pop("students", {}) for name, section in {**datasets, "": rest}.items()}
    for name, section in students.items():
        by_ipc = section.get("by_ipc", {}) if isinstance(section, dict) else None
        if not isinstance(by_ipc, dict) or not all(isinstance(each, dict) for each in by_ipc.values()):
            key = f"datasets.{name}.students" if name else "students"
            problem = f"{key} = {format_value(section)} must be a section ({label})"
            raise UserError(
                "config", problem, 'Write `students: {batch: 100, by_ipc: {"50": {batch: 200}}}`.'
            )
    return students


def _section_error(key: str, value: object, label: str) -> UserError:
    return UserError(
        "config",
        f"{key} = {format_value(value)} must be a section ({label})",
        "Write `protocols: {paper: {validate: {batch: 64}}}`.",
    )


def _require_method(document: Document) -> None:
    """Raise UserError("config") if a user's file is not a valid method."""
    if document.extends is not None:
        problem = f"{document.label} has `extends:`, which methods do not support"
        raise UserError("config", problem, "Remove it, and write the terms in the file.")
    objective = document.values.get("objective")
    if not isinstance(objective, dict) or "method" in objective:
        raise UserError(
            "config",
            f"{document.label} has no objective section, or one that names another method",
            "Write `objective: {terms: [{filter: ridge, signal: class}]}`.",
        )
