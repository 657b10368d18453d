"""What several runs have in common and what not: curves over each other, settings that differ, results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cfm_tui.console import formatting
from cfm_tui.display import plot_data
from cfm_tui.display.charts import ROLES, Line, letter
from cfm_tui.display.progress import format_duration
from engine.config import settings, yaml_io
from engine.events import STAGES
from engine.runs.results import format_mean_std
from engine.store import StoredRun, folders

if TYPE_CHECKING:
    from cfm_tui.display.run_state import RunModel

CURVES = ("CE", "filter terms", "signal terms", "accuracy", "control")
TRAINED = {"accuracy": "distilled", "control": "random"}  #: curves of students, and what they are trained on
ABSENT = "—"
RESULTS = ("run", "state", "distilled", "random", "best epoch", "teacher", *STAGES, "in all")


class Cell(NamedTuple):
    """Of a table. value: what it is sorted by, where it is a number."""

    text: str
    value: float | None = None


Row = tuple[Cell, ...]


def curves(models: Sequence[RunModel], what: str) -> list[Line]:
    """One of `CURVES` of every run, in the runs' order; an empty line where a run has none.

    A line of accuracies, of students or of their control, names the student, too: runs may have trained
    different ones.
    """
    lines = []
    for index, model in enumerate(models):
        name, colour = model.run.name, ROLES[index % len(ROLES)]
        student = _student(model) if what in TRAINED else ""
        found = _curve(model, what, student)
        if found is None:
            lines.append(Line(name, np.empty(0), np.empty(0), None, colour))
        else:
            name += f" ({student})" if student else ""
            lines.append(Line(name, found.x, found.low, found.high, colour))
    return lines


def _student(model: RunModel) -> str:
    """The architecture that was trained first, as results tell it; empty before there is one."""
    known = (key for key in model.trainings if key[0] == "validate" and key[2] == "distilled")
    return next((architecture for _, architecture, _, _ in known), "")


def _curve(model: RunModel, what: str, student: str) -> Line | None:
    lines = plot_data.accuracies(model, "validate") if student else plot_data.losses(model)
    wanted = f"{student} {TRAINED[what]}" if student else what
    return next((line for line in lines if line.name == wanted), None)


def x_label(what: str) -> str:
    """What the curve goes by."""
    return "epoch" if what in TRAINED else "iteration"


# --- settings -------------------------------------------------------------------------------------


def stored_settings(folder: Path) -> dict[str, Cell]:
    """A run's settings, written out: dotted key → cell. Raises UserError where they cannot be read."""
    StoredRun(folder).config_yaml()  # refused where it is damaged
    config = settings.resolve(file=folder / folders.CONFIG, base=None).config
    return {key: _written(value) for key, value in settings.flat(config).items()}


def _written(value: Any) -> Cell:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return Cell(_text(value), float(value) if number else None)


def _text(value: Any) -> str:
    if isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
        return ", ".join(" ".join(map(str, each.values())) for each in value)
    return ABSENT if value is None else str(value) if isinstance(value, str) else yaml_io.inline(value)


def differing(found: Sequence[dict[str, Cell] | None]) -> list[Row]:
    """Keys whose values are not the same in all runs: the key, then each run's value ("?": unreadable)."""
    known = [each for each in found if each is not None]
    keys = dict.fromkeys(key for each in known for key in each)
    rows = []
    for key in keys:
        if len({each.get(key, Cell(ABSENT)).text for each in known}) > 1:
            told = (Cell("?") if each is None else each.get(key, Cell(ABSENT)) for each in found)
            rows.append((Cell(key), *told))
    return rows


# --- results --------------------------------------------------------------------------------------


def results(models: Sequence[RunModel]) -> list[Row]:
    """A row a run: `RESULTS` of it."""
    return [
        (Cell(f"{letter(index)} {model.run.name}"), *_results(model)) for index, model in enumerate(models)
    ]


def _results(model: RunModel) -> Row:
    found = model.results
    times = [formatting.spent(model, stage) for stage in STAGES]
    spent = [_time(each) for each in (*times, formatting.in_all(model))]
    if found is None:
        return (Cell(str(model.state)), *[Cell(ABSENT)] * 4, *spent)
    summary, teacher = found["summary"], float(found["teacher"]["accuracy"])
    told = [_percent(summary[name]) for name in ("accuracy", "control", "accuracy_best")]
    return (Cell(str(model.state)), *told, Cell(f"{teacher:.2f}", teacher), *spent)


def _time(seconds: float | None) -> Cell:
    return Cell(ABSENT) if seconds is None else Cell(format_duration(seconds), seconds)


def _percent(found: dict[str, Any] | None) -> Cell:
    return Cell(format_mean_std(found), None if found is None else float(found["mean"]))


def in_order(rows: Sequence[Row], column: int, turned: bool) -> list[Row]:
    """Rows by a column: those with a value by its size, before texts; empty ones last."""

    def key(row: Row) -> tuple[bool, float, str]:
        text, value = row[column]
        return (value is None, value or 0.0, text.lower())

    there = sorted((row for row in rows if row[column].text != ABSENT), key=key, reverse=turned)
    return there + [row for row in rows if row[column].text == ABSENT]


def texts(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """What is read of a table."""
    return [tuple(cell.text for cell in row) for row in rows]
