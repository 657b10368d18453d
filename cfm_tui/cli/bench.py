"""`cfm bench`: measure how fast this machine runs an experiment, and how long a whole run will take."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cfm_tui.cli.common import (
    ConfigFile,
    DataRoot,
    Device,
    Json,
    Preset,
    Quiet,
    Repeats,
    Sets,
    Teacher,
    echo,
    print_json,
)  # fmt: skip

if TYPE_CHECKING:
    from cfm_tui.display.progress import Display
    from engine.config import Config

_SECONDS = 60.0


def bench(
    preset: Preset = None,
    config: ConfigFile = None,
    sets: Sets = None,
    data_root: DataRoot = None,
    teacher: Teacher = None,
    repeats: Repeats = None,
    device: Device = None,
    seconds: Annotated[
        float, typer.Option(min=1, max=3600, help="How long to measure, about; longer is more accurate.")
    ] = _SECONDS,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure each stage of an experiment on this machine, and estimate how long a whole run takes.

    Nothing is written. The result is a Markdown table, ready to be pasted into an issue.
    """
    from cfm_tui.display.progress import open_display
    from engine.config import settings

    given = {"data.root": data_root, "backbone.teacher": teacher, "repeats": repeats, "device": device}
    resolved = settings.resolve(
        preset=preset, file=config, sets=sets or (), overrides=given, environ=os.environ
    )
    with open_display(quiet) as display:
        document = {"command": ["cfm", *sys.argv[1:]], **_measure(resolved.config, seconds, display)}
    if as_json:
        print_json(document)
    else:
        from cfm_tui.display.bench_table import bench_table

        echo(bench_table(document))


def _measure(config: Config, seconds: float, display: Display) -> dict[str, Any]:
    display.say("loading")
    import psutil

    from engine import store
    from engine.runs import bench, plan

    planned = plan.prepare(config, display.reading).choose_execution()  # as the run will
    start_seconds = time.time() - psutil.Process().create_time()  # a run's beginning is the same
    document = bench.measure(planned, store.Cache(), seconds, display.say)
    total_seconds = start_seconds + sum(document["seconds"].values())
    return {**document, "start_seconds": start_seconds, "total_seconds": total_seconds}
