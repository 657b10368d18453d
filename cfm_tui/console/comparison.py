"""Comparison of several runs: their curves, differing settings, and results."""

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
from engine.store import StoredRun

if TYPE_CHECKING:
    from cfm_tui.display.run_state import RunModel

CURVES = ("CE", "filter terms", "signal terms", "accuracy", "control")
TRAINED = {"accuracy": "distilled", "control": "random"}  #: student curves, and the images they train on
ABSENT = "—"
RESULTS = ("run", "state", "distilled", "random", "best epoch", "teacher", *STAGES, "in all")


class Cell(NamedTuple):
    """A table cell. value: the number to sort by; None for a cell that is sorted as text."""

    text: str
    value: float | None = None


Row = tuple[Cell, ...]


def curves(models: Sequence[RunModel], what: str) -> list[Line]:
    """Return one of `CURVES` for every run, in the order of the runs; an empty line where a run has none.

    The name of an accuracy line includes the student, since runs may have trained different ones.
    """
    lines = []
    for index, model in enumerate(models):
        name, colour = model.run.name, ROLES[index % len(ROLES)]
        student = _find_student(model) if what in TRAINED else ""
        curve = _find_curve(model, what, student)
        if curve is None:
            lines.append(Line(name, np.empty(0), np.empty(0), None, colour))
        else:
            name += f" ({student})" if student else ""
            lines.append(Line(name, curve.x, curve.low, curve.high, colour))
    return lines


def _find_student(model: RunModel) -> str:
    """Return the architecture of the first trained student; empty before there is one."""
    student_keys = (key for key in model.trainings if key[0] == "validate" and key[2] == "distilled")
    return next((architecture for _, architecture, _, _ in student_keys), "")


def _find_curve(model: RunModel, what: str, student: str) -> Line | None:
    lines = plot_data.accuracies(model, "validate") if student else plot_data.losses(model)
    name = f"{student} {TRAINED[what]}" if student else what
    return next((line for line in lines if line.name == name), None)


def x_label(what: str) -> str:
    """Return the name of a curve's x axis."""
    return "epoch" if what in TRAINED else "iteration"


# --- settings -------------------------------------------------------------------------------------


def stored_settings(folder: Path) -> dict[str, Cell]:
    """Return all settings of a run: dotted key → cell. Raises UserError where they cannot be read."""
    config = settings.load_stored(StoredRun(folder)).config
    return {key: _make_cell(value) for key, value in config.flatten().items()}


def _make_cell(value: Any) -> Cell:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return Cell(_format_setting(value), float(value) if is_number else None)


def _format_setting(value: Any) -> str:
    if isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
        return ", ".join(" ".join(map(str, each.values())) for each in value)
    return ABSENT if value is None else str(value) if isinstance(value, str) else yaml_io.inline(value)


def differing(settings_of_runs: Sequence[dict[str, Cell] | None]) -> list[Row]:
    """Return a row for every key that differs between runs: the key, then each run's value.

    settings_of_runs: None for unreadable settings, whose values are "?".
    """
    readable = [each for each in settings_of_runs if each is not None]
    keys = dict.fromkeys(key for each in readable for key in each)
    rows = []
    for key in keys:
        if len({each.get(key, Cell(ABSENT)).text for each in readable}) > 1:
            values = (Cell("?") if each is None else each.get(key, Cell(ABSENT)) for each in settings_of_runs)
            rows.append((Cell(key), *values))
    return rows


# --- results --------------------------------------------------------------------------------------


def results(models: Sequence[RunModel]) -> list[Row]:
    """Return a row for every run with the columns `RESULTS`."""
    return [
        (Cell(f"{letter(index)} {model.run.name}"), *_result_cells(model))
        for index, model in enumerate(models)
    ]


def _result_cells(model: RunModel) -> Row:
    """Return the cells of a run's results, without its name."""
    run_results = model.results
    seconds = (*(formatting.stage_seconds(model, stage) for stage in STAGES), formatting.total_seconds(model))
    times = [_time_cell(each) for each in seconds]
    if run_results is None:
        return (Cell(str(model.state)), *[Cell(ABSENT)] * 4, *times)
    summary, teacher = run_results["summary"], float(run_results["teacher"]["accuracy"])
    mean_stds = [summary[name] for name in ("accuracy", "control", "accuracy_best")]
    accuracies = [
        Cell(format_mean_std(each), None if each is None else float(each["mean"])) for each in mean_stds
    ]
    return (Cell(str(model.state)), *accuracies, Cell(f"{teacher:.2f}", teacher), *times)


def _time_cell(seconds: float | None) -> Cell:
    return Cell(ABSENT) if seconds is None else Cell(format_duration(seconds), seconds)


def in_order(rows: Sequence[Row], column: int, descending: bool) -> list[Row]:
    """Return the rows sorted by a column: numbers by value, then texts, and absent values always last."""

    def key(row: Row) -> tuple[bool, float, str]:
        text, value = row[column]
        return (value is None, value or 0.0, text.lower())

    present = sorted((row for row in rows if row[column].text != ABSENT), key=key, reverse=descending)
    return present + [row for row in rows if row[column].text == ABSENT]


def texts(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """Return the texts of a table's cells."""
    return [tuple(cell.text for cell in row) for row in rows]
