"""Curves of one row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cfm_tui.display.ascii_image import RAMP
from cfm_tui.display.terminal import Terminal

EIGHTHS = "▁▂▃▄▅▆▇█"
NOT_FINITE = "!"


def spark(values: Sequence[float] | NDArray[np.float32], width: int, terminal: Terminal) -> str:
    """`width` cells, from the least to the greatest; fewer values than cells leave cells empty.

    More values than cells: the greatest of those that share a cell. `!` where none of them is finite.
    """
    numbers = np.asarray(values, np.float64)
    levels = EIGHTHS if terminal.braille else RAMP
    if width < 1 or not len(numbers):
        return " " * width
    each = -(-len(numbers) // width)
    finite = np.isfinite(numbers)
    starts = np.arange(0, len(numbers), each)
    high = np.maximum.reduceat(np.where(finite, numbers, -np.inf), starts)
    shown = np.isfinite(high)
    if not shown.any():
        return (NOT_FINITE * len(high)).ljust(width)
    low, top = high[shown].min() / 2, high[shown].max() / 2  # halves: their difference is finite
    share = np.zeros(len(high)) if top <= low else (np.where(shown, high, 2 * low) / 2 - low) / (top - low)
    steps = np.clip(np.rint(share * (len(levels) - 1)), 0, len(levels) - 1).astype(int)
    text = "".join(levels[step] if there else NOT_FINITE for step, there in zip(steps, shown, strict=True))
    return text.ljust(width)
