"""`cfm preset`: list, show and validate presets, shipped and user-defined.

Engine modules are imported inside the commands, so that `cfm --help` stays fast.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from cfm_tui.cli.common import ConfigFile, Json, Sets, echo, print_json

app = typer.Typer(
    name="preset", no_args_is_help=True, help="List, show and check presets and configuration files."
)


@app.command("list")
def list_presets(as_json: Json = False) -> None:
    """List shipped and user-defined presets, protocols and methods, one line each."""
    from engine.config import settings
    from engine.config.presets import user_folder

    kinds = {
        "presets": [(name, settings.describe(name)) for name in settings.preset_names()],
        "protocols": [(name, settings.describe(name, "protocols")) for name in settings.PROTOCOLS],
        "methods": [(name, settings.describe(name, "methods")) for name in settings.method_names()],
    }
    user_presets = settings.user_presets()
    if as_json:
        document = {
            kind: [{"name": name, "description": description} for name, description in entries]
            for kind, entries in kinds.items()
        }
        print_json({**document, "own": [preset.to_dict() for preset in user_presets]})
        return
    for kind, entries in kinds.items():
        if kind == "protocols" and user_presets:
            echo(f"your presets, in {user_folder()}:")
            for preset in user_presets:
                unusable = f"cannot be used: {preset.problem}" if preset.problem else ""
                echo(f"  {preset.name:<20} {unusable or preset.description}")
        echo(f"{kind}:")
        for name, description in entries:
            echo(f"  {name:<20} {description}")


@app.command()
def show(
    name: Annotated[str | None, typer.Argument(help="Preset.", show_default="digits")] = None,
    config: ConfigFile = None,
    sets: Sets = None,
    resolved: Annotated[bool, typer.Option("--resolved", help="Print every setting and its origin.")] = False,
    as_json: Json = False,
) -> None:
    """Show the file of a preset, or with --resolved every setting that results from it."""
    from engine.config import presets, settings

    if not (resolved or as_json or config or sets):
        echo(presets.source_text(name or settings.DEFAULT_PRESET).removesuffix("\n"))
        return
    outcome = settings.resolve(preset=name, file=config, sets=sets or (), environ=os.environ)
    if as_json:
        tree = outcome.config.to_dict()
        preset = name if config or name else settings.DEFAULT_PRESET
        print_json({"preset": preset, "config": tree, "origins": outcome.origins})
    else:
        echo(settings.to_yaml(outcome.config, outcome.origins).removesuffix("\n"))


@app.command()
def validate(
    targets: Annotated[
        list[str] | None, typer.Argument(help="Presets or YAML files.", show_default="every preset")
    ] = None,
    as_json: Json = False,
) -> None:
    """Validate presets or YAML files, under every protocol unless they set one; exit with 2 on failure."""
    from engine.config import settings

    names = [*settings.preset_names(), *(preset.name for preset in settings.user_presets())]
    results = [(target, _find_problem(target)) for target in targets or names]
    if as_json:
        entries = [
            {"name": target, "valid": not problem} | ({"error": problem} if problem else {})
            for target, problem in results
        ]
        print_json({"results": entries})
    else:
        for target, problem in results:
            echo(f"{target}: " + (f"{problem['message']}\n  {problem['hint']}" if problem else "valid"))
    if any(problem for _, problem in results):
        raise typer.Exit(2)


def _find_problem(target: str) -> dict[str, str] | None:
    """Return the error of an invalid preset or file; None where it is valid."""
    from engine.config import settings
    from engine.errors import UserError

    is_file = target.endswith((".yaml", ".yml")) or Path(target).is_file()
    source: dict[str, Any] = {"file": Path(target)} if is_file else {"preset": target}
    try:
        if settings.resolve(**source).origins["protocol"] == "default":
            for protocol in settings.PROTOCOLS:
                settings.resolve(**source, overrides={"protocol": protocol})
    except UserError as error:
        return {"kind": error.kind, "message": error.message, "hint": error.hint}
    return None
