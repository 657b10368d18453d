"""Dialogs: questions, lists to choose from, and texts to read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import Screen
from textual.widgets import Input, OptionList
from textual.widgets.option_list import Option

from cfm_tui.console.engine_link import hidden
from cfm_tui.console.screens.base import Dialog, PlainText, show_plainly
from cfm_tui.display.streams import escape_control_characters


class _Options(OptionList):
    """A list whose selected option is reported at once: the next key may be for the page below."""

    def action_select(self) -> None:
        """Report the option under the cursor."""
        if self.highlighted is not None and not self.get_option_at_index(self.highlighted).disabled:
            cast(_ListDialog, self.screen).answer(self.highlighted)


class _ListDialog(Dialog):
    """A question above a list of options; each returns its name."""

    def __init__(self, question: str, names: Sequence[str], options: Sequence[Option]) -> None:
        super().__init__()
        self._question, self._names, self._options = question, names, options

    def compose(self) -> ComposeResult:
        """Yield the question and the options."""
        with Vertical():
            yield PlainText(self._question)
            yield _Options(*self._options)

    def answer(self, index: int) -> None:
        """Return the name of an option."""
        self.dismiss(self._names[index])

    def action_move(self, step: int) -> None:
        """Move the cursor up or down."""
        options = self.query_one(OptionList)
        (options.action_cursor_down if step > 0 else options.action_cursor_up)()

    def action_end(self, end: int) -> None:
        """Move the cursor to the first or last option."""
        options = self.query_one(OptionList)
        (options.action_last if end else options.action_first)()


class Choice(_ListDialog):
    """A question with several answers, chosen by arrows and Enter or by an answer's first letter.

    answers: pairs of the name that the dialog returns and the text that it shows. Texts should start with
    different letters. Escape returns None.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        hidden("j", "move(1)", id="dialog.down"),
        hidden("k", "move(-1)", id="dialog.up"),
    ]

    def __init__(self, question: str, answers: Sequence[tuple[str, str]]) -> None:
        options = [Option(show_plainly(f"{text[0]}  {text}"), id=name) for name, text in answers]
        super().__init__(question, [name for name, _ in answers], options)
        self._keys = [text[0].lower() for _, text in answers]

    def on_key(self, event: events.Key) -> None:
        """Return the answer that starts with the pressed key."""
        key = (event.character or "").lower()
        if key in self._keys:
            event.stop()
            self.dismiss(self._names[self._keys.index(key)])


@dataclass(frozen=True)
class Offer:
    """A choice in a long list. note: its description; barred: it is shown, but cannot be chosen."""

    name: str
    note: str = ""
    barred: bool = False


class Pick(_ListDialog):
    """A dialog that returns the name of the chosen offer, or None by Escape. current: marked name."""

    DEFAULT_CSS = "Pick OptionList { text-wrap: nowrap; text-overflow: ellipsis; }"
    BINDINGS: ClassVar[list[BindingType]] = [
        hidden("j", "move(1)", "down", id="pick.down"),
        hidden("k", "move(-1)", "up", id="pick.up"),
        hidden("g", "end(0)", "first", id="pick.first"),
        hidden("G", "end(1)", "last", id="pick.last"),
    ]

    def __init__(self, question: str, offers: Sequence[Offer], current: str = "") -> None:
        names = [offer.name for offer in offers]
        width = max(map(len, names), default=0)
        options = []
        for offer in offers:
            mark = "*" if offer.name == current else " "
            name = escape_control_characters(offer.name)
            text = Text(f"{mark} {name:<{width}}  ", no_wrap=True, overflow="ellipsis")
            text.append(escape_control_characters(offer.note), style="dim")
            options.append(Option(text, disabled=offer.barred))
        super().__init__(question, names, options)
        self._first = names.index(current) if current in names else 0

    def on_mount(self) -> None:
        """Put the cursor on the current name."""
        self.query_one(OptionList).highlighted = self._first


class Question(Dialog):
    """A question answered with a line of text; Enter returns it, Escape returns None."""

    def __init__(self, question: str, text: str = "") -> None:
        super().__init__()
        self._question, self._text = question, text

    def compose(self) -> ComposeResult:
        """Yield the question and a text field."""
        with Vertical():
            yield PlainText(self._question)
            yield Input(self._text, compact=True)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Return the text."""
        self.dismiss(event.value)


class Reading(Dialog):
    """A text to read: help, a message, a traceback."""

    BINDINGS: ClassVar[list[BindingType]] = [
        hidden("question_mark,q,enter", "leave", "back", id="reading.leave"),
        hidden("j,down", "scroll(1)", id="reading.down"),
        hidden("k,up", "scroll(-1)", id="reading.up"),
        hidden("g", "ends(0)", id="reading.first"),
        hidden("G", "ends(1)", id="reading.last"),
    ]

    def __init__(self, title: str, text: Text | str) -> None:
        super().__init__()
        self._title, self._text = title, text

    def compose(self) -> ComposeResult:
        """Yield the title and the text."""
        with Vertical():
            yield PlainText(Text(escape_control_characters(f"{self._title}   (Esc: back)"), style="bold"))
            with VerticalScroll():
                yield PlainText(self._text)

    def action_scroll(self, step: int) -> None:
        """Scroll up or down by a line."""
        self.query_one(VerticalScroll).scroll_relative(y=step, animate=False)

    def action_ends(self, end: int) -> None:
        """Scroll to the first or last line."""
        box = self.query_one(VerticalScroll)
        (box.scroll_end if end else box.scroll_home)(animate=False)


def describe_keys(screen: Screen[Any]) -> Text:
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
