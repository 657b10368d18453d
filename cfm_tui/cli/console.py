"""`cfm-tui` and `cfm attach`: the console, opened on the runs, on a new experiment, or on one run."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from cfm_tui.console.engine_link import Configure, OpenRun
    from cfm_tui.console.preferences import Preferences

Fps = Annotated[
    float | None,
    typer.Option(min=0.01, max=30, help="How often the screen follows a run, a second.", show_default="2"),
]
Images = Annotated[
    str | None, typer.Option(help="Thumbnails: auto, ascii, half or off.", show_default="auto")
]
Theme = Annotated[str | None, typer.Option(help="Colours: cfm-dark, cfm-light, cfm-safe or cfm-mono.")]
ReadOnly = Annotated[bool, typer.Option("--read-only", help="Look on: launch, steer and delete nothing.")]


def console(
    preset: Annotated[str | None, typer.Option(help="Open with this experiment, ready to launch.")] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Where runs lie.", show_default="$CFM_RUNS, else runs")
    ] = None,
    fps: Fps = None,
    images: Images = None,
    theme: Theme = None,
    read_only: ReadOnly = False,
) -> None:
    """Configure, launch, watch and steer distillations in the terminal."""
    from cfm_tui.console.engine_link import Configure

    if preset is not None:
        from engine.config import settings

        settings.resolve(preset=preset)  # a name that is unknown is told before the screen is taken
    _open(Configure(preset) if preset is not None else None, folder, fps, images, theme, read_only)


def attach(
    run: Annotated[
        str | None, typer.Argument(help="A run's folder, or its name.", show_default="the newest at work")
    ] = None,
    fps: Fps = None,
    images: Images = None,
    theme: Theme = None,
    read_only: ReadOnly = False,
) -> None:
    """Open the console on a run, at work or finished."""
    from cfm_tui.console.engine_link import OpenRun
    from engine import store

    if run is not None:
        found = store.find(run)
        _open(OpenRun(found.folder), found.folder.absolute().parent, fps, images, theme, read_only)
        return
    live = [each for each in store.list_runs() if each.state() in store.AT_WORK]
    _open(OpenRun(live[-1].folder) if live else None, None, fps, images, theme, read_only)


def _open(
    first: Configure | OpenRun | None,
    folder: Path | None,
    fps: float | None,
    images: str | None,
    theme: str | None,
    read_only: bool,
) -> None:
    """Take the terminal, run the console, and print what it leaves."""
    _require_terminal()
    from cfm_tui.console.app import ConsoleApp
    from cfm_tui.console.driver import own_output
    from cfm_tui.display import terminal

    if folder is not None:  # new runs are made there too, by this process and those it starts
        folder = folder.absolute()
        os.environ["CFM_RUNS"] = str(folder)
    shown = terminal.detect(terminal.environment(os.environ), sys.stdout.encoding)
    wanted = _preferences(fps, images, theme)
    app = ConsoleApp(wanted, shown, folder, read_only=read_only)
    app.opening = first
    with own_output() as aside:
        app.aside = aside
        left = app.run()
        printed = aside.tail().strip()
    session = app.session
    if session is not None and session.live:  # whatever ended the application does not end the run
        session.hand_over("the console")
        left = session.farewell()
    if left:
        typer.echo(left)
    if printed:
        typer.echo(f"printed meanwhile:\n{printed}", err=True)
    if app.failed is not None:
        raise app.failed
    if app.return_code:
        raise typer.Exit(app.return_code)


def _require_terminal() -> None:
    from engine.errors import UserError

    if not sys.stdin.isatty():
        raise UserError("usage", "the console needs a terminal", "use `cfm run` and `cfm watch` without one")
    if not sys.stderr.isatty():
        raise UserError(
            "usage",
            "the console needs a terminal, and stderr, on which it draws, is none",
            "do not redirect stderr",
        )


def _preferences(fps: float | None, images: str | None, theme: str | None) -> Preferences:
    """What the file says, and the flags over it."""
    from cfm_tui.console import preferences, themes
    from engine.errors import UserError

    found = preferences.read(preferences.path(), themes.NAMES, _actions)
    given: dict[str, Any] = {"fps": fps, "images": images, "theme": theme}
    found = replace(found, **{name: value for name, value in given.items() if value is not None})
    if found.theme is not None and found.theme not in themes.NAMES:
        raise UserError(
            "usage", f"there is no theme {found.theme!r}", f"use one of {', '.join(themes.NAMES)}"
        )
    return preferences.checked(found, "--images" if images else str(preferences.path()))


def _actions() -> list[str]:
    from cfm_tui.console.actions import names

    return names()
