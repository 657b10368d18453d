"""A text line that filters a list while the user types."""

from __future__ import annotations

from collections.abc import Callable

from textual.widget import Widget
from textual.widgets import Input


class Filter(Input):
    """A filter line, visible while it has the focus or a text. Its page handles `Input.Changed`.

    hint: shown while the line is empty. target: returns the widget that Enter focuses.
    """

    DEFAULT_CSS = """
    Filter { display: none; height: 1; border: none; padding: 0 1; background: $surface; }
    Filter.-open { display: block; }
    """

    def __init__(self, hint: str, target: Callable[[], Widget]) -> None:
        super().__init__(placeholder=hint, id="filter", compact=True)
        self._target = target

    def open(self) -> None:
        """Show the line and focus it."""
        self.add_class("-open")
        self.focus()

    def set_text(self, text: str) -> None:
        """Replace the text; an empty text hides the line."""
        self.value = text
        self.set_class(bool(text), "-open")

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Focus the list; hide the line if it is empty."""
        event.stop()
        self.set_class(bool(event.value), "-open")
        self._target().focus()
