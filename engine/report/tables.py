"""Tables of method × setting from finished runs: accuracies, the paper's numbers, the control, differences.

Not here: output formats (see `cfm_tui.display.table_formats`), comparison of two rows (see `comparing`).
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from engine.config.messages import unknown_name_error
from engine.errors import UserError
from engine.report import paper
from engine.report.comparing import LEVEL, Seeds, compared
from engine.report.samples import SampleColumn, Samples, gather_samples, load_entries
from engine.runs.results import mean_std

CONTROL = "control"  #: the row of the same number of real images, with the reference's labels and budget
BEST = "best"  #: instead of a row's name: the most accurate row of each column
DEFAULT = "cfm"  #: the default reference row
PAPER_TABLES = ("table2", "table3", "table4")  #: tables with the paper's numbers for runs outside a sweep


def table(targets: Sequence[str], against: str | None = None) -> dict[str, Any]:
    """Return the table of a sweep or of runs as a document.

    against: the row that all others are compared with, or `BEST`. The default is the sweep's setting, else
    `DEFAULT` if there is such a row, else `BEST`.
    Raises UserError("usage") for unknown runs, an unknown row, or if no run is finished.
    """
    entries, sweep = load_entries(targets)
    samples = gather_samples(entries)
    if not samples.columns:
        raise UserError(
            "usage", "none of these runs is finished yet", "see their progress with `cfm runs` or `cfm sweep`"
        )
    reference_row = _choose_reference_row(against, sweep, samples)
    names = [sweep["paper"]] if sweep.get("paper") else [] if sweep else list(PAPER_TABLES)
    paper_tables = [paper.table(name) for name in names]
    columns = list(samples.columns.values())
    return {
        "name": sweep.get("sweep"),
        "against": reference_row,
        "level": LEVEL,
        "budget": sweep.get("budget"),
        "scaled": _collect_scaled_settings(sweep),
        "seeds": sorted({seed for values in samples.accuracies.values() for seed, _ in values}),
        "rows": samples.rows,
        "columns": [
            {key: value for key, value in asdict(each).items() if key != "plain"} for each in columns
        ],
        "cells": [
            cell
            for column in columns
            for cell in _build_cells(
                samples, column, _find_reference(samples, column, reference_row), paper_tables
            )
        ],
        "order": [
            step for column in columns for step in _compare_order(samples, column, sweep.get("order") or ())
        ],
        "unfinished": samples.unfinished,
    }


def _choose_reference_row(against: str | None, sweep: Mapping[str, Any], samples: Samples) -> str:
    if against is not None and against not in (*samples.rows, BEST):
        raise unknown_name_error("row", against, [*samples.rows, BEST], "--against")
    row = against or sweep.get("against")
    if row is None or row not in (*samples.rows, BEST):
        row = DEFAULT if DEFAULT in samples.rows else BEST
    return str(row)


def _find_reference(samples: Samples, column: SampleColumn, reference_row: str) -> str | None:
    """Return the row that the others of a column are compared with; None if it has no numbers there."""
    rows = [row for row in samples.rows if (column.name, row) in samples.accuracies]
    if reference_row != BEST:
        return reference_row if reference_row in rows else None
    return max(
        rows, key=lambda row: statistics.fmean(samples.accuracies[column.name, row].values()), default=None
    )


def _build_cells(
    samples: Samples, column: SampleColumn, reference: str | None, paper_tables: Sequence[paper.PaperTable]
) -> list[dict[str, Any]]:
    against = samples.accuracies[column.name, reference] if reference is not None else {}
    cells = []
    for row in samples.rows:
        values = samples.accuracies.get((column.name, row), {})
        control = samples.controls.get((column.name, row), {})
        cell = _build_cell(column, row, values, None if row == reference else against, reference)
        cells.append(
            {
                **cell,
                "control": mean_std(list(control.values())),
                "paper": _find_paper_number(column, row, paper_tables),
            }
        )
    control_row = reference or next(
        (row for row in samples.rows if (column.name, row) in samples.controls), None
    )
    control = samples.controls.get((column.name, control_row), {}) if control_row is not None else {}
    if control:
        cell = _build_cell(column, CONTROL, control, against, reference)
        cells.append({**cell, "control": None, "paper": None})
    return cells


def _build_cell(
    column: SampleColumn,
    row: str,
    values: Mapping[Seeds, float],
    against: Mapping[Seeds, float] | None,
    reference: str | None,
) -> dict[str, Any]:
    versus = None
    if reference is not None and against is not None and values:
        versus = {"row": reference, **compared(values, against)}
    return {"row": row, "column": column.name, "accuracy": mean_std(list(values.values())), "versus": versus}


def _find_paper_number(
    column: SampleColumn, row: str, paper_tables: Sequence[paper.PaperTable]
) -> dict[str, Any] | None:
    if not column.plain:
        return None
    key = paper.key(column.dataset, column.ipc, column.backbone, column.student)
    numbers = (each.number(key, row) for each in paper_tables)
    return next((number for number in numbers if number is not None), None)


def _compare_order(samples: Samples, column: SampleColumn, order: Sequence[str]) -> list[dict[str, Any]]:
    """Compare each row with the one before it in the claimed order."""
    steps = []
    for less, more in itertools.pairwise(order):
        accuracies = [samples.accuracies.get((column.name, row)) for row in (more, less)]
        if accuracies[0] and accuracies[1]:
            steps.append(
                {"column": column.name, "less": less, "more": more, **compared(accuracies[0], accuracies[1])}
            )
    return steps


def _collect_scaled_settings(sweep: Mapping[str, Any]) -> dict[str, list[list[int]]]:
    """Return the settings that the budget scaled: key → pairs of values before and after."""
    pairs: dict[str, set[tuple[int, int]]] = {}
    for point in sweep.get("points", ()):
        for key, (before, after) in point["scaled"].items():
            pairs.setdefault(key, set()).add((before, after))
    return {key: [list(pair) for pair in sorted(before_and_after)] for key, before_and_after in pairs.items()}
