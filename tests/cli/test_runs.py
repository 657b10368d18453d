"""`cfm runs` and `cfm show` on runs made by hand: whole, damaged, and large."""

import json
import shutil
import tracemalloc

import numpy as np
import pytest
from commandline import call, call_json

from engine import store


@pytest.fixture(autouse=True)
def runs(monkeypatch, tmp_path):
    monkeypatch.setenv("CFM_RUNS", str(tmp_path))
    return tmp_path


def made(folder):
    run = store.open_run(folder, {"identity": {}, "created": "2024-01-01T00:00:00Z"}, "seed: 0\n")
    run.close("stopped")
    return run


def without_config(folder):
    (folder / "config.yaml").unlink()


def torn_manifest(folder):
    (folder / "manifest.json").write_bytes(b"{")


def folder_for_status(folder):
    (folder / "status.json").unlink()
    (folder / "status.json").mkdir()


def empty_results(folder):
    (folder / "results.json").write_text("{}")


@pytest.mark.parametrize("damage", [without_config, torn_manifest, folder_for_status, empty_results])
def test_a_damaged_run_is_told_and_hides_no_other(capsys, runs, damage):
    made(runs / "whole")
    made(runs / "torn")
    damage(runs / "torn")
    listed = {run["name"]: run for run in call_json(capsys, "runs", "runs")["runs"]}
    assert listed["whole"]["state"] == "stopped"
    assert listed["torn"]["state"] == "damaged"
    assert "damaged" in call(capsys, "runs")[0]


def test_showing_one_image_reads_one_image(capsys, runs):
    pixels = np.zeros((40, 3, 192, 192), np.float32)
    writer = made(runs / "large").image_writer(pixels.shape, ("a",))
    writer.add(pixels, np.zeros(40, np.int64), 1, 0.1, np.ones(40))
    writer.finish()
    call(capsys, "show", "large", "--thumbnails", "1")
    tracemalloc.start()
    try:
        out, _ = call(capsys, "show", "large", "--thumbnails", "1")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert out.count("a β 0.1") == 1
    assert peak < pixels.nbytes / 2


def test_a_query_chooses_runs(capsys, runs):
    made(runs / "first")
    made(runs / "second")
    assert [run["name"] for run in call_json(capsys, "runs", "runs", "sec")["runs"]] == ["second"]
    assert call_json(capsys, "runs", "runs", "seed=0", "state!=stopped")["runs"] == []
    assert "none of the 2 runs in" in call(capsys, "runs", "state=running")[0]
    error = call_json(capsys, "error", "runs", "sate=stopped", code=2)["error"]
    assert "no key sate" in error["message"]
    assert error["hint"] == "did you mean state?"


@pytest.mark.parametrize("command", ["table", "report"])
def test_runs_are_given_by_name_or_by_query(capsys, runs, command):
    made(runs / "first")
    for words in ([], ["first", "--where", "first"]):
        assert "--where" in call_json(capsys, "error", command, *words, code=2)["error"]["message"]
    error = call_json(capsys, "error", command, "--where", "ipc>3", code=2)["error"]
    assert "none of the 1 runs" in error["message"]
    assert "no key" in call(capsys, command, "--where", "metod=cfm", code=2)[1]


def test_a_report_of_a_query_has_its_runs(capsys, runs):
    made(runs / "first")
    made(runs / "second")
    document = call_json(capsys, "report", "report", "--where", "name=second")
    assert [run["name"] for run in document["runs"]] == ["second"]


def test_the_newest_run_is_shown_and_its_results_come_last(capsys, runs, finished):
    assert "there are no runs in" in call(capsys, "show", code=2)[1]
    shutil.copytree(finished, runs / "old")
    out, _ = call(capsys, "show")
    before, _, results = out.partition("old: finished")
    assert "β" in before  # of the images
    assert "distilled" in results
    assert max(map(len, results.splitlines())) <= 80
    store.open_run(runs / "new", {"identity": {}, "created": "2099-01-01T00:00:00Z"}, "seed: 0\n").close(
        "stopped"
    )
    assert call(capsys, "show")[0].startswith("new: stopped")
    assert json.loads(call(capsys, "show", "--json")[0])["name"] == "new"
