"""Groups of runs: which runs are samples of one experiment, and what their rows are called."""

from pathlib import Path

import numpy as np
import pytest
import swept

from engine import store
from engine.config import settings
from engine.report import groups
from engine.report.subject import Subject


def subject(name, *sets):
    found = Subject(store.StoredRun(Path(name)), "finished", settings.resolve(preset="smoke", sets=sets))
    students = [
        swept.student(0, last, source)
        for source, last in (("distilled", float(len(name))), ("distilled", 2.0), ("random", 1.0))
    ]
    teacher = {"accuracy": 90.0}
    found.results = {"repeats": [{"seed": found.config.seed, "students": students, "teacher": teacher}]}
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
    assert (both.distilled["n"], both.distilled["students"]["n"], both.control["n"]) == (2, 4, 2)
    assert both.distilled["mean"] == pytest.approx(np.mean([1.5, 3]))
    assert both.distilled["std"] == pytest.approx(np.std([1.5, 3], ddof=1))
    assert both.versus_control["n"] == 2


def test_a_label_has_the_fewest_settings_that_tell_the_groups_apart():
    runs = [
        subject("a", "objective=cfm", "data.name=cifar10", "data.mean=null", "ipc=1"),
        subject("b", "objective=cfm", "data.name=cifar10", "ipc=10", "recover.lr=0.5"),
        subject("c", "objective=cfm", "ipc=1", "recover.lr=0.7"),
    ]
    labels = [group.label for group in groups.group_runs(runs)]
    assert labels == ["cfm (cifar10, ipc 1)", "cfm (cifar10, ipc 10)", "cfm (digits, ipc 1)"]
    assert [group.label for group in groups.group_runs(runs[1:])] == ["cfm (cifar10)", "cfm (digits)"]
    lists = [
        subject(name, f"validate.controls={text}") for name, text in (("a", "[random, start]"), ("b", "[]"))
    ]
    assert groups.group_runs(lists)[0].label == "cfm (controls random + start)"
    rates = [subject(name, f"recover.lr={rate}", "objective=cfm") for name, rate in (("a", 0.5), ("b", 0.1))]
    assert [group.label for group in groups.group_runs(rates)] == [
        "cfm (recover lr 0.5)",
        "cfm (recover lr 0.1)",
    ]
    assert groups.differing_settings(runs[1:]) == ["ipc", "data.name", "recover.lr"]


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


def test_p_is_corrected_for_the_groups_of_one_setting():
    runs = [
        subject("x" * (2 + seed), f"objective={name}", f"seed={seed}")
        for name in ("cfm", "lfm", "hfm")
        for seed in (0, 1, 2)
    ]
    runs += [subject("x" * (2 + seed), "backbone.width=8", "ipc=2", f"seed={seed}") for seed in (0, 1, 2)]
    *three, alone = groups.accuracies(groups.group_runs(runs))
    assert alone.versus_control["p_adjusted"] == alone.versus_control["p"]
    for each in three:
        assert each.versus_control["p_adjusted"] == pytest.approx(3 * each.versus_control["p"])
