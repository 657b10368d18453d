"""The keys that work here, in the last line; a click on one is a press."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.style import Style
from rich.text import Text
from textual.screen import Screen
from textual.widget import Widget

HELP = "app.help"  #: stands first: in a narrow terminal it leads to the others


class KeyLine(Widget):
    """Textual's footer is a widget for each key, built anew whenever the focus moves; this is one line.

    offers: whether an action is of use now; the key of another stays, and tells why it is not.
    """

    DEFAULT_CSS = """
    KeyLine { dock: bottom; height: 1; background: $panel; color: $foreground; }
    """

    def __init__(self, offers: Callable[[str], bool]) -> None:
        super().__init__()
        self._text = Text()
        self._offers = offers

    def on_mount(self) -> None:
        """Follow what the screen can be told."""
        self.screen.bindings_updated_signal.subscribe(self, self._follow)
        self._follow(self.screen)

    def _follow(self, screen: Screen[Any]) -> None:
        text = Text(no_wrap=True, overflow="ellipsis", end="")
        shown = [each for each in screen.active_bindings.values() if each.binding.show and each.enabled]
        found = [each for each in shown if self._offers(each.binding.action)]
        for active in sorted(found, key=lambda active: active.binding.id != HELP):
            binding = active.binding
            press = Style(meta={"@click": f"app.simulate_key('{binding.key}')"})
            text.append(self.app.get_key_display(binding), press + Style(bold=True))
            text.append(f" {binding.description}", press)
            text.append("  ")
        text.rstrip()
        if text != self._text or text.spans != self._text.spans:
            self._text = text
            self.refresh()

    def render(self) -> Text:
        """The keys."""
        return self._text
