"""The folder of a sweep: its manifest, and checks that the folder does not belong to another sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.config.identity import changed_settings
from engine.errors import UserError, format_names, quote_command
from engine.store import SCHEMA_VERSION, sweeps
from engine.store.lock import timestamp
from engine.store.sweeps import StoredSweep
from engine.sweep.description import Options, Sweep
from engine.sweep.points import Point
from engine.version import product_version

_Given = Mapping[str, Mapping[str, str]]  # point → input (data, teacher, …) → its fingerprint


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


def require_same_sweep(folder: Path, new: Mapping[str, Any]) -> None:
    """Raise UserError("usage") if the folder has points or a budget that differ from the manifest `new`."""
    if not sweeps.is_sweep(folder):
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
