"""Dialogs: questions, and texts to read."""

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
    """A question with several answers, chosen by arrows and Enter or by an answer's first letter.

    answers: pairs of the name that the dialog returns and the text that it shows. Texts should start with
    different letters. Escape returns None.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j", "move(1)", show=False, id="dialog.down"),
        Binding("k", "move(-1)", show=False, id="dialog.up"),
    ]

    def __init__(self, question: str, answers: Sequence[tuple[str, str]]) -> None:
        super().__init__()
        self._question, self._answers = question, list(answers)

    def compose(self) -> ComposeResult:
        """Yield the question and its answers."""
        with Vertical():
            yield Static(self._question, markup=False)
            yield OptionList(*(Option(Text(f"{text[0]}  {text}"), id=name) for name, text in self._answers))

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Return the selected answer."""
        self.dismiss(event.option.id)

    def on_key(self, event: events.Key) -> None:
        """Return the answer that starts with the pressed key."""
        key = event.character
        matches = [name for name, text in self._answers if key and text[0].lower() == key.lower()]
        if matches:
            event.stop()
            self.dismiss(matches[0])

    def action_move(self, step: int) -> None:
        """Move the cursor up or down."""
        options = self.query_one(OptionList)
        (options.action_cursor_down if step > 0 else options.action_cursor_up)()


class Question(Dialog):
    """A question answered with a line of text; Enter returns it, Escape returns None."""

    def __init__(self, question: str, text: str = "") -> None:
        super().__init__()
        self._question, self._text = question, text

    def compose(self) -> ComposeResult:
        """Yield the question and a text field."""
        with Vertical():
            yield Static(self._question, markup=False)
            yield Input(self._text, compact=True)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Return the text."""
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
        """Yield the title and the text."""
        with Vertical():
            yield Static(Text(f"{self._title}   (Esc: back)", style="bold"))
            with VerticalScroll():
                yield Static(self._text, markup=False)

    def action_scroll(self, step: int) -> None:
        """Scroll up or down by a line."""
        self.query_one(VerticalScroll).scroll_relative(y=step, animate=False)

    def action_ends(self, end: int) -> None:
        """Scroll to the first or last line."""
        box = self.query_one(VerticalScroll)
        (box.scroll_end if end else box.scroll_home)(animate=False)


def keys(screen: Screen[Any]) -> Text:
    """Return a table of the keys that currently work on a screen, with the names for remapping them."""
    rows: dict[str, tuple[list[str], str, str]] = {}
    for active in screen.active_bindings.values():
        binding = active.binding
        if not binding.description or binding.system:
            continue
        help_text = active.tooltip or binding.description
        names, _, _ = rows.setdefault(binding.id or binding.action, ([], help_text, binding.id or ""))
        names.append(screen.app.get_key_display(binding))
    ordered = sorted(rows.values(), key=lambda row: not row[2])  # ours first, then those of Textual
    width = max((len(" ".join(row[0])) for row in ordered), default=0)
    text = Text()
    for names, help_text, binding_id in ordered:
        text.append(f"{' '.join(names):>{width}}  ", style="bold")
        text.append(help_text)
        text.append(f"  {binding_id}\n" if binding_id else "\n", style="dim")
    return text
