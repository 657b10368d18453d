"""The pictures of screens in the documentation: that they show the tabs, keys and panels that there are."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest
from textual.binding import Binding

from cfm_tui.console.app import ConsoleApp
from cfm_tui.console.form import PANELS
from cfm_tui.console.screens.base import TABS

SCREENS = Path(__file__).parents[2] / "docs" / "screens"
WORDS = {
    "runs": ["distilled", "Δ", "age", "Preview"],
    "new": list(PANELS.values()),
    "monitor": ["1 Loss", "2 Spectrum", "3 Images", "4 Result", "5 Log", "against random", "gap of Ψ_s to Ψ"],
}


@pytest.mark.parametrize("name", WORDS)
def test_a_picture_shows_the_screen_as_it_is(name):
    svg = (SCREENS / f"{name}.svg").read_text("utf-8")
    text = html.unescape(re.sub(r"<[^>]*>", " ", svg)).replace("\xa0", " ")
    shown = [each.description for each in ConsoleApp.BINDINGS if isinstance(each, Binding) and each.show]
    everywhere = [label for label in shown if label not in ("back", "runs")]  # not on every page
    assert [word for word in [*TABS, *everywhere, *WORDS[name]] if word not in text] == []
