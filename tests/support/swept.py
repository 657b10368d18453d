"""Sweeps in tests: finished ones made by hand, and real ones that take seconds."""

from __future__ import annotations

import hashlib
import json

import pytest
import yaml

from engine.errors import UserError
from engine.runs.results import build_document
from engine.store import journal
from engine.store.folders import RunFile
from engine.store.json_file import write_json
from engine.store.sweeps import StoredSweep
from engine.sweep import description, folder, points

TINY = {
    "description": "Three methods in seconds",
    "preset": "smoke",
    "set": {"checkpoint_seconds": 0, "backbone.width": 8, "validate.seeds": 2},
    "grid": {"objective": ["cfm", "hfm", "lfm"]},
}
GRID = {"preset": "smoke", "grid": {"objective": ["cfm", "lfm"], "seed": [0, 1]}}


def file(place, values=TINY, name="tiny"):
    """A sweep's YAML file in a folder."""
    path = place / f"{name}.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def expanded(values, environ=None, **options):
    """The points of a sweep that is told as plain data."""
    return points.expand(description.parse_sweep(values), description.Options(**options), environ)


def refused(values, **options):
    with pytest.raises(UserError) as caught:
        expanded(values, **options)
    return caught.value


def student(seed, last, source="distilled", architecture="convnet"):
    told = {"architecture": architecture, "seed": seed, "source": source, "last": last, "best": last}
    return {**told, "curve": [[2, last]], "weights": "0" * 64}


def made(place, values, accuracies, **options):
    """A sweep's folder in `place`, its points finished with these accuracies.

    accuracies: point's name → accuracies of its students, by their seed; or (those, those of the control).
    """
    sweep, asked = description.parse_sweep(values), description.Options(**options)
    found = points.expand(sweep, asked)
    place.mkdir(parents=True)
    folder.write_manifest(place, folder.build_manifest(place.name, sweep, asked, found), {})
    for point in found:
        if point.name in accuracies:
            (place / point.name).mkdir()
            write_json(
                place / point.name / "results.json", results(accuracies[point.name], seed=point.config.seed)
            )
    return StoredSweep(place)


def results(told, provenance=None, seed=0):
    distilled, control = told if isinstance(told, tuple) else (told, [])
    students = [student(seed, last) for seed, last in enumerate(distilled)]
    students += [student(seed, last, "random") for seed, last in enumerate(control)]
    teacher = {"accuracy": 90.0, "architecture": "convnet"}
    entry = {
        "seed": seed,
        "students": students,
        "teacher": teacher,
        "timings": {},
        "provenance": provenance or {},
    }
    return build_document("point", [entry], 1, [])


# --- real ones --------------------------------------------------------------------------------------


def computed(run):
    """Stages that some session of a run computed to their end, as often as it did so."""
    told = journal.read(run / "journal.jsonl")
    return [
        each.payload["stage"] for each in told if each.kind == "StageFinished" and not each.payload["reused"]
    ]


def outcome(place):
    """Digests of all that an interrupted sweep must share with an uninterrupted one, by name."""
    found = {}
    for pattern in ("*/images/**/*", "*/labels/*", "*/moving.safetensors", "*/metrics/*"):
        found |= {
            str(path.relative_to(place)): digest(path) for path in place.glob(pattern) if path.is_file()
        }
    for path in place.glob("*/results.json"):
        told = json.loads(path.read_text())
        found[path.parent.name] = json.dumps(
            [told["summary"], told["repeats"][0]["students"], told["repeats"][0]["teacher"]]
        )
    return found


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def times(place):
    """When each file below a folder was last written, except the description of an owner, killed or alive."""
    files = (path for path in place.rglob("*") if path.is_file() and path.name != RunFile.OWNER)
    return {path: path.stat().st_mtime_ns for path in files}
