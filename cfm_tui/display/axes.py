"""Axes of charts: their ranges and ticks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
HUGE = 8e307  # differences of numbers up to this are finite
TINY = 1e-307  # the smallest number on a log axis


def clip_finite(values: NDArray[Any]) -> Floats:
    """Clip numbers so that their differences are finite; non-finite numbers become NaN."""
    numbers = np.asarray(values, np.float64)
    return np.where(np.isfinite(numbers), np.clip(numbers, -HUGE, HUGE), np.nan)


@dataclass(frozen=True)
class Axis:
    """A range from `low` to `high`, which differ.

    log: the axis is logarithmic, and low and high are base-10 logarithms. whole: the axis counts something;
    ticks are integers if there are any in the range.
    """

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def share(self, values: Floats) -> Floats:
        """Return the positions of values on the axis: 0 at `low`, 1 at `high`."""
        return np.asarray((values - self.low) / (self.high - self.low))

    def round_outward(self) -> Axis:
        """Return a slightly longer axis that stays the same while the data grow a little."""
        step = _compute_ticks(self.low, self.high, 25)[1]
        low, high = math.floor(self.low / step) * step, math.ceil(self.high / step) * step
        return Axis(max(low, -HUGE), min(high, HUGE), self.log, self.whole) if low < high else self

    def ticks(self, most: int) -> list[tuple[float, str]]:
        """Return about `most` ticks at round numbers: positions from 0 to 1, and labels."""
        numbers, step = (
            self._compute_log_ticks(most) if self.log else _compute_ticks(self.low, self.high, most)
        )
        if self.whole and step < 1:
            counts = range(math.ceil(self.low), math.floor(self.high) + 1)
            numbers, step = ([float(count) for count in counts], 1.0) if counts else (numbers, step)
        positions = [math.log10(number) for number in numbers] if self.log else numbers
        shares = [float(self.share(np.asarray(position, np.float64))) for position in positions]
        labels = _format_labels(numbers, step)
        return [
            (share, label) for share, label in zip(shares, labels, strict=True) if -1e-9 <= share <= 1 + 1e-9
        ]

    def _compute_log_ticks(self, most: int) -> tuple[list[float], float]:
        first, last = math.ceil(self.low - 1e-9), math.floor(self.high + 1e-9)
        if last - first >= 1:
            every = -(-(last - first + 1) // most)
            powers = range(max(first - 1, -307), min(last, 307) + 1)
            if 3 * (last - first) <= most:
                return [factor * 10.0**power for power in powers for factor in (1, 2, 5)], 0.0
            return [10.0**power for power in powers[1::every]], 0.0
        return _compute_ticks(10.0**self.low, 10.0 ** min(self.high, 308.0), most)


def fit_axis(
    values: Sequence[Floats], limits: tuple[float, float] | None, log: bool = False, whole: bool = False
) -> Axis | None:
    """Return an axis with the given limits, or one that contains all finite values; None without either.

    values: logarithms if `log`. limits: never logarithms. whole: see `Axis`.
    """
    if limits is not None:
        low, high = sorted(float(end) for end in clip_finite(np.array(limits)))
        if log:
            low, high = (math.log10(max(end, TINY)) if end > 0 else math.nan for end in (low, high))
        if low < high:
            return Axis(low, high, log, whole)
    finite = [part[np.isfinite(part)] for part in values]
    ends = [(part.min(), part.max()) for part in finite if len(part)]
    if not ends:
        return None
    low, high = float(min(low for low, _ in ends)), float(max(high for _, high in ends))
    if low < high:
        return Axis(low, high, log, whole)
    margin = 0.5 if log or whole else abs(low) / 2 or 1.0
    return (
        Axis(max(low - margin, -HUGE), min(high + margin, HUGE), log, whole)
        if low - margin < high + margin
        else None
    )


def _compute_ticks(low: float, high: float, most: int) -> tuple[list[float], float]:
    """Return ticks at multiples of 1, 2 or 5 times a power of ten, else at the ends, and their distance."""
    target = (high - low) / most
    if target < 1e-300 or target < 1e-13 * max(abs(low), abs(high)):
        return [low, high], high - low
    power = 10.0 ** math.floor(math.log10(target))
    step = next((factor * power for factor in (1, 2, 5) if factor * power >= target), 10 * power)
    ticks = [number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return (ticks, step) if ticks else ([low, high], high - low)


def _format_labels(numbers: Sequence[float], step: float) -> list[str]:
    """Return the labels of ticks. step: the distance between the numbers; 0 if it varies."""
    if not step:
        return [_format_number(number, 1) for number in numbers]
    digits = math.floor(math.log10(max(map(abs, numbers), default=1) or 1)) - math.floor(math.log10(step)) + 1
    return [_format_number(number, min(max(digits, 1), 6)) for number in numbers]


def _format_number(number: float, digits: int) -> str:
    """Format a number with `digits` digits, with k and M, or with an exponent if that is shorter."""
    size = abs(number)
    if size == 0:
        return "0"
    for least, unit, letter in ((1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if least <= size < 1e9:
            return (
                f"{number / unit:.{digits}g}{letter}"
                if size / unit < 10**digits
                else f"{number / unit:.0f}{letter}"
            )
    if 1e-4 <= size < 1e4:
        decimals = max(digits - 1 - math.floor(math.log10(size)), 0)
        plain = f"{number:.{decimals}f}"
        return plain.rstrip("0").rstrip(".") if "." in plain else plain
    mantissa, exponent = f"{number:.{digits - 1}e}".split("e")
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return f"{mantissa}e{int(exponent)}"
