"""Charts of `cfm show` in and without colour."""

import sys

import numpy as np
import pytest

from cfm_tui.cli import text_plots
from cfm_tui.display.charts import Line


@pytest.mark.parametrize("colour", [False, True])
def test_charts_have_colours_only_in_a_terminal(monkeypatch, colour):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: colour, raising=False)
    for name in ("NO_COLOR", "LC_ALL", "LC_CTYPE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    lines = [
        Line("a", np.arange(9.0), np.arange(9.0)),
        Line("b", np.arange(9.0), np.ones(9), colour="accent"),
    ]
    drawn = text_plots._draw_chart(lines, "title", "x", 3.0)
    assert len(drawn.split("\n")) == 14
    assert drawn.startswith(
        "title  \x1b[34mA a\x1b[0m  \x1b[35mB b\x1b[0m" if colour else "title  A a  B b\n"
    )
    assert ("\x1b" in drawn) is colour
