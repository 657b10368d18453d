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
    assert drawn.startswith("title\n")
    for label in ("\x1b[34m a 8", "\x1b[35m b 1") if colour else (" A a 8", " B b 1"):
        assert label in drawn
    assert ("\x1b" in drawn) is colour
