"""Previews of a recovery batch for the history of its run, taken between its steps.

Legend: M images, C channels, H, W.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from engine.checkpoint import PreviewTaken
from engine.spectral.matching import Spectra, SpectrumPair
from engine.spectral.moments import Moments
from engine.store.preview import Preview
from engine.store.preview_history import choose_positions, choose_taps

#: Largest share of a recovery's time that spectra take. Those of ends of batches are computed in any case.
SPECTRA_SHARE = 0.01


class _Taken(NamedTuple):
    """images_MCHW: on their device, so that taking them does not synchronise with it."""

    iteration: int
    images_MCHW: Tensor
    spectra: Mapping[str, SpectrumPair]


class BatchPreviews:
    """Takes the previews of one batch; call `begin_step` and `end_step` around each of its steps.

    number: of the batch, of `batches`. shrink: returns some of its images as bytes on their device; labels_M:
    the classes of these. The spectra of a preview are of the step before it; those of the images that the
    batch starts from, of the first step. The last preview has spectra; others, as far as `SPECTRA_SHARE`
    allows.
    """

    def __init__(
        self,
        number: int,
        batches: int,
        iterations: int,
        beta: float,
        labels_M: Tensor,
        shrink: Callable[[], Tensor],
        spectra: Spectra,
    ) -> None:
        self._number, self._last, self._beta, self._labels_M = number, iterations, beta, labels_M
        self._shrink, self._spectra = shrink, spectra
        positions = choose_positions(batches, iterations)
        self._iterations = {iteration for batch, iteration in positions if batch == number}
        self._taps = choose_taps(spectra.sizes)
        self._images: list[tuple[int, Tensor]] = []  # of previews without their spectra
        self._keeps_spectra = False
        self._taken: list[_Taken] = []

    def begin_step(self, iteration: int) -> bool:
        """Return whether the next step is to keep its statistics. iteration: number of finished steps."""
        if iteration == 0 and 0 in self._iterations:
            self._images.append((0, self._shrink()))
        is_previewed = bool(self._images) or iteration + 1 in self._iterations
        is_affordable = iteration + 1 == self._last or self._spectra.share_of_time() <= SPECTRA_SHARE
        self._keeps_spectra = is_previewed and is_affordable
        return self._keeps_spectra

    def end_step(self, iteration: int, statistics: Sequence[Moments]) -> None:
        """Take the previews that are due. statistics: of the step, if it was to keep them."""
        if iteration in self._iterations:
            self._images.append((iteration, self._shrink()))
        spectra: Mapping[str, SpectrumPair] = {}
        if self._keeps_spectra:
            spectra = self._spectra.pair_with([tap for tap in statistics if tap.name in self._taps])
        self._taken += [_Taken(at, images_MCHW, spectra) for at, images_MCHW in self._images]
        self._images = []

    def drain(self) -> Iterator[PreviewTaken]:
        """Yield the previews that were taken since the last call; synchronises with the device."""
        taken, self._taken = self._taken, []
        for iteration, images_MCHW, spectra in taken:
            labels_M = self._labels_M[: len(images_MCHW)].cpu().numpy()
            images = images_MCHW.cpu().numpy(), labels_M
            yield PreviewTaken(Preview(self._number, iteration, self._beta, *images, spectra, time.time()))
