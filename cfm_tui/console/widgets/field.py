"""A form field on one line: a label and a value, edited in place or chosen from a list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Protocol

from rich.cells import cell_len
from rich.text import Text
from textual import events
from textual.actions import SkipAction
from textual.binding import Binding, BindingType
from textual.widget import Widget

from cfm_tui.console.engine_link import hidden
from cfm_tui.console.line_editor import LineEditor
from cfm_tui.display.streams import escape_control_characters

#: Keys that end editing, and then do what they do on the page.
LEAVING_KEYS = {"tab", "shift+tab", "up", "down", *(f"f{number}" for number in range(1, 13))}


class EntryOwner(Protocol):
    """The page of the fields. It is called directly, so that it knows of a change before the next key."""

    def begin_editing(self, entry: Entry) -> None:
        """Show that a field is being edited."""

    def take_entry(self, entry: Entry, *, final: bool) -> None:
        """Take over the text of a field. final: editing has ended."""

    def choose_entry(self, entry: Entry) -> None:
        """Ask the user for one of the choices of a field."""


class Entry(Widget, can_focus=True):
    """One field of a form. Letters are keys of the page until Enter starts editing.

    While a field is edited it takes every key but `LEAVING_KEYS`, and no key binding sees one.
    name: the setting's key. choices: all allowed values, if they are known. suggestions: offered while the
    user types.
    """

    LABEL_WIDTH = 19  #: in cells

    DEFAULT_CSS = """
    Entry { height: 1; width: 1fr; }
    Entry:focus { background: $primary; color: $background; text-style: bold; }
    Entry:focus:ansi { background: ansi_default; color: ansi_default; text-style: reverse; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "enter", "edit", "edit", id="field.edit", tooltip="Edit the field, or choose; Enter again commits"
        ),
        Binding("enter", "commit", "keep", tooltip="Keep the text and end editing"),
        Binding("escape", "restore", "restore", tooltip="Restore the text as it was before editing"),
        hidden("right", "turn(1)", "next", id="field.next", tooltip="The next choice"),
        hidden("left", "turn(-1)", "before", id="field.before", tooltip="The choice before"),
        hidden(
            "backspace,delete", "clear", "preset's", id="field.clear", tooltip="Restore the preset's value"
        ),
    ]

    def __init__(
        self,
        owner: EntryOwner,
        name: str,
        label: str,
        choices: Sequence[str] = (),
        suggestions: Sequence[str] = (),
    ) -> None:
        super().__init__(name=name)
        self.label = label
        self.choices = tuple(choices)
        self.value = ""  #: the field's text
        self._owner, self._suggestions = owner, suggestions
        self._note, self._mark, self._before = "", " ", ""
        self._editor: LineEditor | None = None

    @property
    def editing(self) -> bool:
        """Whether the field is being edited."""
        return self._editor is not None

    def show(self, value: str, note: str = "", mark: str = " ") -> None:
        """Show a value.

        note: shown in place of an empty value. mark: a character before the label.
        """
        if (value, note, mark) != (self.value, self._note, self._mark):
            self.value, self._note, self._mark = value, note, mark
            self.refresh()

    # --- drawing ----------------------------------------------------------------------------------

    @property
    def _value_width(self) -> int:
        return max(self.content_size.width - self.LABEL_WIDTH - 3, 1)

    @property
    def is_cut(self) -> bool:
        """Whether a part of the value does not fit."""
        return self.size.width > 0 and cell_len(self.value) > self._value_width

    def render(self) -> Text:
        """Return focus, mark, label and value; of a long value its end."""
        focus = "▸" if self.has_focus else " "
        text = Text(f"{focus}{self._mark}{self.label:<{self.LABEL_WIDTH}} ", no_wrap=True, end="")
        if self._editor is not None:
            return text.append_text(self._editor.render(self._value_width))
        arrows = "  ◂ ▸" if self.choices and self.has_focus else ""
        shown = escape_control_characters(self.value or self._note)
        return text.append(
            _keep_end(shown, self._value_width - len(arrows)), "" if self.value else "dim"
        ).append(arrows)

    def on_focus(self) -> None:
        """Show that the field has the focus."""
        self.refresh()

    def on_blur(self) -> None:
        """End editing when something else is clicked; not when the terminal loses the focus."""
        if self.app.app_focus and self.screen.focused is not self:
            self.commit()
        self.refresh()

    def on_click(self, event: events.Click) -> None:
        """Start editing, at the character that is clicked; all is selected by a click on the label.

        A click on an arrow turns to the next choice, or to the one before.
        """
        cell = event.get_content_offset_capture(self).x
        before_arrows, arrows, _ = self.render().plain.rpartition("◂ ▸")
        step = cell - cell_len(before_arrows) - 1
        if self.choices and arrows and abs(step) == 1:
            self.action_turn(step)
            return
        if not self.editing:
            self.action_edit()
        x = cell - self.LABEL_WIDTH - 3
        if self._editor is not None and x >= 0:
            self._editor.place_cursor(self._editor.index_at(x, self._value_width))
            self.refresh()

    # --- editing ----------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer the keys that end editing while the field is edited, and the key that begins it otherwise."""
        return self.editing == (action != "edit") if action in ("edit", "commit", "restore") else True

    def check_consume_key(self, key: str, character: str | None = None) -> bool:
        """Return whether a key is for this field only."""
        return self.editing and key not in LEAVING_KEYS

    def on_key(self, event: events.Key) -> None:
        """Edit the text; keys that leave the field commit it and are handled by the page."""
        if self._editor is None:
            return
        if not self.check_consume_key(event.key):
            self.commit()
            return
        event.stop()
        event.prevent_default()
        if event.key == "enter":
            self.commit()
        elif event.key == "escape":
            self.action_restore()
        else:
            self._editor.press(event.key, event.character)
            self._take_over(self._editor)

    def on_paste(self, event: events.Paste) -> None:
        """Insert pasted text; start editing first, unless the field has choices."""
        event.stop()
        if not self.editing and not self.choices:
            self.action_edit()
        if self._editor is not None:
            self._editor.paste(event.text)
            self._take_over(self._editor)

    def _take_over(self, editor: LineEditor) -> None:
        self.refresh()
        if editor.text != self.value:
            self.value = editor.text
            self._owner.take_entry(self, final=False)

    def action_edit(self) -> None:
        """Start editing, or ask for the list of choices."""
        if self.choices:
            self._owner.choose_entry(self)
        elif not self.editing:
            self._before = self.value
            self._editor = LineEditor(self.value, self._suggestions)
            self.screen.set_focus(self)
            self.screen.refresh_bindings()
            self.refresh()
            self._owner.begin_editing(self)

    def action_commit(self) -> None:
        """Keep the text and end editing."""
        self.commit()

    def action_restore(self) -> None:
        """Restore the text as it was before editing."""
        self._end(self._before)

    def commit(self) -> None:
        """End editing and keep the text, if the field is being edited."""
        if self._editor is not None:
            self._end(self._editor.text)

    def _end(self, text: str) -> None:
        if self._editor is not None:
            self._editor = None
            self.screen.refresh_bindings()
        self.value = text
        self.refresh()
        self._owner.take_entry(self, final=True)

    def action_turn(self, step: int) -> None:
        """Select the next or previous choice."""
        if not self.choices:
            raise SkipAction
        at = self.choices.index(self.value) if self.value in self.choices else -step
        self._end(self.choices[(at + step) % len(self.choices)])

    def action_clear(self) -> None:
        """Clear the field, which restores the preset's value."""
        self._end("")


def _keep_end(text: str, width: int) -> str:
    """Return a text, or as much of its end as fits, after a `…`."""
    if cell_len(text) <= width:
        return text
    while text and cell_len(text) > width - 1:
        text = text[1:]
    return f"…{text}"
