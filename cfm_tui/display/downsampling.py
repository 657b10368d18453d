"""Downsampled curves of any length in constant memory, for all columns of a table at once.

A bucket holds the minimum and maximum of `stride` consecutive rows. When the buckets are full, neighbours are
merged and the stride doubles. Spikes are never lost. Legend: R rows, C columns, B buckets.
Not here: drawing of curves (see `charts`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class DownsampledCurves:
    """The minimum and maximum of each column over stretches of rows.

    NaN and infinity are excluded and recorded separately (see `non_finite_rows`).
    """

    MAX_PENDING = 1024  #: rows that are collected before they are added to buckets

    def __init__(self, columns: int, buckets: int = 2048) -> None:
        assert columns >= 1, columns
        assert buckets >= 2, buckets
        assert buckets % 2 == 0, buckets
        self.columns, self.buckets = columns, buckets
        self.rows = 0
        self._stride = 1
        self._low_BC = np.full((buckets, columns), np.inf, np.float32)
        self._high_BC = np.full((buckets, columns), -np.inf, np.float32)
        self._non_finite_BC = np.zeros((buckets, columns), bool)
        self._last_C = np.full(columns, np.nan, np.float32)
        self._pending_RC = np.empty((self.MAX_PENDING, columns), np.float32)
        self._start = 0  # the first pending row

    def add(self, first: int, values_RC: NDArray[np.float32]) -> None:
        """Add rows from index `first`, replacing all existing rows from there on.

        A bucket with rows on both sides of `first` keeps its old range, so it may be too wide but never too
        narrow. Skipped rows count as NaN but are not recorded as non-finite.
        """
        assert values_RC.ndim == 2, values_RC.shape
        assert values_RC.shape[1] == self.columns, values_RC.shape
        assert first >= 0, first
        if first != self.rows:
            self._seek(first)
        taken = 0
        while taken < len(values_RC):
            filled = self.rows - self._start
            if filled == self.MAX_PENDING:
                self._flush()
                filled = 0
            part = values_RC[taken : taken + self.MAX_PENDING - filled]
            self._pending_RC[filled : filled + len(part)] = part
            self.rows += len(part)
            taken += len(part)
        if taken:
            self._last_C[:] = values_RC[-1]

    def envelope(
        self, column: int, points: int, first: int = 0, end: int | None = None
    ) -> tuple[Floats, Floats, Floats]:
        """Return position, minimum and maximum of rows `first`…`end` in at most `points` stretches.

        The position is the centre of a stretch, in rows. Stretches without finite values are NaN. Stretches
        start at multiples of their length, so that a growing curve does not flicker.
        """
        assert points >= 1, points
        self._flush()
        end = self.rows if end is None else min(end, self.rows)
        if max(first, 0) >= end:
            return np.empty(0), np.empty(0), np.empty(0)
        begin, stop = max(first, 0) // self._stride, -(-end // self._stride)
        merged = -(-(stop - begin) // points)
        while -(-stop // merged) - begin // merged > points:
            merged += 1
        starts = np.arange(begin // merged, -(-stop // merged)) * merged
        offsets = np.maximum(starts, begin) - begin
        low = np.minimum.reduceat(self._low_BC[begin:stop, column], offsets).astype(np.float64)
        high = np.maximum.reduceat(self._high_BC[begin:stop, column], offsets).astype(np.float64)
        is_empty = low > high
        low[is_empty] = high[is_empty] = np.nan
        first_rows = np.maximum(starts, begin) * self._stride
        end_rows = np.minimum(np.minimum(starts + merged, stop) * self._stride, self.rows)
        return (first_rows + end_rows - 1) / 2, low, high

    def non_finite_rows(self, column: int) -> Floats:
        """Return the positions of NaN and infinity in rows, accurate to a bucket."""
        self._flush()
        buckets = np.flatnonzero(self._non_finite_BC[:, column])
        return (buckets * self._stride + np.minimum((buckets + 1) * self._stride, self.rows) - 1) / 2

    def last(self, column: int) -> float:
        """Return the value of the last row; NaN without rows."""
        return float(self._last_C[column])

    def _seek(self, first: int) -> None:
        """Drop the rows from `first` on, or skip rows up to it."""
        if self._start <= first < self.rows:
            self.rows = first
        else:
            if first > self.rows:
                self._flush()
            self.rows = self._start = first
            self._widen_buckets()
            keep = -(-first // self._stride)
            self._low_BC[keep:], self._high_BC[keep:] = np.inf, -np.inf
            self._non_finite_BC[keep:] = False
            if first == 0:
                self._stride = 1
        self._last_C[:] = self._pending_RC[first - self._start - 1] if first > self._start else np.nan

    def _flush(self) -> None:
        """Add the pending rows to buckets."""
        count = self.rows - self._start
        if not count:
            return
        self._widen_buckets()
        values_RC = self._pending_RC[:count]
        bucket = self._start // self._stride
        last = (self.rows - 1) // self._stride
        starts = np.maximum(np.arange(bucket, last + 1) * self._stride - self._start, 0)
        low_RC = high_RC = values_RC
        with np.errstate(over="ignore", invalid="ignore"):
            all_finite = np.isfinite(values_RC.sum(dtype=np.float32))
        buckets = slice(bucket, last + 1)
        if not all_finite:
            non_finite_RC = ~np.isfinite(values_RC)
            low_RC = np.where(non_finite_RC, np.float32(np.inf), values_RC)
            high_RC = np.where(non_finite_RC, np.float32(-np.inf), values_RC)
            self._non_finite_BC[buckets] |= np.logical_or.reduceat(non_finite_RC, starts, axis=0)
        low_BC, high_BC = self._low_BC[buckets], self._high_BC[buckets]
        np.minimum(low_BC, self._reduce_stretches(np.minimum, low_RC, starts), out=low_BC)
        np.maximum(high_BC, self._reduce_stretches(np.maximum, high_RC, starts), out=high_BC)
        self._start = self.rows

    def _reduce_stretches(
        self, extreme: np.ufunc, values_RC: NDArray[np.float32], starts: NDArray[np.intp]
    ) -> NDArray[np.float32]:
        """Return the extreme of each stretch of rows, with a faster path for whole buckets."""
        if self._start % self._stride or len(values_RC) % self._stride:
            return np.asarray(extreme.reduceat(values_RC, starts, axis=0), np.float32)
        extremes = values_RC.reshape(-1, self._stride, self.columns)
        while extremes.shape[1] > 1:  # strides are powers of two
            extremes = extreme(extremes[:, ::2], extremes[:, 1::2])
        return extremes[:, 0]

    def _widen_buckets(self) -> None:
        """Merge neighbouring buckets until all rows fit."""
        half = self.buckets // 2
        while self.rows > self.buckets * self._stride:
            self._stride *= 2
            self._low_BC[:half] = np.minimum(self._low_BC[::2], self._low_BC[1::2])
            self._high_BC[:half] = np.maximum(self._high_BC[::2], self._high_BC[1::2])
            self._non_finite_BC[:half] = self._non_finite_BC[::2] | self._non_finite_BC[1::2]
            self._low_BC[half:], self._high_BC[half:] = np.inf, -np.inf
            self._non_finite_BC[half:] = False
