"""The place in a recovery's history of previews that is shown, moved by steps or played."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from engine.store import StoredRun
from engine.store.preview import Preview


class PreviewCursor:
    """A place in the history of previews of a run.

    preview: the earlier preview that is shown; None for the latest one. is_playing: whether the batch's
    previews are shown one after another. Methods raise UserError("data") where a preview is damaged.
    """

    def __init__(self) -> None:
        self.preview: Preview | None = None
        self.is_playing = False

    def step(self, run: StoredRun, by: int) -> bool:
        """Go to an earlier (by < 0) or later preview; return False if the run has no history."""
        self.is_playing = False
        positions = run.list_previews()
        if positions:
            self._go_to(
                run, positions, (len(positions) if self.preview is None else self._index(positions)) + by
            )
        return bool(positions)

    def play(self, run: StoredRun, batch: int) -> bool:
        """Begin to play a batch from its start; return False if it has no history."""
        positions = run.list_previews()
        start = next((index for index, (number, _) in enumerate(positions) if number == batch), None)
        if start is not None:
            self.is_playing = True
            self._go_to(run, positions, start)
        return start is not None

    def advance(self, run: StoredRun) -> None:
        """Show the next preview of the batch that is played; at its end, the playing ends."""
        positions = run.list_previews()
        index = 0 if self.preview is None else self._index(positions) + 1
        if self.preview is None or index >= len(positions) or positions[index][0] != self.preview.batch:
            self.is_playing = False
        else:
            self._go_to(run, positions, index)

    def _index(self, positions: Sequence[tuple[int, int]]) -> int:
        assert self.preview is not None
        return bisect_left(positions, (self.preview.batch, self.preview.iteration))

    def _go_to(self, run: StoredRun, positions: Sequence[tuple[int, int]], index: int) -> None:
        """Show a preview of the history, or the latest one if the index is past its end."""
        if index >= len(positions):
            self.preview, self.is_playing = None, False
            return
        was_playing, self.is_playing = self.is_playing, False
        self.preview = run.read_preview(*positions[max(index, 0)])
        self.is_playing = was_playing
