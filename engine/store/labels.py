"""Stored soft labels on disk: one file per source, one row per epoch.

Legend: E epochs, N images, K classes.
``labels/SOURCE.safetensors`` holds logits (E, N, K) float16. It is a table of `rows`, one per epoch; its
name ends in ``.partial`` until the last epoch is written.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from engine.store import files
from engine.store.rows import Rows, RowWriter

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_LOGITS = "logits"


class LabelWriter(RowWriter):
    """Writer of the labels of one source, epoch by epoch.

    shape: (E, N, K). done: how many epochs of an unfinished file to verify and keep; 0 starts a new file.
    Raises UserError("disk"); the space for all epochs is reserved at once. Raises UserError("data") if a kept
    epoch is damaged.
    """

    def __init__(self, folder: Path, source: str, shape: tuple[int, int, int], done: int = 0) -> None:
        files.make_folders(folder)
        metadata = {"format": "cfm-labels", "version": "1", "source": source}
        path = folder / f"{source}.safetensors"
        super().__init__(path, {_LOGITS: ("<f2", shape)}, metadata, done, noun="epoch", hint=Labels.HINT)

    def put(self, epoch: int, logits_NK: NDArray[np.float16]) -> None:
        """Write an epoch, counted from 0 and without gaps; it is durable only after `sync`."""
        self.put_rows(epoch, {_LOGITS: logits_NK[None]})


class Labels(Rows):
    """The complete labels of a source, read by epoch. Raises UserError("data") if the header is damaged."""

    HINT = "restore it, or delete it and resume: the labels are computed again"

    def __init__(self, path: Path) -> None:
        super().__init__(path, "epoch", self.HINT)

    @classmethod
    def open(cls, folder: Path, source: str) -> Labels | None:
        """Return the labels of a source, or None if they are not complete. Raises UserError("data")."""
        path = folder / f"{source}.safetensors"
        return cls(path) if path.is_file() else None

    @property
    def epochs(self) -> int:
        """The number of stored epochs."""
        return self.count

    def epoch(self, index: int) -> NDArray[np.float16]:
        """Return the verified logits (N, K) of an epoch, counted from 0. Raises UserError("data")."""
        logits_NK: NDArray[np.float16] = self.read(index, 1)[_LOGITS][0]
        return logits_NK
