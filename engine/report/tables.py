"""Tables of method × setting from finished runs: accuracies, the paper's numbers, the control, differences.

Rows are compared by Student's paired t test over seeds. Two accuracies form a pair if the run's seed and the
student's seed are the same: both then use the same teacher and the same initial student. Students of one
distilled set share that set and are therefore not independent samples of the method. With several run seeds,
the differences of each run are averaged, and the test is over runs.
Not here: output formats (see `cfm_tui.display.table_formats`).
"""

from __future__ import annotations

import itertools
import json
import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from engine.config import Config, settings
from engine.config.identity import describe_experiment
from engine.config.messages import unknown_name_error
from engine.config.presets import load_shipped
from engine.errors import UserError
from engine.runs.results import mean_std
from engine.store import StoredRun, find_run, sweeps

Seeds = tuple[int, int]  #: of the run, and of the student
_LEVEL = 0.05  # significance level
_BEST = "best"  # instead of a row's name: the most accurate row of each column


@dataclass(frozen=True)
class PaperTable:
    """A table of the paper. source: its place in the paper. values: column → row → printed number."""

    source: str
    values: dict[str, dict[str, str]]

    @classmethod
    def load(cls, name: str) -> PaperTable:
        """Load a file of presets/paper: the numbers of a table or figure of the paper."""
        values = load_shipped("paper", name)
        return cls(values["source"], values["values"])

    def number(self, column: str, row: str) -> dict[str, Any] | None:
        """Return a number in percent: mean, std or None, printed form and source; None if not reported."""
        printed = self.values.get(column, {}).get(row)
        if printed is None:
            return None
        match = re.fullmatch(r"([0-9.]+)(?:±([0-9.]+))?", printed)
        assert match is not None, (self.source, column, row, printed)
        mean, std = match.groups()
        value = {"mean": float(mean), "std": None if std is None else float(std)}
        return {**value, "printed": printed, "source": self.source}


@dataclass(frozen=True)
class _Column:
    """A column of the table: data set, images per class, backbone and student. name: the heading."""

    name: str
    dataset: str
    ipc: int
    backbone: str
    student: str
    plain: bool  #: no other setting was varied, so the paper's number is comparable


@dataclass(frozen=True)
class _Entry:
    """One run with its row and column. results: None for an unfinished run."""

    name: str
    row: str
    column: str
    config: Config
    results: dict[str, Any] | None


@dataclass
class _Samples:
    """Accuracies in percent after the last epoch, by (column, row) and seeds.

    controls: the same for the control. unfinished: names of runs without results.
    """

    columns: dict[str, _Column] = field(default_factory=dict)
    rows: list[str] = field(default_factory=list)
    accuracies: dict[tuple[str, str], dict[Seeds, float]] = field(default_factory=dict)
    controls: dict[tuple[str, str], dict[Seeds, float]] = field(default_factory=dict)
    unfinished: list[str] = field(default_factory=list)

    def add(self, entry: _Entry) -> None:
        """Add the students of a run."""
        if entry.row not in self.rows:
            self.rows.append(entry.row)
        if entry.results is None:
            self.unfinished.append(entry.name)
            return
        config = entry.config
        setting = (config.data.name, config.ipc, config.backbone.name)
        plain = entry.column == _name_column(config)
        for student in entry.results["students"]:
            name = student["architecture"]
            is_named = len(config.validate_.students) > 1 or name != config.backbone.name
            heading = entry.column + (f" → {name}" if is_named else "")
            self.columns.setdefault(heading, _Column(heading, *setting, name, plain))
            into = self.accuracies if student["source"] == "distilled" else self.controls
            into.setdefault((heading, entry.row), {})[config.seed, student["seed"]] = student["last"]

    def find_reference(self, column: _Column, row: str) -> str | None:
        """Return the row that the others of a column are compared with; None if it has no numbers there."""
        rows = [each for each in self.rows if (column.name, each) in self.accuracies]
        if row != _BEST:
            return row if row in rows else None
        means = {each: statistics.fmean(self.accuracies[column.name, each].values()) for each in rows}
        return max(rows, key=means.__getitem__, default=None)

    def build_cells(
        self, column: _Column, reference: str | None, paper_tables: Sequence[PaperTable]
    ) -> list[dict[str, Any]]:
        """Return a cell for every row of a column, and one for the control of the reference, if there is any.

        The control is the same number of real images, with the reference's labels and budget.
        """
        against = self.accuracies[column.name, reference] if reference is not None else {}
        cells = []
        for row in self.rows:
            values = self.accuracies.get((column.name, row), {})
            control = self.controls.get((column.name, row), {})
            cell = _build_cell(column, row, values, None if row == reference else against, reference)
            paper = _find_paper_number(column, row, paper_tables)
            cells.append({**cell, "control": mean_std(list(control.values())), "paper": paper})
        control_rows = (row for row in self.rows if (column.name, row) in self.controls)
        control_row = reference or next(control_rows, None)
        control = {} if control_row is None else self.controls.get((column.name, control_row), {})
        if control:
            cell = _build_cell(column, "control", control, against, reference)
            cells.append({**cell, "control": None, "paper": None})
        return cells

    def compare_order(self, column: _Column, order: Sequence[str]) -> list[dict[str, Any]]:
        """Compare each row with the one before it in the claimed order."""
        steps = []
        for less, more in itertools.pairwise(order):
            accuracies = [self.accuracies.get((column.name, row)) for row in (more, less)]
            if accuracies[0] and accuracies[1]:
                comparison = compare_paired(accuracies[0], accuracies[1])
                steps.append({"column": column.name, "less": less, "more": more, **comparison})
        return steps


