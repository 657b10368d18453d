"""Previews of one batch: which have spectra, and of which step."""

import numpy as np
import pytest
import torch

from engine.spectral.matching import Spectra
from engine.spectral.moments import Moments
from engine.stages.batch_previews import SPECTRA_SHARE, BatchPreviews


def moments(scale):
    return [Moments("a", torch.zeros(2), torch.ones(2), scale * torch.eye(2))]


def taken(iterations, share, monkeypatch):
    """Previews of a batch of whose spectra this share of time was spent; step n's Ψ_s is n·I."""
    spectra = Spectra(moments(1.0))
    monkeypatch.setattr(spectra, "share_of_time", lambda: share)
    pixels = torch.zeros(1, 1, 1, 1, dtype=torch.uint8)
    previews = BatchPreviews(1, 1, iterations, 0.5, torch.tensor([0]), pixels.clone, spectra)
    kept = []
    for iteration in range(iterations):
        if previews.begin_step(iteration):
            kept.append(iteration)
        pixels += 1
        previews.end_step(iteration + 1, moments(iteration + 1.0))
    return kept, [event.preview for event in previews.drain()]


def test_spectra_are_those_of_the_step_before_and_at_the_start_of_the_first(monkeypatch):
    kept, previews = taken(20, 0.0, monkeypatch)
    assert kept == [0, 9, 19]
    assert [preview.iteration for preview in previews] == [0, 10, 20]
    assert [int(preview.images_MCHW.item()) for preview in previews] == [0, 10, 20]
    assert [preview.spectra["a"][1].tolist() for preview in previews] == [[1, 1], [10, 10], [20, 20]]
    assert all(np.array_equal(preview.spectra["a"][0], [1, 1]) for preview in previews)


@pytest.mark.parametrize("iterations", [1, 20])
def test_only_the_last_preview_has_spectra_where_they_take_too_long(iterations, monkeypatch):
    kept, previews = taken(iterations, 2 * SPECTRA_SHARE, monkeypatch)
    assert kept == [iterations - 1]
    assert all(
        bool(preview.spectra) == (preview.iteration in (iterations, iterations - 1)) for preview in previews
    )
