"""A line in which a list is filtered while it is typed; it is seen while it is used or holds a text."""

from __future__ import annotations

from collections.abc import Callable

from textual.widget import Widget
from textual.widgets import Input


class Filter(Input):
    """hint: what it says while it is empty. back: gives the widget that Enter leads to.

    Whoever holds it hears `Input.Changed`.
    """

    DEFAULT_CSS = """
    Filter { display: none; height: 1; border: none; padding: 0 1; background: $surface; }
    Filter.-open { display: block; }
    """

    def __init__(self, hint: str, back: Callable[[], Widget]) -> None:
        super().__init__(placeholder=hint, id="filter", compact=True)
        self._back = back

    def open(self) -> None:
        """Show it, to be typed into."""
        self.add_class("-open")
        self.focus()

    def put(self, text: str) -> None:
        """Another text than was typed."""
        self.value = text
        self.set_class(bool(text), "-open")

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Back to the list; an empty filter closes."""
        event.stop()
        self.set_class(bool(event.value), "-open")
        self._back().focus()
