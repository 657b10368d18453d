"""`cfm export`: a run's images, or its record, in the layouts that others read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cfm_tui.cli.common import Json, print_json


def export(
    run: Annotated[str, typer.Argument(help="A run's folder, or its name.")],
    form: Annotated[
        str,
        typer.Option("--format", help="sre2l, rded, dd-ranking, huggingface or tensorboard."),
    ],
    out: Annotated[Path, typer.Option(help="A new or empty folder.")],
    licence: Annotated[
        str | None,
        typer.Option(help="Of the images, for a dataset card, e.g. mit.", show_default="unknown"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a run's images as others read them, or its record as TensorBoard's event files."""
    from engine import store
    from engine.exporters import exports
    from engine.runs.resume import stored_config

    found = store.find(run)
    made = exports.export(found, stored_config(found).config, form, out, licence)
    if as_json:
        print_json({"run": found.name, "format": form, "folder": str(out), "notes": made.notes})
    else:
        typer.echo("\n".join([*made.notes, str(out)]))
