"""The GPU check runs on a CPU, with what the engine needs and no more, and its sections are isolated."""

import json
import os
import resource
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import correctness
import harness
import torch

from engine.spectral import moments

HERE = Path(__file__).resolve().parent
OPTIONS = harness.Options(torch.device("cpu"), quick=True)
NOT_NEEDED = ("textual", "rich", "plotext", "typer", "click")


def test_the_whole_check_runs_without_a_gpu_in_90_seconds_on_two_cores(tmp_path):
    """Every section gives rows, and float32 on the CPU is as near to float64 as is asked of a GPU."""
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    for name in NOT_NEEDED:
        (blocked / f"{name}.py").write_text("raise ImportError('the engine does not need this')")
    out = tmp_path / "check.json"
    command = [sys.executable, HERE / "check.py", "--device", "cpu", "--quick", "--out", out]
    path = os.pathsep.join(map(str, (blocked, HERE.parents[1])))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        command,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert spent < 2 * 90  # processor seconds: other tests may run beside this one
    document = json.loads(out.read_text())
    assert document["torch"] == torch.__version__
    assert [section["status"] for section in document["sections"]] == ["done"] * 10
    assert all(section["rows"] for section in document["sections"])
    judged = [row["ok"] for section in document["sections"] for row in section["rows"] if "ok" in row]
    assert len(judged) > 30
    assert all(judged)
    assert "| first step, convnet, gvbsm, batch 3 | float32 |" in done.stdout
    assert "| first step, resnet18, cfm, batch 3, low-rank form at 3 taps | float32 |" in done.stdout
    assert "| first step, resnet18, cfm, batch 3, dense form | float32 |" in done.stdout
    assert "| filters batched |" in done.stdout


def rows(count, then):
    for number in range(count):
        yield {"row": number}
    then()


def test_a_section_that_fails_leaves_its_rows_and_one_that_says_so(capsys):
    def fail():
        raise ValueError("no such kernel\nmore")

    outcome = harness.run_section(harness.Section("one", 10, lambda _: rows(2, fail)), OPTIONS, 10)
    assert outcome.status == "failed"
    assert outcome.rows == [{"row": 0}, {"row": 1}, {"failed": "ValueError: no such kernel"}]
    assert "Traceback" in outcome.error
    assert "| ValueError: no such kernel |" in capsys.readouterr().out


def test_a_section_ends_at_its_time_limit_with_the_rows_that_it_has():
    def wait():
        with suppress(Exception):  # what is measured may catch what it likes
            time.sleep(30)

    began = time.monotonic()
    outcome = harness.run_section(harness.Section("one", 10, lambda _: rows(2, wait)), OPTIONS, 0.2)
    assert time.monotonic() - began < 5
    assert outcome.status == "cut"
    assert outcome.rows == [{"row": 0}, {"row": 1}]


def test_cells_tell_what_was_not_measured_from_what_was():
    assert [harness._cell(value) for value in (None, False, True, 0.123456, 7)] == [
        "not measured",
        "**no**",
        "yes",
        "0.123",
        "7",
    ]


def test_a_wrong_gradient_misses_the_aim(monkeypatch):
    """The check can fail: with a covariance that forgets its own gradient, first steps are off."""
    monkeypatch.setattr(moments, "covariance_gradient", lambda x_MDHW, *_, **__: torch.zeros_like(x_MDHW))
    one = correctness.case("convnet", "cfm", quick=True)
    row = next(correctness._first_step(one, "convnet", "cfm", 3, OPTIONS))
    assert row["ok"] is False
