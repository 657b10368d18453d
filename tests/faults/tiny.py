"""A complete experiment that takes a fraction of a second, and what must be equal in two runs of it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import torch

from engine import store
from engine.config import Config
from engine.data import DataSet, ImageSet
from engine.runs import repeats, resume
from engine.runs.plan import Plan

CLASSES = ("ape", "bee", "cat")
SETTINGS = {
    "ipc": 2,
    "checkpoint_seconds": 0,
    "backbone": {"width": 4},
    "squeeze": {"epochs": 2, "batch": 12},
    "statistics": {"batch": 12},
    "recover": {"iterations": 3, "lr": 0.1, "views": {"crop_scale": [0.5, 1.0]}},
    "relabel": {"mode": "stored"},
    "validate": {"epochs": 2, "seeds": 1, "batch": 4, "evaluate_from": 1.0},
}


def image_set(count: int, seed: int) -> ImageSet:
    """Random 16-pixel images, `count` of each class."""
    rng = np.random.default_rng(seed)
    pixels_NCHW = rng.integers(0, 256, (count * len(CLASSES), 1, 16, 16), np.uint8)
    labels_N = np.tile(np.arange(len(CLASSES)), count)
    return ImageSet.from_arrays(pixels_NCHW, labels_N, CLASSES, (0.5,), (0.25,))


def plan(**changes) -> Plan:
    """The experiment, with some settings changed; every stage has several checkpoints."""
    values = {key: {**value} if isinstance(value, dict) else value for key, value in SETTINGS.items()}
    for key, value in changes.items():
        values[key] = {**values.get(key, {}), **value} if isinstance(value, dict) else value
    data = DataSet("tiny", image_set(8, 0), image_set(4, 1), "0" * 64)
    return Plan(Config.model_validate(values), data, torch.device("cpu"), None)


def begun(folder: Path, prepared: Plan | None = None, control=None):
    """A run in ``folder/run`` with a cache of its own, not yet pulled: new, or taken up again."""
    prepared = prepared or plan()
    run = resume.open_planned_run(prepared, folder / "run", {}, ["test"])
    return repeats.run(prepared, run, store.Cache(folder / "cache"), ["test"], control)


def finish(work):
    """Pull a run to its end: its events."""
    return list(work)


def outcome(folder: Path) -> dict[str, str]:
    """Digests of all that an interrupted run must share with an uninterrupted one, by name."""
    run, found = folder / "run", {}
    for pattern in ("images/**/*", "labels/*", "moving.safetensors", "metrics/*"):
        paths = (*run.glob(pattern), *run.glob(f"repeats/*/{pattern}"))
        found |= {str(path.relative_to(run)): _digest(path) for path in paths if path.is_file()}
    cache = folder / "cache"
    for path in (*cache.glob("teachers/*"), *cache.glob("statistics/*")):
        found[f"cache/{path.relative_to(cache)}"] = _digest(path)
    results = json.loads((run / "results.json").read_text())
    measured = [[repeat["students"], repeat["teacher"]] for repeat in results["repeats"]]
    return {**found, "summary": json.dumps(results["summary"]), "repeats": json.dumps(measured)}


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
