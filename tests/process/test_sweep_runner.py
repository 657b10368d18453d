"""The points of a sweep as processes: their commands, and what became of them."""

import itertools
import json
import subprocess
import sys

import pytest
from commandline import call, call_json
from listed import make_sweep
from swept import GRID, expanded, made, results, student

from cfm_tui.process import sweep_runner
from engine.config import settings
from engine.store.json_file import write_json
from engine.store.lock import Owner
from engine.store.reader import StoredRun


def test_points_are_started_by_a_command_that_a_person_could_give(tmp_path):
    (point,) = expanded({"preset": "smoke", "set": {"recover.lr": 0.5, "objective": "lfm"}})
    words = sweep_runner.build_command(point, tmp_path / "x", "cuda:1")
    assert words[:3] == ["run", "--preset", "smoke"]
    assert words[-4:] == ["--device", "cuda:1", "--out", str(tmp_path / "x")]
    sets = [text for flag, text in itertools.pairwise(words) if flag == "--set"]
    assert settings.resolve(preset="smoke", sets=sets).config == point.config
    assert "--device" not in sweep_runner.build_command(point, tmp_path, None)


def test_why_a_point_failed_is_told_by_its_run_its_log_or_its_process(tmp_path):
    run = StoredRun(tmp_path)
    assert sweep_runner.failure_reason(run, 3) == "its process ended with code 3"
    (tmp_path / "log.txt").write_text("one\ntwo\nthree\nfour\n")
    assert sweep_runner.failure_reason(run, 1) == "two / three / four"
    write_json(tmp_path / "status.json", {"message": "a layer broke"})
    assert sweep_runner.failure_reason(run, 1) == "a layer broke"
    assert "SIGKILL" in sweep_runner.failure_reason(run, -9)


def test_a_point_is_finished_once_it_has_results_that_can_be_read(tmp_path):
    assert not sweep_runner.is_finished(StoredRun(tmp_path), 1)
    write_json(tmp_path / "results.json", {"students": [student(0, 1.0)]})
    assert sweep_runner.is_finished(StoredRun(tmp_path), 1)
    (tmp_path / "results.json").write_text("{")
    assert not sweep_runner.is_finished(StoredRun(tmp_path), 1)


class Quiet:
    def on_state_change(self, *args):
        pass

    def refresh(self, sweeper):
        pass


@pytest.mark.parametrize("outcome", ["finished", "working", "gone"])
def test_a_point_that_a_run_of_an_earlier_sweep_took_is_not_failed(tmp_path, monkeypatch, outcome):
    values = {"preset": "smoke", "set": {"repeats": 1}, "grid": {"objective": ["cfm"]}}
    stored = made(tmp_path / "sweep", values, {})
    refused = [sys.executable, "-c", "raise SystemExit(2)"]
    monkeypatch.setattr(sweep_runner, "start_program", lambda *_: subprocess.Popen(refused))
    sweeper = sweep_runner.Sweeper(stored, expanded(values), [None], Quiet())
    sweeper.step()
    sweeper._children[0].process.wait()
    folder = stored.run("objective=cfm").folder
    owner = Owner(folder) if outcome == "working" else None
    if outcome == "finished":
        write_json(folder / "results.json", results([50.0]))
    sweeper.step()
    expected = {"finished": "done", "working": "running", "gone": "failed"}
    assert sweeper.schedule.states == {"objective=cfm": expected[outcome]}
    if owner is not None:
        write_json(folder / "results.json", results([50.0]))
        owner.release()
        assert not sweeper.step()
        assert sweeper.schedule.states == {"objective=cfm": "done"}


def test_only_failed_points_are_selected(tmp_path, capsys):
    stored = make_sweep(tmp_path / "tiny")
    names = [record["name"] for record in stored.manifest()["points"]]
    failed = [name for name in names if sweep_runner.has_failed(stored.run(name))]
    assert failed == ["objective=hfm,ipc=10,seed=0", "objective=lfm,ipc=1,seed=0"]
    out, _ = call(capsys, "sweep", stored.folder, "--failed", "--dry-run", "--json")
    assert [point["name"] for point in json.loads(out)["points"]] == failed


def test_a_sweep_without_failed_points_has_none_to_retry(tmp_path, capsys):
    made(tmp_path / "tiny", GRID, {})
    error = call_json(capsys, "error", "sweep", tmp_path / "tiny", "--failed", code=2)["error"]
    assert "no point of" in error["message"]