def table(
    targets: Sequence[str], against: str | None = None, on_skip: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Return the table of a sweep or of runs as a document.

    against: the row that all others are compared with, or `best`: the most accurate row of each column. The
    default is the sweep's setting, else `cfm` if there is such a row, else `best`.
    on_skip: called with the reason for each run that cannot be read; it is left out, if there are others.
    Raises UserError("usage") for unknown runs, a sweep together with other targets, an unknown row, two runs
    of the same experiment and seed, or if no run is finished.
    """
    entries, sweep = _load_entries(targets, on_skip)
    samples = _Samples()
    names: dict[tuple[str, str, int], str] = {}
    for entry in entries:
        first = names.setdefault((entry.column, entry.row, entry.config.seed), entry.name)
        if first != entry.name:
            raise UserError(
                "usage",
                f"{first} and {entry.name} are the same experiment with the same seed",
                "give only one of them",
            )
        samples.add(entry)
    if not samples.columns:
        raise UserError(
            "usage", "none of these runs is finished yet", "see their progress with `cfm runs` or `cfm sweep`"
        )
    rows = (*samples.rows, _BEST)
    if against is not None and against not in rows:
        raise unknown_name_error("row", against, rows, "--against")
    row = against or sweep.get("against")
    if row not in rows:
        row = "cfm" if "cfm" in rows else _BEST
    papers = [sweep["paper"]] if sweep.get("paper") else [] if sweep else ["table2", "table3", "table4"]
    paper_tables = [PaperTable.load(name) for name in papers]
    columns = list(samples.columns.values())
    return {
        "name": sweep.get("sweep"),
        "against": row,
        "level": _LEVEL,
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
            for cell in samples.build_cells(column, samples.find_reference(column, row), paper_tables)
        ],
        "order": [
            step for column in columns for step in samples.compare_order(column, sweep.get("order") or ())
        ],
        "unfinished": samples.unfinished,
    }


def _build_cell(
    column: _Column,
    row: str,
    values: Mapping[Seeds, float],
    against: Mapping[Seeds, float] | None,
    reference: str | None,
) -> dict[str, Any]:
    versus = None
    if reference is not None and against is not None and values:
        versus = {"row": reference, **compare_paired(values, against)}
    return {"row": row, "column": column.name, "accuracy": mean_std(list(values.values())), "versus": versus}


def _find_paper_number(
    column: _Column, row: str, paper_tables: Sequence[PaperTable]
) -> dict[str, Any] | None:
    if not column.plain:
        return None
    key = f"{column.dataset}-{column.ipc}-{column.backbone}"
    key += "" if column.student == column.backbone else f"-{column.student}"
    numbers = (each.number(key, row) for each in paper_tables)
    return next((number for number in numbers if number is not None), None)


def _collect_scaled_settings(sweep: Mapping[str, Any]) -> dict[str, list[list[int]]]:
    """Return the settings that the budget scaled: key → pairs of values before and after."""
    pairs: dict[str, set[tuple[int, int]]] = {}
    for point in sweep.get("points", ()):
        for key, (before, after) in point["scaled"].items():
            pairs.setdefault(key, set()).add((before, after))
    return {key: [list(pair) for pair in sorted(before_and_after)] for key, before_and_after in pairs.items()}


# --- runs ----------------------------------------------------------------------------------------


def _load_entries(
    targets: Sequence[str], on_skip: Callable[[str], None]
) -> tuple[list[_Entry], dict[str, Any]]:
    """Load one sweep, or runs. Return their entries and the sweep's manifest, which is empty for runs."""
    stored = [sweeps.find_sweep(target) for target in targets]
    if len(targets) > 1 and any(stored):
        raise UserError(
            "usage", "a sweep cannot be combined with other targets", "give one sweep, or only runs"
        )
    if not stored or stored[0] is None:
        return _build_run_entries([_find_run(target) for target in targets], on_skip), {}
    manifest = stored[0].manifest()
    entries = []
    for record in manifest["points"]:
        config, results = Config.from_dict(record["config"]), stored[0].run(record["name"]).results()
        entries.append(_Entry(record["name"], record["row"], record["column"], config, results))
    return entries, manifest


def _find_run(target: str) -> StoredRun:
    try:
        return find_run(target)
    except UserError as error:
        if (near := sweeps.near(target)) is None:
            raise
        raise UserError("usage", f"there is no sweep or run {target}", f"did you mean {near}?") from error


def _build_run_entries(runs: Sequence[StoredRun], on_skip: Callable[[str], None]) -> list[_Entry]:
    """Return the entries of runs outside a sweep.

    There is one row per method, or one per combination of settings if a method has several.
    """
    entries = []
    groups: dict[tuple[str, str], dict[str, str]] = {}
    configs = {run: config for run in runs if (config := _load_config(run, len(runs) == 1, on_skip))}
    runs_with_results = [(run, run.results()) for run in configs]
    # Finished runs come first, so that they get the plain name of the method.
    runs_with_results.sort(key=lambda each: each[1] is None)
    for run, results in runs_with_results:
        config = configs[run]
        column, method = _name_column(config), config.objective.method
        identity = run.manifest().get("identity") or {}
        experiment = describe_experiment(config, identity, ("seed", "validate.students"))
        labels = groups.setdefault((column, method), {})
        row = labels.setdefault(json.dumps(experiment), f"{method} ({run.name})" if labels else method)
        entries.append(_Entry(run.name, row, column, config, results))
    return entries


def _load_config(run: StoredRun, is_only: bool, on_skip: Callable[[str], None]) -> Config | None:
    """Return the settings of a run, or None if it cannot be read, unless it is the only one."""
    try:
        return settings.load_stored(run).config
    except UserError as error:
        if is_only:
            raise
        on_skip(error.message)
        return None


def _name_column(config: Config) -> str:
    return f"{config.data.name} ipc {config.ipc} {config.backbone.name}"


# --- comparison ----------------------------------------------------------------------------------


def compare_paired(values: Mapping[Seeds, float], others: Mapping[Seeds, float]) -> dict[str, Any]:
    """Compare `values` with `others` over their common seeds.

    difference: mean difference in percentage points. standard_error: standard error of that mean. errors:
    difference / standard_error. p: two-sided p-value. n: number of pairs of runs, or of students if there is
    only one run. A number is None if it is undefined: with fewer than two pairs, or if all pairs are equal.
    """
    differences = _collect_differences(values, others)
    comparison: dict[str, Any] = dict.fromkeys(("difference", "standard_error", "errors", "p"))
    comparison |= {"n": len(differences), "exceeds_noise": False}
    if not differences:
        return comparison
    comparison["difference"] = mean = statistics.fmean(differences)
    if len(differences) < 2:
        return comparison
    comparison["standard_error"] = error = statistics.stdev(differences) / math.sqrt(len(differences))
    if error > 0:
        from scipy import stats

        comparison["errors"] = mean / error
        comparison["p"] = p = float(2 * stats.t.sf(abs(mean / error), len(differences) - 1))
        comparison["exceeds_noise"] = p < _LEVEL
    return comparison


def _collect_differences(values: Mapping[Seeds, float], others: Mapping[Seeds, float]) -> list[float]:
    """Return one difference per run, or one per student if there is only one run."""
    by_run: dict[int, list[float]] = {}
    for run, student in sorted(values):
        if (run, student) in others:
            by_run.setdefault(run, []).append(values[run, student] - others[run, student])
    if len(by_run) == 1:
        return next(iter(by_run.values()))
    return [statistics.fmean(differences) for differences in by_run.values()]
