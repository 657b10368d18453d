"""`cfm runs` and `cfm show`: list runs, and show a run's results and images."""

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
        Path | None, typer.Option(help="The folder of runs.", show_default="$CFM_RUNS, else runs")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the runs, oldest first."""
    from engine import store

    runs_folder = folder or store.runs_folder()
    summaries = [_summarise(run) for run in store.list_runs(runs_folder)]
    if as_json:
        print_json({"folder": str(runs_folder), "runs": summaries})
    else:
        from cfm_tui.display.tables import runs_table

        typer.echo(runs_table(summaries) if summaries else f"no runs in {runs_folder}")
        for lost in (entry for entry in summaries if entry["state"] == "lost"):
            typer.echo(f"→ the process of {lost['name']} is gone: `cfm resume {lost['folder']}` resumes it")


def _summarise(run: StoredRun) -> dict[str, Any]:
    """Return a run's entry in the list; its state is "damaged" where a file cannot be read."""
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
        int, typer.Option(min=0, max=1000, help="Most distilled images to show; 0 for none.")
    ] = 10,
    width: Annotated[int, typer.Option(min=4, max=200, help="Width of an image in characters.")] = 24,
    betas: Annotated[
        bool,
        typer.Option(
            "--betas", help="Show all classes, β falling to the right, instead of the first images."
        ),
    ] = False,
    losses: Annotated[
        bool, typer.Option("--losses", help="Draw the losses of every layer by iteration.")
    ] = False,
    spectra: Annotated[
        bool, typer.Option("--spectra", help="Draw the spectra of every layer and the filter.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show a run's results and distilled images as text; `cfm report` draws everything on one page."""
    from engine import store

    stored = store.find_run(run)
    results = stored.results()
    if as_json:
        print_json({**_summarise(stored), "status": stored.status(), "results": results})
        return
    from cfm_tui.display.progress import format_status
    from cfm_tui.display.tables import results_table

    typer.echo(f"{stored.name}: {format_status(stored.status(), stored.state())}\n")
    typer.echo(results_table(results) if results is not None else "no results yet")
    if thumbnails and not betas and stored.has_images():
        _show_images(stored, thumbnails, width)
    if betas or losses or spectra:
        _show_plots(stored, width if betas else 0, losses, spectra)


def _show_plots(run: StoredRun, columns: int, losses: bool, spectra: bool) -> None:
    """Print the requested plots. columns: width of an image of the β grid; 0 for no grid."""
    from cfm_tui.cli import text_plots

    plots = [text_plots.draw_beta_grid(run, columns)] if columns else []
    plots += [text_plots.draw_losses(run)] if losses else []
    plots += [text_plots.draw_spectra(run)] if spectra else []
    for plot in plots:
        typer.echo(f"\n{plot}")


def _show_images(run: StoredRun, count: int, columns: int) -> None:
    from cfm_tui.display.ascii_image import grid
    from cfm_tui.display.progress import format_beta
    from engine.store.images import to_bytes

    images = run.images(first=count)
    labels = [
        f"{images.classes[label]} {format_beta(beta)}".rstrip()
        for label, beta in zip(images.labels_N, images.beta_N, strict=True)
    ]
    in_colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    has_true_colour = os.environ.get("COLORTERM") in ("truecolor", "24bit")
    text = grid(
        to_bytes(images.images_NCHW),
        labels,
        width=shutil.get_terminal_size().columns,
        columns=columns,
        mode="half" if in_colour else "ascii",
        colours="true" if has_true_colour else 256,
    )
    typer.echo(f"\n{text}")
