"""Colour themes, two of them for colour-blind users and for monochrome terminals.

No state is shown by colour alone.
"""

from __future__ import annotations

from typing import Any

from textual.theme import Theme

SAFE = "cfm-safe"
MONO = "cfm-mono"
DARK = "cfm-dark"
LIGHT = "cfm-light"

#: Okabe and Ito's colours, which differ for every common kind of colour blindness.
_OKABE_ITO: dict[str, Any] = {
    "primary": "#56b4e9",
    "secondary": "#cc79a7",
    "accent": "#e69f00",
    "success": "#009e73",
    "warning": "#f0e442",
    "error": "#d55e00",
}

THEMES = (
    Theme(
        name=DARK,
        primary="#5fafd7",
        secondary="#af87d7",
        accent="#d7af5f",
        success="#5faf5f",
        warning="#d7af00",
        error="#d75f5f",
        foreground="#d0d0d0",
        background="#121212",
        surface="#1c1c1c",
        panel="#303030",
        dark=True,
    ),
    Theme(
        name=LIGHT,
        primary="#005f87",
        secondary="#5f00af",
        accent="#875f00",
        success="#005f00",
        warning="#875f00",
        error="#af0000",
        foreground="#262626",
        background="#ffffff",
        surface="#eeeeee",
        panel="#d0d0d0",
        dark=False,
    ),
    Theme(
        name=SAFE,
        **_OKABE_ITO,
        foreground="#d0d0d0",
        background="#000000",
        surface="#121212",
        panel="#303030",
        dark=True,
    ),
    Theme(
        name=MONO,
        ansi=True,
        primary="ansi_default",
        secondary="ansi_default",
        accent="ansi_default",
        success="ansi_default",
        warning="ansi_default",
        error="ansi_default",
        foreground="ansi_default",
        background="ansi_default",
        surface="ansi_default",
        panel="ansi_default",
        boost="ansi_default",
        variables={
            "ansi-background": "ansi_default",
            "ansi-foreground": "ansi_default",
            "input-selection-background": "ansi_default",
            "input-selection-foreground": "ansi_default",
            "screen-selection-background": "ansi_default",
            "screen-selection-foreground": "ansi_default",
            "border-blurred": "ansi_default",
            "block-cursor-foreground": "ansi_default",
            "block-cursor-background": "ansi_default",
            "block-cursor-text-style": "reverse",
            "input-cursor-background": "ansi_default",
            "input-cursor-foreground": "ansi_default",
            "input-cursor-text-style": "reverse",
            "footer-key-foreground": "ansi_default",
        },
    ),
)
NAMES = tuple(theme.name for theme in THEMES)


def choose_theme(colours: int | str) -> str:
    """Return the name of the default theme for a terminal with `colours` colours; 0: none."""
    return MONO if colours == 0 else DARK
