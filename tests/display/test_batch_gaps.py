"""Gaps at the ends of batches: which are read, and what is called a trend."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from cfm_tui.display.batch_gaps import BatchGaps, find_trend
from engine.errors import UserError
from engine.store.preview import Preview

PREVIEW = Preview(1, 20, 0.5, np.zeros((1, 1, 1, 1), np.uint8), np.zeros(1, np.int64), {}, 0.0)


class Recorded:
    """Batches whose Ψ_s has a gap of batch % at two layers, and at a third whose Ψ is 0."""

    folder = "runs/r"

    def __init__(self, batches):
        self.batches, self.reads = batches, []

    def list_previews(self):
        return [(batch, iteration) for batch in range(1, self.batches + 1) for iteration in (0, 20)]

    def read_preview(self, batch, iteration):
        self.reads.append((batch, iteration))
        if batch == 3:
            raise UserError("data", "it is damaged", "restore it")
        real = np.array([3.0, 1.0])
        sides = {"a": (real, real * (1 + batch / 100)), "b": (real, real), "c": (0 * real, real)}
        return replace(PREVIEW, batch=batch, spectra={} if batch == 4 else sides)


def test_the_last_batches_up_to_one_are_read_once():
    run, gaps = Recorded(14), BatchGaps()
    model = SimpleNamespace(repeat_run=run, iterations=20)
    assert gaps.read(model, 14) == pytest.approx([batch / 200 for batch in range(5, 15)])
    assert run.reads == [(batch, 20) for batch in range(5, 15)]
    assert gaps.read(model, 6) == pytest.approx([1 / 200, 2 / 200, 5 / 200, 6 / 200])
    assert run.reads[10:] == [(1, 20), (2, 20), (3, 20), (4, 20)]


@pytest.mark.parametrize(
    ("gaps", "trend"),
    [
        ([0.4, 0.3, 0.2, 0.1], None),
        ([0.5, 0.4, 0.3, 0.2, 0.1], "closing"),
        ([0.1, 0.2, 0.3, 0.4, 0.5], "opening"),
        ([0.5, 0.4, 0.3, 0.1, 0.2], "level"),
        ([0.3] * 10, "level"),
        ([0.9, 0.8, 0.85, 0.7, 0.6, 0.65, 0.5, 0.4, 0.45, 0.3], "closing"),
        ([0.9, 0.1, 0.8, 0.2, 0.7, 0.3, 0.6, 0.4, 0.55, 0.45], "level"),
    ],
)
def test_a_trend_is_named_only_where_the_test_finds_one(gaps, trend):
    assert find_trend(gaps) == trend
