"""Saving the screen, or the data of a chart, in the current folder."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from textual.app import App
from textual.geometry import Size


def screen_text(app: App[Any]) -> str:
    """Return the visible screen as plain text."""
    screen = app.screen
    width, height = screen.size
    strips = screen._compositor.render_strips(Size(width, height))
    return "\n".join(strip.text.rstrip() for strip in strips) + "\n"


def save(name: str, suffix: str, text: str) -> Path:
    """Write a text into a new file in the current folder, and return its path. Raises UserError("disk")."""
    from engine.store import files
    from engine.store.folders import free_name

    stamp = time.strftime("%Y%m%d-%H%M%S")
    free = free_name(f"cfm-{name}-{stamp}", lambda each: Path(f"{each}.{suffix}").exists())
    path = Path(f"{free}.{suffix}").absolute()
    files.write(path, text.encode(), hint="start the console in a writable folder")
    return path
