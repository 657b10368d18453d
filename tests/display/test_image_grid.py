"""Which image of a set stands where, and how large ones are made small."""

from __future__ import annotations

import numpy as np
from images_run import CLASSES, with_images
from recorded import opened

from cfm_tui.cli import text_plots
from cfm_tui.console.screens.gallery import describe_image
from cfm_tui.display.graphics import resize, shrink
from cfm_tui.display.image_grid import Album
from engine.store import StoredRun
from engine.store.images import Reader


def test_an_album_of_an_unfinished_set_has_gaps(tmp_path):
    run, writer = with_images(tmp_path / "live", batches=1)
    writer.add(np.zeros((1, 1, 16, 16), np.float32), np.array([1]), 2, 0.05, np.ones(1, np.float32))
    album = Album(Reader(tmp_path / "live" / "images"))
    assert (album.rows, album.columns) == (3, 2)
    assert [album.number(0, 1), album.number(1, 1), album.number(2, 1)] == [None, 3, None]
    album.move(0, 1)
    assert album.here == 0
    album.step(1)
    assert album.here == 1
    album.step(1)
    album.step(1)
    album.step(1)
    assert album.here == 2
    album.rearrange(order="β")
    assert (album.row, album.column, album.here) == (0, 2, 2)
    assert album.heading(1) == "β 0.05"
    album.move(1, 0)
    assert album.here is None
    run.close("stopped")


def test_rows_of_classes_wrap_where_several_fit_and_not_all_are_visible(tmp_path):
    run, writer = with_images(tmp_path / "live", batches=1)
    writer.add(np.zeros((2, 1, 16, 16), np.float32), np.array([0, 2]), 2, 0.05, np.ones(2, np.float32))
    album = Album(Reader(tmp_path / "live" / "images"))
    for window, extent in (((7, 2), (3, 2)), ((8, 3), (3, 2)), ((8, 2), (2, 8)), ((99, 2), (1, 12))):
        album.rearrange(window=window)  # a class will have four images
        assert (album.rows, album.columns) == extent
    album.rearrange(window=(8, 2))
    numbers = [[album.number(row, column) for column in range(8)] for row in range(2)]
    assert numbers == [[0, 3, None, None, 1, None, None, None], [2, 4] + [None] * 6]
    assert [album.heading(row) for row in range(2)] == ["", ""]
    assert [album.label(number) for number in (0, 3, 2)] == ["ant β 0.1", "β 0.05", "cat β 0.1"]
    places = []
    for rows, columns in ((0, 1), (0, 1), (0, 1), (0, -1), (1, 0), (0, 9), (-1, 0)):
        album.move(rows, columns)
        places.append(album.here)
    assert places == [3, 1, 1, 3, 4, 4, 3]
    album.go_to(2)
    assert (album.row, album.column) == (1, 0)
    album.rearrange(order="β")
    assert (album.rows, album.columns, album.here) == (2, 3, 2)
    run.close("stopped")


def test_images_that_were_not_optimised_have_no_beta(tmp_path):
    run = opened(tmp_path / "given")
    writer = run.image_writer((6, 1, 16, 16), CLASSES)
    for batch in (1, 2):
        writer.add(np.zeros((3, 1, 16, 16)), np.arange(3), batch, np.nan, np.full(3, np.nan))
    writer.finish()
    album = Album(Reader(tmp_path / "given" / "images"))
    assert [album.label(album.number(1, column)) for column in (0, 1)] == ["1.", "2."]
    assert describe_image(album, None) == "ant · batch 1 · teacher —"
    album.rearrange(order="β")
    assert [album.heading(row) for row in (0, 1)] == ["1.", "2."]
    assert "β" not in text_plots.draw_beta_grid(StoredRun(tmp_path / "given"), 8)
    run.close("stopped")


def test_large_images_are_made_small_by_averaging():
    rng = np.random.default_rng(0)
    large = rng.integers(0, 256, (3, 224, 224), np.uint8)
    small = shrink(large)
    assert small.shape == (3, 56, 56)
    assert abs(float(small[1, 2, 3]) - large[1, 8:12, 12:16].mean()) <= 0.5
    assert shrink(large[:, :64, :64]) is not None
    assert shrink(large[:, :65, :65]).shape == (3, 32, 32)


def test_an_image_is_enlarged_by_whole_pixels_and_reduced_by_means():
    small = np.arange(4, dtype=np.uint8).reshape(1, 2, 2)
    assert np.array_equal(resize(small, 4), small.repeat(2, 1).repeat(2, 2))
    assert np.array_equal(resize(small.repeat(4, 1).repeat(4, 2), 2), small)
    assert resize(np.zeros((3, 5, 5), np.uint8), 4).shape == (3, 4, 4)
