"""Stored soft labels on disk: one file a source, one row an epoch.

Legend: E epochs, N images, K classes.
``labels/SOURCE.safetensors`` holds logits (E, N, K) float16. It is a table of `rows`, an epoch each:
until the last one is in, its name ends in ``.partial``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from engine.store import files
from engine.store.rows import Rows, RowWriter, partial

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

HINT = "restore it, or delete it and resume: the labels are made again"
_LOGITS = "logits"


def label_path(folder: Path, source: str) -> Path:
    """Where a source's labels lie once they are complete."""
    return folder / f"{source}.safetensors"


class LabelWriter:
    """Writes the labels of one source epoch by epoch.

    shape: (E, N, K). done: epochs of an unfinished file that are kept, after they were verified; 0
    begins anew. Raises UserError("disk"): the room for all epochs is claimed at once. Raises
    UserError("data") where a kept epoch is damaged.
    """

    def __init__(self, folder: Path, source: str, shape: tuple[int, int, int], done: int = 0) -> None:
        files.make_folder(folder)
        facts = {"format": "cfm-labels", "version": "1", "source": source}
        path = label_path(folder, source)
        self._rows = RowWriter(path, {_LOGITS: ("<f2", shape)}, facts, done, noun="epoch", hint=HINT)

    def put(self, epoch: int, logits_NK: NDArray[np.float16]) -> None:
        """Write one epoch, counted from 0, at most one past those that are there; not durable yet."""
        self._rows.put(epoch, {_LOGITS: logits_NK[None]})

    def sync(self) -> None:
        """Make durable what was put so far."""
        self._rows.sync()

    def finish(self) -> None:
        """Give the complete file its final name, durably."""
        self._rows.finish()

    def close(self) -> None:
        """Close the file; an unfinished one stays under its partial name. Closing twice is allowed."""
        self._rows.close()


class Labels:
    """A source's complete labels, read an epoch at a time. Raises UserError("data"): a damaged header."""

    def __init__(self, path: Path) -> None:
        self._rows = Rows(path, "epoch", HINT)

    @property
    def epochs(self) -> int:
        """How many epochs are stored."""
        return self._rows.count

    @property
    def shape(self) -> tuple[int, ...]:
        """(E, N, K)."""
        return self._rows.shape(_LOGITS)

    def epoch(self, index: int) -> NDArray[np.float16]:
        """The logits (N, K) of an epoch counted from 0, verified. Raises UserError("data")."""
        logits_NK: NDArray[np.float16] = self._rows.read(index, 1)[_LOGITS][0]
        return logits_NK

    def check(self) -> list[str]:
        """A message for each damaged epoch."""
        return [self._rows.damage(epoch).message for epoch in self._rows.wrong()]


def is_begun(folder: Path, source: str) -> bool:
    """Whether a source has unfinished labels, which a writer can take up."""
    return partial(label_path(folder, source)).is_file()


def open_labels(folder: Path, source: str) -> Labels | None:
    """A source's labels, or None where they are not complete. Raises UserError("data")."""
    path = label_path(folder, source)
    return Labels(path) if path.is_file() else None
