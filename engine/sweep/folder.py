"""The folder of a sweep: its manifest, and checks that it does not belong to another sweep."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from engine.config.identity import changed_settings
from engine.errors import UserError, format_names, quote_command
from engine.store import SCHEMA_VERSION, sweeps
from engine.store.lock import timestamp
from engine.store.sweeps import StoredSweep
from engine.sweep.description import Options, Sweep, load_sweep
from engine.sweep.points import Point, expand
from engine.version import product_version

_Given = Mapping[str, Mapping[str, str]]  # point → input (data, teacher, …) → its fingerprint


@dataclass(frozen=True)
class PlannedSweep:
    """A sweep that is to run.

    describe: returns the manifest of a new sweep with given points; None for an existing one, whose manifest
    is already stored.
    """

    folder: Path
    points: list[Point]
    describe: Callable[[Sequence[Point]], dict[str, Any]] | None

    def manifest(self) -> dict[str, Any] | None:
        """Return the manifest of a new sweep, None for an existing one."""
        return None if self.describe is None else self.describe(self.points)

    def with_absolute_paths(self) -> PlannedSweep:
        """Return the sweep with absolute paths in its settings, so that it resumes from any folder."""
        from engine.runs.launch import with_absolute_paths  # torch, which takes seconds

        points = [replace(point, config=with_absolute_paths(point.config)) for point in self.points]
        return replace(self, points=points)

    def create(self) -> None:
        """Write the folder of a sweep of which no point is started, for a process that runs them.

        Raises UserError as `StoredSweep.acquire` and `require_same_sweep` do.
        """
        manifest = self.with_absolute_paths().manifest()
        owner = StoredSweep(self.folder).acquire()
        try:
            require_same_sweep(self.folder, manifest)
            write_manifest(self.folder, manifest, {})
        finally:
            owner.release()


def plan_sweep(target: str, options: Options, runs: Path, out: Path | None = None) -> PlannedSweep:
    """Return the sweep that `cfm sweep TARGET` runs.

    target: as of `load_sweep`, or the folder of an existing sweep. runs: folder of new sweeps. out: the
    sweep's folder; None names it after the sweep and its options. Raises UserError where the sweep or an
    option is wrong.
    """
    path = Path(target)
    if sweeps.is_sweep(path):
        if not options.nothing():
            problem = f"{target} is an existing sweep, whose settings cannot be changed"
            raise UserError("usage", problem, "remove the options, except --jobs and --devices")
        return PlannedSweep(path, load_points(StoredSweep(path)), None)
    name, sweep = load_sweep(target)
    parts = [name, *options.datasets, *options.backbones]
    parts += ["ipc" + "+".join(map(str, options.ipcs))] if options.ipcs else []
    parts += [f"budget{options.budget:g}"] if options.budget is not None else []
    points = expand(sweep, options, os.environ)
    folder = out or runs / "-".join(parts)[:100]
    return PlannedSweep(folder, points, partial(build_manifest, name, sweep, options))


def build_manifest(name: str, sweep: Sweep, options: Options, points: Sequence[Point]) -> dict[str, Any]:
    """Return the manifest of a new sweep."""
    return {
        "schema_version": SCHEMA_VERSION,
        "sweep": name,
        "created": timestamp(),
        "version": product_version(),
        "description": sweep.description,
        "budget": options.budget,
        "order": list(sweep.order),
        "against": sweep.against,
        "paper": sweep.paper,
        "points": [point.record() for point in points],
    }


def load_points(stored: StoredSweep) -> list[Point]:
    """Return the points of a stored sweep. Raises UserError("disk") if its manifest cannot be read."""
    return [Point.from_record(record) for record in stored.manifest()["points"]]


def write_manifest(folder: Path, new: Mapping[str, Any] | None, given: _Given) -> StoredSweep:
    """Write the manifest of a sweep to its folder; the sweep may be new, unchanged or have more points.

    new: from `build_manifest`; None: keep the stored one. given: fingerprints from `points.check`, which are
    added to the stored ones.
    """
    stored = StoredSweep(folder).manifest() if sweeps.is_sweep(folder) else {}
    given = {**stored.get("given", {}), **given}
    merged = {**stored, **(new or {})}
    sweep = StoredSweep(folder)
    sweep.save({**merged, "created": stored.get("created", merged["created"]), "given": given})
    return sweep


def require_same_inputs(folder: Path, given: _Given) -> None:
    """Raise UserError("usage") if a point was started with other inputs, such as another teacher."""
    stored = StoredSweep(folder).manifest().get("given", {}) if sweeps.is_sweep(folder) else {}
    for name, inputs in given.items():
        before = stored.get(name, inputs)
        if changed := [part for part in inputs if before.get(part) != inputs[part]]:
            raise _other_sweep_error(folder, f"its point {name} used another {' and another '.join(changed)}")


def require_same_sweep(folder: Path, new: Mapping[str, Any] | None) -> None:
    """Raise UserError("usage") if the folder has points or a budget that differ from the manifest `new`.

    new: as of `write_manifest`.
    """
    if new is None or not sweeps.is_sweep(folder):
        return
    stored = StoredSweep(folder).manifest()
    if stored["budget"] != new["budget"]:
        raise _other_sweep_error(folder, f"its budget is {stored['budget']}, not {new['budget']}")
    new_points = {record["name"]: record for record in new["points"]}
    for record in stored["points"]:
        if record["name"] not in new_points:
            raise _other_sweep_error(folder, f"its point {record['name']} is not in this sweep")
        before, after = (Point.from_record(each).config for each in (record, new_points[record["name"]]))
        changed = changed_settings(before, after)
        differences = [f"{key} is {old} instead of {new_value}" for key, (old, new_value) in changed.items()]
        if differences:
            listed = format_names(differences, 4, "; ")
            raise _other_sweep_error(folder, f"in its point {record['name']}, {listed}")


def _other_sweep_error(folder: Path, reason: str) -> UserError:
    return UserError(
        "usage",
        f"{folder} contains another sweep: {reason}",
        f"choose another folder with --out, or resume that sweep with {quote_command('sweep', folder)}",
    )
