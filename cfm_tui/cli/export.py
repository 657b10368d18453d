"""`cfm export`: write a run's images or record in the formats of other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cfm_tui.cli.common import Json, RunName, echo, print_json


def export(
    run: RunName,
    form: Annotated[
        str, typer.Option("--format", help="sre2l, rded, dd-ranking, huggingface or tensorboard.")
    ],
    out: Annotated[Path, typer.Option(help="A new or empty folder.")],
    licence: Annotated[
        str | None,
        typer.Option(help="Licence of the images for a dataset card, e.g. mit.", show_default="unknown"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a run's images in another tool's format, or its record as TensorBoard event files."""
    from engine import store
    from engine.exporters import exports
    from engine.runs.resume import stored_config

    stored = store.find_run(run)
    exported = exports.export(stored, stored_config(stored).config, form, out, licence)
    if as_json:
        print_json({"run": stored.name, "format": form, "folder": str(out), "notes": exported.notes})
    else:
        echo("\n".join([*exported.notes, str(out)]))
