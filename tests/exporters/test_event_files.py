"""Event files hold every number of a run's record."""

import sys

import pytest
from commandline import call_json

from engine.exporters import event_files
from engine.store import journal


def test_tensorboard_finds_every_number_of_the_record(run, tmp_path):
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    path = event_files.write(run, tmp_path)
    seen = {}
    for event in loader.LegacyEventFileLoader(str(path)).Load():
        for value in event.summary.value:
            seen.setdefault(value.tag, {})[event.step] = value.simple_value
            assert event.wall_time > 1e9
    progress = [event for event in run.events() if event.kind == "RecoverProgress"]
    ce = [value for event in progress for value in event.ce]
    assert list(seen["recover/ce"].values()) == pytest.approx(ce)
    assert list(seen["recover/ce"]) == list(range(len(ce)))
    layout = next(event for event in run.events() if event.kind == "RecoverLayout")
    tag = f"recover/{layout.terms[1]}/{layout.taps[2]}"
    wanted = [terms[1][2] for event in progress for terms in event.terms]
    assert list(seen[tag].values()) == pytest.approx(wanted)
    epochs = [event for event in run.events() if event.kind == "EpochFinished"]
    for event in epochs:
        at = f"{event.stage}/{event.architecture}/{event.source}/seed {event.seed}"
        assert seen[f"{at}/loss"][event.epoch] == pytest.approx(event.loss)
        if event.accuracy is not None:
            assert seen[f"{at}/accuracy"][event.epoch] == pytest.approx(event.accuracy)
    assert len(epochs) == len(
        [r for r in journal.read(run.folder / "journal.jsonl") if r.kind == "EpochFinished"]
    )


def test_without_tensorboard_a_person_is_told_what_to_install(capsys, run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)
    words = ["export", run.folder, "--format", "tensorboard", "--out", tmp_path / "out"]
    error = call_json(capsys, "error", *words, code=2)["error"]
    assert "pip install" in error["hint"]
