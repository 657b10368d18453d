"""`cfm data`: list, download and check image sets.

Engine modules are imported inside the commands, so that `cfm --help` stays fast.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cfm_tui.cli.common import Json, echo, print_json

if TYPE_CHECKING:
    from engine import config

app = typer.Typer(name="data", no_args_is_help=True, help="List, download and check image sets.")

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
    """List the known sets and their locations."""
    from engine.data.sources import data_root, expand_path
    from engine.runs import preview

    folder = expand_path(root or data_root())
    sets = [
        {key: getattr(known, key) for key in ("name", "title", "classes", "images")}
        | {"found": known.available, "path": str(known.path) if known.path else None}
        | {"downloadable": known.url is not None, "url": known.url, "note": known.note}
        for known in preview.list_datasets(folder)
    ]
    if as_json:
        print_json({"root": str(folder), "sets": sets})
        return
    from engine.errors import quote_command

    echo(f"data root: {folder}")
    for entry in sets:
        place = f"at {entry['path']}" if entry["path"] else entry["note"]
        if entry["downloadable"] and not entry["path"]:
            place = f"not found; {quote_command('data get', entry['name'])} downloads it"
        echo(f"{entry['name']:<14} {entry['title']}\n{'':<14} {place}")


@app.command()
def get(
    name: Annotated[str, typer.Argument(help="Name of the set, as in `cfm data list`.")],
    root: Annotated[
        Path | None,
        typer.Option("--root", help="Folder to put it in.", show_default="the user's data folder"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Download, verify and unpack a set; an interrupted download is resumed."""
    from engine.data import download

    _require_known(name)
    path = None
    if name != "digits":
        with _show_progress({"download": "bytes", "unpack": "files"}) as report:
            path = download.download_data_set(name, root, report)
    if as_json:
        print_json({"name": name, "path": str(path) if path else None})
    else:
        echo(f"{name} is at {path}" if path else f"{name} comes with the program; nothing to download")


