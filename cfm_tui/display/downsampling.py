"""Curves of any length in memory that does not grow: every column of a table of numbers at once.

Legend: R rows, C columns, B buckets. A bucket is the least and the greatest of `stride` rows that follow each
other; when the buckets are full, neighbours are joined and the stride doubles. A spike is never lost.
Not here: how curves are drawn (see `charts`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
WAITING = 1024  # rows that are gathered before they go into buckets


class Curves:
    """Each column's least and greatest values over stretches of rows.

    NaN and infinity are left out of both, and remembered (see `not_finite`).
    """

    def __init__(self, columns: int, buckets: int = 2048) -> None:
        assert columns >= 1, columns
        assert buckets >= 2, buckets
        assert buckets % 2 == 0, buckets
        self.columns, self.buckets = columns, buckets
        self.rows = 0
        self._stride = 1
        self._low_BC = np.full((buckets, columns), np.inf, np.float32)
        self._high_BC = np.full((buckets, columns), -np.inf, np.float32)
        self._odd_BC = np.zeros((buckets, columns), bool)  # something here is not finite
        self._last_C = np.full(columns, np.nan, np.float32)
        self._waiting_RC = np.empty((WAITING, columns), np.float32)
        self._start = 0  # the first row that waits

    def add(self, first: int, values_RC: NDArray[np.float32]) -> None:
        """Rows `first`… of the table. What was there from `first` on is replaced.

        A bucket that holds rows on both sides of `first` keeps what it knew of both sides: it may say
        more than is true, never less. Rows left out are as NaN, but not remembered as such.
        """
        assert values_RC.ndim == 2, values_RC.shape
        assert values_RC.shape[1] == self.columns, values_RC.shape
        assert first >= 0, first
        if first != self.rows:
            self._go_to(first)
        taken = 0
        while taken < len(values_RC):
            filled = self.rows - self._start
            if filled == WAITING:
                self._settle()
                filled = 0
            part = values_RC[taken : taken + WAITING - filled]
            self._waiting_RC[filled : filled + len(part)] = part
            self.rows += len(part)
            taken += len(part)
        if taken:
            self._last_C[:] = values_RC[-1]

    def envelope(
        self, column: int, points: int, first: int = 0, end: int | None = None
    ) -> tuple[Floats, Floats, Floats]:
        """Where, least, greatest, of rows `first`…`end` in at most `points` stretches.

        Where: the middle of each stretch, in rows. NaN where nothing is finite.
        Stretches begin at multiples of their own length, so that a curve which grows does not waver.
        """
        assert points >= 1, points
        self._settle()
        end = self.rows if end is None else min(end, self.rows)
        if max(first, 0) >= end:
            return np.empty(0), np.empty(0), np.empty(0)
        begin, stop = max(first, 0) // self._stride, -(-end // self._stride)
        each = -(-(stop - begin) // points)
        while -(-stop // each) - begin // each > points:
            each += 1
        starts = np.arange(begin // each, -(-stop // each)) * each
        inner = np.maximum(starts, begin) - begin
        low = np.minimum.reduceat(self._low_BC[begin:stop, column], inner).astype(np.float64)
        high = np.maximum.reduceat(self._high_BC[begin:stop, column], inner).astype(np.float64)
        nothing = low > high
        low[nothing] = high[nothing] = np.nan
        where_from = np.maximum(starts, begin) * self._stride
        where_to = np.minimum(np.minimum(starts + each, stop) * self._stride, self.rows)
        return (where_from + where_to - 1) / 2, low, high

    def not_finite(self, column: int) -> Floats:
        """Where NaN or infinity were, in rows, to within a bucket."""
        self._settle()
        found = np.flatnonzero(self._odd_BC[:, column])
        return (found * self._stride + np.minimum((found + 1) * self._stride, self.rows) - 1) / 2

    def last(self, column: int) -> float:
        """The value of the last row; NaN when there is none."""
        return float(self._last_C[column])

    def _go_to(self, first: int) -> None:
        """Forget rows from `first` on, or leave out those up to it."""
        if self._start <= first < self.rows:
            self.rows = first
        else:
            if first > self.rows:
                self._settle()
            self.rows = self._start = first
            self._widen()
            keep = -(-first // self._stride)
            self._low_BC[keep:], self._high_BC[keep:] = np.inf, -np.inf
            self._odd_BC[keep:] = False
            if first == 0:
                self._stride = 1
        self._last_C[:] = self._waiting_RC[first - self._start - 1] if first > self._start else np.nan

    def _settle(self) -> None:
        """Rows that wait go into buckets."""
        count = self.rows - self._start
        if not count:
            return
        self._widen()
        values_RC = self._waiting_RC[:count]
        bucket = self._start // self._stride
        last = (self.rows - 1) // self._stride
        starts = np.maximum(np.arange(bucket, last + 1) * self._stride - self._start, 0)
        low_RC = high_RC = values_RC
        with np.errstate(over="ignore", invalid="ignore"):
            clean = np.isfinite(values_RC.sum(dtype=np.float32))
        here = slice(bucket, last + 1)
        if not clean:
            odd_RC = ~np.isfinite(values_RC)
            low_RC = np.where(odd_RC, np.float32(np.inf), values_RC)
            high_RC = np.where(odd_RC, np.float32(-np.inf), values_RC)
            self._odd_BC[here] |= np.logical_or.reduceat(odd_RC, starts, axis=0)
        low_BC, high_BC = self._low_BC[here], self._high_BC[here]
        np.minimum(low_BC, self._joined(np.minimum, low_RC, starts), out=low_BC)
        np.maximum(high_BC, self._joined(np.maximum, high_RC, starts), out=high_BC)
        self._start = self.rows

    def _joined(
        self, extreme: np.ufunc, values_RC: NDArray[np.float32], starts: NDArray[np.intp]
    ) -> NDArray[np.float32]:
        """The extreme of each stretch of rows; whole buckets are much faster than uneven stretches."""
        if self._start % self._stride or len(values_RC) % self._stride:
            return np.asarray(extreme.reduceat(values_RC, starts, axis=0), np.float32)
        found = values_RC.reshape(-1, self._stride, self.columns)
        while found.shape[1] > 1:  # strides are powers of two
            found = extreme(found[:, ::2], found[:, 1::2])
        return found[:, 0]

    def _widen(self) -> None:
        """Join neighbours until all rows fit."""
        half = self.buckets // 2
        while self.rows > self.buckets * self._stride:
            self._stride *= 2
            self._low_BC[:half] = np.minimum(self._low_BC[::2], self._low_BC[1::2])
            self._high_BC[:half] = np.maximum(self._high_BC[::2], self._high_BC[1::2])
            self._odd_BC[:half] = self._odd_BC[::2] | self._odd_BC[1::2]
            self._low_BC[half:], self._high_BC[half:] = np.inf, -np.inf
            self._odd_BC[half:] = False
