"""A dialog that offers a long list of choices with notes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from cfm_tui.console.screens.base import Dialog


@dataclass(frozen=True)
class Offer:
    """A choice. note: its description; barred: it is shown, but cannot be chosen."""

    name: str
    note: str = ""
    barred: bool = False


class Pick(Dialog):
    """A dialog that returns the name of the chosen offer, or None by Escape. current: marked name."""

    DEFAULT_CSS = "Pick OptionList { text-wrap: nowrap; text-overflow: ellipsis; }"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j", "move(1)", "down", show=False, id="pick.down"),
        Binding("k", "move(-1)", "up", show=False, id="pick.up"),
        Binding("g", "end(0)", "first", show=False, id="pick.first"),
        Binding("G", "end(1)", "last", show=False, id="pick.last"),
    ]

    def __init__(self, question: str, offers: Sequence[Offer], current: str = "") -> None:
        super().__init__()
        self._question, self._offers, self._current = question, list(offers), current

    def compose(self) -> ComposeResult:
        """Yield the question and the offers."""
        width = max((len(offer.name) for offer in self._offers), default=0)
        with Vertical():
            yield Static(self._question, markup=False)
            yield OptionList(*(self._make_option(offer, width) for offer in self._offers))

    def _make_option(self, offer: Offer, width: int) -> Option:
        mark = "*" if offer.name == self._current else " "
        text = Text(f"{mark} {offer.name:<{width}}  ", no_wrap=True, overflow="ellipsis")
        return Option(text.append(offer.note, style="dim"), disabled=offer.barred)

    def on_mount(self) -> None:
        """Put the cursor on the current name."""
        names = [offer.name for offer in self._offers]
        options = self.query_one(OptionList)
        options.highlighted = names.index(self._current) if self._current in names else 0

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Return the selected offer's name."""
        self.dismiss(self._offers[event.option_index].name)

    def action_move(self, step: int) -> None:
        """Move the cursor up or down."""
        options = self.query_one(OptionList)
        (options.action_cursor_down if step > 0 else options.action_cursor_up)()

    def action_end(self, end: int) -> None:
        """Move the cursor to the first or last offer."""
        options = self.query_one(OptionList)
        (options.action_last if end else options.action_first)()
