"""The console in tests: driven by a pilot in this process, its screen read as text."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from textual.events import Key

from cfm_tui.console.app import ConsoleApp
from cfm_tui.console.preferences import Preferences
from cfm_tui.console.widgets.images import Wall
from cfm_tui.display.terminal import Terminal

PLAIN = Terminal(unicode=True, braille=True, blocks=True, colours=256)
SIZES = ((40, 12), (80, 24), (120, 40), (200, 60))
KEY_NAMES = {".": "full_stop", "-": "minus", "=": "equals_sign", "?": "question_mark", "/": "slash"}
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


def burst(app, *keys):
    """Post keys as a terminal that sends all of them at once."""
    for key in keys:
        character = key if len(key) == 1 else {"enter": "\r", "space": " "}.get(key)
        app.post_message(Key(KEY_NAMES.get(key, key), character))


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


def here(pilot) -> str:
    """Class and batch of the image under the cursor."""
    album = pilot.app.screen.album
    number = album.here
    return f"{album.name(number)} {album.reader.batch_N[number]}"


async def loaded(pilot):
    """Wait until everything that is seen was read."""
    await until(pilot, lambda: getattr(pilot.app.screen, "pictures", None) is not None)
    wall = pilot.app.screen.query_one(Wall)

    def drawn():
        tiles = [tile for row in wall._tiles for tile in row if tile is not None]
        return wall.size.area and tiles and all(t.problem or t.pixels_CHW is not None for t in tiles)

    await until(pilot, drawn)


def panels(pilot):
    """The screen without its last line, which is the same on all pages."""
    return "\n".join(shown(pilot).splitlines()[:-1]) + "\n"