@app.command()
def check(
    name: Annotated[
        str | None, typer.Argument(help="Name of the set. Default: folder if --root is given, else digits.")
    ] = None,
    root: Root = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="As in cfm run, e.g. data.image_size=64."),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(help="A checkpoint file; reports whether it has the classes in the order of the set."),
    ] = None,
    save_class_order: Annotated[
        Path | None,
        typer.Option(help="A file to write the teacher's order of the classes to, for data.class_order."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Read every image of a set and summarise it; unreadable files are listed by name.

    The network of a teacher is set as in cfm run: --set backbone.name=resnet18.
    """
    from engine.data import check as checking

    settings = _resolve_data_settings(name, root, sets or [])
    with _show_progress({"read": "files"}) as report:
        summary = checking.check(settings, progress=lambda done, total: report("read", done, total))
    if teacher is not None:
        summary["teacher"] = _examine_teacher(settings, sets or [], teacher, save_class_order)
    if as_json:
        print_json(summary)
        return
    echo("\n".join(_format_summary(summary)))


def _require_known(name: str) -> None:
    """Raise UserError("usage") for an unknown set, suggesting the closest name."""
    from engine.data.catalogue import KNOWN
    from engine.errors import UserError, suggest_name

    if name not in KNOWN:
        hint = suggest_name(name, KNOWN, f"use one of {', '.join(KNOWN)}")
        raise UserError("usage", f"unknown data set {name!r}", hint)


def _resolve_data_settings(name: str | None, root: Path | None, sets: list[str]) -> config.Data:
    """Return the `data` settings from options and environment; presets are ignored."""
    from engine.config import Data, settings

    resolved = settings.resolve(sets=sets, overrides={"data.root": root}, environ=os.environ)
    data = {
        key.removeprefix("data."): value
        for key, value in resolved.config.flatten().items()
        if key.startswith("data.") and resolved.origins[key].startswith(("flag", "environment"))
    }
    name = name or data.get("name") or ("folder" if root else "digits")
    _require_known(name)
    return Data.model_validate({**data, "name": name})


def _examine_teacher(
    data_settings: config.Data, sets: list[str], teacher: str, save_class_order: Path | None
) -> dict[str, Any]:
    """Return how a teacher's answers agree with the labels, and the order of the classes of its outputs."""
    from dataclasses import asdict

    from engine import device as devices
    from engine.config import settings
    from engine.config.teacher_source import require_teacher_files
    from engine.data import load
    from engine.runs import artefacts
    from engine.store import files

    resolved = settings.resolve(sets=sets, overrides={"backbone.teacher": teacher}, environ=os.environ).config
    chosen = resolved.model_copy(update={"data": data_settings})
    require_teacher_files(chosen.backbone)
    data = load(data_settings)
    findings = artefacts.examine_given_teacher(chosen, data, devices.choose(chosen.device))
    if save_class_order is not None:
        text = "".join(f"{each}\n" for each in findings.class_order or data.train.classes)
        files.write(save_class_order, text.encode())
    normalisation = None
    if findings.normalisation is not None:
        name, (mean, std), accuracy = findings.normalisation
        normalisation = {"name": name, "mean": list(mean), "std": list(std), "accuracy": accuracy}
    return {"source": teacher, **asdict(findings), "normalisation": normalisation}


def _format_teacher(teacher: dict[str, Any]) -> Iterator[str]:
    """Yield the lines about the teacher."""
    from engine.config import settings

    yield (
        f"teacher      {teacher['accuracy']:.1f} % of {teacher['images']:,} training images right,"
        f" mean confidence {teacher['confidence']:.1f} %"
    )
    if teacher["class_order"] is not None:
        (assignment,) = settings.format_sets({"data.class_order": list(teacher["class_order"])})
        yield f"             {teacher['reordered_accuracy']:.1f} % right in its own order of the classes:"
        yield assignment
    if (better := teacher["normalisation"]) is not None:
        assignments = settings.format_sets({"data.mean": better["mean"], "data.std": better["std"]})
        yield f"             {better['accuracy']:.1f} % right with {better['name']}: {' '.join(assignments)}"


def _format_summary(summary: dict[str, Any]) -> Iterator[str]:
    """Yield the lines that `check` prints."""
    from engine.errors import escape_name, format_names

    yield f"{summary['name']}: {escape_name(summary['path'] or summary['layout'])}"
    if summary["path"]:
        yield f"layout       {summary['layout']}"
    names = ", ".join(map(escape_name, summary["class_names"][:10])) + (
        ", …" if summary["classes"] > 10 else ""
    )
    yield f"classes      {summary['classes']} ({names})"
    for name, split in summary["splits"].items():
        low, high = split["per_class"]["min"], split["per_class"]["max"]
        per_class = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        held_out = ", held out of the training set" if split["held_out"] else ""
        yield f"{name:<12} {split['images']:,} images, {per_class} per class{held_out}"
    sizes = [f"{size['width']}×{size['height']} ({size['images']:,})" for size in summary["resolutions"]]
    yield f"resolution   {format_names(sizes)}"
    streamed = ", read from the files on demand" if summary["streamed"] else ""
    yield f"used as      {summary['channels']}×{summary['image_size']}×{summary['image_size']}{streamed}"
    for title, values in (("normalised", summary), ("measured", summary["measured"])):
        if not summary["mean"]:  # no picture can be read
            break
        mean, std = (" ".join(f"{value:.4f}" for value in values[key]) for key in ("mean", "std"))
        yield f"{title:<12} mean {mean}, std {std}"
    for text, count in summary["conversions"].items():
        yield f"converted    {count:,}: {text}"
    if summary["not_read"]:
        endings = [f"{ending} ({count:,})" for ending, count in summary["not_read"].items()]
        yield f"not read     {sum(summary['not_read'].values()):,}: {format_names(endings)}"
    yield f"unreadable   {len(summary['unreadable']):,}"
    for entry in summary["unreadable"]:
        yield f"  {escape_name(entry['file'])}: {entry['reason']}"
    for problem in summary["problems"]:
        yield f"problem      {problem}"
    if "teacher" in summary:
        yield from _format_teacher(summary["teacher"])


@contextmanager
def _show_progress(units: dict[str, str]) -> Iterator[Callable[[str, int, int], None]]:
    """Yield a function (phase, done, total) that reports progress on stderr.

    It draws a bar on a terminal. Elsewhere it prints a line per 10 %, or per 16 Mi units where the total is
    unknown. units: by phase.
    """
    last_step: dict[str, int] = {}

    def print_line(phase: str, done: int, total: int) -> None:
        step = done * 10 // total if total else done // 2**24
        if last_step.get(phase) != step:
            last_step[phase] = step
            of = f" of {total:,}" if total else ""
            echo(f"{phase}: {done:,}{of} {units[phase]}", err=True)

    def update_bar(phase: str, done: int, total: int) -> None:
        bars.update(tasks[phase], completed=done, total=total or None, visible=True)

    if not sys.stderr.isatty():
        yield print_line
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bars:
        tasks = {phase: bars.add_task(f"{phase} ({unit})", visible=False) for phase, unit in units.items()}
        yield update_bar
