"""The exceptions that a person is meant to read.

Everything that a user can get wrong ends here: what is wrong, where, and how to mend it.
A programmer's broken promise is an ``assert`` instead.
"""

from __future__ import annotations

from typing import Literal

Kind = Literal["usage", "config", "data", "teacher", "disk", "network", "numeric", "memory"]


class UserError(ValueError):
    """A condition that the user can mend.

    kind: what it is about, a stable word for scripts (``error.kind`` under ``--json``).
    message: what is wrong and where, one sentence.
    hint: how to mend it, one sentence; may be empty.
    """

    def __init__(self, kind: Kind, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.hint = hint


class Stopped(Exception):
    """A run was left because somebody asked for it; its state is on disk.

    by: who asked: a signal's name, or a user with host. folder: the run's.
    """

    def __init__(self, by: str, folder: object) -> None:
        super().__init__(f"{folder} was stopped by {by}")
        self.by = by
        self.hint = f"`cfm resume {folder}` goes on with it"
