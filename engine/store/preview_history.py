"""History of a recovery: previews of its batches, from the images that each starts from to its last ones.

Legend: R previews, M images, C channels, H, W, D features.
``previews.safetensors`` is a table of `rows`, one per preview, whose number and places follow from the number
of batches and of iterations. It is only displayed; nothing is computed from it. A preview that could not be
written leaves a gap.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.errors import UserError
from engine.store import json_file
from engine.store.preview import Preview
from engine.store.rows import Rows, RowWriter, partial
from engine.store.tensors import Shapes, damaged_error

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_PREVIEWS = 200  #: previews of a run, about
MOST_IMAGES = 10  #: images of a batch in a preview, at most
MOST_PIXELS = 32  #: height and width of these images, at most
SPACING = 10  #: least number of iterations between two previews of a batch
MOST_TAPS = 20  #: taps of which a preview has a spectrum, at most
MOST_EIGENVALUES = 10_000  #: of Ψ_s in a preview, over all taps, at most
_HINT = "restore it, or delete it: it is only displayed"


def choose_positions(batches: int, iterations: int) -> list[tuple[int, int]]:
    """Return the previews to keep, in order: the batch, from 1, and the number of finished iterations.

    Each batch has one before its first iteration, one after its last, and others spread evenly between them.
    Of many batches, only some that are spread evenly are kept, among them the first and the last.
    """
    kept = min(batches, MOST_PREVIEWS // 2)
    numbers = _spread(1, batches, kept)
    count = min(MOST_PREVIEWS // kept, 1 + iterations // SPACING)
    return [(number, iteration) for number in numbers for iteration in _spread(0, iterations, max(count, 2))]


def choose_taps(sizes: Mapping[str, int]) -> dict[str, int]:
    """Return the taps whose spectra are kept, with their sizes: as many as the limits allow, evenly spread.

    sizes: number of eigenvalues by tap. The last tap is among them if there are any.
    """
    names = list(sizes)
    for count in range(min(len(names), MOST_TAPS), 0, -1):
        chosen = [names[-1 - index] for index in reversed(_spread(0, len(names) - 1, count))]
        if sum(sizes[name] for name in chosen) <= MOST_EIGENVALUES:
            return {name: sizes[name] for name in chosen}
    return {}


def bytes_needed(batches: int, iterations: int, shape: tuple[int, int, int, int]) -> int:
    """Return how many bytes the history takes at most. shape: of the images of a batch, (M, C, H, W)."""
    size = math.prod(_preview_shape(shape)) + 4 * MOST_EIGENVALUES + 128  # with labels and a digest
    return len(choose_positions(batches, iterations)) * size


def _preview_shape(shape: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    images, channels, height, width = shape
    return min(images, MOST_IMAGES), channels, min(height, MOST_PIXELS), min(width, MOST_PIXELS)


def _spread(first: int, last: int, count: int) -> list[int]:
    return sorted(set(np.linspace(first, last, count).round().astype(int).tolist()))


class PreviewHistoryWriter:
    """Writer of the previews of a recovery.

    shape: of the images of a batch, (M, C, H, W). position: the batch and the iteration of the checkpoint
    from which the recovery resumes, whose earlier previews are kept; None: from its beginning. sizes: number
    of eigenvalues of Ψ by tap; the spectra of Ψ_s are kept, while Ψ is the same in all previews. notice: a
    message for the user, or empty. Raises UserError("disk"); the space for all previews is reserved at once.
    """

    def __init__(
        self,
        path: Path,
        batches: int,
        iterations: int,
        shape: tuple[int, int, int, int],
        position: tuple[int, int] | None = None,
        sizes: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        self._shape, self._taps = _preview_shape(shape), choose_taps(sizes)
        positions = choose_positions(batches, iterations)
        self._rows = {place: row for row, place in enumerate(positions)}
        count, metadata = len(positions), {"format": "cfm-previews", "version": "1"}
        metadata |= {"batches": str(batches), "iterations": str(iterations)}
        shapes: Shapes = {
            "time": ("<f8", (count,)),
            "beta": ("<f4", (count,)),
            "count": ("<i4", (count,)),
            "labels": ("<i4", (count, self._shape[0])),
            "images": ("|u1", (count, *self._shape)),
        }
        if self._taps:
            metadata["taps"] = json_file.to_json(self._taps)
            shapes = {**shapes, "spectra": ("<f4", (count, sum(self._taps.values())))}
        done = 0 if position is None else sum(_is_before(place, position) for place in positions)
        self.notice = ""
        try:
            self._table = _Table(path, shapes, metadata, done, hint=_HINT)
        except UserError as error:
            if error.kind != "data":
                raise
            self.notice = f"{error.message}; the history of previews starts over"
            self._table = _Table(path, shapes, metadata, hint=_HINT)
            self._table.done = done
        self._table.clear_from(done)

    def put(self, preview: Preview) -> None:
        """Write the preview of one of the chosen positions; it is durable after `sync`.

        Raises UserError("disk").
        """
        row = self._rows[preview.batch, preview.iteration]
        count = len(preview.labels_M)
        images_MCHW, labels_M = np.zeros(self._shape, np.uint8), np.zeros(self._shape[0], np.int32)
        images_MCHW[:count], labels_M[:count] = preview.images_MCHW, preview.labels_M
        self._table.done = max(self._table.done, row)  # an earlier one that was not written is a gap
        values = {"time": preview.time, "beta": preview.beta, "count": count}
        columns: dict[str, Any] = {name: np.array([value]) for name, value in values.items()}
        columns |= {"labels": labels_M[None], "images": images_MCHW[None]}
        if self._taps:
            missing = {name: np.full(size, np.nan, np.float32) for name, size in self._taps.items()}
            sides = [preview.spectra.get(name, (None, missing[name]))[1] for name in self._taps]
            columns["spectra"] = np.concatenate(sides)[None]
        self._table.put_rows(row, columns)

    def sync(self) -> None:
        """Make everything written so far durable."""
        self._table.sync()

    def finish(self) -> None:
        """Rename the file to its final name, durably."""
        self._table.done = self._table.count
        self._table.finish()

    def close(self) -> None:
        """Close the file; closing twice is allowed."""
        self._table.close()


class _Table(RowWriter):
    def clear_from(self, row: int) -> None:
        """Mark this row and all later ones as not written."""
        part = self._parts[Rows.DIGEST]
        self._file.put(part.start + 32 * row, bytes(32 * (self.count - row)))


def _is_before(place: tuple[int, int], position: tuple[int, int]) -> bool:
    """Return whether a preview was written before a checkpoint, from which a batch resumes or starts over."""
    return place <= position if position[1] else place[0] < position[0]


class PreviewHistory:
    """The history of previews of a recovery, complete or while it is written.

    Raises UserError("data") if the header is damaged, UserError("disk") if there is no history.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._table = Rows(path, "preview", _HINT)
        except UserError:
            unfinished = partial(path)
            if not unfinished.is_file():
                raise
            self._table = Rows(unfinished, "preview", _HINT)
        try:
            sizes = (int(self._table.metadata[name]) for name in ("batches", "iterations"))
            self._positions = choose_positions(*sizes)
            if len(self._positions) != self._table.count:
                raise ValueError("it has another number of previews")
            self._taps: dict[str, int] = json_file.from_json(self._table.metadata.get("taps", "{}"))
        except (KeyError, ValueError) as error:
            raise damaged_error(self._table.path, error, _HINT) from error

    @property
    def positions(self) -> list[tuple[int, int]]:
        """The batch, from 1, and the number of finished iterations of each preview that is written, in order.

        Reads no images, so a preview may turn out to be damaged when it is read.
        """
        digests_R32 = self._table.column(Rows.DIGEST, 0, self._table.count)
        return [self._positions[row] for row in np.flatnonzero(digests_R32.any(axis=1))]

    def read(
        self, batch: int, iteration: int, real: Mapping[str, NDArray[np.float32]] = MappingProxyType({})
    ) -> Preview:
        """Return a preview; it has spectra of Ψ_s beside those of `real`, the eigenvalues of Ψ by tap.

        Raises UserError("data") if it is not there, or is damaged.
        """
        if (batch, iteration) not in self.positions:
            problem = f"no preview of batch {batch} after {iteration} iterations is in {self._table.path}"
            raise UserError("data", problem, "choose one of those that it lists")
        columns = self._table.read(self._positions.index((batch, iteration)), 1)
        count = int(columns["count"][0])
        return Preview(
            batch,
            iteration,
            float(columns["beta"][0]),
            columns["images"][0, :count],
            columns["labels"][0, :count].astype(np.int64),
            self._pair_spectra(columns["spectra"][0], real) if self._taps else {},
            float(columns["time"][0]),
        )

    def _pair_spectra(
        self, eigenvalues: NDArray[np.float32], real: Mapping[str, NDArray[np.float32]]
    ) -> dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Return the spectra of Ψ and Ψ_s at the taps that have both; NaN is one that was not measured."""
        ends = np.cumsum(list(self._taps.values()))
        parts = zip(self._taps, np.split(eigenvalues, ends[:-1]), strict=True)
        return {
            name: (real[name], part_D)
            for name, part_D in parts
            if len(real.get(name, ())) == len(part_D) and not np.isnan(part_D).any()
        }

    def check(self, position: tuple[int, int] | None = None) -> list[str]:
        """Return a message for each damaged preview. position: of a checkpoint: only those before it."""
        written = set(self.positions)
        return [
            self._table.damaged_row_error(row).message
            for row in self._table.damaged_rows()
            if self._positions[row] in written
            and (position is None or _is_before(self._positions[row], position))
        ]
