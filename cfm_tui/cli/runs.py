"""`cfm runs` and `cfm show`: what was run, what came out, and how the images look."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cfm_tui.cli.common import Json, print_json

if TYPE_CHECKING:
    from engine.store import StoredRun


def runs(
    folder: Annotated[
        Path | None, typer.Option(help="Where runs lie.", show_default="$CFM_RUNS, else runs")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the runs, oldest first."""
    from engine import store

    place = folder or store.runs_folder()
    found = [_summary(run) for run in store.list_runs(place)]
    if as_json:
        print_json({"folder": str(place), "runs": found})
    else:
        from cfm_tui.display.tables import runs_table

        typer.echo(runs_table(found) if found else f"no runs in {place}")
        for lost in (entry for entry in found if entry["state"] == "lost"):
            typer.echo(
                f"→ the process of {lost['name']} is gone: `cfm resume {lost['folder']}` goes on with it"
            )


def _summary(run: StoredRun) -> dict[str, Any]:
    from engine.errors import UserError

    entry: dict[str, Any] = {"name": run.name, "folder": str(run.folder), "state": "damaged", "created": None}
    entry |= {"stage": None, "accuracy": None, "control": None}
    try:
        entry["created"] = run.created()
        run.require_whole()
        status, results = run.status(), run.results()
        entry["state"] = run.state()
        entry["stage"] = status.get("stage")
        if results is not None:
            entry["accuracy"], entry["control"] = (
                results["summary"][name] for name in ("accuracy", "control")
            )
    except (UserError, KeyError, TypeError):
        entry["state"] = "damaged"
    return entry


def show(
    run: Annotated[str, typer.Argument(help="A run's folder, or its name.")],
    thumbnails: Annotated[
        int, typer.Option(min=0, max=1000, help="Distilled images to show, at most; 0 for none.")
    ] = 10,
    width: Annotated[int, typer.Option(min=4, max=200, help="Columns of one image.")] = 24,
    betas: Annotated[
        bool,
        typer.Option("--betas", help="All classes with β from left to right, instead of the first images."),
    ] = False,
    losses: Annotated[bool, typer.Option("--losses", help="Losses by iteration, of every layer.")] = False,
    spectra: Annotated[
        bool, typer.Option("--spectra", help="Spectra of every layer, and the filter.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show a run: its results, and distilled images as text. `cfm report` draws it all on one page."""
    from engine import store

    found = store.find(run)
    results = found.results()
    if as_json:
        print_json({**_summary(found), "status": found.status(), "results": results})
        return
    from cfm_tui.display.tables import results_table, status_line

    typer.echo(f"{found.name}: {status_line(found.status(), found.state())}\n")
    typer.echo(results_table(results) if results is not None else "no results yet")
    if thumbnails and not betas and found.has_images():
        _show_images(found, thumbnails, width)
    if betas or losses or spectra:
        _show_drawn(found, width if betas else 0, losses, spectra)


def _show_drawn(run: StoredRun, columns: int, losses: bool, spectra: bool) -> None:
    """columns: of one image of the β grid; 0 for none."""
    from cfm_tui.cli import drawn

    parts = [drawn.beta_grid(run, columns)] if columns else []
    parts += [drawn.losses(run)] if losses else []
    parts += [drawn.spectra(run)] if spectra else []
    for part in parts:
        typer.echo(f"\n{part}")


def _show_images(run: StoredRun, count: int, columns: int) -> None:
    from cfm_tui.display.ascii_image import grid
    from cfm_tui.display.progress import beta_text
    from engine.store.images import to_bytes

    found = run.images(first=count)
    labels = [
        f"{found.classes[label]} {beta_text(beta)}".rstrip()
        for label, beta in zip(found.labels_N, found.beta_N, strict=True)
    ]
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    true = os.environ.get("COLORTERM") in ("truecolor", "24bit")
    text = grid(
        to_bytes(found.images_NCHW),
        labels,
        width=shutil.get_terminal_size().columns,
        columns=columns,
        mode="half" if colour else "ascii",
        colours="true" if true else 256,
    )
    typer.echo(f"\n{text}")
