"""Sparklines: curves one row high."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cfm_tui.display.ascii_image import RAMP
from cfm_tui.display.terminal import Terminal

EIGHTHS = "▁▂▃▄▅▆▇█"
NOT_FINITE = "!"


def spark(values: Sequence[float] | NDArray[np.float32], width: int, terminal: Terminal) -> str:
    """Return a sparkline of `width` cells, scaled from the smallest to the largest value.

    Where several values share a cell, the largest is shown; a cell without a finite value is `!`. If there
    are fewer values than cells, the rest is blank.
    """
    numbers = np.asarray(values, np.float64)
    levels = EIGHTHS if terminal.braille else RAMP
    if width < 1 or not len(numbers):
        return " " * width
    values_per_cell = -(-len(numbers) // width)
    finite = np.isfinite(numbers)
    starts = np.arange(0, len(numbers), values_per_cell)
    high = np.maximum.reduceat(np.where(finite, numbers, -np.inf), starts)
    has_value = np.isfinite(high)
    if not has_value.any():
        return (NOT_FINITE * len(high)).ljust(width)
    low, top = high[has_value].min() / 2, high[has_value].max() / 2  # halved: their difference is finite
    filled = np.where(has_value, high, 2 * low)
    share = np.zeros(len(high)) if top <= low else (filled / 2 - low) / (top - low)
    steps = np.clip(np.rint(share * (len(levels) - 1)), 0, len(levels) - 1).astype(int)
    cells = (levels[step] if valid else NOT_FINITE for step, valid in zip(steps, has_value, strict=True))
    return "".join(cells).ljust(width)
