"""Safe YAML input and output: the core schema of YAML 1.2, with size limits and line numbers in errors.

`1e-3` is a number and `1:30` is not; `true`, `yes` and `on` are the same. Anchors, aliases, tags and repeated
keys are errors, so a file cannot expand in memory, execute code or contradict itself.
Not here: the meaning of the keys (see `settings`).
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, NoReturn

import yaml
from yaml.composer import Composer
from yaml.constructor import ConstructorError, SafeConstructor
from yaml.emitter import Emitter
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.representer import SafeRepresenter
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner
from yaml.serializer import Serializer

from engine.errors import UserError

MAX_BYTES = 100_000
MAX_DEPTH = 16
_TAG = "tag:yaml.org,2002:"


class _Core(BaseResolver):
    """The plain scalars that are not text: null, booleans and numbers."""


_Core.add_implicit_resolver(_TAG + "null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_Core.add_implicit_resolver(
    _TAG + "bool",
    re.compile(r"^(?:true|True|TRUE|false|False|FALSE|yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF)$"),
    list("tTfFyYnNoO"),
)
_Core.add_implicit_resolver(_TAG + "int", re.compile(r"^[-+]?[0-9]+$"), list("-+0123456789"))
_Core.add_implicit_resolver(
    _TAG + "float",
    re.compile(
        r"^(?:[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?[0-9]+[eE][-+]?[0-9]+|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    list("-+0123456789."),
)


class _Loader(Reader, Scanner, Parser, Composer, SafeConstructor, _Core):
    """A loader that constructs only plain data."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        SafeConstructor.__init__(self)
        BaseResolver.__init__(self)
        self.depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Raise an error on anchors, aliases and deep nesting before anything is constructed from them."""
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            _refuse("anchors and aliases are not supported; write the value in full", event.start_mark)
        if self.depth >= MAX_DEPTH:
            _refuse(f"nested deeper than {MAX_DEPTH} levels", event.start_mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def build_dict(self, node: Any) -> dict[str, Any]:
        """Return a mapping with distinct text keys."""
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                _refuse(f"the key {key!r} is not text", key_node.start_mark)
            if key in values:
                _refuse(f"the key '{key}' is repeated", key_node.start_mark)
            values[key] = self.construct_object(value_node, deep=True)
        return values

    def build_text(self, node: Any) -> str:
        """Return text without surrogates, which escapes such as `\\ud800` produce."""
        text = str(self.construct_scalar(node))
        if any("\ud800" <= character <= "\udfff" for character in text):
            _refuse("half a character (a surrogate) in the text", node.start_mark)
        return text

    def build_list(self, node: Any) -> list[Any]:
        """Return a list of plain data."""
        return [self.construct_object(child, deep=True) for child in node.value]

    def build_int(self, node: Any) -> int:
        """Return an integer in decimal digits; octal and base 60 are not supported."""
        digits = 40
        if len(node.value) > digits or not re.fullmatch(r"[-+]?[0-9]+", node.value):
            _refuse(f"'{node.value[:20]}…' is not a whole number of at most {digits} digits", node.start_mark)
        return int(node.value)

    def build_float(self, node: Any) -> float:
        """Return a floating-point number, such as `1e-3`."""
        try:
            return float(node.value.replace(".inf", "inf").replace(".nan", "nan"))
        except ValueError:
            _refuse(f"'{node.value[:20]}' is not a number", node.start_mark)

    def refuse_tag(self, node: Any) -> None:
        """Raise an error on any tag other than those of plain data."""
        _refuse(f"the tag '{node.tag.replace(_TAG, '!!')}' is not allowed", node.start_mark)


_Loader.yaml_constructors = {  # no other types can be constructed
    _TAG + "null": SafeConstructor.construct_yaml_null,
    _TAG + "bool": SafeConstructor.construct_yaml_bool,
    _TAG + "str": _Loader.build_text,
    _TAG + "int": _Loader.build_int,
    _TAG + "float": _Loader.build_float,
    _TAG + "seq": _Loader.build_list,
    _TAG + "map": _Loader.build_dict,
    None: _Loader.refuse_tag,
}


class _Dumper(Emitter, Serializer, SafeRepresenter, _Core):
    """A dumper whose output `_Loader` reads as equal values."""

    def __init__(self, stream: Any, **options: Any) -> None:
        Emitter.__init__(self, stream, width=1_000_000, allow_unicode=True)
        Serializer.__init__(self)
        SafeRepresenter.__init__(self, default_flow_style=True, sort_keys=False)
        BaseResolver.__init__(self)

    def ignore_aliases(self, data: Any) -> bool:
        """Never write anchors."""
        return True

    def represent_text(self, value: str) -> Any:
        """Write text on one line, with quotes if it would be read as something else."""
        style = None if value.isprintable() else '"'
        return self.represent_scalar(_TAG + "str", value, style=style)


_Dumper.add_representer(str, _Dumper.represent_text)


def _refuse(problem: str, mark: Any) -> NoReturn:
    raise ConstructorError(None, None, problem, mark)


def parse(text: str, where: str) -> Any:
    """Return the plain data in `text`: None, bool, int, float, str, list, or dict with text keys.

    where: the name of the text in messages. Raises UserError("config") with the line of the error.
    """
    if len(text) > MAX_BYTES:
        raise UserError(
            "config", f"{where} is larger than {MAX_BYTES} bytes", "Check that it is the right text."
        )
    try:
        loader = _Loader(text)
        return loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f" line {mark.line + 1}" if mark is not None else ""
        problem = error.problem or error.context or "invalid YAML"
        raise UserError(
            "config", f"{where}{line}: {problem}", "Correct the YAML; check indentation and quotes."
        ) from None
    except (ValueError, OverflowError):
        line = f" line {loader.line + 1}"
        raise UserError(
            "config", f"{where}{line}: an escape sequence is not a character", "Correct it."
        ) from None
    except yaml.YAMLError as error:
        problem = str(getattr(error, "reason", error))
        raise UserError("config", f"{where}: {problem}", "Write it as plain UTF-8 text.") from None


def read(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file; an empty file gives an empty mapping.

    Raises UserError("config") if the file is missing, unreadable, too large, not YAML or not a mapping.
    """
    if not os.path.isfile(path):
        problem = "is a folder" if os.path.isdir(path) else "does not exist, or is not a regular file"
        raise UserError("config", f"{path} {problem}", "Give the path of a YAML file.")
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise UserError(
                "config", f"{path} is larger than {MAX_BYTES} bytes", "Check that it is the right file."
            )
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(
            "config", f"{path} line {line}: not UTF-8 text", "Check that it is the right file."
        ) from None
    except OSError as error:
        raise UserError(
            "config", f"{path} cannot be read: {error.strerror}", "Check its permissions."
        ) from None
    values = parse(text, str(path))
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError("config", f"{path} contains no keys", "Write `key: value` lines, as presets do.")
    return values


def inline(value: Any) -> str:
    """Return a value as YAML on one line."""
    text: str = yaml.dump(value, Dumper=_Dumper)
    return text.removesuffix("\n").removesuffix("\n...")
