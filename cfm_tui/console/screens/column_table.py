"""A table whose columns follow the width: the least important ones are left out, and none is scrolled to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.cells import cell_len
from rich.text import Text
from textual import events
from textual.coordinate import Coordinate

from cfm_tui.console.columns import Column, FittedColumn, cut_text, fit_columns
from cfm_tui.console.screens.base import Table
from cfm_tui.display.streams import escape_control_characters


class ColumnTable(Table):
    """A table of `Column`s, which shows those that fit into its width."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.fitted: list[FittedColumn] = []  #: the visible columns
        self._columns: Sequence[Column[Any]] = ()
        self._headings: Sequence[str] = ()
        self._keys: list[str] = []
        self._rows: list[list[Text]] = []
        self._shown: list[list[Text]] = []

    def show_rows(
        self,
        columns: Sequence[Column[Any]],
        keys: Sequence[str],
        rows: Sequence[Sequence[Text]],
        headings: Sequence[str] = (),
    ) -> None:
        """Show rows with a cell for each of the columns. The cursor stays on its row.

        keys: of the rows, each different. headings: instead of the columns' names.
        """
        old_keys, self._keys = self._keys, list(keys)
        self._rows = [
            [Text(escape_control_characters(text.plain), style=text.style) for text in row] for row in rows
        ]
        old_columns = self._columns, self._headings, self.fitted
        self._columns, self._headings = columns, headings or [column.name for column in columns]
        texts = [
            [heading, *(row[index].plain for row in self._rows)]
            for index, heading in enumerate(self._headings)
        ]
        self.fitted = fit_columns(columns, texts, self.size.width) if self.size.width else []
        cells = [
            [self._fit(row[index], columns[index], width) for index, width in self.fitted]
            for row in self._rows
        ]
        if (self._columns, self._headings, self.fitted) == old_columns and old_keys == self._keys:
            for y, (before, now) in enumerate(zip(self._shown, cells, strict=True)):
                for x, (old, new) in enumerate(zip(before, now, strict=True)):
                    if old != new or old.style != new.style:
                        self.update_cell_at(Coordinate(y, x), new)
        else:
            self._fill(old_keys, cells)
        self._shown = cells

    def _fill(self, old_keys: list[str], cells: list[list[Text]]) -> None:
        """Replace all columns and rows."""
        at = self.cursor_row
        current = old_keys[at] if self.row_count and 0 <= at < len(old_keys) else None
        column_at = self.cursor_column
        self.clear(columns=True)
        for index, width in self.fitted:
            heading = Text(self._headings[index])
            self.add_column(self._fit(heading, self._columns[index], width), width=width)
        if not self.fitted:
            return
        for key, row in zip(self._keys, cells, strict=True):
            self.add_row(*row, key=key)
        y = self._keys.index(current) if current in self._keys else min(at, len(cells) - 1)
        self.move_cursor(row=max(y, 0), column=column_at, animate=False)

    def _fit(self, text: Text, column: Column[Any], width: int) -> Text:
        plain = cut_text(text.plain, width)
        if column.numeric:
            plain = " " * (width - cell_len(plain)) + plain
        return Text(plain, style=text.style)

    def on_resize(self, event: events.Resize) -> None:
        """Choose the columns that fit into the new width."""
        if self._columns:
            self.show_rows(self._columns, list(self._keys), self._rows, self._headings)

    @property
    def current_key(self) -> str | None:
        """The key of the row under the cursor."""
        at = self.cursor_row
        return self._keys[at] if self.row_count and 0 <= at < len(self._keys) else None
