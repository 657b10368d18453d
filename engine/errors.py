"""Exceptions whose messages are written for users.

Whatever a user can get wrong raises a UserError that says what is wrong, where, and how to fix it.
A programming error is an ``assert`` instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NoReturn

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


def format_names(names: Sequence[str]) -> str:
    """Format the first five names and the number of the others."""
    more = f" and {len(names) - 5:,} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


class Stopped(Exception):
    """A run was stopped on request; its state is on disk.

    by: who requested it, a signal's name or a user with host. folder: the run's folder.
    """

    def __init__(self, by: str, folder: object) -> None:
        super().__init__(f"{folder} was stopped by {by}")
        self.by = by
        self.hint = f"`cfm resume {folder}` resumes it"
