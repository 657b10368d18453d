"""Options that several commands share, and their output on stdout: JSON, and images as text."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

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
RunName = Annotated[str, typer.Argument(help="A run's folder, or its name.")]
RunsFolder = Annotated[
    Path | None, typer.Option(help="The folder of runs.", show_default="$CFM_RUNS, else runs")
]
Out = Annotated[Path | None, typer.Option(help="The run's folder.", show_default="a new one in runs/")]
Detach = Annotated[
    bool, typer.Option("--detach", help="Run in a separate process that outlives this terminal.")
]


def format_json(document: Mapping[str, Any]) -> str:
    """Format a document as JSON, with its `schema_version` first."""
    return json.dumps({"schema_version": 1, **document}, ensure_ascii=False, indent=2)


def print_json(document: Mapping[str, Any]) -> None:
    """Print a document as JSON, with its `schema_version` first."""
    typer.echo(format_json(document))


def draw_images(
    images: Sequence[NDArray[Any]] | NDArray[Any], labels: Sequence[str], columns: int, margin: int = 0
) -> str:
    """Draw images (C, H, W) side by side, each `columns` cells wide, in colour where stdout is a terminal.

    margin: cells of the terminal's width to leave free.
    """
    from cfm_tui.display.ascii_image import grid

    return grid(
        images,
        labels,
        width=shutil.get_terminal_size().columns - margin,
        columns=columns,
        mode="half" if sys.stdout.isatty() and "NO_COLOR" not in os.environ else "ascii",
        colours="true" if os.environ.get("COLORTERM") in ("truecolor", "24bit") else 256,
    )
