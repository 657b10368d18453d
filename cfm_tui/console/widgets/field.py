"""A setting on one line: its label and value, edited in place or chosen from a list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual import events
from textual.actions import SkipAction
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.suggester import SuggestFromList
from textual.widget import Widget
from textual.widgets import Input

LABEL = 13  #: cells of labels


class Entry(Widget, can_focus=True):
    """A line of a form. name: of the field; label: what it is called; choices: what it may be, if known.

    likely: what is offered while it is typed. Letters are keys of the page until Enter begins to edit.
    """

    DEFAULT_CSS = """
    Entry { height: 1; width: 1fr; }
    Entry:focus { background: $surface; text-style: reverse; }
    Entry > Input { margin-left: 15; width: 1fr; height: 1; border: none; padding: 0; background: $surface; }
    Entry > Input:focus { border: none; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "enter", "edit", "edit", id="field.edit", tooltip="Edit the field, or choose; Enter again commits"
        ),
        Binding("right", "turn(1)", "next", show=False, id="field.next", tooltip="The next choice"),
        Binding("left", "turn(-1)", "before", show=False, id="field.before", tooltip="The choice before"),
        Binding(
            "escape",
            "leave",
            "back",
            show=False,
            id="field.leave",
            tooltip="Leave a field as it was; then the page",
        ),
        Binding(
            "backspace,delete",
            "clear",
            "preset's",
            show=False,
            id="field.clear",
            tooltip="Take the preset's value again",
        ),
    ]

    class Written(Message):
        """What the field says now. final: editing is over."""

        def __init__(self, entry: Entry, text: str, final: bool) -> None:
            super().__init__()
            self.entry, self.text, self.final = entry, text, final

    class Asked(Message):
        """One of the choices is to be chosen."""

        def __init__(self, entry: Entry) -> None:
            super().__init__()
            self.entry = entry

    def __init__(
        self, name: str, label: str, choices: Sequence[str] = (), likely: Sequence[str] = ()
    ) -> None:
        super().__init__(name=name)
        self.label = label
        self.choices = tuple(choices)
        self._likely = list(likely)
        self._value, self._note, self._mark = "", "", " "
        self._before = ""
        self._field: Input | None = None

    @property
    def editing(self) -> bool:
        """Whether it is being typed."""
        return self._field is not None

    @property
    def value(self) -> str:
        """What it says."""
        return self._value

    def show(self, value: str, note: str = "", mark: str = " ") -> None:
        """Say a value, and where there is none what that means; mark: a sign before the label."""
        if (value, note, mark) != (self._value, self._note, self._mark):
            self._value, self._note, self._mark = value, note, mark
            self.refresh()

    def render(self) -> Text:
        """Mark, label, value."""
        text = Text(f"{self._mark}{self.label:<{LABEL}} ", no_wrap=True, overflow="ellipsis")
        if self.editing:
            return text
        text.append(self._value or self._note, style="" if self._value else "dim")
        if self.choices and self.has_focus:
            text.append("  < >")
        return text

    def on_focus(self) -> None:
        """Show that it can be turned."""
        self.refresh()

    def on_click(self, event: events.Click) -> None:
        """As Enter."""
        if not self.editing:
            self.action_edit()

    # --- editing ----------------------------------------------------------------------------------

    def action_edit(self) -> None:
        """Begin, or where it has begun be done."""
        if self.choices:
            self.post_message(self.Asked(self))
        elif not self.editing:
            self._before = self._value
            offered = SuggestFromList(self._likely) if self._likely else None
            self._field = Input(self._value, suggester=offered, select_on_focus=False)
            self.mount(self._field)
            self._field.focus()

    def commit(self) -> None:
        """Be done with editing, if that was begun."""
        if self._field is not None:
            self._end(self._field.value)

    def _end(self, text: str) -> None:
        field, self._field = self._field, None
        if field is not None:
            if self.screen.focused is field:
                self.focus()
            field.remove()
        self._value = text
        self.refresh()
        self.post_message(self.Written(self, text, True))

    def on_input_changed(self, event: Input.Changed) -> None:
        """Every letter."""
        event.stop()
        if event.input is self._field and event.value != self._value:
            self._value = event.value
            self.post_message(self.Written(self, event.value, False))

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Enter."""
        event.stop()
        self._end(event.value)

    def on_input_blurred(self, event: Input.Blurred) -> None:
        """Something else was clicked."""
        event.stop()
        if event.input is self._field:
            self._end(event.value)

    def action_leave(self) -> None:
        """What it said before."""
        if not self.editing:
            raise SkipAction
        self._end(self._before)

    def action_turn(self, step: int) -> None:
        """Another of the choices."""
        if not self.choices or self.editing:
            raise SkipAction
        at = self.choices.index(self._value) if self._value in self.choices else -step
        self._end(self.choices[(at + step) % len(self.choices)])

    def action_clear(self) -> None:
        """The preset's value."""
        if self.editing:
            raise SkipAction
        self._end("")
