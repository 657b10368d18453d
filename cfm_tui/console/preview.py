"""A run as text beside the list of runs: its settings and results, without reading its journal."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from rich.cells import cell_len

from cfm_tui.console.columns import draw_bar
from cfm_tui.console.formatting import describe_summary
from cfm_tui.display.progress import format_age, format_count, format_duration
from cfm_tui.display.run_summary import RunSummary
from engine.runs.results import read_results
from engine.store import StoredRun


def describe_preview(run: RunSummary, width: int) -> list[str]:
    """Return the lines about a run: its progress or failure, settings and results.

    Raises UserError("disk") where its files cannot be read.
    """
    if run.state in ("damaged", "newer"):
        return []
    stored = StoredRun(run.folder)
    lines = _describe_progress(run, width)
    if message := str(stored.status().get("message") or ""):
        lines += textwrap.wrap(message, width)
    lines += ["", *_align(describe_settings(run), width)]
    results = read_results(stored)
    if results is not None:
        lines += ["", *describe_summary(results, run.settings, width)]
    elif run.latest is not None:
        lines += ["", f"latest accuracy {run.latest:.2f} %"]
    return lines


def _describe_progress(run: RunSummary, width: int) -> list[str]:
    parts = [] if run.age_seconds is None else [f"created {format_age(run.age_seconds)} ago"]
    if run.seconds is not None:
        parts.append(f"computed in {format_duration(run.seconds)}")
    if run.seconds_left is not None:
        parts.append(f"{format_duration(run.seconds_left)} left")
    lines = textwrap.wrap(", ".join(parts), width)
    if run.state != "finished" and run.stage and run.done is not None:
        bar = draw_bar(run.done, max(width - cell_len(run.stage) - 6, 1))
        lines.append(f"{run.stage} {bar} {run.done:>4.0%}")
    return lines


def describe_settings(run: RunSummary) -> list[tuple[str, str]]:
    """Return the settings that matter most, as pairs of a name and a value."""

    def text(key: str, form: str = "{}") -> str:
        value = run.setting(key)
        return "" if value is None else form.format(value)

    def count(key: str, unit: str) -> str:
        value = run.setting(key)
        return format_count(value, unit) if isinstance(value, int) else ""

    method = text("objective.method"), text("objective.beta", "β {}"), text("objective.schedule.kind")
    rows = [
        ("data", (text("data.name"), text("ipc", "{} per class"))),
        ("network", (text("backbone.name"), "teacher given" if text("backbone.teacher") else "")),
        ("method", method),
        ("recover", (count("recover.iterations", "iterations"), text("recover.lr", "lr {}"))),
        ("labels", (text("relabel.mode"),)),
        ("validate", (count("validate.epochs", "epochs"), count("validate.seeds", "students"))),
        ("seed", (text("seed"), count("repeats", "repeats"))),
    ]
    return [(name, ", ".join(filter(None, values))) for name, values in rows if any(values)]


def _align(rows: Sequence[tuple[str, str]], width: int) -> list[str]:
    longest = max((cell_len(name) for name, _ in rows), default=0)
    lines = []
    for name, value in rows:
        first, *rest = textwrap.wrap(value, max(width - longest - 2, 8)) or [""]
        lines += [f"{name:<{longest}}  {first}", *(" " * (longest + 2) + part for part in rest)]
    return lines
