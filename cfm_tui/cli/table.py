"""`cfm table`: compare the runs of a sweep with the paper's numbers and the control."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cfm_tui.cli.common import Json, Where, echo, format_json, select_runs


def table(
    targets: Annotated[
        list[str] | None,
        typer.Argument(metavar="SWEEP|RUN", help="A sweep, or runs, by folder or name.", show_default=False),
    ] = None,
    where: Where = None,
    against: Annotated[
        str | None,
        typer.Option(metavar="ROW", help="The row to compare with, or best.", show_default="cfm, else best"),
    ] = None,
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="text, markdown, latex, csv or json.",
            show_default="by --out's suffix, else text",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the table into this file.")] = None,
    as_json: Json = False,
) -> None:
    """Compare methods by setting: mean ± std, the paper's numbers, the control, significant differences."""
    form = _choose_format("json" if as_json else form, out)
    from engine.report.tables import table as build_table
    from engine.store.files import make_folders, require_writable, write

    if out is not None:
        require_writable(out.absolute().parent, "choose another file with --out")

    document = build_table(
        select_runs(targets, where), against, lambda reason: echo(f"left out: {reason}", err=True)
    )
    if form == "json":
        text = format_json(document)
    else:
        from cfm_tui.display.tables import format_comparison

        text = format_comparison(document, form)
    if out is None:
        echo(text)
        return
    make_folders(out.absolute().parent)
    write(out, (text + "\n").encode())
    if as_json:
        echo(text)


def _choose_format(form: str | None, out: Path | None) -> str:
    """Return --format if given, else the format of --out's suffix, else "text"."""
    formats = ("text", "markdown", "latex", "csv", "json")
    if form is None and out is not None:
        suffixes = {".md": "markdown", ".tex": "latex", ".csv": "csv", ".json": "json", ".txt": "text"}
        if out.suffix.lower() not in suffixes:
            message = f"--out {out.name[:60]!r} does not end in {', '.join(suffixes)}; give --format"
            raise typer.BadParameter(message)
        return suffixes[out.suffix.lower()]
    if form is None:
        return "text"
    if form not in formats:
        raise typer.BadParameter(f"--format {form[:20]!r} is not one of {', '.join(formats)}")
    return form
