"""What is said of a run that was told to stop."""

import pytest
from recorded import opened

from cfm_tui.cli import steer
from engine.events import StageStarted
from engine.store import StoredRun


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ("stopped", "is stopped in stage recover; `cfm resume {}` resumes it"),
        ("failed", "has failed in stage recover; `cfm resume {}` resumes it"),
        ("finished", "is finished; `cfm show {}` shows its results"),
    ],
)
def test_what_a_stop_came_to_is_one_sentence(tmp_path, state, told):
    folder = tmp_path / "run"
    run = opened(folder)
    run.record(StageStarted("recover", 8, "iterations"))
    run.close(state, f"{folder} was stopped by somebody")
    assert steer._describe_end(StoredRun(folder), state) == f"{folder} {told.format(folder)}"
