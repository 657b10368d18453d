"""A sweep and its folder: what is written down of it, and that no other sweep's points come into it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.config import settings
from engine.errors import UserError
from engine.store import SCHEMA_VERSION, sweeps
from engine.store.lock import timestamp
from engine.store.sweeps import StoredSweep
from engine.sweep.description import Options, Sweep
from engine.sweep.points import Point, from_record
from engine.version import product_version

Given = Mapping[str, Mapping[str, str]]  #: by point, the fingerprint of each thing that it is given
_SHOWN = 4  # settings that a message names


def manifest(name: str, sweep: Sweep, options: Options, points: Sequence[Point]) -> dict[str, Any]:
    """What is written down of a sweep before it begins."""
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
    """The points of a sweep that was begun. Raises UserError("disk")."""
    return [from_record(record) for record in stored.manifest()["points"]]


def written(folder: Path, told: Mapping[str, Any] | None, given: Given) -> StoredSweep:
    """The sweep, written down in its folder: new, unchanged, or with more points than before.

    told: None for what is there. given: see `points.check`, of the points that were looked at.
    """
    there = StoredSweep(folder).manifest() if sweeps.is_sweep(folder) else {}
    given = {**there.get("given", {}), **given}
    known = {**there, **(told or {})}
    return sweeps.save_sweep(
        folder, {**known, "created": there.get("created", known["created"]), "given": given}
    )


def refuse_other_things(folder: Path, given: Given) -> None:
    """Raise UserError("usage") where a point was begun with other images, or another teacher."""
    there = StoredSweep(folder).manifest().get("given", {}) if sweeps.is_sweep(folder) else {}
    for name, parts in given.items():
        before = there.get(name, parts)
        if others := [part for part in parts if before.get(part) != parts[part]]:
            raise _another(folder, f"its point {name} was given another {' and another '.join(others)}")


def refuse_another(folder: Path, told: Mapping[str, Any]) -> None:
    """Raise UserError("usage") where the folder holds other points than these, or another budget."""
    if not sweeps.is_sweep(folder):
        return
    there = StoredSweep(folder).manifest()
    if there["budget"] != told["budget"]:
        raise _another(folder, f"its budget is {there['budget']}, not {told['budget']}")
    now = {record["name"]: record for record in told["points"]}
    for record in there["points"]:
        if record["name"] not in now:
            raise _another(folder, f"its point {record['name']} is none of this sweep")
        if differing := _differences(record, now[record["name"]]):
            raise _another(folder, f"of its point {record['name']}, {differing}")


def _differences(there: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    from engine.config.identity import LOCAL_SETTINGS

    before, after = (settings.flat(from_record(record).config) for record in (there, now))
    found = [
        f"{key} is {before[key]} there and {after[key]} here"
        for key in after
        if before[key] != after[key] and key not in LOCAL_SETTINGS
    ]
    more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return "; ".join(found[:_SHOWN]) + more


def _another(folder: Path, why: str) -> UserError:
    return UserError(
        "usage",
        f"{folder} holds another sweep: {why}",
        f"choose another folder with --out, or go on with `cfm sweep {folder}`",
    )
