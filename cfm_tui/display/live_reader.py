"""The images of a run while it recovers: the finished ones, and those of the batch in work.

Legend: N images of the set, M of the batch, C channels, H, W.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cfm_tui.display.run_state import load_config
from engine.store import RunFile, StoredRun, files, images
from engine.store.preview import Preview


class LiveReader(images.Reader):
    """Reader of a run's images that adds the unfinished ones, as the run's latest preview has them.

    They come after the finished ones, have no confidence, and may be smaller than the set's images; of a
    large batch there are only the first. finished: number of finished images. iteration: of the others.
    """

    def __init__(self, run: StoredRun) -> None:
        self._run, self._preview_path = run, run.folder / RunFile.GLIMPSE
        self._preview: Preview | None = None
        self._preview_stamp: object = None
        self._stamps: object = None
        self._uses_beta: bool | None = None
        self.finished = self.iteration = 0
        super().__init__(run.folder / RunFile.IMAGES)

    def poll(self) -> bool:
        """Refresh if a file changed; return whether there are other images than before."""
        stamps = files.stamp(self.path), files.stamp(self._preview_path)
        if stamps == self._stamps:
            return False
        self._stamps = stamps
        return self.refresh()

    def refresh(self) -> bool:
        """Read metadata and the preview again if they changed; return whether they did."""
        self.count = self.finished
        has_changed = super().refresh()
        stamp = files.stamp(self._preview_path)
        if stamp != self._preview_stamp:
            self._preview_stamp = stamp
            self._preview, has_changed = self._run.preview(), True
        self.finished = count = self.count
        self.labels_N, self.batch_N = self.labels_N[:count], self.batch_N[:count]
        self.beta_N, self.confidence_N = self.beta_N[:count], self.confidence_N[:count]
        if self._preview is not None and self._is_unfinished(self._preview):
            self._add(self._preview)
        return has_changed

    def _is_unfinished(self, preview: Preview) -> bool:
        count = len(preview.labels_M)
        are_known = all(0 <= label < len(self.classes) for label in preview.labels_M)
        return are_known and self.finished + count <= self.total and preview.batch not in self.batch_N

    def _add(self, preview: Preview) -> None:
        if self._uses_beta is None:
            config = load_config(self._run.folder)
            self._uses_beta = config is None or config.uses_beta
        count = len(preview.labels_M)
        self.count, self.iteration = self.finished + count, preview.iteration
        beta = preview.beta if self._uses_beta else np.nan
        self.labels_N = np.append(self.labels_N, preview.labels_M).astype(self.labels_N.dtype)
        self.batch_N = np.append(self.batch_N, [preview.batch] * count).astype(self.batch_N.dtype)
        self.beta_N = np.append(self.beta_N, [beta] * count).astype(self.beta_N.dtype)
        self.confidence_N = np.append(self.confidence_N, [np.nan] * count).astype(self.confidence_N.dtype)

    def pixels(self, number: int) -> NDArray[np.uint8]:
        """Return one image, (C, H, W). Raises as the class does."""
        if number < self.finished or self._preview is None:
            return super().pixels(number)
        pixels_CHW: NDArray[np.uint8] = self._preview.images_MCHW[number - self.finished]
        return pixels_CHW
