"""Tables of method × setting from finished runs: accuracies, the paper's numbers, controls, differences.

The samples are repeats, of one run or of several that differ in their seed; the students of a repeat are
averaged first. Rows of a column are compared over the repeats with equal seeds (see `runs.significance`), and
p is corrected for the number of rows. Runs on different data, or measured on different test images, are in
different columns. Not here: output formats (see `cfm_tui.display.tables`).
"""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from engine.config import Config, settings
from engine.config.identity import describe_experiment
from engine.config.messages import unknown_name_error
from engine.errors import UserError
from engine.report.paper import COMPARISONS, find_paper_number
from engine.runs.results import SCHEMA_VERSION, SOURCES, read_results, summarise_repeats
from engine.runs.significance import LEVEL, adjust_holm, compare_paired, reverse
from engine.store import StoredRun, find_run, sweeps

Students = dict[int, list[float]]  #: seed of a repeat → accuracies of its students
_BEST = "best"  # instead of a row's name: the most accurate row of each column


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
    """One run with its row and column. plain: as in `_Column`. results: None if no repeat is finished."""

    run: StoredRun
    name: str
    row: str
    column: str
    config: Config
    results: dict[str, Any] | None
    plain: bool = False

    @property
    def repeats(self) -> dict[int, dict[str, Any]]:
        """The finished repeats by their seeds."""
        repeats = [] if self.results is None else self.results["repeats"]
        return {repeat["seed"]: repeat for repeat in repeats}


@dataclass
class _Samples:
    """Accuracies in percent after the last epoch, by (column, row) and key of a summary.

    training: how the students of each row of each column were trained and labelled. unfinished: names of runs
    without all of their results.
    """

    columns: dict[str, _Column] = field(default_factory=dict)
    rows: list[str] = field(default_factory=list)
    students: dict[tuple[str, str], dict[str, Students]] = field(default_factory=dict)
    training: dict[tuple[str, str], str] = field(default_factory=dict)
    unfinished: list[str] = field(default_factory=list)

    def add(self, entry: _Entry) -> None:
        """Add the students of a run."""
        config = entry.config
        if entry.row not in self.rows:
            self.rows.append(entry.row)
        if len(entry.repeats) < config.repeats:
            self.unfinished.append(entry.name)
        setting = (config.data.name, config.ipc, config.backbone.name)
        training = json.dumps(
            [
                config.validate_.model_dump(mode="json", exclude={"controls", "seeds", "students"}),
                *(part.model_dump(mode="json") for part in (config.relabel, config.backbone, config.squeeze)),
            ]
        )
        keys = {source: key for key, source in SOURCES.items()}
        for seed, repeat in entry.repeats.items():
            for student in repeat["students"]:
                name = student["architecture"]
                is_named = len(config.validate_.students) > 1 or name != config.backbone.name
                heading = entry.column + (f" → {name}" if is_named else "")
                self.columns.setdefault(heading, _Column(heading, *setting, name, entry.plain))
                self.training[heading, entry.row] = training
                of_cell = self.students.setdefault((heading, entry.row), {})
                of_key = of_cell.setdefault(keys[student["source"]], {})
                of_key.setdefault(seed, []).append(student["last"])

    def mean_by_seed(self, column: _Column, row: str, key: str = "accuracy") -> dict[int, float]:
        """Return the mean accuracy of the students of each repeat, by its seed."""
        students = self.students.get((column.name, row), {}).get(key, {})
        return {seed: statistics.fmean(values) for seed, values in students.items()}

    def controls_by_seed(self, column: _Column, row: str) -> dict[int, float]:
        """Return the accuracy of a row's random control by seed: its own, else that of the row `random`.

        The method `random` has the same images; its students count if they were trained and labelled like the
        row's.
        """
        control_by_seed = self.mean_by_seed(column, row, "control")
        same_training = self.training.get((column.name, row)) == self.training.get((column.name, "random"))
        if control_by_seed or row == "random" or not same_training:
            return control_by_seed
        return self.mean_by_seed(column, "random")

    def find_reference(self, column: _Column, row: str) -> str | None:
        """Return the row that the others of a column are compared with; None if it has no numbers there."""
        means = {each: self.mean_by_seed(column, each) for each in self.rows}
        rows = [each for each in self.rows if means[each]]
        if row != _BEST:
            return row if row in rows else None
        return max(rows, key=lambda each: statistics.fmean(means[each].values()), default=None)

    def build_cells(
        self, column: _Column, reference: str | None, papers: Sequence[str]
    ) -> list[dict[str, Any]]:
        """Return a cell for every row of a column, and one for each control that the reference has.

        A control is the same number of real images, with the reference's labels and budget: random ones
        (``control``), or those that recovery starts from (``start``). The former has the reference's
        comparison with it, reversed; the latter is not compared.
        """
        against = {} if reference is None else self.mean_by_seed(column, reference)
        cells: list[dict[str, Any]] = []
        for row in self.rows:
            of_cell = self.students.get((column.name, row), {})
            values, control = self.mean_by_seed(column, row), self.controls_by_seed(column, row)
            versus = compare_paired(values, against) if against and values and row != reference else None
            cells.append(
                {
                    "row": row,
                    "column": column.name,
                    "accuracy": _summarise(of_cell.get("accuracy", {})),
                    "versus": None if versus is None else {"row": reference, **versus},
                    "control": _summarise(of_cell.get("control", {})),
                    "versus_control": compare_paired(values, control) if values and control else None,
                    "paper": find_paper_number(
                        column.dataset, column.ipc, column.backbone, column.student, row, papers
                    )
                    if column.plain
                    else None,
                }
            )
        for key in ("versus", "versus_control"):
            adjust_holm([cell[key] for cell in cells if cell[key] is not None])
        for key in ("control", "start"):
            row = reference or next((each for each in self.rows if self.mean_by_seed(column, each, key)), "")
            if self.mean_by_seed(column, row, key):
                beside_control = {cell["row"]: cell["versus_control"] for cell in cells}.get(reference)
                versus = None if key != "control" or beside_control is None else reverse(beside_control)
                cells.append(
                    {
                        "row": key,
                        "column": column.name,
                        "accuracy": _summarise(self.students[column.name, row][key]),
                        "versus": None if versus is None else {"row": reference, **versus},
                        "control": None,
                        "versus_control": None,
                        "paper": None,
                    }
                )
        return cells

    def compare_order(self, column: _Column, order: Sequence[str]) -> list[dict[str, Any]]:
        """Compare each row with the one before it in the claimed order."""
        steps = []
        for less, more in itertools.pairwise(order):
            below, above = (self.mean_by_seed(column, row) for row in (less, more))
            if below and above:
                comparison = compare_paired(above, below)
                steps.append({"column": column.name, "less": less, "more": more, **comparison})
        adjust_holm(steps)
        return steps


