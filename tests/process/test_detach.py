"""A detached run that cannot start says why."""

import pytest

from cfm_tui.process.detach import start_detached
from engine.errors import UserError


def test_the_end_of_the_log_is_said(tmp_path):
    with pytest.raises(UserError, match="ended immediately: cfm: there is no run"):
        start_detached(tmp_path)
