"""Which distilled image stands where: rows of classes and columns of β_b, the other way round, or one class.

Legend: N images, K classes that are shown. The place of an image in its class, from 0, is its rank.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from rich.cells import cell_len

from cfm_tui.display.progress import beta_text

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.store.images import Reader

Order = Literal["class", "β"]
LONGEST_BETA = len("β 0.000123")


class Album:
    """The images of a set in rows and columns, and a cursor among them.

    order: rows are classes, with β_b from left to right in the order of recovery; or rows are ranks, with
    classes from left to right. text: only classes that have it in their name. One class alone flows over
    rows of `across` images.
    """

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.order: Order = "class"
        self.text = ""
        self.across = 1
        self.row = self.column = 0
        self.arrange()

    def arrange(self) -> None:
        """Take in what changed: the order, the text, the width, or how many images there are."""
        reader = self.reader
        self._sorted_N: NDArray[np.int64] = np.lexsort((reader.batch_N, reader.labels_N))
        every = np.arange(len(reader.classes) + 1)
        self._starts = np.searchsorted(reader.labels_N[self._sorted_N], every)
        self._shown = self._matching()
        counts = [int(self._starts[label + 1] - self._starts[label]) for label in self._shown]
        most = max(counts, default=0)
        if self.flat:
            self.columns = max(min(self.across, most), 1)
            self.rows = -(-most // self.columns)
        else:
            self.rows, self.columns = len(self._shown), most
            if self.order == "β":
                self.rows, self.columns = self.columns, self.rows
        self.move(0, 0)

    def _matching(self) -> list[int]:
        text = self.text.lower()
        names = [name.lower() for name in self.reader.classes]
        exactly = [label for label, name in enumerate(names) if name == text]
        return exactly or [label for label, name in enumerate(names) if text in name]

    @property
    def flat(self) -> bool:
        """Whether one class alone is shown."""
        return len(self._shown) == 1

    @property
    def classes(self) -> list[str]:
        """Names of those that are shown."""
        return [self.reader.classes[label] for label in self._shown]

    def number(self, row: int, column: int) -> int | None:
        """The image at a place; None where there is none."""
        if not (0 <= row < self.rows and 0 <= column < self.columns):
            return None
        if self.flat:
            which, rank = 0, row * self.columns + column
        else:
            which, rank = (row, column) if self.order == "class" else (column, row)
        start, end = self._starts[self._shown[which] :][:2]
        return int(self._sorted_N[start + rank]) if start + rank < end else None

    def heading(self, row: int) -> str:
        """What the images of a row have in common."""
        if self.flat:
            return ""
        if self.order == "class":
            return self.reader.classes[self._shown[row]]
        found = {self.beta(number) for number in self._numbers(row)}
        return (found.pop() if len(found) == 1 else "") or f"{row + 1}."

    @property
    def has_beta(self) -> bool:
        """Whether any image has a β_b."""
        return bool(np.isfinite(self.reader.beta_N).any())

    @property
    def longest_heading(self) -> int:
        """Cells that headings take at most."""
        if self.flat:
            return 0
        return max(map(cell_len, self.classes), default=0) if self.order == "class" else LONGEST_BETA

    def label(self, number: int) -> str:
        """What tells an image from the others of its row."""
        if self.order == "class" or self.flat:
            return self.beta(number) or f"{self._rank(number) + 1}."
        return self.name(number)

    def beta(self, number: int) -> str:
        """The β_b of an image as it is said; empty where it was not optimised."""
        return beta_text(self.reader.beta_N[number])

    def name(self, number: int) -> str:
        """The class of an image."""
        return self.reader.classes[int(self.reader.labels_N[number])]

    def _rank(self, number: int) -> int:
        start = self._starts[int(self.reader.labels_N[number])]
        return int(np.flatnonzero(self._sorted_N[start:] == number)[0])

    def _numbers(self, row: int) -> list[int]:
        found = (self.number(row, column) for column in range(self.columns))
        return [number for number in found if number is not None]

    # --- the cursor -------------------------------------------------------------------------------

    @property
    def here(self) -> int | None:
        """The image under the cursor."""
        return self.number(self.row, self.column)

    def move(self, rows: int, columns: int) -> None:
        """Move the cursor as far as there is something."""
        self.row = min(max(self.row + rows, 0), max(self.rows - 1, 0))
        self.column = min(max(self.column + columns, 0), max(self.columns - 1, 0))
        while self.column and self.here is None and (self.flat or self.order == "class"):
            self.column -= 1

    def step(self, by: int) -> None:
        """To the next image, or the one before, row after row; stays at the ends."""
        place = self.row * self.columns + self.column + by
        while 0 <= place < self.rows * self.columns:
            row, column = divmod(place, self.columns)
            if self.number(row, column) is not None:
                self.row, self.column = row, column
                return
            place += by

    def go_to(self, number: int | None) -> None:
        """Put the cursor on an image, where it is shown."""
        if number is None:
            return
        label = int(self.reader.labels_N[number])
        if label not in self._shown:
            return
        which = self._shown.index(label)
        rank = self._rank(number)
        if self.flat:
            self.row, self.column = divmod(rank, self.columns)
        else:
            self.row, self.column = (which, rank) if self.order == "class" else (rank, which)

    def again(self, order: Order | None = None, text: str | None = None, across: int | None = None) -> None:
        """Change how the images stand; the cursor stays on its image."""
        here = self.here
        self.order = self.order if order is None else order
        self.text = self.text if text is None else text
        self.across = self.across if across is None else max(across, 1)
        self.arrange()
        self.go_to(here)
