"""Figures of any numbers: whatever they are, a picture comes out, and what it says of them is right."""

import numpy as np
import pytest
from reports import ODD, course, goal, unfinished

from engine.report import drawing, figures
from engine.report.groups import Accuracy, GroupSimilarity
from engine.report.lens import LensLayer
from engine.report.losses import LossCourse
from engine.report.subject import filters_over

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize("values", ODD.values(), ids=list(ODD))
def test_any_numbers_give_a_picture(values):
    numbers = np.asarray(values, np.float64)
    spread = {"mean": float(numbers[0]), "std": 0.0, "n": 1} if len(numbers) else None
    spread = spread if spread is not None and np.isfinite(spread["mean"]) else None
    over = filters_over(goal("ridge", "lambda"), [0.1, 0.0])
    drawn = [
        figures.draw_losses(course(values)),
        figures.draw_spectra([LensLayer("a", numbers, None), LensLayer("b", None, numbers)], over),
        figures.schedule([("cfm", values), ("hfm", values)]).figure,
        figures.similarity([GroupSimilarity("x", tuple(values), spread, 1)]).figure,
        figures.accuracy([Accuracy("x", "convnet", spread, None, 1)]).figure,
    ]
    for each in drawn:
        assert drawing.render(each, "png", 40).startswith(PNG)
        assert b"<svg" in drawing.render(each, "svg")


def test_names_are_drawn_as_they_stand():
    odd = "$\\frac{$ <b> 猫 \x1b[31m"
    drawn = figures.similarity([GroupSimilarity(odd, (0.5,), {"mean": 0.5, "std": 0.0, "n": 1}, 1)])
    assert drawing.render(drawn.figure, "png", 40).startswith(PNG)
    assert drawing.escape_text("$1\x1b") == r"\$1?"


def test_many_layers_are_shown_at_equal_distances():
    layers = [LensLayer(f"layer{n}", np.arange(4.0, 0, -1), None) for n in range(40)]
    titles = [axes.get_title() for axes in figures.draw_spectra(layers, []).axes if axes.get_title()]
    assert len(titles) == drawing.PANELS
    assert (titles[0], titles[-1]) == ("layer0", "layer39")
    assert drawing.evenly_spaced(5, 12) == [0, 1, 2, 3, 4]


def test_a_panel_holds_the_whole_band_where_its_least_values_are_alike():
    rows = [0.1, 2.0] * LossCourse.BUCKETS
    axes = figures.draw_losses(course(rows, batches=1, iterations=len(rows))).axes[0]
    low, high = axes.get_ylim()
    assert low < 0.1 < 2.0 < high


def test_captions_of_an_unfinished_run_say_what_was_done():
    run = unfinished("half", "objective=cfm")
    assert "over the first 3 of 8 iterations" in figures.losses(run).caption
    assert "because no distilled image is finished" in figures.spectra(run).caption
    run.record.course.add(3, np.ones((5, 6), np.float32))
    assert "over 8 iterations" in figures.losses(run).caption


def test_no_filter_is_told_of_what_was_not_optimised():
    run = unfinished("taken", "objective=random")
    assert "Nothing was optimised" in figures.spectra(run).caption


def test_ticks_of_counts_are_whole():
    one = [figures.schedule([("cfm", [0.1])]).figure, figures.draw_losses(course([1.0, 2.0], 1, 1, 2))]
    for axes in (axes for drawn in one for axes in drawn.axes):
        low, high = axes.get_xlim()
        ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
        assert ticks == [round(tick) for tick in ticks]
        assert ticks
