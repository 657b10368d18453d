"""The report on a data set agrees with the set that is loaded."""

from pathlib import Path

import pytest
from picture_trees import make_tree

import engine.data
from engine.config import Data
from engine.data.check import check


@pytest.mark.parametrize("test", ["test", "holdout"])
@pytest.mark.parametrize("name", ["digits", "folder"])
def test_the_report_counts_what_is_loaded(tmp_path: Path, name: str, test: str) -> None:
    make_tree(tmp_path, {"train/cat": 12, "train/ant": 5, "test/ant": 3, "test/cat": 2})
    settings = Data(name=name, root=str(tmp_path), test=test)
    report, data = check(settings), engine.data.load(settings)
    assert report["ok"]
    assert report["class_names"] == list(data.train.classes)
    assert (report["channels"], report["image_size"]) == (data.train.channels, data.train.size)
    assert [split["images"] for split in report["splits"].values()] == [len(data.train), len(data.test)]
    assert report["splits"]["test"]["held_out"] == (test == "holdout")
    if test == "test":
        assert (report["mean"], report["std"]) == (list(data.train.mean), list(data.train.std))
