"""Terminal capabilities and chart colours for widgets, in any Textual application."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from textual.app import App
from textual.color import Color
from textual.widget import Widget

from cfm_tui.display import terminal
from cfm_tui.display.charts import FAINT, ROLES
from cfm_tui.display.terminal import Terminal


def terminal_of(app: App[Any]) -> Terminal:
    """Return the application's `terminal`, or one detected from the environment."""
    declared = getattr(app, "terminal", None)
    return declared if isinstance(declared, Terminal) else _detect_terminal()


@lru_cache(1)
def _detect_terminal() -> Terminal:
    return terminal.detect(terminal.environment(os.environ), getattr(sys.__stdout__, "encoding", None))


def chart_colours(widget: Widget) -> Mapping[str, str]:
    """Return the theme's colours for charts by role, without roles that the theme leaves to the terminal."""
    variables = widget.app.theme_variables
    foreground = variables.get("foreground", "ansi_default")
    wanted = {role: variables.get(role, "ansi_default") for role in ROLES} | {"muted": foreground}
    named = {role: value.removeprefix("ansi_") for role, value in wanted.items() if value.startswith("ansi_")}
    named = {role: name for role, name in named.items() if name != "default"}
    if named:  # the terminal's own colours cannot be mixed
        return named | {role + FAINT: "bright_black" for role in named} | {"muted": "bright_black"}
    colours = {role: Color.parse(value) for role, value in wanted.items() if not value.startswith("ansi_")}
    background = widget.background_colors[1]
    if "muted" in colours:
        colours["muted"] = background.blend(colours["muted"], 0.6)
    faint = {role + FAINT: background.blend(colour, 0.4) for role, colour in colours.items()}
    return {role: colour.hex6 for role, colour in (colours | faint).items()}
