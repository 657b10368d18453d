"""The footer: a line with the keys that work on a page; a click on a key presses it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.style import Style
from rich.text import Text
from textual.screen import Screen
from textual.widget import Widget

HELP = "app.help"  #: shown first: in a narrow terminal it leads to the other keys


class KeyLine(Widget):
    """A footer in one widget; Textual's builds a widget for each key whenever the focus moves.

    offers: returns whether an action is useful now. Keys of other actions are hidden, but still work: they
    say why nothing happens.
    """

    DEFAULT_CSS = """
    KeyLine { dock: bottom; height: 1; background: $panel; color: $foreground; }
    """

    def __init__(self, offers: Callable[[str], bool]) -> None:
        super().__init__()
        self._text = Text()
        self._offers = offers

    def on_mount(self) -> None:
        """Subscribe to changes of the screen's bindings."""
        self.screen.bindings_updated_signal.subscribe(self, self._update_keys)
        self._update_keys(self.screen)

    def _update_keys(self, screen: Screen[Any]) -> None:
        text = Text(no_wrap=True, overflow="ellipsis", end="")
        enabled = [each for each in screen.active_bindings.values() if each.binding.show and each.enabled]
        offered = [each for each in enabled if self._offers(each.binding.action)]
        for active in sorted(offered, key=lambda active: active.binding.id != HELP):
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
        """Return the keys with their descriptions."""
        return self._text
