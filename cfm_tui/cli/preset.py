"""`cfm preset`: the experiments that ship and one's own, what each means, and whether a file is one.

Engine modules are imported inside the commands, so that `cfm --help` stays quick.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from cfm_tui.cli.common import ConfigFile, Json, Sets, print_json

app = typer.Typer(no_args_is_help=True, help="List, show and check presets and configuration files.")


@app.command("list")
def list_presets(as_json: Json = False) -> None:
    """List presets, your own, protocols and methods, one line each."""
    from engine.config import settings
    from engine.config.presets import presets_folder

    kinds = {
        "presets": [(name, settings.describe(name)) for name in settings.preset_names()],
        "protocols": [(name, settings.describe(name, "protocols")) for name in settings.PROTOCOLS],
        "methods": [(name, settings.describe(name, "methods")) for name in settings.method_names()],
    }
    own = settings.own_presets()
    if as_json:
        document: dict[str, Any] = {
            kind: [{"name": name, "description": description} for name, description in entries]
            for kind, entries in kinds.items()
        }
        document["own"] = [preset.told() for preset in own]
        print_json(document)
        return
    for kind, entries in kinds.items():
        if kind == "protocols" and own:
            typer.echo(f"your presets, in {presets_folder()}:")
            for preset in own:
                unusable = f"cannot be used: {preset.problem}" if preset.problem else ""
                typer.echo(f"  {preset.name:<20} {unusable or preset.description}")
        typer.echo(f"{kind}:")
        for name, description in entries:
            typer.echo(f"  {name:<20} {description}")


@app.command()
def show(
    name: Annotated[str | None, typer.Argument(help="Preset.", show_default="digits")] = None,
    config: ConfigFile = None,
    sets: Sets = None,
    resolved: Annotated[
        bool, typer.Option("--resolved", help="Every value, and where it came from.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show a preset as it is written, or with --resolved what it means."""
    from engine.config import presets, settings

    if not (resolved or as_json or config or sets):
        typer.echo(presets.source_text(name or settings.DEFAULT_PRESET), nl=False)
        return
    answer = settings.resolve(preset=name, file=config, sets=sets or (), environ=os.environ)
    if as_json:
        tree = answer.config.model_dump(mode="json", by_alias=True)
        shown = name if config or name else settings.DEFAULT_PRESET
        print_json({"preset": shown, "config": tree, "origins": answer.origins})
    else:
        typer.echo(settings.to_yaml(answer.config, answer.origins), nl=False)


@app.command()
def validate(
    targets: Annotated[
        list[str] | None, typer.Argument(help="Presets or YAML files.", show_default="every preset")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check presets or YAML files, under every protocol unless they name one; exit code 2 if any fails."""
    from engine.config import settings

    known = [*settings.preset_names(), *(preset.name for preset in settings.own_presets())]
    results = [(target, _problem(target)) for target in targets or known]
    if as_json:
        print_json(
            {
                "results": [
                    {"name": target, "valid": not problem, **({"error": problem} if problem else {})}
                    for target, problem in results
                ]
            }
        )
    else:
        for target, problem in results:
            typer.echo(f"{target}: " + (f"{problem['message']}\n  {problem['hint']}" if problem else "valid"))
    if any(problem for _, problem in results):
        raise typer.Exit(2)


def _problem(target: str) -> dict[str, str] | None:
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