def _summarise(students: Students) -> dict[str, Any] | None:
    return summarise_repeats([students[seed] for seed in sorted(students)])


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
    of_seed: dict[tuple[str, str, int], StoredRun] = {}
    for entry in _separate_data(entries):
        for seed in entry.repeats:
            first = of_seed.setdefault((entry.column, entry.row, seed), entry.run)
            if first != entry.run:
                folders = f"{first.folder} and {entry.run.folder}"
                raise UserError(
                    "usage",
                    f"{folders} are the same experiment with the same seed, {seed}",
                    "give only one of them, or runs whose repeats have other seeds",
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
    papers = [sweep["paper"]] if sweep.get("paper") else () if sweep else COMPARISONS
    columns = list(samples.columns.values())
    return {
        "schema_version": SCHEMA_VERSION,
        "name": sweep.get("sweep"),
        "against": row,
        "level": LEVEL,
        "budget": sweep.get("budget"),
        "scaled": _collect_scaled_settings(sweep),
        "seeds": sorted({seed for entry in entries for seed in entry.repeats}),
        "rows": samples.rows,
        "own_settings": list(dict.fromkeys(e.row for e in entries if e.config.validate_.settings == "own")),
        "columns": [
            {key: value for key, value in asdict(each).items() if key != "plain"} for each in columns
        ],
        "cells": [
            cell
            for column in columns
            for cell in samples.build_cells(column, samples.find_reference(column, row), papers)
        ],
        "order": [
            step for column in columns for step in samples.compare_order(column, sweep.get("order") or ())
        ],
        "unfinished": samples.unfinished,
    }


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
        config, run = Config.from_dict(record["config"]), stored[0].run(record["name"])
        plain, place = record["column"] == _name_column(config), (record["row"], record["column"])
        entries.append(_Entry(run, record["name"], *place, config, read_results(run), plain))
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
    runs_with_results = [(run, read_results(run)) for run in configs]
    # Finished runs come first, so that they get the plain name of the method.
    runs_with_results.sort(key=lambda each: each[1] is None)
    for run, results in runs_with_results:
        config = configs[run]
        column, method = _name_column(config), config.objective.method
        identity = run.manifest().get("identity") or {}
        experiment = describe_experiment(config, identity, ("seed", "validate.students"))
        labels = groups.setdefault((column, method), {})
        row = labels.setdefault(json.dumps(experiment), f"{method} ({run.name})" if labels else method)
        entries.append(_Entry(run, run.name, row, column, config, results, plain=True))
    return entries


def _separate_data(entries: Sequence[_Entry]) -> list[_Entry]:
    """Return the entries with a column for each data set and test set that their numbers come from.

    The heading names both where a column would otherwise hold numbers of several.
    """
    inputs = [_describe_inputs(entry) for entry in entries]
    by_column: dict[str, set[str]] = {}
    for entry, text in zip(entries, inputs, strict=True):
        if text:
            by_column.setdefault(entry.column, set()).add(text)
    return [
        replace(entry, column=f"{entry.column}, {text}")
        if len(by_column.get(entry.column, ())) > 1
        else entry
        for entry, text in zip(entries, inputs, strict=True)
    ]


def _describe_inputs(entry: _Entry) -> str:
    """Return the data and the test images of a run's numbers; empty if they are not recorded."""
    provenance: dict[str, Any] = next((repeat["provenance"] for repeat in entry.repeats.values()), {})
    data, measured = provenance.get("data"), provenance.get("measured_on")
    if not data or not measured:
        return ""
    return f"data {data['fingerprint'][:8]}, {measured['images']} {measured['split']} images"


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
