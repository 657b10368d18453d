"""`cfm-tui` and `cfm attach`: open the console on the list of runs, a new experiment, or one run."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cfm_tui.cli.common import (
    ConfigFile,
    DataRoot,
    Device,
    Preset,
    Repeats,
    RunsFolder,
    Sets,
    Teacher,
    echo,
    name_experiment,
)

if TYPE_CHECKING:
    from cfm_tui.console.engine_link import Configure, OpenRun
    from cfm_tui.console.preferences import Preferences

Fps = Annotated[
    float | None, typer.Option(min=0.01, max=30, help="Screen updates per second.", show_default="2")
]
Images = Annotated[
    str | None, typer.Option(help="Thumbnails: auto, kitty, sixel, half, ascii or off.", show_default="auto")
]
Theme = Annotated[
    str | None,
    typer.Option(
        help="Colours: cfm-dark, cfm-light, cfm-nord, cfm-gruvbox, cfm-safe, cfm-16 or cfm-mono.",
        show_default="by the terminal",
    ),
]
ReadOnly = Annotated[
    bool, typer.Option("--read-only", help="Only watch: do not launch, control or delete runs.")
]


def console(
    preset: Preset = None,
    config: ConfigFile = None,
    sets: Sets = None,
    data_root: DataRoot = None,
    teacher: Teacher = None,
    repeats: Repeats = None,
    device: Device = None,
    folder: RunsFolder = None,
    fps: Fps = None,
    images: Images = None,
    theme: Theme = None,
    read_only: ReadOnly = False,
) -> None:
    """Configure, launch, watch and control distillation runs in the terminal.

    Settings of an experiment, given as to `cfm run`, open it in the form, ready to launch.
    """
    from cfm_tui.console.engine_link import Configure

    given = {"data.root": data_root, "backbone.teacher": teacher, "repeats": repeats, "device": device}
    opening = None
    if preset or config or sets or any(value is not None for value in given.values()):
        from cfm_tui.console.form import Form
        from engine.config import settings

        resolved = settings.resolve(  # reports what is wrong before the screen opens
            preset=preset, file=config, sets=sets or (), overrides=given, environ=os.environ
        )
        base = preset if preset or config is None else settings.find_base_preset(config)
        form = Form.from_config(base, resolved.config, os.environ)
        form.name = name_experiment(preset, config)
        if config is not None:
            form.accept_foreign_dataset()  # a file is a recipe of its own
        opening = Configure(form)
    _open(opening, folder, read_only, fps=fps, images=images, theme=theme)


def attach(
    run: Annotated[
        str | None, typer.Argument(help="A run's folder, or its name.", show_default="the newest active run")
    ] = None,
    fps: Fps = None,
    images: Images = None,
    theme: Theme = None,
    read_only: ReadOnly = False,
) -> None:
    """Open the console on an active or finished run."""
    from cfm_tui.console.engine_link import OpenRun
    from engine import store

    if run is not None:
        folder = store.find_run(run).folder
        _open(OpenRun(folder), folder.absolute().parent, read_only, fps=fps, images=images, theme=theme)
        return
    active_runs = [each for each in store.list_runs() if each.state() in store.ACTIVE]
    opening = OpenRun(active_runs[-1].folder) if active_runs else None
    _open(opening, None, read_only, fps=fps, images=images, theme=theme)


def _open(opening: Configure | OpenRun | None, folder: Path | None, read_only: bool, **options: Any) -> None:
    """Run the console in this terminal, then print its farewell and the captured output.

    opening: the message that opens the first page; None for the list of runs. options: preferences that
    override those of the file, where they are not None.
    """
    _require_terminal()
    from cfm_tui.console.app import ConsoleApp
    from cfm_tui.console.driver import capture_output, query_terminal
    from cfm_tui.console.preferences import choose_theme
    from cfm_tui.display import terminal

    if folder is not None:  # also for new runs of this process and its children
        folder = folder.absolute()
        os.environ["CFM_RUNS"] = str(folder)
    capabilities = terminal.detect(terminal.environment(os.environ), sys.stdout.encoding)
    preferences = _load_preferences(options)
    awaits_answers = False
    if capabilities.colours in (256, "true") and (preferences.theme is None or preferences.images == "auto"):
        answers = query_terminal(os.environ)
        capabilities = replace(capabilities, pixels=answers.pixels)
        awaits_answers = not answers.are_complete
        if preferences.theme is None:
            preferences = replace(preferences, theme=choose_theme(capabilities.colours, answers.background))
    app = ConsoleApp(preferences, capabilities, folder, read_only=read_only)
    app.opening, app.awaits_answers = opening, awaits_answers
    with capture_output() as captured:
        app.captured_output = captured
        farewell = app.run()
        library_output = captured.read_tail().strip()
    session = app.session
    if session is not None and session.live:  # a crash of the application does not end the run
        session.hand_over("the console")
        farewell = session.format_farewell()
    if farewell:
        echo(farewell)
    if library_output:
        echo(f"output captured while the console was open:\n{library_output}", err=True)
    if app.draft_notice:
        echo(app.draft_notice, err=True)
    if app.failed is not None:
        raise app.failed
    if app.return_code:
        raise typer.Exit(app.return_code)


def _require_terminal() -> None:
    from engine.errors import UserError

    if not sys.stdin.isatty():
        raise UserError("usage", "the console needs a terminal", "use `cfm run` and `cfm watch` without one")
    if not sys.stderr.isatty():
        problem = "the console draws on stderr, which is not a terminal"
        raise UserError("usage", problem, "do not redirect stderr")


def _load_preferences(options: dict[str, Any]) -> Preferences:
    """Load the preferences file and override it by the options.

    Raises UserError("config") or UserError("usage") where a preference is invalid.
    """
    from cfm_tui.console.app import list_action_names
    from cfm_tui.console.preferences import THEMES, Preferences
    from engine.errors import UserError

    path = Preferences.path()
    given = {name: value for name, value in options.items() if value is not None}
    loaded = replace(Preferences.read(path, list_action_names), **given)
    if loaded.theme is not None and loaded.theme not in THEMES:
        raise UserError("usage", f"unknown theme {loaded.theme!r}", f"use one of {', '.join(THEMES)}")
    return loaded.validate("--images" if options["images"] else str(path))
