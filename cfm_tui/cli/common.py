"""Options that several commands share, and JSON output on stdout."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

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
DataRoot = Annotated[Path | None, typer.Option(help="The folder that holds the data set.")]
Teacher = Annotated[str | None, typer.Option(help="A checkpoint file, or torchvision:WEIGHTS.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]


def format_json(document: Mapping[str, Any]) -> str:
    """Format a document as JSON, with its `schema_version` first."""
    return json.dumps({"schema_version": 1, **document}, ensure_ascii=False, indent=2)


def print_json(document: Mapping[str, Any]) -> None:
    """Print a document as JSON, with its `schema_version` first."""
    typer.echo(format_json(document))
