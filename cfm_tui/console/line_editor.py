"""A line of text under a cursor, edited by keys. No widget, so that every key takes effect at once."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rich.cells import cell_len
from rich.style import Style
from rich.text import Text


class LineEditor:
    """The text of a field while it is edited.

    cursor: index of the character under it. selected: whether the whole text is selected, so that typing
    replaces it. suggestions: the first that starts with the text is offered at its end.
    """

    def __init__(self, text: str, suggestions: Sequence[str] = ()) -> None:
        self.text, self.cursor, self.selected = text, len(text), bool(text)
        self._suggestions = suggestions

    @property
    def suggestion(self) -> str:
        """The rest of the suggested text; empty where there is none."""
        if not self.text or self.cursor < len(self.text):
            return ""
        matches = (each for each in self._suggestions if each.startswith(self.text))
        return next(matches, self.text)[len(self.text) :]

    def press(self, key: str, character: str | None = None) -> None:
        """Apply a key; one that means nothing here is ignored."""
        start, end = (0, len(self.text)) if self.selected else (self.cursor, self.cursor)
        match key:
            case "left" | "home" | "right" | "end":
                self._move(key)
            case "backspace" if not self.selected:
                self._replace(max(start - 1, 0), end)
            case "delete" if not self.selected:
                self._replace(start, end + 1)
            case "backspace" | "delete":
                self._replace(start, end)
            case "ctrl+u":
                self._replace(0, end)
            case "ctrl+w":
                before_word = re.sub(r"\w*\W*$", "", self.text[:start])
                self._replace(len(before_word), end)
            case _ if character is not None and character.isprintable():
                self._replace(start, end, character)

    def paste(self, text: str) -> None:
        """Insert the printable characters of a text's first line."""
        line = next(iter(text.splitlines()), "")
        start, end = (0, len(self.text)) if self.selected else (self.cursor, self.cursor)
        self._replace(start, end, "".join(filter(str.isprintable, line)))

    def place_cursor(self, index: int) -> None:
        """Move the cursor to a character, and select nothing."""
        self.cursor, self.selected = min(max(index, 0), len(self.text)), False

    def _move(self, key: str) -> None:
        if key == "right" and not self.selected and self.suggestion:
            self._replace(self.cursor, self.cursor, self.suggestion)
            return
        steps = {"home": -len(self.text), "end": len(self.text), "left": -1, "right": 1}
        if self.selected:  # an arrow leaves a selection at its own end
            self.cursor = 0 if key == "left" else len(self.text)
            steps["left"] = steps["right"] = 0
        self.place_cursor(self.cursor + steps[key])

    def _replace(self, start: int, end: int, text: str = "") -> None:
        self.text = self.text[:start] + text + self.text[end:]
        self.cursor, self.selected = start + len(text), False

    # --- on screen --------------------------------------------------------------------------------

    def first_visible(self, width: int) -> int:
        """Return the index of the first character that `width` cells show, with the cursor among them."""
        cells = [cell_len(character) for character in self.text] + [1]
        first = self.cursor
        used = cells[first]
        while first > 0 and used + cells[first - 1] <= width:
            first -= 1
            used += cells[first]
        return first

    def index_at(self, x: int, width: int) -> int:
        """Return the index of the character that is shown in cell `x` of `width`."""
        index = self.first_visible(width)
        while index < len(self.text) and x >= cell_len(self.text[index]):
            x -= cell_len(self.text[index])
            index += 1
        return index

    def render(self, width: int) -> Text:
        """Return what `width` cells show: the text with cursor or selection, and the suggestion."""
        first = self.first_visible(width)
        characters = [each if each.isprintable() else "?" for each in self.text]
        text = Text("".join(characters[first:]), style=Style(underline=True), no_wrap=True, end="")
        text.append(f"{self.suggestion} ", Style(dim=bool(self.suggestion)))
        begin, end = (0, len(self.text)) if self.selected else (self.cursor, self.cursor + 1)
        text.stylize(Style(reverse=True), max(begin - first, 0), end - first)
        text.truncate(width)
        return text
