"""The console in tests: driven by a pilot in this process, its screen read as text."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from cfm_tui.console.app import ConsoleApp
from cfm_tui.console.preferences import Preferences
from cfm_tui.display.terminal import Terminal

PLAIN = Terminal(unicode=True, braille=True, blocks=True, colours=256)
SIZES = ((40, 12), (80, 24), (120, 40), (200, 60))
GOLDEN = Path(__file__).parents[1] / "golden" / "screens"


def console(runs: Path, *, opening=None, read_only=False, terminal=PLAIN, **preferences) -> ConsoleApp:
    """The application on a folder of runs; it draws as fast as it may."""
    app = ConsoleApp(Preferences(fps=20.0, **preferences), terminal, runs, read_only=read_only)
    app.opening = opening
    return app


def drive(app: ConsoleApp, script, size=(80, 24)) -> None:
    """Run `script(pilot)` against the application."""

    async def play():
        async with app.run_test(size=size, notifications=True) as pilot:
            await pilot.pause()
            await script(pilot)

    asyncio.run(play())


def shown(pilot) -> str:
    """What is on screen."""
    return pilot.app.render_text()


async def until(pilot, holds, seconds=20.0) -> None:
    """Wait until `holds()`, or until its text is on screen."""
    there = holds if callable(holds) else lambda: holds in shown(pilot)
    for _ in range(int(seconds / 0.05)):
        await pilot.pause(0.05)
        if there():
            return
    raise AssertionError(f"never came: {holds}\n{shown(pilot)}")


async def becomes(pilot, name: str, read=None, seconds=10.0) -> None:
    """Wait until the screen, or what `read(pilot)` gives of it, is as in its golden file."""
    read = read or shown
    path = GOLDEN / f"{name}.txt"
    for _ in range(0 if os.environ.get("UPDATE_GOLDEN") else int(seconds / 0.1)):
        if read(pilot) == path.read_text("utf-8"):
            return
        await pilot.pause(0.1)
    golden(name, read(pilot))


def golden(name: str, text: str) -> None:
    """Compare a screen with its golden file; UPDATE_GOLDEN=1 writes it."""
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    assert text == path.read_text("utf-8")
