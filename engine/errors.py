"""The one exception that a person is meant to read.

Everything that a user can get wrong ends here: what is wrong, where, and how to mend it.
A programmer's broken promise is an ``assert`` instead.
"""

from __future__ import annotations

from typing import Literal

Kind = Literal["usage", "config", "data", "teacher", "disk", "network", "numeric"]


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
