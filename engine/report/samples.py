"""Accuracies of finished runs, each with its row and column of a table of results."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.config import Config, settings
from engine.config.identity import describe_experiment
from engine.errors import UserError
from engine.report.comparing import Seeds
from engine.store import StoredRun, find, sweeps
from engine.store.sweeps import StoredSweep


@dataclass(frozen=True)
class SampleColumn:
    """A column of the table: data set, images per class, backbone and student. name: the heading."""

    name: str
    dataset: str
    ipc: int
    backbone: str
    student: str
    plain: bool = True  #: no other setting was varied, so the paper's number is comparable


@dataclass(frozen=True)
class SampleEntry:
    """One run with its row and column. results: None for an unfinished run."""

    name: str
    row: str
    column: str
    config: Config
    results: dict[str, Any] | None


@dataclass
class Samples:
    """Accuracies in percent after the last epoch, by (column, row) and seeds.

    controls: the same for the control. unfinished: names of runs without results.
    """

    columns: dict[str, SampleColumn] = field(default_factory=dict)
    rows: list[str] = field(default_factory=list)
    accuracies: dict[tuple[str, str], dict[Seeds, float]] = field(default_factory=dict)
    controls: dict[tuple[str, str], dict[Seeds, float]] = field(default_factory=dict)
    unfinished: list[str] = field(default_factory=list)


def sweep_entries(stored: StoredSweep, manifest: Mapping[str, Any]) -> list[SampleEntry]:
    """Return the entries of a sweep's points. Raises UserError("disk") if one is damaged."""
    return [
        SampleEntry(
            record["name"],
            record["row"],
            record["column"],
            Config.from_dict(record["config"]),
            stored.run(record["name"]).results(),
        )
        for record in manifest["points"]
    ]


def run_entries(runs: Sequence[StoredRun]) -> list[SampleEntry]:
    """Return the entries of runs outside a sweep.

    There is one row per method, or one per combination of settings if a method has several.
    """
    entries = []
    groups: dict[tuple[str, str], dict[str, str]] = {}
    runs_with_results = [(run, run.results()) for run in runs]
    # Finished runs come first, so that they get the plain name of the method.
    runs_with_results.sort(key=lambda each: each[1] is None)
    for run, results in runs_with_results:
        config = settings.load_stored(run).config
        column = f"{config.data.name} ipc {config.ipc} {config.backbone.name}"
        row_settings = describe_experiment(
            config, run.manifest().get("identity") or {}, ("seed", "validate.students")
        )
        method = config.objective.method
        labels = groups.setdefault((column, method), {})
        row = labels.setdefault(json.dumps(row_settings), method if not labels else f"{method} ({run.name})")
        entries.append(SampleEntry(run.name, row, column, config, results))
    return entries


def gather_samples(entries: Iterable[SampleEntry]) -> Samples:
    """Collect all accuracies. Raises UserError("usage") if two runs share row, column and seed."""
    samples = Samples()
    taken: dict[tuple[str, str, int], str] = {}
    for entry in entries:
        if entry.row not in samples.rows:
            samples.rows.append(entry.row)
        place = (entry.column, entry.row, entry.config.seed)
        if taken.setdefault(place, entry.name) != entry.name:
            raise UserError(
                "usage",
                f"{taken[place]} and {entry.name} are the same experiment with the same seed",
                "give only one of them",
            )
        if entry.results is None:
            samples.unfinished.append(entry.name)
        else:
            _add_results(samples, entry, entry.results)
    return samples


def _add_results(samples: Samples, entry: SampleEntry, results: Mapping[str, Any]) -> None:
    config = entry.config
    several = len(config.validate_.students) > 1
    for student in results["students"]:
        name = student["architecture"]
        column = _build_column(entry, name, several)
        samples.columns.setdefault(column.name, column)
        into = samples.accuracies if student["source"] == "distilled" else samples.controls
        into.setdefault((column.name, entry.row), {})[config.seed, student["seed"]] = student["last"]


def _build_column(entry: SampleEntry, student: str, several: bool) -> SampleColumn:
    config = entry.config
    plain = f"{config.data.name} ipc {config.ipc} {config.backbone.name}"
    name = entry.column + (f" → {student}" if several or student != config.backbone.name else "")
    return SampleColumn(
        name, config.data.name, config.ipc, config.backbone.name, student, plain=entry.column == plain
    )


def load_entries(targets: Sequence[str]) -> tuple[list[SampleEntry], dict[str, Any]]:
    """Load one sweep, or runs. Return their entries and the sweep's manifest, which is empty for runs.

    Raises UserError("usage") for a target that is neither, or for a sweep together with other targets.
    """
    stored = [sweeps.find_sweep(target) for target in targets]
    if len(targets) == 1 and stored[0] is not None:
        manifest = stored[0].manifest()
        return sweep_entries(stored[0], manifest), manifest
    if any(stored):
        raise UserError(
            "usage", "a sweep cannot be combined with other targets", "give one sweep, or only runs"
        )
    return run_entries([_find_run(target) for target in targets]), {}


def _find_run(target: str) -> StoredRun:
    try:
        return find(target)
    except UserError as error:
        if (near := sweeps.near(target)) is None:
            raise
        raise UserError("usage", f"there is no sweep or run {target}", f"did you mean {near}?") from error
