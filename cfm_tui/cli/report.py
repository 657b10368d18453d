"""`cfm report`: one page with every figure of a run, or of several beside each other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cfm_tui.cli.common import Device, Json, Quiet, print_json

if TYPE_CHECKING:
    from cfm_tui.display.progress import Display
    from engine.report.document import Report


def report(
    runs: Annotated[
        list[str], typer.Argument(help="Runs by folder or name, or folders of runs (a sweep's).")
    ],
    out: Annotated[
        Path | None, typer.Option(help="The HTML file.", show_default="report-NAME.html here")
    ] = None,
    png: Annotated[Path | None, typer.Option(help="A folder for each figure as PNG, too.")] = None,
    device: Device = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Draw what runs left into one self-contained HTML file: images, losses, spectra, similarity, accuracies.

    With --json, the numbers of every figure are printed, and the file is written where --out says so.
    """
    from cfm_tui.display.progress import open_display

    with open_display(quiet) as display:
        made = _made(runs, device, display)
        path = out if out is not None or as_json else _place(runs)
        if path is not None:
            made.save(path)
        pictures = made.save_pictures(png) if png is not None else []
    if as_json:
        print_json(_document(made, path, pictures))
        return
    for own in made.subjects:
        for each in own.missing:
            hint = f" → {each.hint}" if each.hint else ""
            typer.echo(f"{own.name}: no {each.what}: {each.why}{hint}", err=True)
    typer.echo(str(path))


def _made(names: list[str], device: str | None, display: Display) -> Report:
    from engine.report import document

    runs = document.runs_of(names)
    display.say("loading")
    from engine import device as devices
    from engine import store
    from engine.report.lens import Finder
    from engine.runs.artefacts import ComputeContext

    place = ComputeContext(devices.choose(device or "auto"), store.Cache())
    return display.follow(document.make(runs, Finder(place, display.reading), names, display.say))


def _place(names: list[str]) -> Path:
    """In the current folder: a run's own is for what belongs to the run."""
    return Path(f"report-{Path(names[0]).resolve().name}.html" if len(names) == 1 else "report.html")


def _document(made: Report, path: Path | None, pictures: list[Path]) -> dict[str, Any]:
    files = {"html": None if path is None else str(path), "png": [str(each) for each in pictures]}
    return {**files, **made.numbers()}
