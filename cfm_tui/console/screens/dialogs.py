"""Questions and texts over a page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import Screen
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from cfm_tui.console.screens.base import Dialog


class Choice(Dialog):
    """One of several answers, by arrows and Enter or by the answer's first letter.

    answers: what is dismissed with, and its text, which begins with a letter of its own, not j or k.
    Escape: None.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j", "move(1)", show=False, id="dialog.down"),
        Binding("k", "move(-1)", show=False, id="dialog.up"),
    ]

    def __init__(self, question: str, answers: Sequence[tuple[str, str]]) -> None:
        super().__init__()
        self._question, self._answers = question, list(answers)

    def compose(self) -> ComposeResult:
        """The question over its answers."""
        with Vertical():
            yield Static(self._question, markup=False)
            yield OptionList(*(Option(Text(f"{text[0]}  {text}"), id=name) for name, text in self._answers))

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Enter, or a click."""
        self.dismiss(event.option.id)

    def on_key(self, event: events.Key) -> None:
        """An answer's first letter."""
        key = event.character
        found = [name for name, text in self._answers if key and text[0].lower() == key.lower()]
        if found:
            event.stop()
            self.dismiss(found[0])

    def action_move(self, step: int) -> None:
        """Up or down by letters."""
        options = self.query_one(OptionList)
        (options.action_cursor_down if step > 0 else options.action_cursor_up)()


class Question(Dialog):
    """A line of text; Enter gives it, Escape nothing."""

    def __init__(self, question: str, text: str = "") -> None:
        super().__init__()
        self._question, self._text = question, text

    def compose(self) -> ComposeResult:
        """The question over a field."""
        with Vertical():
            yield Static(self._question, markup=False)
            yield Input(self._text, compact=True)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Enter."""
        self.dismiss(event.value)


class Reading(Dialog):
    """A text to read: help, a message, a traceback."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("question_mark,q,enter", "leave", "back", show=False, id="reading.leave"),
        Binding("j,down", "scroll(1)", show=False, id="reading.down"),
        Binding("k,up", "scroll(-1)", show=False, id="reading.up"),
        Binding("g", "ends(0)", show=False, id="reading.first"),
        Binding("G", "ends(1)", show=False, id="reading.last"),
    ]

    def __init__(self, title: str, text: Text | str) -> None:
        super().__init__()
        self._title, self._text = title, text

    def compose(self) -> ComposeResult:
        """The text under its title."""
        with Vertical():
            yield Static(Text(f"{self._title}   (Esc: back)", style="bold"))
            with VerticalScroll():
                yield Static(self._text, markup=False)

    def action_scroll(self, step: int) -> None:
        """Up or down by a line."""
        self.query_one(VerticalScroll).scroll_relative(y=step, animate=False)

    def action_ends(self, end: int) -> None:
        """To the first or last line."""
        box = self.query_one(VerticalScroll)
        (box.scroll_end if end else box.scroll_home)(animate=False)


def keys(screen: Screen[Any]) -> Text:
    """The keys that work on a screen as it is focused now, with the names by which they are remapped."""
    rows: dict[str, tuple[list[str], str, str]] = {}
    for active in screen.active_bindings.values():
        binding = active.binding
        if not binding.description or binding.system:
            continue
        told = active.tooltip or binding.description
        shown, _, _ = rows.setdefault(binding.id or binding.action, ([], told, binding.id or ""))
        shown.append(screen.app.get_key_display(binding))
    ordered = sorted(rows.values(), key=lambda row: not row[2])  # ours first, then the widgets' own
    width = max((len(" ".join(row[0])) for row in ordered), default=0)
    text = Text()
    for shown, what, name in ordered:
        text.append(f"{' '.join(shown):>{width}}  ", style="bold")
        text.append(what)
        text.append(f"  {name}\n" if name else "\n", style="dim")
    return text
