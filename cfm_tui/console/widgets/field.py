"""A form field on one line: a label and a value, edited in place or chosen from a list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.text import Text
from textual import events
from textual.actions import SkipAction
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.suggester import SuggestFromList
from textual.widget import Widget
from textual.widgets import Input

from cfm_tui.console.engine_link import hidden
from cfm_tui.display.streams import escape_control_characters


class Entry(Widget, can_focus=True):
    """One field of a form. Letters are keys of the page until Enter starts editing.

    name: the setting's key. choices: all allowed values, if they are known. likely: suggestions while the
    user types.
    """

    LABEL_WIDTH = 13  #: in cells

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
        hidden("right", "turn(1)", "next", id="field.next", tooltip="The next choice"),
        hidden("left", "turn(-1)", "before", id="field.before", tooltip="The choice before"),
        hidden(
            "escape",
            "leave",
            "back",
            id="field.leave",
            tooltip="Leave the field unchanged; then leave the page",
        ),
        hidden(
            "backspace,delete", "clear", "preset's", id="field.clear", tooltip="Restore the preset's value"
        ),
    ]

    @dataclass
    class Written(Message):
        """The field's text changed. final: editing has ended."""

        entry: Entry
        text: str
        final: bool

    @dataclass
    class Asked(Message):
        """The user asks for the list of choices."""

        entry: Entry

    def __init__(
        self, name: str, label: str, choices: Sequence[str] = (), likely: Sequence[str] = ()
    ) -> None:
        super().__init__(name=name)
        self.label = label
        self.choices = tuple(choices)
        self._likely = list(likely)
        self.value = ""  #: the field's text
        self._note, self._mark, self._before = "", " ", ""
        self._field: Input | None = None

    @property
    def editing(self) -> bool:
        """Whether the field is being edited."""
        return self._field is not None

    def show(self, value: str, note: str = "", mark: str = " ") -> None:
        """Show a value.

        note: shown in place of an empty value. mark: a character before the label.
        """
        if (value, note, mark) != (self.value, self._note, self._mark):
            self.value, self._note, self._mark = value, note, mark
            self.refresh()

    def render(self) -> Text:
        """Return mark, label and value."""
        text = Text(f"{self._mark}{self.label:<{self.LABEL_WIDTH}} ", no_wrap=True, overflow="ellipsis")
        if self.editing:
            return text
        text.append(escape_control_characters(self.value or self._note), style="" if self.value else "dim")
        if self.choices and self.has_focus:
            text.append("  < >")
        return text

    def on_focus(self) -> None:
        """Redraw with the arrows of a field with choices."""
        self.refresh()

    def on_click(self, event: events.Click) -> None:
        """Start editing, as Enter does."""
        if not self.editing:
            self.action_edit()

    # --- editing ----------------------------------------------------------------------------------

    def action_edit(self) -> None:
        """Start editing, or ask for the list of choices."""
        if self.choices:
            self.post_message(self.Asked(self))
        elif not self.editing:
            self._before = self.value
            suggester = SuggestFromList(self._likely) if self._likely else None
            self._field = Input(self.value, suggester=suggester, select_on_focus=False)
            self.mount(self._field)
            self._field.focus()

    def commit(self) -> None:
        """End editing and keep the text, if the field is being edited."""
        if self._field is not None:
            self._end(self._field.value)

    def _end(self, text: str) -> None:
        field, self._field = self._field, None
        if field is not None:
            if self.screen.focused is field:
                self.focus()
            field.remove()
        self.value = text
        self.refresh()
        self.post_message(self.Written(self, text, True))

    def on_input_changed(self, event: Input.Changed) -> None:
        """Post the text after every keystroke."""
        event.stop()
        if event.input is self._field and event.value != self.value:
            self.value = event.value
            self.post_message(self.Written(self, event.value, False))

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """End editing on Enter."""
        event.stop()
        self._end(event.value)

    def on_input_blurred(self, event: Input.Blurred) -> None:
        """End editing when something else is clicked."""
        event.stop()
        if event.input is self._field:
            self._end(event.value)

    def action_leave(self) -> None:
        """Cancel editing and restore the previous text."""
        if not self.editing:
            raise SkipAction
        self._end(self._before)

    def action_turn(self, step: int) -> None:
        """Select the next or previous choice."""
        if not self.choices or self.editing:
            raise SkipAction
        at = self.choices.index(self.value) if self.value in self.choices else -step
        self._end(self.choices[(at + step) % len(self.choices)])

    def action_clear(self) -> None:
        """Clear the field, which restores the preset's value."""
        if self.editing:
            raise SkipAction
        self._end("")
