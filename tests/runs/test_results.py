"""The numbers of a finished run."""

import json

import pytest

from engine.runs import results
from engine.stages.validate import StudentResult


def student(architecture, source, last, best):
    return StudentResult(architecture, 0, source, last, best, [(1, best), (2, last)], "f" * 64)


def test_a_mean_has_a_deviation_only_of_several_values():
    assert results.mean_std([]) is None
    assert results.mean_std([3.0]) == {"mean": 3.0, "std": 0.0, "n": 1}
    assert results.mean_std([1.0, 3.0]) == {"mean": 2.0, "std": pytest.approx(2**0.5), "n": 2}


def test_a_document_is_of_every_architecture_and_the_same_after_json():
    students = [
        student("convnet", "distilled", 50.0, 60.0),
        student("convnet", "random", 40.0, 45.0),
        student("resnet18", "distilled", 30.0, 30.0),
    ]
    document = results.build_document(run="r", students=students, teacher={}, timings={}, provenance={})
    assert document["summary"]["accuracy"]["mean"] == 50.0
    assert document["summary"]["accuracy_best"]["mean"] == 60.0
    assert document["summary"]["control"]["mean"] == 40.0
    assert document["summary"]["by_architecture"]["resnet18"]["control"] is None
    assert document["students"][0]["curve"] == [[1, 60.0], [2, 50.0]]
    assert json.loads(json.dumps(document)) == document
