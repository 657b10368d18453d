"""`cfm data`: which image sets are known and where, fetching them, and what a folder holds.

Engine modules are imported inside the commands, so that `cfm --help` stays quick.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cfm_tui.cli.common import Json, print_json

if TYPE_CHECKING:
    from engine import config

app = typer.Typer(no_args_is_help=True, help="List, fetch and check image sets.")

Root = Annotated[
    Path | None,
    typer.Option(
        "--root",
        help="Folder of the data set, or its parent; else CFM_DATA_ROOT, else the user's data folder.",
        show_default=False,
    ),
]


@app.command("list")
def list_sets(root: Root = None, as_json: Json = False) -> None:
    """List the known sets, and where each was found."""
    from engine.data.places import data_root, expanded
    from engine.runs import preview

    folder = expanded(root or data_root())
    sets = [
        {
            "name": known.name,
            "title": known.title,
            "classes": known.classes,
            "images": known.images,
            "found": known.found,
            "path": str(known.path) if known.path else None,
            "downloadable": known.url is not None,
            "url": known.url,
            "note": known.note,
        }
        for known in preview.list_datasets(folder)
    ]
    if as_json:
        print_json({"root": str(folder), "sets": sets})
        return
    typer.echo(f"data root: {folder}")
    for entry in sets:
        typer.echo(f"{entry['name']:<14} {entry['title']}\n{'':<14} {_where(entry)}")


def _where(entry: dict[str, Any]) -> str:
    if entry["path"]:
        return f"at {entry['path']}"
    if entry["downloadable"]:
        return f"not there; `cfm data get {entry['name']}` fetches it"
    return str(entry["note"])


@app.command()
def get(
    name: Annotated[str, typer.Argument(help="Name of the set, as in `cfm data list`.")],
    root: Annotated[
        Path | None,
        typer.Option("--root", help="Folder to put it in.", show_default="the user's data folder"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Download a set, going on from where an earlier try was cut, and verify and unpack it."""
    from engine.data import download

    _known(name)
    if name == "digits":
        path = None
    else:
        with _progress({"download": "bytes", "unpack": "files"}) as report:
            path = download.get(name, root, report)
    if as_json:
        print_json({"name": name, "path": str(path) if path else None})
    else:
        typer.echo(f"{name} is at {path}" if path else f"{name} comes with the program; nothing to get")


@app.command()
def check(
    name: Annotated[
        str | None,
        typer.Argument(help="Name of the set. Default: folder where --root is given, else digits."),
    ] = None,
    root: Root = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="As in cfm run, e.g. data.image_size=64."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Read every picture of a set and tell what is there; unreadable files are listed by name."""
    from engine.data import check as checking

    settings = _settings(name, root, sets or [])
    with _progress({"read": "files"}) as report:
        found = checking.check(settings, progress=lambda done, total: report("read", done, total))
    if as_json:
        print_json(found)
        return
    for line in _lines(found):
        typer.echo(line)


def _known(name: str) -> None:
    """Refuse a name that is no set's, offering the nearest."""
    import difflib

    from engine.data.catalogue import KNOWN
    from engine.errors import UserError

    if name not in KNOWN:
        near = difflib.get_close_matches(name, KNOWN, n=1)
        offer = f"did you mean {near[0]}?" if near else f"known: {', '.join(KNOWN)}"
        raise UserError("usage", f"no data set is called {name!r}", offer)


def _settings(name: str | None, root: Path | None, sets: list[str]) -> config.Data:
    """What flags and environment say of the data; presets have no say here."""
    from engine.config import Data, settings

    resolved = settings.resolve(sets=sets, overrides={"data.root": root}, environ=os.environ)
    data = {
        key.removeprefix("data."): value
        for key, value in settings.flat(resolved.config).items()
        if key.startswith("data.") and resolved.origins[key].startswith(("flag", "environment"))
    }
    name = name or data.get("name") or ("folder" if root else "digits")
    _known(name)
    return Data.model_validate({**data, "name": name})


def _lines(found: dict[str, Any]) -> Iterator[str]:
    yield f"{found['name']}: {found['path'] or found['layout']}"
    if found["path"]:
        yield f"layout       {found['layout']}"
    shown = ", ".join(found["class_names"][:10]) + (", …" if found["classes"] > 10 else "")
    yield f"classes      {found['classes']} ({shown})"
    for name, split in found["splits"].items():
        low, high = split["per_class"]["min"], split["per_class"]["max"]
        each = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        held = ", held out of the training set" if split["held_out"] else ""
        yield f"{name:<12} {split['images']:,} images, {each} a class{held}"
    sizes = [f"{size['width']}×{size['height']} ({size['images']:,})" for size in found["resolutions"]]
    yield f"resolution   {', '.join(sizes[:5])}" + (f" and {len(sizes) - 5:,} more" if len(sizes) > 5 else "")
    streamed = ", read from the files as they are needed" if found["streamed"] else ""
    yield f"used as      {found['channels']}×{found['image_size']}×{found['image_size']}{streamed}"
    for title, values in (("normalised", found), ("measured", found["measured"])):
        mean, std = (" ".join(f"{value:.4f}" for value in values[key]) for key in ("mean", "std"))
        yield f"{title:<12} mean {mean}, std {std}"
    yield f"unreadable   {len(found['unreadable']):,}"
    for bad in found["unreadable"]:
        yield f"  {bad['file']}: {bad['reason']}"


@contextmanager
def _progress(units: dict[str, str]) -> Iterator[Callable[[str, int, int], None]]:
    """A function (phase, done, total) that shows progress on stderr: a bar, or lines where no one looks."""
    if not sys.stderr.isatty():
        yield _line_printer(units)
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bars:
        tasks = {phase: bars.add_task(f"{phase} ({unit})", visible=False) for phase, unit in units.items()}

        def report(phase: str, done: int, total: int) -> None:
            bars.update(tasks[phase], completed=done, total=total or None, visible=True)

        yield report


def _line_printer(units: dict[str, str]) -> Callable[[str, int, int], None]:
    """A line for every tenth of the way."""
    told: dict[str, int] = {}

    def report(phase: str, done: int, total: int) -> None:
        tenth = done * 10 // total if total else done // 2**24
        if told.get(phase) != tenth:
            told[phase] = tenth
            of = f" of {total:,}" if total else ""
            typer.echo(f"{phase}: {done:,}{of} {units[phase]}", err=True)

    return report
