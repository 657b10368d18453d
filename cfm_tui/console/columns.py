"""The columns of a table: which of them fit into a width, what their cells show, and sorting by them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from rich.cells import cell_len, set_cell_size

Row = TypeVar("Row")
GAP = 2  #: cells between columns


@dataclass(frozen=True)
class Column(Generic[Row]):
    """A column of a table.

    show: returns the text of a cell; a column without any text is left out. value: returns what rows are
    sorted by; None is unknown. rank: columns get their places in this order, as far as they fit; those of
    rank 0 are always shown. numeric: aligned at the right. least: cells to which texts may be cut; None for
    not at all. comfort: a rank and a number of cells, up to which texts get room before columns of that rank.
    """

    name: str
    show: Callable[[Row], str]
    value: Callable[[Row], Any]
    rank: int = 0
    numeric: bool = False
    least: int | None = None
    comfort: tuple[int, int] | None = None


class FittedColumn(NamedTuple):
    """A visible column: its position among all columns, and its width in cells."""

    position: int
    width: int


def fit_columns(
    columns: Sequence[Column[Any]], texts: Sequence[Sequence[str]], width: int
) -> list[FittedColumn]:
    """Return the columns that fit into `width` cells.

    texts: of each column, its heading first.
    """
    widths = [max(map(cell_len, cells)) for cells in texts]
    least = [
        width if column.least is None else min(column.least, width)
        for column, width in zip(columns, widths, strict=True)
    ]
    room, chosen = width, []
    claims = [(column.rank, True, index) for index, column in enumerate(columns)]
    claims += [(column.comfort[0], False, index) for index, column in enumerate(columns) if column.comfort]
    for rank, is_column, index in sorted(claims):
        if not is_column:
            comfort = columns[index].comfort
            more = min((comfort[1] if comfort else 0), widths[index]) - least[index]
            more = max(min(more, room), 0)
            least[index] += more
            room -= more
        elif rank == 0 or (any(text.strip() for text in texts[index][1:]) and least[index] + GAP <= room):
            chosen.append(index)
            room -= least[index] + GAP
    given = {index: least[index] for index in chosen}
    while room > 0 and (cut := [index for index in chosen if given[index] < widths[index]]):
        for index in cut[:room]:
            given[index] += 1
        room -= min(room, len(cut))
    return [FittedColumn(index, max(given[index], 1)) for index in sorted(chosen)]


def sort_rows(rows: Sequence[Row], column: Column[Row], *, descending: bool) -> list[Row]:
    """Return the rows sorted by a column; those without a value are last in both directions."""
    known = [row for row in rows if column.value(row) is not None]
    known.sort(key=column.value, reverse=descending)
    return known + [row for row in rows if column.value(row) is None]


def cut_text(text: str, width: int) -> str:
    """Return a text in at most `width` cells, with an ellipsis in its middle if it is longer."""
    if cell_len(text) <= width:
        return text
    tail = (width - 1) // 2
    end = text[len(text) - tail :] if tail else ""
    return f"{set_cell_size(text, width - 1 - cell_len(end)).rstrip()}…{end}"


def draw_bar(share: float, width: int) -> str:
    """Return a progress bar of `width` cells for a fraction."""
    full = min(max(int(share * width), 0), width)
    return "█" * full + "░" * (width - full)
