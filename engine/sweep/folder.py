"""The folder of a sweep: its manifest, and checks that the folder does not belong to another sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.config.identity import changed_settings
from engine.errors import UserError
from engine.store import SCHEMA_VERSION, sweeps
from engine.store.lock import timestamp
from engine.store.sweeps import StoredSweep
from engine.sweep.description import Options, Sweep
from engine.sweep.points import Point, from_record
from engine.version import product_version

Given = Mapping[str, Mapping[str, str]]  #: point → input (data, teacher, …) → its fingerprint
_MAX_LISTED = 4  # settings in a message


def manifest(name: str, sweep: Sweep, options: Options, points: Sequence[Point]) -> dict[str, Any]:
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


def points_of(stored: StoredSweep) -> list[Point]:
    """Return the points of a stored sweep. Raises UserError("disk") if its manifest cannot be read."""
    return [from_record(record) for record in stored.manifest()["points"]]


def written(folder: Path, new: Mapping[str, Any] | None, given: Given) -> StoredSweep:
    """Write the manifest of a sweep to its folder; the sweep may be new, unchanged or have more points.

    new: its `manifest`; None: keep the stored one. given: fingerprints from `points.check`, which are added
    to the stored ones.
    """
    stored = StoredSweep(folder).manifest() if sweeps.is_sweep(folder) else {}
    given = {**stored.get("given", {}), **given}
    merged = {**stored, **(new or {})}
    sweep = StoredSweep(folder)
    sweep.save({**merged, "created": stored.get("created", merged["created"]), "given": given})
    return sweep


def refuse_other_things(folder: Path, given: Given) -> None:
    """Raise UserError("usage") if a point was started with other inputs, such as another teacher."""
    stored = StoredSweep(folder).manifest().get("given", {}) if sweeps.is_sweep(folder) else {}
    for name, inputs in given.items():
        before = stored.get(name, inputs)
        if changed := [part for part in inputs if before.get(part) != inputs[part]]:
            raise _other_sweep_error(folder, f"its point {name} used another {' and another '.join(changed)}")


def refuse_another(folder: Path, new: Mapping[str, Any]) -> None:
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
        if differences := _format_differences(record, new_points[record["name"]]):
            raise _other_sweep_error(folder, f"in its point {record['name']}, {differences}")


def _format_differences(stored: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    before, after = (from_record(record).config for record in (stored, new))
    changed = changed_settings(before, after)
    differences = [f"{key} is {there} instead of {here}" for key, (there, here) in changed.items()]
    omitted = len(differences) - _MAX_LISTED
    return "; ".join(differences[:_MAX_LISTED]) + (f"; and {omitted} more" if omitted > 0 else "")


def _other_sweep_error(folder: Path, reason: str) -> UserError:
    return UserError(
        "usage",
        f"{folder} contains another sweep: {reason}",
        f"choose another folder with --out, or resume that sweep with `cfm sweep {folder}`",
    )
