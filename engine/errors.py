"""Exceptions whose messages are written for users.

Whatever a user can get wrong raises a UserError that says what is wrong, where, and how to fix it.
A programming error is an ``assert`` instead.
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NoReturn

_ACTIVE_CHARACTERS = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
Kind = Literal["usage", "config", "data", "teacher", "disk", "network", "numeric", "memory"]


class UserError(ValueError):
    """An error that the user can fix.

    kind: the subject of the error, a stable word for scripts (``error.kind`` under ``--json``).
    message: what is wrong and where, one sentence.
    hint: how to fix it, one sentence; may be empty.
    """

    def __init__(self, kind: Kind, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.hint = hint


def raise_data_error(message: str, hint: str) -> NoReturn:
    """Raise UserError("data")."""
    raise UserError("data", message, hint)


def nearest_name(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return the known name that is most similar to `name`, ignoring case; None if none is similar."""
    by_lower_case = {each.lower(): each for each in known}
    similar = difflib.get_close_matches(name.lower(), by_lower_case, n=1, cutoff=cutoff)
    return by_lower_case[similar[0]] if similar else None


def suggest_name(name: str, known: Iterable[str], otherwise: str) -> str:
    """Return the hint for an unknown name: the most similar known one, else `otherwise`."""
    similar = nearest_name(name, known)
    return otherwise if similar is None else f"did you mean {similar}?"


def escape_name(name: str) -> str:
    """Return a name on one line as it is, except that characters that would act on a terminal are escaped.

    These are control characters, line ends, changes of the writing direction, and the surrogates by which
    Python represents bytes that are not UTF-8; such a byte becomes ``\\xNN``.
    """

    def escape(match: re.Match[str]) -> str:
        code = ord(match[0])
        if 0xDC80 <= code <= 0xDCFF:
            return f"\\x{code - 0xDC00:02x}"
        return match[0].encode("unicode_escape").decode()

    return _ACTIVE_CHARACTERS.sub(escape, name)


def format_names(names: Sequence[str], most: int = 5, separator: str = ", ") -> str:
    """Format the first `most` names, escaped, and the number of the others."""
    shown = separator.join(map(escape_name, names[:most]))
    more = f" and {len(names) - most:,} more"
    return shown if len(names) <= most else shown + separator.strip(", ") + more


def quote_command(words: str, *arguments: str | Path, **options: str | Path) -> str:
    """Return a command of the program between backticks, which can be pasted into a shell.

    words: ``resume`` or ``data get``. arguments: paths or names. options: long options and their values.
    """

    def protect(value: str | Path) -> str:
        text = os.fspath(value)
        return f"./{text}" if isinstance(value, Path) and text.startswith("-") else text

    given = [part for name, value in options.items() for part in (f"--{name}", protect(value))]
    operands = [protect(value) for value in arguments]
    separator = ["--"] if any(operand.startswith("-") for operand in operands) else []
    return f"`cfm {words} {shlex.join([*given, *separator, *operands])}`"


class Stopped(Exception):
    """A run was stopped on request; its state is on disk.

    by: who requested it, a signal's name or a user with host. folder: the run's folder.
    """

    def __init__(self, by: str, folder: Path) -> None:
        super().__init__(f"{folder} was stopped by {by}")
        self.by = by
        self.hint = f"{quote_command('resume', folder)} resumes it"
