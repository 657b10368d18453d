"""The images of a run while it recovers."""

from __future__ import annotations

import numpy as np
import pytest
from images_run import CLASSES, add_batch, with_images

from cfm_tui.display.live_reader import LiveReader
from engine.store import StoredRun
from engine.store.preview import Preview


def preview(batch: int, iteration: int, labels=(0, 1, 2), beta: float = 0.05, level: int = 100) -> Preview:
    pixels = np.full((len(labels), 1, 8, 8), level, np.uint8)
    return Preview(batch, iteration, beta, pixels, np.array(labels), {}, 0.0)


@pytest.fixture
def run(tmp_path):
    run, writer = with_images(tmp_path / "live", batches=2)
    yield run, writer, StoredRun(tmp_path / "live")
    run.close("stopped")


def test_the_batch_in_work_comes_after_the_finished_ones(run):
    writing, writer, stored = run
    reader = LiveReader(stored)
    assert (reader.count, reader.finished, reader.total) == (6, 6, 12)
    assert not reader.poll()
    writing.save_preview(preview(3, 20))
    assert reader.poll()
    assert (reader.count, reader.finished, reader.iteration) == (9, 6, 20)
    assert reader.labels_N.tolist() == [0, 1, 2] * 3
    assert reader.batch_N.tolist() == [1] * 3 + [2] * 3 + [3] * 3
    assert reader.beta_N[6:] == pytest.approx(0.05)
    assert np.isnan(reader.confidence_N[6:]).all()
    assert (reader.pixels(8) == 100).all()
    assert reader.pixels(2).shape == (1, 16, 16)
    writing.save_preview(preview(3, 30, level=50))
    assert reader.poll()
    assert (reader.pixels(8) == 50).all()
    add_batch(writer, 3)
    assert reader.poll()
    assert (reader.count, reader.finished) == (9, 9)
    assert reader.pixels(8).shape == (1, 16, 16)
    add_batch(writer, 4)
    writer.finish()
    writing.save_preview(preview(4, 40))
    assert LiveReader(stored).count == 12


@pytest.mark.parametrize("odd", [preview(2, 5), preview(3, 5, (0, len(CLASSES))), preview(3, 5, (0,) * 7)])
def test_a_preview_that_does_not_fit_the_set_is_ignored(run, odd):
    writing, _, stored = run
    writing.save_preview(odd)
    reader = LiveReader(stored)
    assert (reader.count, reader.finished) == (6, 6)


def test_nothing_is_finished_yet(tmp_path):
    run, _ = with_images(tmp_path / "new", batches=0)
    run.save_preview(preview(1, 0))
    reader = LiveReader(StoredRun(tmp_path / "new"))
    assert (reader.count, reader.finished) == (3, 0)
    run.close("stopped")
