"""Grids of images: every cell has its pixels, and columns are named by what they hold."""

import numpy as np
import pytest
from images_run import with_images
from reports import unfinished

from engine.report import drawing, grids
from engine.report.grids import Grid
from engine.store.images import Reader

PNG = b"\x89PNG\r\n\x1a\n"


def test_cells_stand_where_they_are_told_and_keep_their_pixels():
    first = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    second = np.stack([first[0]] * 2 + [255 - first[0]])
    grid = Grid(["a", "b"], ["real", "β 0.1"], [[first, None], [None, second]])
    picture, centres, enlarged = grid.build_mosaic()
    assert enlarged
    assert picture.shape == (260, 260, 3)  # sixteen pixels, each of eight, and a gap of four
    np.testing.assert_array_equal(picture[4:128:8, 4:128:8], np.repeat(first.transpose(1, 2, 0), 3, axis=2))
    np.testing.assert_array_equal(picture[136::8, 136::8], second.transpose(1, 2, 0))
    assert (picture[:128, 132:] == 255).all()
    assert centres[1] - centres[0] == 132
    assert drawing.render(grid.draw(), "png", 40).startswith(PNG)


@pytest.mark.parametrize(
    ("method", "title", "column"), [("cfm", "by β_b", "β 0.0854"), ("sre2l", "by class", "batch 2")]
)
def test_images_are_shown_by_beta_where_a_filter_reads_it(tmp_path, method, title, column):
    run, writer = with_images(tmp_path / "run", batches=2)
    writer.close()
    run.close("stopped")
    found = unfinished("run", f"objective={method}")
    found.images = Reader(tmp_path / "run" / "images")
    plate = grids.images(found)
    assert plate.title == f"Images {title}"
    assert column in plate.alt
    assert ("β" in plate.caption) is (method == "cfm")
