"""A text on a page that changes often."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cfm_tui.console.screens.base import PlainText


class Words(PlainText):
    """A text that is repainted only when it changes. grows: its height follows its number of lines."""

    def __init__(self, *, grows: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self._shown_text: str | None = None
        self._grows = grows

    def set_lines(self, lines: Sequence[str] | str) -> None:
        """Show these lines."""
        text = lines if isinstance(lines, str) else "\n".join(lines)
        if text != self._shown_text:
            layout = self._grows and (self._shown_text or "").count("\n") != text.count("\n")
            self._shown_text = text
            self.update(text, layout=layout)
