"""How far Ψ_s is from Ψ at the end of each batch of a recovery, and whether that changes over batches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Literal

from cfm_tui.display import plot_data
from cfm_tui.display.run_state import RunModel
from engine.errors import UserError

MOST_BATCHES = 10  #: whose gaps are compared


class BatchGaps:
    """The gaps at the ends of a run's batches: of the last preview of each, the mean over layers.

    Each preview is read once.
    """

    def __init__(self) -> None:
        self._gaps: dict[tuple[Path, int], float] = {}

    def read(self, model: RunModel, until: int) -> list[float]:
        """Return the gaps of the last `MOST_BATCHES` batches up to batch `until`, in order.

        Batches that are not finished, or have no spectra in the history, are left out.
        """
        run = model.repeat_run
        ends = [place for place in run.list_previews() if place[1] == model.iterations and place[0] <= until]
        gaps = []
        for batch, iteration in ends[-MOST_BATCHES:]:
            gap = self._gaps.get((run.folder, batch))
            if gap is None:
                try:
                    by_layer = plot_data.spectral_gaps(run.read_preview(batch, iteration))
                except UserError:  # a damaged preview is reported where the user goes to it
                    continue
                finite = [each for each in by_layer.values() if math.isfinite(each)]
                if not finite:
                    continue
                gap = self._gaps[run.folder, batch] = fmean(finite)
            gaps.append(gap)
        return gaps


def find_trend(gaps: Sequence[float]) -> Literal["closing", "level", "opening"] | None:
    """Return whether gaps shrink or grow by a two-sided Mann–Kendall test at 5 %; "level" if by neither.

    None where there are fewer than five, with which the test can show nothing.
    """
    count = len(gaps)
    if count < 5:
        return None
    score = sum((later > earlier) - (later < earlier) for earlier, later in combinations(gaps, 2))
    deviation = math.sqrt(count * (count - 1) * (2 * count + 5) / 18)
    if (abs(score) - 1) / deviation < 1.96:
        return "level"
    return "closing" if score < 0 else "opening"
