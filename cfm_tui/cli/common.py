"""Options that several commands share, and their output on stdout: JSON, and images as text."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cfm_tui.display.streams import escape_control_characters

if TYPE_CHECKING:
    from numpy.typing import NDArray

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]
Preset = Annotated[
    str | None, typer.Option(help="A shipped or user-defined experiment; see cfm preset list.")
]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="A YAML file in the format of a preset.")]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override one setting, e.g. recover.lr=0.1; repeatable."),
]
Dataset = Annotated[str | None, typer.Option(help="The real data set; see cfm data list.")]
DataRoot = Annotated[Path | None, typer.Option(help="The folder that holds the data set.")]
Teacher = Annotated[str | None, typer.Option(help="A checkpoint file, or torchvision:WEIGHTS.")]
Repeats = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=1000,
        help="Times that everything is computed, each with the next seed; ± is over repeats.",
        show_default="by the preset",
    ),
]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
ExecutionPlanSource = Annotated[
    str | None,
    typer.Option(
        "--plan",
        metavar="FILE|RUN",
        help="Compute as that run did, or as a file says: threads, students together.",
        show_default="measured when the run begins",
    ),
]
RunName = Annotated[str, typer.Argument(help="A run's folder, or its name.")]
RunsFolder = Annotated[
    Path | None, typer.Option(help="The folder of runs.", show_default="$CFM_RUNS, else runs")
]
Where = Annotated[
    str | None,
    typer.Option(
        metavar="QUERY", help="All runs of the runs folder that match, instead of RUN; as cfm runs."
    ),
]
Out = Annotated[Path | None, typer.Option(help="The run's folder.", show_default="a new one in runs/")]
Detach = Annotated[
    bool, typer.Option("--detach", help="Run in a separate process that outlives this terminal.")
]
Paused = Annotated[bool, typer.Option("--paused", help="Pause at once, until `cfm continue`.")]


def name_experiment(preset: str | None, config: Path | None) -> str:
    """Return the name after which the folder of a new run is called: that of the file, else of the preset."""
    from engine.config import settings

    return config.stem if config is not None else preset or settings.DEFAULT_PRESET


def select_runs(targets: Sequence[str] | None, where: str | None) -> list[str]:
    """Return the given targets, or the folders of all runs that match the query `where`.

    Raises UserError("usage") for both or neither, a wrong query, or one that no run matches.
    """
    from engine.errors import UserError

    if bool(targets) == (where is not None):
        problem = "give runs, or a query with --where" + (", not both" if targets else "")
        raise UserError("usage", problem, "`cfm runs QUERY` shows what a query matches")
    if where is None:
        return list(targets or ())
    from cfm_tui.display import run_query
    from cfm_tui.display.run_summary import RunSummary
    from engine import store

    query, runs = run_query.parse(where), store.list_runs()
    matching = [str(run.folder) for run in runs if query.matches(RunSummary.read(run))]
    if not matching:
        problem = f"none of the {len(runs)} runs in {store.runs_folder()} matches {where!r}"
        raise UserError("usage", problem, "`cfm runs` lists them")
    return matching


def echo(text: str = "", *, err: bool = False, coloured: bool = False) -> None:
    """Print a text on stdout or stderr; names in it cannot control the terminal.

    coloured: the text has escape sequences of colours, which are kept.
    """
    printable = escape_control_characters(text, coloured=coloured)
    # The stream is given, because Typer replaces one that is ASCII by one that is UTF-8.
    if err:
        with suppress(OSError):  # a stderr that is full does not stop the work
            typer.echo(printable, file=sys.stderr)
    else:
        typer.echo(printable, file=sys.stdout)


def format_json(document: Mapping[str, Any], encoding: str = "utf-8") -> str:
    """Format a document as JSON, with its `schema_version` first.

    All characters but ASCII are escaped if one of them cannot be encoded or is not printable.
    """
    versioned = {"schema_version": 1, **document}
    text = json.dumps(versioned, ensure_ascii=False, indent=2)
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return json.dumps(versioned, indent=2)
    return text if text == escape_control_characters(text) else json.dumps(versioned, indent=2)


def print_json(document: Mapping[str, Any]) -> None:
    """Print a document as JSON, with its `schema_version` first."""
    echo(format_json(document, sys.stdout.encoding or "utf-8"))


def draw_images(
    images: Sequence[NDArray[Any]] | NDArray[Any], labels: Sequence[str], columns: int, margin: int = 0
) -> str:
    """Draw images (C, H, W) side by side, each `columns` cells wide, as stdout can show them.

    margin: cells of the terminal's width to leave free.
    """
    from cfm_tui.display import terminal
    from cfm_tui.display.ascii_image import grid

    capabilities = terminal.of_stdout()
    return grid(
        images,
        labels,
        width=shutil.get_terminal_size().columns - margin,
        columns=columns,
        mode="half" if terminal.images("auto", capabilities) == "half" else "ascii",
        colours="true" if capabilities.colours == "true" else 256,
    )
