"""`cfm report`: write one HTML page with every figure of a run, or of several side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cfm_tui.cli.common import Device, Json, Quiet, Where, echo, print_json, select_runs

if TYPE_CHECKING:
    from cfm_tui.display.progress import Display
    from engine.report.document import Report


def report(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN", help="Runs by folder or name, or folders of runs (a sweep's).", show_default=False
        ),
    ] = None,
    where: Where = None,
    out: Annotated[
        Path | None, typer.Option(help="The HTML file.", show_default="report-NAME.html here")
    ] = None,
    png: Annotated[Path | None, typer.Option(help="Also save each figure as PNG in this folder.")] = None,
    device: Device = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write images, losses, spectra, similarity and accuracies of runs into one self-contained HTML file.

    With --json, print the numbers of every figure, and write the file only if --out is given.
    """
    from cfm_tui.display.progress import open_display
    from engine.store.files import require_writable

    names = select_runs(runs, where)
    if out is not None or not as_json:
        place = (out or Path("report.html")).absolute().parent
        require_writable(place, "choose another file with --out")
    if png is not None:
        require_writable(png, "choose another folder with --png")
    with open_display(quiet) as display:
        built = _build_report(names, device, display)
        path = out
        if path is None and not as_json:  # here, because a run's folder holds only files of the run
            path = Path(f"report-{Path(names[0]).resolve().name}.html" if len(names) == 1 else "report.html")
        if path is not None:
            built.save(path)
        pictures = built.save_pictures(png) if png is not None else []
    if as_json:
        files = {"html": None if path is None else str(path), "png": [str(each) for each in pictures]}
        print_json({**files, **built.numbers()})
        return
    for subject in built.subjects:
        for missing in subject.missing:
            hint = f" → {missing.hint}" if missing.hint else ""
            echo(f"{subject.name}: no {missing.what}: {missing.why}{hint}", err=True)
    echo(str(path))


def _build_report(names: list[str], device: str | None, display: Display) -> Report:
    from engine.report import document

    runs = document.find_runs(names)
    display.say("loading")
    from engine import device as devices
    from engine import store
    from engine.report.lens import Finder
    from engine.runs.artefacts import ComputeContext

    context = ComputeContext(devices.choose(device or "auto"), store.Cache())
    return display.follow(document.create_report(runs, Finder(context, display.reading), names, display.say))
