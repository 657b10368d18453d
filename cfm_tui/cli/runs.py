"""`cfm runs` and `cfm show`: list runs, and show a run's results and images."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cfm_tui.cli.common import Json, RunName, RunsFolder, draw_images, echo, print_json

if TYPE_CHECKING:
    from engine.store import StoredRun


def runs(folder: RunsFolder = None, as_json: Json = False) -> None:
    """List the runs, oldest first."""
    from engine import store
    from engine.runs.results import SCHEMA_VERSION

    runs_folder = folder or store.runs_folder()
    runs = store.list_runs(runs_folder)
    summaries = [summary for run in runs if (summary := _summarise(run)) and os.path.isdir(run.folder)]
    if as_json:
        print_json({"schema_version": SCHEMA_VERSION, "folder": str(runs_folder), "runs": summaries})
    else:
        from cfm_tui.display.tables import runs_table
        from engine.errors import quote_command

        echo(runs_table(summaries) if summaries else f"no runs in {runs_folder}")
        for lost in (entry for entry in summaries if entry["state"] == "lost"):
            command = quote_command("resume", Path(lost["folder"]))
            echo(f"→ the process of {lost['name']} is gone: {command} resumes it")


def _summarise(run: StoredRun) -> dict[str, Any]:
    """Return a run's entry in the list; its state is "damaged" where a file cannot be read, or "newer"."""
    from engine.errors import UserError
    from engine.runs.results import read_results

    entry: dict[str, Any] = {"name": run.name, "folder": str(run.folder)}
    entry |= dict.fromkeys(("state", "created", "stage", "accuracy", "control", "verdict"))
    try:
        entry["created"] = run.created()
        run.require_whole()
        status, results = run.status(), read_results(run)
        entry |= {"state": run.state(), "stage": status.get("stage")}
        if results is not None:
            entry |= {name: results["summary"][name] for name in ("accuracy", "control")}
            entry["verdict"] = (results["summary"]["versus_control"] or {}).get("verdict")
    except (UserError, KeyError, TypeError):
        entry["state"] = "newer" if run.state() == "newer" else "damaged"
    return entry


def show(
    run: RunName,
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
    from engine.runs.results import SCHEMA_VERSION, read_results

    stored = store.find_run(run)
    results = read_results(stored)
    if as_json:
        entry = {"schema_version": SCHEMA_VERSION, **_summarise(stored)}
        print_json({**entry, "status": stored.status(), "results": results})
        return
    from cfm_tui.display.progress import format_status
    from cfm_tui.display.tables import results_table

    echo(f"{stored.name}: {format_status(stored.status(), stored.state())}\n")
    echo(results_table(results) if results is not None else "no results yet")
    if thumbnails and not betas and stored.has_images():
        _show_images(stored, thumbnails, width)
    if betas or losses or spectra:
        from cfm_tui.cli import text_plots

        plots = [text_plots.draw_beta_grid(stored, width)] if betas else []
        plots += [text_plots.draw_losses(stored)] if losses else []
        plots += [text_plots.draw_spectra(stored)] if spectra else []
        for plot in plots:
            echo(f"\n{plot}", coloured=True)


def _show_images(run: StoredRun, count: int, columns: int) -> None:
    from cfm_tui.display.progress import format_beta

    images = run.images(first=count)
    labels = [
        f"{images.classes[label]} {format_beta(beta)}".rstrip()
        for label, beta in zip(images.labels_N, images.beta_N, strict=True)
    ]
    echo(f"\n{draw_images(images.pixels_NCHW, labels, columns)}", coloured=True)
