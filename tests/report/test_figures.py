"""Figures of any numbers: whatever they are, a picture comes out, and what it says of them is right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import swept
from images_run import with_images
from pages import mean_cosine
from recorded import layout, opened, progress, record_recovery

from engine import events, store
from engine.config import Objective, Term, settings
from engine.report import drawing, figures, grids, groups, losses, plates, similarity
from engine.report.groups import Accuracy, GroupSimilarity
from engine.report.lens import LensLayer
from engine.report.losses import LossCourse
from engine.report.subject import Subject
from engine.store.images import Reader

PNG, TAPS = b"\x89PNG\r\n\x1a\n", ["conv0", "conv1"]


def course(values, taps=2, batches=2, iterations=4):
    """A recovery whose every number is that of `values`, row by row."""
    shape = events.RecoverLayout([f"conv{tap}" for tap in range(taps)], ["ridge/none"], [0.5] * batches)
    found = LossCourse(shape, iterations)
    found.add(0, np.repeat(np.asarray(values, np.float32)[:, None], 4 + taps, axis=1))
    return found


def goal(*names):
    """An objective of these filters."""
    return Objective(terms=tuple(Term(filter=name) for name in names))


ODD = {
    "nothing": [],
    "nan": [np.nan] * 8,
    "infinite": [np.inf, -np.inf] * 4,
    "constant": [0.25] * 8,
    "zero": [0.0] * 8,
    "negative": [-1.0, 2.0] * 4,
    "one": [3.0],
    "far apart": [1e-38, 1e38] * 4,
}


@pytest.mark.parametrize("values", ODD.values(), ids=list(ODD))
def test_any_numbers_give_a_picture(values):
    numbers = np.asarray(values, np.float64)
    spread = {"mean": float(numbers[0]), "std": 0.0, "n": 1} if len(numbers) else None
    spread = spread if spread is not None and np.isfinite(spread["mean"]) else None
    over = plates.filters_over(goal("ridge", "lambda"), [0.1, 0.0])
    drawn = [
        figures.loss_curves(course(values)),
        figures.spectra([LensLayer("a", numbers, None), LensLayer("b", None, numbers)], over),
        figures.schedules([("cfm", values), ("hfm", values)]),
        figures.similarity([GroupSimilarity("x", tuple(values), spread, 1)]),
        figures.accuracy([Accuracy("x", "convnet", spread, None, 1)]),
    ]
    for each in drawn:
        assert drawing.to_png(each, dpi=40).startswith(PNG)
        assert b"<svg" in drawing.to_svg(each)


def test_no_rows_and_no_layers_give_a_picture():
    for each in (figures.similarity([]), figures.accuracy([]), figures.schedules([])):
        assert drawing.to_png(each, dpi=40).startswith(PNG)


def test_names_are_drawn_as_they_stand():
    odd = "$\\frac{$ <b> 猫 \x1b[31m"
    drawn = figures.similarity([GroupSimilarity(odd, (0.5,), {"mean": 0.5, "std": 0.0, "n": 1}, 1)])
    assert drawing.to_png(drawn, dpi=40).startswith(PNG)
    assert drawing.escape_text("$1\x1b") == r"\$1?"


def test_many_layers_are_shown_at_equal_distances():
    layers = [LensLayer(f"layer{n}", np.arange(4.0, 0, -1), None) for n in range(40)]
    titles = [axes.get_title() for axes in figures.spectra(layers, []).axes if axes.get_title()]
    assert len(titles) == drawing.PANELS
    assert (titles[0], titles[-1]) == ("layer0", "layer39")
    assert drawing.evenly_spaced(5, 12) == [0, 1, 2, 3, 4]


def test_a_panel_holds_the_whole_band_where_its_least_values_are_alike():
    rows = [0.1, 2.0] * losses.BUCKETS
    axes = figures.loss_curves(course(rows, batches=1, iterations=len(rows))).axes[0]
    low, high = axes.get_ylim()
    assert low < 0.1 < 2.0 < high


# --- numbers -------------------------------------------------------------------------------------


def test_curves_are_means_and_bounds_of_their_buckets():
    rng = np.random.default_rng(0)
    batches, iterations, taps = 7, 300, 3
    shape = events.RecoverLayout(["a", "b", "c"], ["ridge/none", "ridge/mean"], [0.1] * batches)
    table = rng.standard_normal((batches * iterations, 4 + 2 * taps)).astype(np.float32)
    table[100:130, 6] = np.nan
    found = LossCourse(shape, iterations)
    for first in range(0, len(table), 128):
        found.add(first, table[first : first + 128])
    each = -(-len(table) // losses.BUCKETS)
    assert found.stride == each == 6
    wide = table.astype(np.float64)
    for column, curve in ((3, found.ce()), (6, found.term(0, 2)), (7, found.term(1, 0))):
        parts = [wide[start : start + each, column] for start in range(0, len(wide), each)]
        known = [part[np.isfinite(part)] for part in parts]
        assert any(len(part) == 0 for part in known) == (column == 6)
        for of, got in ((np.mean, curve.mean_B), (np.min, curve.low_B), (np.max, curve.high_B)):
            wanted = [of(part) if len(part) else np.nan for part in known]
            np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-12)
    assert found.x_B[0] == 2.5


def test_the_record_is_read_as_it_was_written_and_what_was_done_again_counts_once(tmp_path):
    run = opened(tmp_path / "run")
    record_recovery(run)
    run.record(events.Notice("warning", "careful"))
    run.record(layout(done=4))  # the second batch is cut and done again
    run.record(progress(2, 0))
    run.record(progress(2, 2))
    run.close("stopped")
    found = losses.read(store.StoredRun(tmp_path / "run"))
    assert found.warnings == ("careful",)
    course = found.course
    np.testing.assert_array_equal(course.x_B, np.arange(8))
    wanted = [batch + number / 8 for batch in (1, 2) for number in range(4)]
    np.testing.assert_array_equal(course.ce().mean_B, wanted)
    np.testing.assert_array_equal(course.term(0, 1).mean_B[:2], [1 + 1 / 32, 1 + 1 / 16 + 1 / 32])
    told = losses.numbers(course)
    assert (told["iterations"], told["stride"]) == (8, 1)
    assert [layer["name"] for layer in told["layers"]] == TAPS


def test_responses_are_those_of_the_filters():
    values = np.array([4.0, 1.0, 0.0, -1e-9])
    objective = goal("ridge", "lambda", "diagonal")
    assert [term.uses_beta for term in objective.terms] == [True, False, False]
    ridge, last, low = plates.filters_over(objective, [0.5, 0.3, 0.25])
    np.testing.assert_allclose(ridge.evaluate(values), [1 / 4.5, 1 / 1.5, 2, 2])
    np.testing.assert_allclose(ridge.share(values), [0.5 / 4.5, 0.5 / 1.5, 1, 1])
    np.testing.assert_allclose(low.share(values), [1, 0.25, 0, 0])
    legends = [figures.legend_label(each) for each in (ridge, last, low)]
    assert legends == ["ridge, β = 0.5", "ridge, β = 0.25", "lambda"]
    assert np.isnan(plates.filters_over(goal("ridge"), [0.0])[0].share(values)[2:]).all()


def test_similarity_equals_an_independent_float64_evaluation():
    rng = np.random.default_rng(0)
    features = rng.standard_normal((40, 12)) + 0.5
    features[7] = 0
    labels = rng.integers(0, 4, 40)
    labels[labels == 3] = 2
    labels[11] = 3  # one image alone
    found = similarity.intra_class(features, labels, 5)
    wanted = [mean_cosine(features, labels, label) for label in range(5)]
    np.testing.assert_allclose(found.of_class_K, wanted, rtol=1e-12)
    assert np.isnan(found.of_class_K[3:]).all()
    spread = found.spread()
    assert spread["n"] == 3
    assert spread["mean"] == pytest.approx(np.mean(wanted[:3]))
    assert spread["std"] == pytest.approx(np.std(wanted[:3], ddof=1))
    same = similarity.intra_class(np.ones((3, 2)), np.zeros(3, int), 1)
    assert same.of_class_K[0] == pytest.approx(1.0)
    assert similarity.intra_class(np.full((3, 2), np.nan), np.zeros(3, int), 1).spread() is None


def test_penultimate_features_are_what_the_classifier_reads(teacher, digits, cpu):
    images = digits.test
    found = similarity.penultimate_features(teacher, images, cpu)
    assert len(found) == len(images) > similarity.BATCH
    import torch

    with torch.no_grad():
        logits = teacher.classifier(torch.from_numpy(found[:5]))
        torch.testing.assert_close(logits, teacher(images.batch(range(5), cpu)))


# --- grids ---------------------------------------------------------------------------------------


def test_cells_stand_where_they_are_told_and_keep_their_pixels():
    first = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    second = np.stack([first[0]] * 2 + [255 - first[0]])
    grid = grids.Grid(["a", "b"], ["real", "β 0.1"], [[first, None], [None, second]])
    picture, centres, enlarged = grids._build_mosaic(grid)
    assert enlarged
    assert picture.shape == (260, 260, 3)  # sixteen pixels, each of eight, and a gap of four
    np.testing.assert_array_equal(picture[4:128:8, 4:128:8], np.repeat(first.transpose(1, 2, 0), 3, axis=2))
    np.testing.assert_array_equal(picture[136::8, 136::8], second.transpose(1, 2, 0))
    assert (picture[:128, 132:] == 255).all()
    assert centres[1] - centres[0] == 132
    assert drawing.to_png(grids.draw(grid), dpi=40).startswith(PNG)


# --- captions ------------------------------------------------------------------------------------


def unfinished(name, *sets):
    """A run of a method that stands at 3 of 8 iterations; no image is finished, statistics are there."""
    found = Subject(store.StoredRun(Path(name)), "stopped", settings.resolve(preset="smoke", sets=sets))
    found.record = losses.LossRecord(None, course([1.0] * 3), ())
    found.layers, found.source = [LensLayer("a", np.ones(3), np.ones(3))], "recovery"
    return found


def test_captions_of_an_unfinished_run_say_what_was_done():
    run = unfinished("half", "objective=cfm")
    assert "over the first 3 of 8 iterations" in plates.losses(run).caption
    assert "because no distilled image is finished" in plates.spectra(run).caption
    run.record.course.add(3, np.ones((5, 6), np.float32))
    assert "over 8 iterations" in plates.losses(run).caption


def test_no_filter_is_told_of_what_was_not_optimised():
    run = unfinished("taken", "objective=random")
    assert "Nothing was optimised" in plates.spectra(run).caption
    given = unfinished("given", "objective=cfm", "given.images=elsewhere")
    assert plates.filters_of(given) == []
    assert len(plates.filters_of(unfinished("half", "objective=sre2l", "objective=lfm"))) == 1


@pytest.mark.parametrize(
    ("method", "title", "column"), [("cfm", "by β_b", "β 0.0854"), ("sre2l", "by class", "batch 2")]
)
def test_images_are_shown_by_beta_where_a_filter_reads_it(tmp_path, method, title, column):
    run, writer = with_images(tmp_path / "run", batches=2)
    writer.close()
    run.close("stopped")
    found = unfinished("run", f"objective={method}")
    found.images = Reader(tmp_path / "run" / "images")
    plate = plates.images(found)
    assert plate.title == f"Images {title}"
    assert column in plate.alt
    assert ("β" in plate.caption) is (method == "cfm")


def test_ticks_of_counts_are_whole():
    one = [figures.schedules([("cfm", [0.1])]), figures.loss_curves(course([1.0, 2.0], 1, 1, 2))]
    for axes in (axes for drawn in one for axes in drawn.axes):
        low, high = axes.get_xlim()
        ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
        assert ticks == [round(tick) for tick in ticks]
        assert ticks


# --- groups --------------------------------------------------------------------------------------


def subject(name, *sets):
    found = Subject(store.StoredRun(Path(name)), "finished", settings.resolve(preset="smoke", sets=sets))
    students = [
        {"architecture": "convnet", "source": source, "last": last}
        for source, last in (("distilled", float(len(name))), ("distilled", 2.0), ("random", 1.0))
    ]
    found.results = {"students": students}
    return found


def test_runs_are_one_group_where_only_the_seed_differs_and_labels_say_the_rest():
    runs = [
        subject("a", "objective=hfm", "objective.beta=0.1"),
        subject("b", "objective=hfm", "objective.beta=0.001"),
        subject("c", "objective=cfm"),
        subject("dddd", "objective=cfm", "seed=1", "device=cuda"),
        subject("e", "objective=cfm", "objective.ce=0"),
        subject("f", "objective=lfm"),
        subject("g", "objective=cfm"),
    ]
    found = groups.group_runs(runs)
    assert [(group.label, group.runs) for group in found] == [
        ("hfm (β 0.1)", ["a"]),
        ("hfm (β 0.001)", ["b"]),
        ("cfm (CE 1)", ["c", "dddd"]),
        ("cfm (CE 0)", ["e"]),
        ("lfm", ["f"]),
    ]
    assert groups.duplicate_runs(runs) == {6: runs[2]}
    runs[3].manifest = {"identity": {"teacher": "1234567890"}}  # a file of the user's, not squeezed
    assert [group.runs for group in groups.group_runs(runs)][2:5] == [["c"], ["dddd"], ["e"]]
    assert groups.group_runs(runs)[3].label == "cfm (CE 1, teacher 12345678)"
    both = groups.accuracies(found)[2]
    assert (both.sets, both.distilled["n"], both.control["n"]) == (2, 4, 2)
    assert both.distilled["mean"] == pytest.approx(np.mean([1, 2, 4, 2]))
    assert both.distilled["std"] == pytest.approx(np.std([1, 2, 4, 2], ddof=1))


@pytest.mark.parametrize("part", ["images", "labels", "statistics"])
def test_runs_of_different_given_files_are_neither_repeats_nor_one_group(part):
    runs = [subject(name, f"given.{part}={name}", f"seed={seed}") for name, seed in (("a", 0), ("b", 0))]
    for run, fingerprint in zip(runs, ("1111111111", "2222222222"), strict=True):
        run.manifest = {"identity": {"data": "0", "teacher": "squeezed", part: fingerprint}}
    assert groups.duplicate_runs(runs) == {}
    found = groups.group_runs(runs)
    assert [group.runs for group in found] == [["a"], ["b"]]
    assert [group.label for group in found] == [f"cfm ({part} 11111111)", f"cfm ({part} 22222222)"]


def test_runs_of_several_teachers_are_told_by_all_of_them():
    runs = [subject(name, "objective=cfm") for name in ("a", "b")]
    for run, second in zip(runs, ("1" * 64, "2" * 64), strict=True):
        run.manifest = {"identity": {"teacher": f"{'0' * 64} {second}"}}
    assert groups.duplicate_runs(runs) == {}
    assert groups.group_runs(runs)[0].label == "cfm (teacher 00000000 11111111)"


def test_runs_of_a_sweep_are_called_as_its_rows(tmp_path):
    cases = {"low": {"objective": "lfm"}, "high": {"objective": "hfm"}}
    swept.made(tmp_path / "two", {"preset": "smoke", "cases": cases, "grid": {"seed": [0, 1]}}, {})
    runs = [
        subject(str(tmp_path / "two" / f"{row},seed={seed}"), f"objective={method}", f"seed={seed}")
        for row, method in (("low", "lfm"), ("high", "hfm"))
        for seed in (0, 1)
    ]
    assert [group.label for group in groups.group_runs(runs)] == ["low", "high"]
    assert [group.label for group in groups.group_runs([*runs, subject("c", "objective=cfm")])] == [
        "lfm",
        "hfm",
        "cfm",
    ]
    (tmp_path / "two" / "sweep.json").write_text("{")
    assert [group.label for group in groups.group_runs(runs)] == ["lfm", "hfm"]
