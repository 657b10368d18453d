"""Opening the console where there is no terminal."""

import os
from types import SimpleNamespace

import pytest

from cfm_tui import cli
from cfm_tui.cli.console import console as open_console
from engine.errors import UserError


def test_the_console_says_what_to_use(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["cfm-tui"])
    with open(os.devnull) as nothing:
        monkeypatch.setattr("sys.stdin", nothing)
        with pytest.raises(SystemExit) as left:
            cli.console()
    assert left.value.code == 2
    assert "cfm run" in capsys.readouterr().err


def test_that_stderr_is_no_terminal_is_said(monkeypatch):
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("sys.stderr", SimpleNamespace(isatty=lambda: False))
    with pytest.raises(UserError, match="stderr, which is not a terminal") as told:
        open_console()
    assert "redirect" in told.value.hint
