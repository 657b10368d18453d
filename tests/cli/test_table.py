"""`cfm table` on runs made by hand: against a hand computation, the paper's pages, and golden files.

After a change on purpose: UPDATE_GOLDEN=1 pytest tests/cli/test_table.py
"""

import csv
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from commandline import call, call_json, check
from scipy import stats
from swept import made, results

from engine.store import open_run
from engine.store.json_file import write_json

GOLDEN = Path(__file__).parents[1] / "golden" / "tables"
SWEEP = {
    "settings": [{"dataset": "cifar10", "ipc": [10, 50], "backbone": "convnet"}],
    "cases": {"dm": {"objective": "dm"}, "frepo": {"objective": "frepo"}, "cfm": {"objective": "cfm"}},
    "grid": {"seed": [0, 1]},
    "order": ["dm", "frepo", "cfm"],
    "paper": "table2",
}
ACCURACIES = {
    "dm": [[40.0, 41.0], [38.0, 39.0]],
    "frepo": [[50.0, 51.5], [49.0, 50.5]],
    "cfm": [[52.0, 53.0], [51.0, 49.5]],
}
CONTROL = [[45.0, 44.0], [46.0, 45.5]]


@pytest.fixture(autouse=True)
def runs(monkeypatch, tmp_path):
    monkeypatch.setenv("CFM_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


@pytest.fixture
def sweep(runs):
    """A sweep of two settings, of which the second has one row."""
    told = {
        f"cifar10-10-convnet,{row},seed={seed}": (values, CONTROL[seed])
        for row, both in ACCURACIES.items()
        for seed, values in enumerate(both)
    }
    return made(runs / "two", SWEEP, told | {"cifar10-50-convnet,cfm,seed=0": [60.0]}, budget=0.1)


def cell(document, row, column="cifar10 ipc 10 convnet"):
    (found,) = [each for each in document["cells"] if (each["row"], each["column"]) == (row, column)]
    return found


def test_a_table_is_what_a_hand_computes(capsys, sweep):
    document = call_json(capsys, "table", "table", "two")
    assert document["against"] == "cfm"
    for row, values in ACCURACIES.items():
        sets = np.mean(values, axis=1)
        told = dict(cell(document, row)["accuracy"])
        students = told.pop("students")
        assert told == {"mean": pytest.approx(sets.mean()), "std": pytest.approx(sets.std(ddof=1)), "n": 2}
        assert students == {"std": pytest.approx(np.var(values, axis=1, ddof=1).mean() ** 0.5), "n": 4}
    for row, values in {"dm": ACCURACIES["dm"], "frepo": ACCURACIES["frepo"], "control": CONTROL}.items():
        mine, reference = np.mean(values, axis=1), np.mean(ACCURACIES["cfm"], axis=1)  # of each distilled set
        test = stats.ttest_rel(mine, reference)
        versus = cell(document, row)["versus"]
        assert versus["p"] == pytest.approx(test.pvalue)
        assert versus["errors"] == pytest.approx(test.statistic)
        assert versus["difference"] == pytest.approx((mine - reference).mean())
        if row == "control":  # one of the three rows' comparisons with it
            assert versus["p_adjusted"] == cell(document, "cfm")["versus_control"]["p_adjusted"]
        else:  # Holm, of two rows
            factor = 1 if test.pvalue > 0.1 else 2
            assert versus["p_adjusted"] == pytest.approx(factor * test.pvalue)
        verdict = "better" if test.statistic > 0 else "worse"
        assert versus["verdict"] == (verdict if versus["p_adjusted"] < 0.05 else "not shown")
        assert versus["n"] == 2
    assert cell(document, "cfm")["versus"] is None
    assert cell(document, "dm")["control"]["mean"] == pytest.approx(np.mean(CONTROL))
    assert cell(document, "dm")["versus_control"]["difference"] == pytest.approx(-5.625)
    assert cell(document, "control")["accuracy"]["n"] == 2
    assert cell(document, "cfm")["paper"] == {
        **{"mean": 52.1, "std": 0.5},
        **{"printed": "52.1±0.5", "source": "UniDD Table 2"},
    }
    assert cell(document, "dm", "cifar10 ipc 50 convnet")["accuracy"] is None
    one = cell(document, "cfm", "cifar10 ipc 50 convnet")["accuracy"]
    assert one == {"mean": 60.0, "std": None, "n": 1, "students": {"std": None, "n": 1}}
    assert len(document["unfinished"]) == 5
    assert document["seeds"] == [0, 1]
    assert document["scaled"]["recover.iterations"] == [[1000, 100]]
    first, second = document["order"]
    assert (first["less"], first["more"], first["verdict"]) == ("dm", "frepo", "not shown")
    step = stats.ttest_rel(np.mean(ACCURACIES["cfm"], axis=1), np.mean(ACCURACIES["frepo"], axis=1))
    assert (second["p"], second["errors"]) == pytest.approx((step.pvalue, step.statistic))


def test_the_row_to_compare_with_can_be_chosen(capsys, sweep):
    document = call_json(capsys, "table", "table", sweep.folder, "--against", "dm")
    assert cell(document, "dm")["versus"] is None
    assert cell(document, "cfm")["versus"]["difference"] == pytest.approx(11.875)
    best = call_json(capsys, "table", "table", sweep.folder, "--against", "best")
    assert cell(best, "dm")["versus"]["row"] == "cfm"
    error = call_json(capsys, "error", "table", "two", "--against", "frep", code=2)["error"]
    assert "frepo" in error["hint"]
    error = call_json(capsys, "error", "table", "tow", code=2)["error"]
    assert "two" in error["hint"]
    _, err = call(capsys, "table", "two", "--format", "html", code=2)
    assert "markdown" in err


@pytest.mark.parametrize(
    ("form", "name"), [("text", "txt"), ("markdown", "md"), ("latex", "tex"), ("csv", "csv")]
)
def test_written_forms_are_as_recorded(capsys, sweep, tmp_path, form, name):
    text, _ = call(capsys, "table", "two", "--format", form)
    path = GOLDEN / f"two.{name}"
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text
    into = tmp_path / "new" / f"table.{name}"
    assert call(capsys, "table", "two", "--out", into)[0] == ""
    assert into.read_text(encoding="utf-8") == text


def test_json_and_csv_say_the_same(capsys, sweep, tmp_path):
    document = call_json(capsys, "table", "table", "two")
    call(capsys, "table", "two", "--out", tmp_path / "t.json")
    written = json.loads((tmp_path / "t.json").read_text())
    check(written, "table")
    assert written == document
    text, _ = call(capsys, "table", "two", "--format", "csv")
    lines = list(csv.DictReader(io.StringIO(text)))
    assert len(lines) == len(document["cells"])
    for line, told in zip(lines, document["cells"], strict=True):
        assert (line["method"], line["setting"]) == (told["row"], told["column"])
        assert line["mean"] == ("" if told["accuracy"] is None else str(told["accuracy"]["mean"]))


def run_of(place, name, accuracies, provenance=None, **changes):
    """A finished run by itself."""
    from engine.config import settings

    sets = [f"{key}={value}" for key, value in {"repeats": 1, **changes}.items()]
    config = settings.resolve(preset="smoke", sets=sets).config
    run = open_run(
        place / name, {"identity": {}, "created": "2024-01-01T00:00:00Z"}, settings.to_yaml(config)
    )
    run.close("finished" if accuracies else "stopped")
    if accuracies:
        write_json(place / name / "results.json", results(accuracies, provenance, config.seed))


def test_runs_by_themselves_have_a_row_for_each_method(capsys, runs):
    run_of(runs, "a", [50.0, 52.0], objective="cfm")
    run_of(runs, "b", [51.0, 54.0], objective="cfm", seed=1)
    run_of(runs, "c", [40.0, 41.0], objective="lfm")
    run_of(runs, "d", [49.0, 50.0], objective="cfm", **{"objective.beta": 0.5})
    document = call_json(capsys, "table", "table", "a", "b", "c", "d")
    assert document["rows"] == ["cfm", "lfm", "cfm (d)"]
    assert cell(document, "cfm", "digits ipc 1 convnet")["accuracy"]["n"] == 2
    assert cell(document, "lfm", "digits ipc 1 convnet")["versus"]["n"] == 1
    run_of(runs, "e", [50.0, 52.0], objective="cfm")
    error = call_json(capsys, "error", "table", "a", "e", code=2)["error"]
    assert "same seed" in error["message"]
    error = call_json(capsys, "error", "table", "a", "nowhere", code=2)["error"]
    assert "nowhere" in error["message"]


def test_a_run_that_is_not_finished_takes_no_row_from_one_that_is(capsys, runs):
    run_of(runs, "half", None, objective="cfm")
    run_of(runs, "whole", [50.0, 52.0], objective="cfm", **{"objective.beta": 0.5})
    document = call_json(capsys, "table", "table", "half", "whole")
    assert document["unfinished"] == ["half"]
    assert cell(document, "cfm", "digits ipc 1 convnet")["accuracy"]["students"]["n"] == 2


def test_a_run_whose_repeats_are_not_all_finished_counts_with_those_that_are(capsys, runs):
    run_of(runs, "part", [50.0, 52.0], objective="cfm", repeats=3)
    document = call_json(capsys, "table", "table", "part")
    assert document["unfinished"] == ["part"]
    assert cell(document, "cfm", "digits ipc 1 convnet")["accuracy"]["mean"] == 51.0


def test_runs_on_other_images_or_another_test_set_are_in_columns_of_their_own(capsys, runs):
    def measured(data, images):
        return {
            "data": {"name": "folder", "fingerprint": data * 64},
            "measured_on": {"split": "test", "images": images},
        }

    told = {"a": ("a", 400), "b": ("b", 400), "c": ("a", 100)}
    for name, (data, images) in told.items():
        run_of(runs, name, [50.0, 52.0], measured(data, images), objective="cfm")
        run_of(runs, f"{name}2", [40.0, 41.0], measured(data, images), objective="lfm", seed=1)
    document = call_json(capsys, "table", "table", *told, *(f"{name}2" for name in told))
    assert [column["name"] for column in document["columns"]] == [
        "digits ipc 1 convnet, data aaaaaaaa, 400 test images",
        "digits ipc 1 convnet, data bbbbbbbb, 400 test images",
        "digits ipc 1 convnet, data aaaaaaaa, 100 test images",
    ]
    assert document["rows"] == ["cfm", "lfm"]


def test_a_row_is_held_against_random_images_that_were_trained_on_alike(capsys, runs):
    """Of its own run, else of the method `random`, if its students had the same training and labels."""
    for seed in (0, 1, 2):
        run_of(runs, f"r{seed}", [60.0 + seed], objective="random", seed=seed)
        run_of(runs, f"c{seed}", [40.0 + 1.1 * seed], objective="cfm", seed=seed)
        run_of(runs, f"l{seed}", [40.0], objective="lfm", seed=seed, **{"validate.epochs": 7})
        run_of(runs, f"h{seed}", [40.0], objective="hfm", seed=seed, **{"backbone.norm": "instance"})
    document = call_json(capsys, "table", "table", *(f"{row}{seed}" for row in "rclh" for seed in range(3)))
    versus = {row: cell(document, row, "digits ipc 1 convnet")["versus_control"] for row in document["rows"]}
    assert versus["cfm"]["verdict"] == "worse"
    assert (versus["random"], versus["lfm"], versus["hfm"]) == (None, None, None)
    text, _ = call(capsys, "table", *(f"{row}{seed}" for row in "rcl" for seed in range(3)))
    assert "worse than the random control: cfm" in text


def test_runs_of_one_name_are_told_apart(capsys, tmp_path):
    for place, accuracies in (("a", [80.0]), ("b", [60.0])):
        run_of(tmp_path / place, "run", accuracies)
    words = [tmp_path / "a" / "run", tmp_path / "b" / "run"]
    error = call_json(capsys, "error", "table", *words, code=2)["error"]
    assert f"{words[0]} and {words[1]} are the same experiment" in error["message"]


def test_a_file_for_a_table_says_its_form(capsys, sweep, tmp_path):
    assert "does not end in" in call(capsys, "table", "two", "--out", tmp_path / "x.pdf", code=2)[1]
    assert "is a folder" in call(capsys, "table", "two", "--out", ".", "--format", "csv", code=2)[1]


def test_a_table_of_nothing_is_refused(capsys, runs):
    made(runs / "none", SWEEP, {})
    error = call_json(capsys, "error", "table", "none", code=2)["error"]
    assert "finished" in error["message"]
