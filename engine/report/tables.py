"""A table of method × setting out of finished runs: measured, the paper's, the control, and what differs.

Not here: how it is written (see the command), how two rows are compared (see `comparing`).
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
from engine.report.samples import Column, Samples, found, gathered
from engine.runs.results import mean_std

CONTROL = "control"  #: the row of as many real images, under the reference's labels and budget
BEST = "best"  #: instead of a row's name: whichever is the most accurate, column by column
DEFAULT = "cfm"
PAPER_TABLES = ("table2", "table3", "table4")  #: where numbers for runs outside a sweep are looked up


def table(targets: Sequence[str], against: str | None = None) -> dict[str, Any]:
    """The table of a sweep, or of runs, as a document.

    against: the row that all others are compared with, or `BEST`; None for what the sweep says, else
    `cfm` where there is one, else `BEST`. Raises UserError: no such runs, no such row, nothing finished yet.
    """
    entries, sweep = found(targets)
    samples = gathered(entries)
    if not samples.columns:
        raise UserError(
            "usage", "none of these runs is finished yet", "`cfm runs` and `cfm sweep` say where they are"
        )
    chosen = _chosen(against, sweep, samples)
    names = [sweep["paper"]] if sweep.get("paper") else [] if sweep else list(PAPER_TABLES)
    papers = [paper.table(name) for name in names]
    columns = list(samples.columns.values())
    return {
        "name": sweep.get("sweep"),
        "against": chosen,
        "level": LEVEL,
        "budget": sweep.get("budget"),
        "scaled": _scaled(sweep),
        "seeds": sorted({seed for values in samples.accuracies.values() for seed, _ in values}),
        "rows": samples.rows,
        "columns": [
            {key: value for key, value in asdict(each).items() if key != "plain"} for each in columns
        ],
        "cells": [
            cell
            for column in columns
            for cell in _cells(samples, column, _reference(samples, column, chosen), papers)
        ],
        "order": [step for column in columns for step in _order(samples, column, sweep.get("order") or ())],
        "unfinished": samples.unfinished,
    }


def _chosen(against: str | None, sweep: Mapping[str, Any], samples: Samples) -> str:
    if against is not None and against not in (*samples.rows, BEST):
        raise unknown_name_error("row", against, [*samples.rows, BEST], "--against")
    wanted = against or sweep.get("against")
    if wanted is None or wanted not in (*samples.rows, BEST):
        wanted = DEFAULT if DEFAULT in samples.rows else BEST
    return str(wanted)


def _reference(samples: Samples, column: Column, chosen: str) -> str | None:
    """The row that the others of a column are compared with; None where it has no numbers there."""
    there = [row for row in samples.rows if (column.name, row) in samples.accuracies]
    if chosen != BEST:
        return chosen if chosen in there else None
    return max(
        there, key=lambda row: statistics.fmean(samples.accuracies[column.name, row].values()), default=None
    )


def _cells(
    samples: Samples, column: Column, reference: str | None, papers: Sequence[paper.PaperTable]
) -> list[dict[str, Any]]:
    against = samples.accuracies[column.name, reference] if reference is not None else {}
    cells = []
    for row in samples.rows:
        values = samples.accuracies.get((column.name, row), {})
        control = samples.controls.get((column.name, row), {})
        told = _cell(column, row, values, None if row == reference else against, reference)
        cells.append(
            {**told, "control": mean_std(list(control.values())), "paper": _printed(column, row, papers)}
        )
    behind = reference or next((row for row in samples.rows if (column.name, row) in samples.controls), None)
    control = samples.controls.get((column.name, behind), {}) if behind is not None else {}
    if control:
        told = _cell(column, CONTROL, control, against, reference)
        cells.append({**told, "control": None, "paper": None})
    return cells


def _cell(
    column: Column,
    row: str,
    values: Mapping[Seeds, float],
    against: Mapping[Seeds, float] | None,
    reference: str | None,
) -> dict[str, Any]:
    versus = None
    if reference is not None and against is not None and values:
        versus = {"row": reference, **compared(values, against)}
    return {"row": row, "column": column.name, "accuracy": mean_std(list(values.values())), "versus": versus}


def _printed(column: Column, row: str, papers: Sequence[paper.PaperTable]) -> dict[str, Any] | None:
    if not column.plain:
        return None
    key = paper.key(column.dataset, column.ipc, column.backbone, column.student)
    numbers = (each.number(key, row) for each in papers)
    return next((number for number in numbers if number is not None), None)


def _order(samples: Samples, column: Column, order: Sequence[str]) -> list[dict[str, Any]]:
    """Whether each row lies above the one before it, as somebody claims."""
    steps = []
    for less, more in itertools.pairwise(order):
        pair = [samples.accuracies.get((column.name, row)) for row in (more, less)]
        if pair[0] and pair[1]:
            steps.append({"column": column.name, "less": less, "more": more, **compared(pair[0], pair[1])})
    return steps


def _scaled(sweep: Mapping[str, Any]) -> dict[str, list[list[int]]]:
    """What the budget changed: key → pairs of values before and after."""
    pairs: dict[str, set[tuple[int, int]]] = {}
    for point in sweep.get("points", ()):
        for key, (before, after) in point["scaled"].items():
            pairs.setdefault(key, set()).add((before, after))
    return {key: [list(pair) for pair in sorted(found)] for key, found in pairs.items()}
