"""Finished runs as the accuracies that tables are made of, each with the row and column where it belongs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.config import Config, settings
from engine.errors import UserError
from engine.report.comparing import Seeds
from engine.store import StoredRun, find, sweeps
from engine.store.sweeps import StoredSweep

#: Settings in which runs of one row may differ, besides those of where they are computed.
_FREE = ("seed", "validate.students")


@dataclass(frozen=True)
class Column:
    """What is measured: images, how many of a class, the backbone, the student. name: all of it in words."""

    name: str
    dataset: str
    ipc: int
    backbone: str
    student: str
    plain: bool = True  #: nothing else of it was varied, so the paper's number is for the same


@dataclass(frozen=True)
class Entry:
    """One run: where it belongs, and its results; None before its end."""

    name: str
    row: str
    column: str
    config: Config
    results: dict[str, Any] | None


@dataclass
class Samples:
    """Accuracies in percent after the last epoch, by column, row and seeds; `controls` likewise.

    unfinished: runs without results.
    """

    columns: dict[str, Column] = field(default_factory=dict)
    rows: list[str] = field(default_factory=list)
    accuracies: dict[tuple[str, str], dict[Seeds, float]] = field(default_factory=dict)
    controls: dict[tuple[str, str], dict[Seeds, float]] = field(default_factory=dict)
    unfinished: list[str] = field(default_factory=list)


def of_sweep(stored: StoredSweep, manifest: Mapping[str, Any]) -> list[Entry]:
    """The points of a sweep. Raises UserError("disk") where one is damaged."""
    return [
        Entry(
            record["name"],
            record["row"],
            record["column"],
            Config.model_validate_json(json.dumps(record["config"]), strict=True),
            stored.run(record["name"]).results(),
        )
        for record in manifest["points"]
    ]


def of_runs(runs: Sequence[StoredRun]) -> list[Entry]:
    """Runs by themselves, a row for each method, or for each set of settings where a method has several."""
    from engine.config.identity import LOCAL_SETTINGS

    found = []
    groups: dict[tuple[str, str], dict[str, str]] = {}
    ended = [(run, run.results()) for run in runs]
    ended.sort(key=lambda each: each[1] is None)  # a method's name goes to what has numbers
    for run, results in ended:
        run.config_yaml()  # refused where it is damaged
        config = settings.resolve(file=run.folder / "config.yaml", base=None).config
        column = f"{config.data.name} ipc {config.ipc} {config.backbone.name}"
        alike = {
            key: value for key, value in settings.flat(config).items() if key not in (*_FREE, *LOCAL_SETTINGS)
        }
        known = run.manifest().get("identity") or {}
        alike |= {f"identity.{part}": known[part] for part in sorted(known) if part != "config"}
        method = config.objective.method
        labels = groups.setdefault((column, method), {})
        row = labels.setdefault(json.dumps(alike), method if not labels else f"{method} ({run.name})")
        found.append(Entry(run.name, row, column, config, results))
    return found


def gathered(entries: Iterable[Entry]) -> Samples:
    """All accuracies. Raises UserError("usage") where two runs have the same place and seed."""
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
                "leave one of them out",
            )
        if entry.results is None:
            samples.unfinished.append(entry.name)
        else:
            _take(samples, entry, entry.results)
    return samples


def _take(samples: Samples, entry: Entry, results: Mapping[str, Any]) -> None:
    config = entry.config
    several = len(config.validate_.students) > 1
    for student in results["students"]:
        name = student["architecture"]
        column = _column(entry, name, several)
        samples.columns.setdefault(column.name, column)
        into = samples.accuracies if student["source"] == "distilled" else samples.controls
        into.setdefault((column.name, entry.row), {})[config.seed, student["seed"]] = student["last"]


def _column(entry: Entry, student: str, several: bool) -> Column:
    config = entry.config
    plain = f"{config.data.name} ipc {config.ipc} {config.backbone.name}"
    told = entry.column + (f" → {student}" if several or student != config.backbone.name else "")
    return Column(
        told, config.data.name, config.ipc, config.backbone.name, student, plain=entry.column == plain
    )


def found(targets: Sequence[str]) -> tuple[list[Entry], dict[str, Any]]:
    """What is at the targets: one sweep, or runs; and the sweep's manifest, empty for runs.

    Raises UserError("usage"): a target that is neither, or a sweep beside others.
    """
    stored = [sweeps.find_sweep(target) for target in targets]
    if len(targets) == 1 and stored[0] is not None:
        manifest = stored[0].manifest()
        return of_sweep(stored[0], manifest), manifest
    if any(stored):
        raise UserError("usage", "a sweep has a table of its own", "give one sweep, or runs")
    return of_runs([_run(target) for target in targets]), {}


def _run(target: str) -> StoredRun:
    try:
        return find(target)
    except UserError as error:
        if (close := sweeps.near(target)) is None:
            raise
        raise UserError("usage", f"there is no sweep or run {target}", f"did you mean {close}?") from error
