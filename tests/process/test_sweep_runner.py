"""The points of a sweep as processes: their commands, and what became of them."""

import itertools

from swept import expanded, student

from cfm_tui.process import sweep_runner
from engine.config import settings
from engine.store.json_file import write_json
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
