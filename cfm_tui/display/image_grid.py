"""The arrangement of distilled images: classes by β_b, β_b by classes, or a single class.

The rank of an image is its position in its class, from 0. Legend: N images.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, Literal, TypeVar

import numpy as np
from rich.cells import cell_len

from cfm_tui.display.progress import format_beta

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.store.images import Reader

Order = Literal["class", "β"]
AnyReader = TypeVar("AnyReader", bound="Reader")


class Album(Generic[AnyReader]):
    """The images of a set in rows and columns, with a cursor.

    order: "class" for rows of classes with β_b from left to right in order of recovery; "β" for rows of ranks
    with classes from left to right. text: shows only classes whose names contain it. across, down: visible
    columns and rows. A single class wraps into rows of `across` images. Where not all rows of classes are
    visible, and several classes fit side by side, they wrap likewise: `groups` classes stand in a row.
    """

    def __init__(self, reader: AnyReader) -> None:
        self.reader = reader
        self.order: Order = "class"
        self.text = ""
        self.across = self.down = 1
        self.row = self.column = 0
        self.arrange()

    def arrange(self) -> None:
        """Update the arrangement after a change of order, text, width or number of images."""
        reader = self.reader
        self._sorted_N: NDArray[np.int64] = np.lexsort((reader.batch_N, reader.labels_N))
        every_label = np.arange(len(reader.classes) + 1)
        self._starts = np.searchsorted(reader.labels_N[self._sorted_N], every_label)
        text, names = self.text.lower(), [name.lower() for name in reader.classes]
        exact = [label for label, name in enumerate(names) if name == text]
        self._shown = exact or [label for label, name in enumerate(names) if text in name]
        counts = [int(self._starts[label + 1] - self._starts[label]) for label in self._shown]
        largest = max(counts, default=0)
        # The final size of a class counts, so that classes stay in place while the set grows.
        self._group_width = max(largest, -(-reader.total // max(len(reader.classes), 1)), 1)
        self.groups = 1
        if self.order == "class" and not self.flat and len(self._shown) > self.down:
            self.groups = min(max(self.across // self._group_width, 1), len(self._shown))
        if self.flat:
            self.columns = max(min(self.across, largest), 1)
            self.rows = -(-largest // self.columns)
        elif self.groups > 1:
            self.rows, self.columns = -(-len(self._shown) // self.groups), self.groups * self._group_width
        else:
            self.rows, self.columns = len(self._shown), largest
            if self.order == "β":
                self.rows, self.columns = self.columns, self.rows
        self.move(0, 0)

    @property
    def flat(self) -> bool:
        """Whether a single class is shown."""
        return len(self._shown) == 1

    @property
    def classes(self) -> list[str]:
        """The names of the shown classes."""
        return [self.reader.classes[label] for label in self._shown]

    def number(self, row: int, column: int) -> int | None:
        """Return the number of the image at a position; None if there is none."""
        if not (0 <= row < self.rows and 0 <= column < self.columns):
            return None
        if self.flat:
            index, rank = 0, row * self.columns + column
        elif self.groups > 1:
            group, rank = divmod(column, self._group_width)
            index = row * self.groups + group
            if index >= len(self._shown):
                return None
        else:
            index, rank = (row, column) if self.order == "class" else (column, row)
        start, end = self._starts[self._shown[index] :][:2]
        return int(self._sorted_N[start + rank]) if start + rank < end else None

    def heading(self, row: int) -> str:
        """Return the heading of a row: its class, its β_b or its number; empty where rows wrap."""
        if self.flat or self.groups > 1:
            return ""
        if self.order == "class":
            return self.reader.classes[self._shown[row]]
        numbers = (self.number(row, column) for column in range(self.columns))
        betas = {self.beta(number) for number in numbers if number is not None}
        return (betas.pop() if len(betas) == 1 else "") or f"{row + 1}."

    @property
    def has_beta(self) -> bool:
        """Whether any image has a β_b."""
        return bool(np.isfinite(self.reader.beta_N).any())

    @property
    def longest_heading(self) -> int:
        """The maximum width of headings in cells."""
        if self.flat or self.groups > 1:
            return 0
        return max(map(cell_len, self.classes), default=0) if self.order == "class" else len("β 0.000123")

    def label(self, number: int) -> str:
        """Return the label that distinguishes an image from the others in its row."""
        if self.order == "β" and not self.flat:
            return self.name(number)
        rank = self._find_rank(number)
        label = self.beta(number) or f"{rank + 1}."
        return f"{self.name(number)} {label}" if self.groups > 1 and not rank else label

    def beta(self, number: int) -> str:
        """Return an image's formatted β_b; empty if it was not optimised."""
        return format_beta(self.reader.beta_N[number])

    def name(self, number: int) -> str:
        """Return the class name of an image."""
        return self.reader.classes[int(self.reader.labels_N[number])]

    def _find_rank(self, number: int) -> int:
        start = self._starts[int(self.reader.labels_N[number])]
        return int(np.flatnonzero(self._sorted_N[start:] == number)[0])

    # --- the cursor -------------------------------------------------------------------------------

    @property
    def here(self) -> int | None:
        """The number of the image under the cursor; None if there is none."""
        return self.number(self.row, self.column)

    def move(self, rows: int, columns: int) -> None:
        """Move the cursor by rows and columns, within the images."""
        self.row = min(max(self.row + rows, 0), max(self.rows - 1, 0))
        self.column = min(max(self.column + columns, 0), max(self.columns - 1, 0))
        if columns > 0 and self.here is None:  # the next class in the row may be beyond a gap
            following = range(self.column + 1, self.columns)
            there = (column for column in following if self.number(self.row, column) is not None)
            self.column = next(there, self.column)
        while self.column and self.here is None and (self.flat or self.order == "class"):
            self.column -= 1

    def step(self, by: int) -> None:
        """Move the cursor to the next or previous image, row by row; it stays at the ends."""
        place = self.row * self.columns + self.column + by
        while 0 <= place < self.rows * self.columns:
            row, column = divmod(place, self.columns)
            if self.number(row, column) is not None:
                self.row, self.column = row, column
                return
            place += by

    def go_to(self, number: int | None) -> None:
        """Move the cursor to an image, if it is shown."""
        if number is None or (label := int(self.reader.labels_N[number])) not in self._shown:
            return
        index, rank = self._shown.index(label), self._find_rank(number)
        if self.flat:
            self.row, self.column = divmod(rank, self.columns)
        elif self.groups > 1:
            self.row, group = divmod(index, self.groups)
            self.column = group * self._group_width + rank
        else:
            self.row, self.column = (index, rank) if self.order == "class" else (rank, index)

    def rearrange(
        self, order: Order | None = None, text: str | None = None, window: tuple[int, int] | None = None
    ) -> None:
        """Rearrange the images with new options; the cursor stays on its image. window: across and down."""
        here = self.here
        self.order = self.order if order is None else order
        self.text = self.text if text is None else text
        self.across, self.down = window or (self.across, self.down)
        self.arrange()
        self.go_to(here)
