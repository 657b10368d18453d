"""Axes of charts: which numbers they span, and where ticks stand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
HUGE = 8e307  # differences of such numbers can still be told
TINY = 1e-307  # the least number on a log axis


def clipped(values: NDArray[Any]) -> Floats:
    """As finite numbers whose differences are finite, and NaN for those that are not finite."""
    numbers = np.asarray(values, np.float64)
    return np.where(np.isfinite(numbers), np.clip(numbers, -HUGE, HUGE), np.nan)


@dataclass(frozen=True)
class Axis:
    """From `low` to `high`, which differ; logarithms to the base of 10 where `log`.

    whole: it counts something, so that ticks are whole numbers wherever there are any.
    """

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def share(self, values: Floats) -> Floats:
        """0 for `low`, 1 for `high`."""
        return np.asarray((values - self.low) / (self.high - self.low))

    def rounded(self) -> Axis:
        """A little longer, so that it stays the same while what it holds grows a little."""
        step = _round(self.low, self.high, 25)[1]
        low, high = math.floor(self.low / step) * step, math.ceil(self.high / step) * step
        return Axis(max(low, -HUGE), min(high, HUGE), self.log, self.whole) if low < high else self

    def ticks(self, most: int) -> list[tuple[float, str]]:
        """Shares of round numbers, and their labels: about as many as `most`."""
        numbers, step = self._decades(most) if self.log else _round(self.low, self.high, most)
        if self.whole and step < 1:
            counts = range(math.ceil(self.low), math.floor(self.high) + 1)
            numbers, step = ([float(count) for count in counts], 1.0) if counts else (numbers, step)
        positions = [math.log10(number) for number in numbers] if self.log else numbers
        shares = [float(self.share(np.asarray(position, np.float64))) for position in positions]
        labels = _labels(numbers, step)
        return [
            (share, label) for share, label in zip(shares, labels, strict=True) if -1e-9 <= share <= 1 + 1e-9
        ]

    def _decades(self, most: int) -> tuple[list[float], float]:
        first, last = math.ceil(self.low - 1e-9), math.floor(self.high + 1e-9)
        if last - first >= 1:
            every = -(-(last - first + 1) // most)
            powers = range(max(first - 1, -307), min(last, 307) + 1)
            if 3 * (last - first) <= most:
                return [times * 10.0**power for power in powers for times in (1, 2, 5)], 0.0
            return [10.0**power for power in powers[1::every]], 0.0
        return _round(10.0**self.low, 10.0 ** min(self.high, 308.0), most)


def axis(
    values: Sequence[Floats], wanted: tuple[float, float] | None, log: bool = False, whole: bool = False
) -> Axis | None:
    """What holds all finite values, or the range that is wanted; None where there is neither.

    values: logarithms where `log`; wanted: never. whole: as of `Axis`.
    """
    if wanted is not None:
        low, high = sorted(float(end) for end in clipped(np.array(wanted)))
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
    around = 0.5 if log or whole else abs(low) / 2 or 1.0
    return (
        Axis(max(low - around, -HUGE), min(high + around, HUGE), log, whole)
        if low - around < high + around
        else None
    )


def _round(low: float, high: float, most: int) -> tuple[list[float], float]:
    """Multiples of 1, 2 or 5 times a power of ten, else the ends; and their distance."""
    about = (high - low) / most
    if about < 1e-300 or about < 1e-13 * max(abs(low), abs(high)):
        return [low, high], high - low
    power = 10.0 ** math.floor(math.log10(about))
    step = next((times * power for times in (1, 2, 5) if times * power >= about), 10 * power)
    found = [number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return (found, step) if found else ([low, high], high - low)


def _labels(numbers: Sequence[float], step: float) -> list[str]:
    """step: the distance between the numbers; 0 if it varies."""
    if not step:
        return [_short(number, 1) for number in numbers]
    digits = math.floor(math.log10(max(map(abs, numbers), default=1) or 1)) - math.floor(math.log10(step)) + 1
    return [_short(number, min(max(digits, 1), 6)) for number in numbers]


def _short(number: float, digits: int) -> str:
    """So many digits, with k and M for thousands and millions, and an exponent where that is shorter."""
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
