"""Curves in bounded memory hold what a plain list of all rows would show."""

from __future__ import annotations

import math
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cfm_tui.display.downsampling import DownsampledCurves

HUGE = float(np.finfo(np.float32).max)
ODD = [math.nan, math.inf, -math.inf]
NUMBERS = st.one_of(st.floats(-1e6, 1e6, width=32), st.sampled_from([*ODD, HUGE, -HUGE]))
CHUNKS = st.lists(st.tuples(st.integers(-40, 3), st.lists(NUMBERS, max_size=60)), max_size=12)


def column(values: list[float]) -> np.ndarray:
    return np.array([[value, -value] for value in values], np.float32).reshape(-1, 2)


def told(
    curves: DownsampledCurves, points: int, first: int = 0, end: int | None = None
) -> list[tuple[float, float, float]]:
    return list(zip(*curves.envelope(0, points, first, end), strict=True))


@settings(max_examples=300, deadline=None)
@given(CHUNKS, st.integers(1, 50), st.sampled_from([2, 8, 64]), st.booleans())
def test_nothing_is_lost_beside_a_plain_list(chunks, points: int, buckets: int, look: bool) -> None:
    curves, plain, replaced = DownsampledCurves(2, buckets), [], False
    for step, values in chunks:
        first = max(0, len(plain) + min(step, 0)) + max(step, 0)
        replaced |= first < len(plain)
        plain = plain[:first] + [None] * (first - len(plain[:first])) + values
        curves.add(first, column(values))
        if look:
            curves.envelope(0, points)
    x, low, high = curves.envelope(0, points)
    finite = [value for value in plain if value is not None and math.isfinite(value)]
    assert curves.rows == len(plain)
    assert len(x) == len(low) == len(high) <= points
    assert np.all(np.diff(x) > 0)
    assert np.array_equal(np.isnan(low), np.isnan(high))
    if finite:
        if replaced and len(plain) > buckets:
            assert np.nanmin(low) <= min(finite)
            assert np.nanmax(high) >= max(finite)
        elif not replaced:
            assert np.nanmin(low) == min(finite)
            assert np.nanmax(high) == max(finite)
    odd = any(value is not None and not math.isfinite(value) for value in plain)
    assert replaced or odd == bool(len(curves.non_finite_rows(0)))
    mirrored = curves.envelope(1, points)
    assert np.array_equal(-mirrored[2], low, equal_nan=True)


@settings(deadline=None)
@given(st.lists(NUMBERS, min_size=1, max_size=64), st.integers(0, 70), st.integers(0, 70))
def test_few_rows_are_kept_as_they_are(values: list[float], first: int, end: int) -> None:
    curves = DownsampledCurves(2, 64)
    curves.add(0, column(values))
    expected = [v if math.isfinite(v) else math.nan for v in values[first:end]]
    x, low, high = curves.envelope(0, 64, first, end)
    assert np.array_equal(low, np.array(expected, float), equal_nan=True)
    assert np.array_equal(high, low, equal_nan=True)
    assert x.tolist() == list(range(first, min(end, len(values))))
    assert curves.last(0) == values[-1] or math.isnan(values[-1])
    assert curves.non_finite_rows(0).tolist() == [i for i, v in enumerate(values) if not math.isfinite(v)]


def test_a_spike_among_a_million_rows_is_seen_in_ten_points() -> None:
    curves = DownsampledCurves(1)
    values = np.zeros((1_000_000, 1), np.float32)
    values[654_321] = 7
    for first in range(0, len(values), 1000):
        curves.add(first, values[first : first + 1000])
    x, low, high = curves.envelope(0, 10)
    assert high.max() == 7
    assert abs(x[high.argmax()] - 654_321) <= 100_000
    assert low.max() == low.min() == 0
    x, _, high = curves.envelope(0, 60, 654_000, 655_000)
    assert high.max() == 7
    assert 653_000 < x.min() < x.max() < 656_000


def test_rows_that_are_done_again_replace_those_after_them() -> None:
    curves = DownsampledCurves(1, 64)
    curves.add(0, np.arange(64, dtype=np.float32)[:, None])
    curves.add(32, np.full((8, 1), -1, np.float32))
    assert [low for _, low, _ in told(curves, 64)] == [*range(32), *[-1] * 8]
    curves.add(0, np.full((1, 1), 5, np.float32))
    assert told(curves, 64) == [(0, 5, 5)]
    curves.add(0, np.empty((0, 1), np.float32))
    assert told(curves, 64) == []
    assert math.isnan(curves.last(0))


def test_rows_done_again_long_ago_are_forgotten_but_for_one_bucket() -> None:
    curves = DownsampledCurves(1, 64)
    curves.add(0, np.full((6400, 1), 9, np.float32))
    curves.add(3210, np.zeros((3190, 1), np.float32))
    x, low, high = curves.envelope(0, 64)
    assert (high[x < 3100] == 9).all()
    assert (low[x > 3400] == high[x > 3400]).all()
    assert (high[x > 3400] == 0).all()


def test_a_curve_that_grows_does_not_waver() -> None:
    curves, rng = DownsampledCurves(1), np.random.default_rng(0)
    curves.add(0, rng.random((1510, 1)).astype(np.float32))
    before = told(curves, 100)
    curves.add(1510, rng.random((10, 1)).astype(np.float32))
    assert told(curves, 100)[:90] == before[:90]


@pytest.mark.parametrize(("chunk", "seconds"), [(200, 5), (10, 10)])
def test_a_million_rows_of_41_columns_come_fast_in_memory_that_does_not_grow(
    chunk: int, seconds: float
) -> None:
    rows = 1_000_000 if chunk == 200 else 100_000
    curves, values = DownsampledCurves(41), np.random.default_rng(0).random((chunk, 41)).astype(np.float32)
    curves.add(0, values)
    tracemalloc.start()
    began = time.perf_counter()
    for first in range(chunk, rows, chunk):
        curves.add(first, values)
    took = time.perf_counter() - began
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert curves.rows == rows
    assert took < seconds
    assert peak < 3e6
