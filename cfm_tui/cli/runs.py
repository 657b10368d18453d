"""`cfm runs` and `cfm show`: list runs, and show a run's results and images."""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from cfm_tui.cli.common import Json, RunsFolder, draw_images, echo, print_json

if TYPE_CHECKING:
    from engine.store import StoredRun


def runs(
    query: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="QUERY",
            help="Conditions, such as 'method=cfm ipc>=10 acc>50', or a part of the name.",
            show_default=False,
        ),
    ] = None,
    folder: RunsFolder = None,
    as_json: Json = False,
) -> None:
    """List the runs, oldest first: settings, results, and the verdict against the random control.

    A query compares, with = != < <= > >=, name state stage data network method verdict (text), ipc seed acc
    control diff teacher (numbers), age time left (12h, 3d), or any setting, such as 'recover.lr>=0.1'.
    """
    from cfm_tui.display import run_query
    from cfm_tui.display.run_summary import RunSummary
    from engine import store
    from engine.runs.results import SCHEMA_VERSION

    runs_folder, wanted = folder or store.runs_folder(), run_query.parse(" ".join(query or ()))
    listed = [RunSummary.read(run) for run in store.list_runs(runs_folder)]
    listed = [each for each in listed if os.path.isdir(each.folder)]  # one may have been deleted meanwhile
    summaries = [each for each in listed if wanted.matches(each)]
    if as_json:
        entries = [each.to_dict() for each in summaries]
        print_json({"schema_version": SCHEMA_VERSION, "folder": str(runs_folder), "runs": entries})
        return
    if not summaries:
        matching = f"none of the {len(listed)} runs in {runs_folder} matches {wanted.text!r}"
        echo(matching if listed else f"no runs in {runs_folder}")
        return
    from cfm_tui.display.tables import runs_table
    from engine.errors import quote_command

    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    echo(runs_table(summaries, width))
    for lost in (each for each in summaries if each.state == "lost"):
        echo(f"→ the process of {lost.name} is gone: {quote_command('resume', lost.folder)} resumes it")


def show(
    run: Annotated[
        str | None, typer.Argument(help="A run's folder, or its name.", show_default="the newest run")
    ] = None,
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

    stored = _find_newest_run() if run is None else store.find_run(run)
    results = read_results(stored)
    if as_json:
        from cfm_tui.display.run_summary import RunSummary

        entry = {"schema_version": SCHEMA_VERSION, **RunSummary.read(stored).to_dict()}
        print_json({**entry, "status": stored.status(), "results": results})
        return
    if thumbnails and not betas and stored.has_images():
        _show_images(stored, thumbnails, width)
    if betas or losses or spectra:
        from cfm_tui.cli import text_plots

        plots = [text_plots.draw_beta_grid(stored, width)] if betas else []
        plots += [text_plots.draw_losses(stored)] if losses else []
        plots += [text_plots.draw_spectra(stored)] if spectra else []
        for plot in plots:
            echo(f"{plot}\n", coloured=True)
    from cfm_tui.display.progress import format_status
    from cfm_tui.display.tables import results_table

    # Last, so that it is on screen when the images have scrolled away.
    echo(f"{stored.name}: {format_status(stored.status(), stored.state())}\n")
    echo(results_table(results) if results is not None else "no results yet")


def _find_newest_run() -> StoredRun:
    """Return the run that was created last. Raises UserError("usage") if there is none."""
    from engine import store
    from engine.errors import UserError

    if not (runs := store.list_runs()):
        raise UserError("usage", f"there are no runs in {store.runs_folder()}", "`cfm run` computes one")
    return runs[-1]


def _show_images(run: StoredRun, count: int, columns: int) -> None:
    from cfm_tui.display.progress import format_beta

    images = run.images(first=count)
    labels = [
        f"{images.classes[label]} {format_beta(beta)}".rstrip()
        for label, beta in zip(images.labels_N, images.beta_N, strict=True)
    ]
    echo(f"{draw_images(images.pixels_NCHW, labels, columns)}\n", coloured=True)
