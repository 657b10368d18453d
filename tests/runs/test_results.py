"""The numbers of a finished run."""

import hashlib
import json

import numpy as np
import pytest

from engine.config import Config
from engine.errors import UserError
from engine.runs import results
from engine.runs.significance import compare_paired
from engine.stages.validate import StudentResult
from engine.store import StoredRun
from engine.store.json_file import write_json


def student(architecture, source, last, best):
    return StudentResult(architecture, 0, source, last, best, [(1, best), (2, last)], "f" * 64)


def test_a_mean_has_a_deviation_only_of_several_values():
    assert results.mean_std([]) is None
    assert results.mean_std([3.0]) == {"mean": 3.0, "std": None, "n": 1}
    assert results.mean_std([1.0, 3.0]) == {"mean": 2.0, "std": pytest.approx(2**0.5), "n": 2}


def entry(seed, students):
    return results.describe_repeat(
        seed=seed,
        students=students,
        teacher={"accuracy": 90.0 + seed},
        timings={"validate": {"seconds": 2.0, "rate": 10.0 + seed, "unit": "epochs", "reused": False}},
        provenance={},
    )


def test_a_document_is_of_every_architecture_and_the_same_after_json():
    students = [
        student("convnet", "distilled", 50.0, 60.0),
        student("convnet", "random", 40.0, 45.0),
        student("resnet18", "distilled", 30.0, 30.0),
    ]
    document = results.build_document("r", [entry(0, students)], 1, [])
    summary = document["summary"]
    assert summary["accuracy"] == {"mean": 50.0, "std": None, "n": 1, "students": {"std": None, "n": 1}}
    assert summary["accuracy_best"]["mean"] == 60.0
    assert summary["control"]["mean"] == 40.0
    assert summary["by_architecture"]["resnet18"]["control"] is None
    assert summary["versus_control"]["verdict"] == "not tested"
    assert document["repeats"][0]["students"][0]["curve"] == [[1, 60.0], [2, 50.0]]
    assert json.loads(json.dumps(document)) == document


def test_students_of_a_repeat_are_averaged_before_repeats_are():
    """Three repeats of two students: ± is over the three means."""
    lasts = [(50.0, 54.0), (60.0, 61.0), (70.0, 70.0)]
    repeats = [
        entry(seed, [student("convnet", "distilled", last, last) for last in pair])
        for seed, pair in enumerate(lasts)
    ]
    summary = results.build_document("r", repeats, 3, ["students"])["summary"]
    accuracy = summary["accuracy"]
    assert accuracy["mean"] == pytest.approx(np.mean(lasts))
    assert accuracy["std"] == pytest.approx(np.std(np.mean(lasts, axis=1), ddof=1))
    assert accuracy["n"] == 3
    assert accuracy["students"]["std"] == pytest.approx(np.sqrt(np.mean(np.var(lasts, axis=1, ddof=1))))
    assert accuracy["students"]["n"] == 6
    assert summary["teacher"] == {"mean": 91.0, "std": 1.0, "n": 3}


def test_a_document_of_version_1_is_read_as_one_repeat(tmp_path):
    """Its deviation was that of students, so it has none over repeats."""
    one = entry(7, [student("convnet", "distilled", last, last) for last in (50.0, 52.0)])
    seed = one.pop("seed")
    one["provenance"] = {"seeds": {"run": seed, "students": 2}}
    former = {"schema_version": 1, "run": "r", "summary": {"accuracy": {"mean": 51, "std": 1.4, "n": 2}}}
    write_json(tmp_path / "results.json", {**former, **one})
    assert StoredRun(tmp_path).is_finished()
    document = results.read_results(StoredRun(tmp_path))
    assert document["schema_version"] == 2
    assert document["repeats"][0]["seed"] == 7
    assert document["summary"]["accuracy"]["std"] is None
    assert document["summary"]["accuracy"]["students"] == {"std": pytest.approx(2**0.5), "n": 2}


@pytest.mark.parametrize(("init", "source"), [("first", "start"), ("noise", "random"), (None, "start")])
def test_the_control_of_version_1_had_the_images_that_recovery_starts_from(tmp_path, init, source):
    one = entry(0, [student("convnet", name, 50.0, 50.0) for name in ("distilled", "random")])
    write_json(tmp_path / "results.json", {"schema_version": 1, "run": "r", "summary": {}, **one})
    if init is not None:
        config = f"recover: {{init: {init}}}\n"
        (tmp_path / "config.yaml").write_text(config)
        digest = hashlib.sha256(config.encode()).hexdigest()
        write_json(tmp_path / "manifest.json", {"config_sha256": digest})
    document = results.read_results(StoredRun(tmp_path))
    assert [each["source"] for each in document["repeats"][0]["students"]] == ["distilled", source]
    assert (document["summary"]["versus_control"] is None) == (source == "start")
    before = {"validate": {"control": True}, "recover": {"init": init or "first"}}
    assert Config.from_dict(before).validate_.controls == (source,)


def test_results_of_a_later_version_are_refused_by_their_version(tmp_path):
    write_json(tmp_path / "results.json", {"schema_version": 3})
    with pytest.raises(UserError, match="have version 3, and this program reads 1 and 2"):
        results.read_results(StoredRun(tmp_path))


def test_what_a_deviation_covers_and_a_verdict_are_said_in_words():
    one = results.build_document("r", [entry(0, [student("convnet", "distilled", 50.0, 50.0)])], 3, [])
    assert results.describe_spread(one).endswith("is not known; 2 more to come")
    two = results.build_document("r", [*one["repeats"], *one["repeats"]], 2, ["teacher", "students"])
    assert results.describe_spread(two) == "± over 2 repeats (teacher, students)"
    say = results.describe_verdict
    assert say(None) == ""
    assert say(compare_paired({0: 11.9}, {0: 53.6})) == (
        "not tested against random (one repeat): 41.70 points below"
    )
    assert say(compare_paired({0: 2.0, 1: 3.0}, {0: 1.0, 1: 2.0})).startswith(
        "not tested against random (the differences have no variance)"
    )
    assert say(compare_paired({0: 1.0, 1: 2.1, 2: 3.0}, {0: 11.0, 1: 12.0, 2: 13.1})).startswith(
        "worse than random by 10.00 points (p = "
    )


def test_times_are_those_of_all_repeats():
    repeats = [entry(seed, [student("convnet", "distilled", 50.0, 50.0)]) for seed in (0, 1)]
    timing = results.sum_timings(results.build_document("r", repeats, 2, []))["validate"]
    assert (timing["seconds"], timing["rate"]) == (4.0, 10.5)
