"""A detached run that cannot start says why."""

import pytest
from swept import GRID, made

from cfm_tui.process.detach import start_detached, start_sweep
from engine.errors import UserError


def test_the_end_of_the_log_is_said(tmp_path):
    with pytest.raises(UserError, match="ended immediately: cfm: there is no run"):
        start_detached(tmp_path)


def test_a_sweep_that_ends_at_once_says_why(tmp_path):
    folder = tmp_path / "tiny"
    made(folder, GRID, {})
    with pytest.raises(UserError, match="no point of"):
        start_sweep(folder, failed_only=True)
