"""`cfm run`: one experiment from its data to its numbers."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cfm_tui.cli.common import ConfigFile, DataRoot, Device, Json, Preset, Quiet, Sets, Teacher, print_json

if TYPE_CHECKING:
    from cfm_tui.progress import Display
    from engine.settings import Resolved


def run(
    preset: Preset = None,
    config: ConfigFile = None,
    sets: Sets = None,
    data_root: DataRoot = None,
    teacher: Teacher = None,
    out: Annotated[
        Path | None, typer.Option(help="The run's folder.", show_default="a new one in runs/")
    ] = None,
    device: Device = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Distil a data set and measure what the images are worth: squeeze, recover, relabel, validate.

    Without arguments: the embedded digits, in about a minute or two.
    """
    from cfm_tui.progress import open_display
    from engine import settings

    given = {"data.root": data_root, "backbone.teacher": teacher, "device": device}
    resolved = settings.resolve(
        preset=preset, file=config, sets=sets or (), overrides=given, environ=os.environ
    )
    name = config.stem if config is not None else preset or settings.DEFAULT_PRESET
    with open_display(quiet) as display:
        results, folder = _compute(resolved, name, out, display)
    if as_json:
        print_json({**results, "folder": str(folder)})
    else:
        from cfm_tui.tables import results_table

        typer.echo(results_table(results) + f"\n\n{folder}")


def _compute(
    resolved: Resolved, name: str, out: Path | None, display: Display
) -> tuple[dict[str, Any], Path]:
    display.say("loading")
    from engine import pipeline, settings, store
    from engine import plan as plans

    if out is not None:
        store.refuse_foreign(out)
    plan = plans.prepare(resolved.config, display.reading)
    folder = out or store.fresh_folder(name, plan.identity()["config"])
    plans.check_room(plan, folder)
    command = ["cfm", *sys.argv[1:]]
    owned = store.open_run(
        folder,
        plans.manifest(plan, folder.name, resolved.origins, command),
        settings.to_yaml(resolved.config, resolved.origins),
    )
    return display.follow(pipeline.run(plan, owned, store.Cache(), command)), folder
