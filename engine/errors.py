"""Exceptions whose messages are written for users.

Whatever a user can get wrong raises a UserError that says what is wrong, where, and how to fix it.
A programming error is an ``assert`` instead.
"""

from __future__ import annotations

from typing import Literal

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


class Stopped(Exception):
    """A run was stopped on request; its state is on disk.

    by: who requested it, a signal's name or a user with host. folder: the run's folder.
    """

    def __init__(self, by: str, folder: object) -> None:
        super().__init__(f"{folder} was stopped by {by}")
        self.by = by
        self.hint = f"`cfm resume {folder}` resumes it"
