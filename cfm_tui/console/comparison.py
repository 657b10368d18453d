"""What several runs have in common and what not: curves over each other, settings that differ, results."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cfm_tui.charts import ROLES, Line, letter
from cfm_tui.console import series
from cfm_tui.progress import duration
from cfm_tui.tables import spread
from engine import settings, yaml_file
from engine.events import STAGES
from engine.store import StoredRun, folders

if TYPE_CHECKING:
    from cfm_tui.console.model import RunModel

CURVES = ("CE", "filter terms", "signal terms", "accuracy")
ABSENT = "—"
RESULTS = ("run", "state", "distilled", "random", "best epoch", "teacher", *STAGES, "in all")
Cells = tuple[str, ...]
_DURATION = re.compile(r"(?:(\d+) h ?)?(?:(\d+) min ?)?(?:([\d.]+) s)?(?<=[hns])")


def curves(models: Sequence[RunModel], what: str) -> list[Line]:
    """One of `CURVES` of every run, in the runs' order; an empty line where a run has none."""
    lines = []
    for index, model in enumerate(models):
        found = _curve(model, what)
        colour = ROLES[index % len(ROLES)]
        if found is None:
            lines.append(Line(model.run.name, np.empty(0), np.empty(0), None, colour))
        else:
            lines.append(Line(model.run.name, found.x, found.low, found.high, colour))
    return lines


def _curve(model: RunModel, what: str) -> Line | None:
    if what != "accuracy":
        return next((line for line in series.losses(model) if line.name == what), None)
    lines = series.accuracies(model, "validate")
    return next((line for line in lines if line.name.endswith(" distilled")), None)


def x_label(what: str) -> str:
    """What the curve goes by."""
    return "epoch" if what == "accuracy" else "iteration"


# --- settings -------------------------------------------------------------------------------------


def stored_settings(folder: Path) -> dict[str, str]:
    """A run's settings, written out: dotted key → text. Raises UserError where they cannot be read."""
    StoredRun(folder).config_yaml()  # refused where it is damaged
    config = settings.resolve(file=folder / folders.CONFIG, base=None).config
    return {key: _written(value) for key, value in settings.flat(config).items()}


def _written(value: Any) -> str:
    if isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
        return ", ".join(" ".join(map(str, each.values())) for each in value)
    return ABSENT if value is None else str(value) if isinstance(value, str) else yaml_file.inline(value)


def differing(found: Sequence[dict[str, str] | None]) -> list[Cells]:
    """Keys whose values are not the same in all runs: the key, then each run's value ("?": unreadable)."""
    known = [each for each in found if each is not None]
    keys = dict.fromkeys(key for each in known for key in each)
    rows = []
    for key in keys:
        if len({each.get(key, ABSENT) for each in known}) > 1:
            rows.append((key, *("?" if each is None else each.get(key, ABSENT) for each in found)))
    return rows


# --- results --------------------------------------------------------------------------------------


def results(models: Sequence[RunModel]) -> list[Cells]:
    """A row a run: `RESULTS` of it."""
    return [(f"{letter(index)} {model.run.name}", *_results(model)) for index, model in enumerate(models)]


def _results(model: RunModel) -> Cells:
    found = model.results
    times = [_seconds(model, stage) for stage in STAGES]
    known = [each for each in times if each is not None]
    spent = [ABSENT if each is None else duration(each) for each in times]
    in_all = duration(sum(known)) if known else ABSENT
    if found is None:
        return (str(model.state), ABSENT, ABSENT, ABSENT, ABSENT, *spent, in_all)
    summary = found["summary"]
    told = [spread(summary[name]) for name in ("accuracy", "control", "accuracy_best")]
    return (str(model.state), *told, f"{found['teacher']['accuracy']:.2f}", *spent, in_all)


def _seconds(model: RunModel, stage: str) -> float | None:
    """What a stage took; None where it was not computed, or not yet."""
    if model.results is not None:
        timing = model.results["timings"][stage]
        return None if timing["reused"] else float(timing["seconds"])
    view = model.stages.get(stage)  # type: ignore[call-overload]
    return float(view.seconds) if view is not None and view.state == "done" and view.seconds else None


def number(text: str) -> float:
    """What a cell is sorted by where it is a duration or begins with a number; NaN otherwise."""
    time = _DURATION.fullmatch(text)
    if time:
        return sum(float(part or 0) * unit for part, unit in zip(time.groups(), (3600, 60, 1), strict=True))
    try:
        return float(text.split()[0].replace(",", ""))
    except (ValueError, IndexError):
        return float("nan")


def in_order(rows: Sequence[Cells], column: int, turned: bool) -> list[Cells]:
    """Rows by a column: numbers by size, before text; empty ones last."""

    def key(row: Cells) -> tuple[bool, float, str]:
        value = number(row[column])
        return (value != value, 0.0 if value != value else value, row[column].lower())

    there = sorted((row for row in rows if row[column] != ABSENT), key=key, reverse=turned)
    return there + [row for row in rows if row[column] == ABSENT]


def as_csv(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
