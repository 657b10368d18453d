"""A detached run that cannot start says why."""

import os
import subprocess
import sys

import pytest
from recorded import opened
from swept import GRID, made

from cfm_tui.process import detach
from cfm_tui.process.detach import start_detached, start_sweep
from engine.errors import UserError
from engine.store import StoredRun, record_start


def test_the_end_of_the_log_is_said(tmp_path):
    with pytest.raises(UserError, match="ended immediately: cfm: there is no run"):
        start_detached(tmp_path)


def test_a_sweep_that_ends_at_once_says_why(tmp_path):
    folder = tmp_path / "tiny"
    made(folder, GRID, {})
    with pytest.raises(UserError, match="no point of"):
        start_sweep(folder, failed_only=True)


@pytest.mark.parametrize("state", ["stopped", "failed"])
def test_a_handed_over_run_is_starting_until_its_process_owns_it_or_ends(tmp_path, monkeypatch, state):
    opened(tmp_path / "run").close(state, "why")
    run = StoredRun(tmp_path / "run")
    sleeper = [sys.executable, "-c", "import time; time.sleep(60)"]
    monkeypatch.setattr(detach, "start_program", lambda arguments, log: subprocess.Popen(sleeper))
    process = detach.launch_detached(run.folder)
    assert run.state() == "starting"
    assert run.status()["starting"]["pid"] == process.pid
    process.kill()
    process.wait()
    assert run.state() == state
    assert run.status()["message"] == "why"


def test_the_owner_of_a_run_that_was_starting_replaces_that(tmp_path):
    opened(tmp_path / "run").close("stopped")
    run = StoredRun(tmp_path / "run")
    record_start(run.folder, os.getpid())
    assert run.state() == "starting"
    owner = opened(tmp_path / "run")
    assert run.state() == "running"
    record_start(run.folder, os.getpid())  # it came too late
    assert run.state() == "running"
    owner.close("stopped")
    assert run.state() == "stopped"


def test_a_process_that_is_gone_starts_no_run(tmp_path):
    opened(tmp_path / "run").close("stopped")
    record_start(tmp_path / "run", 2**22 + 1)
    record_start(tmp_path / "nowhere", os.getpid())
    assert StoredRun(tmp_path / "run").state() == "stopped"
    assert not (tmp_path / "nowhere").exists()
