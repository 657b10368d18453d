"""Subjects of reports that were never run."""

from pathlib import Path

import numpy as np

from engine import events, store
from engine.config import Objective, Term, settings
from engine.report.lens import LensLayer
from engine.report.losses import LossCourse, LossRecord
from engine.report.subject import Subject


def course(values, taps=2, batches=2, iterations=4):
    """A recovery whose every number is that of `values`, row by row."""
    shape = events.RecoverLayout([f"conv{tap}" for tap in range(taps)], ["ridge/none"], [0.5] * batches)
    found = LossCourse(shape, iterations)
    found.add(0, np.repeat(np.asarray(values, np.float32)[:, None], 4 + taps, axis=1))
    return found


def goal(*names):
    """An objective of these filters."""
    return Objective(terms=tuple(Term(filter=name) for name in names))


ODD = {
    "nothing": [],
    "nan": [np.nan] * 8,
    "infinite": [np.inf, -np.inf] * 4,
    "constant": [0.25] * 8,
    "zero": [0.0] * 8,
    "negative": [-1.0, 2.0] * 4,
    "one": [3.0],
    "far apart": [1e-38, 1e38] * 4,
}


def unfinished(name, *sets):
    """A run of a method that stands at 3 of 8 iterations; no image is finished, statistics are there."""
    found = Subject(store.StoredRun(Path(name)), "stopped", settings.resolve(preset="smoke", sets=sets))
    found.record = LossRecord(None, course([1.0] * 3), ())
    found.layers, found.source = [LensLayer("a", np.ones(3), np.ones(3))], "recovery"
    return found
