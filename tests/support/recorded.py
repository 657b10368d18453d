"""Runs made by hand: a folder that this process owns, and a small recovery recorded into it."""

from __future__ import annotations

import numpy as np

from engine import events, store

IDENTITY = {"config": "c" * 64, "data": "d" * 64, "teacher": "squeezed"}
CLASSES = ("ant", "bee")
CIRCUMSTANCES = {"versions": {"torch": "2"}, "device": {"name": "cpu"}, "execution": {"threads": 1}}


def opened(folder, changed=None, text="seed: 0\n", **changes):
    manifest = {"name": "x", "identity": {**IDENTITY, **changes}, **CIRCUMSTANCES}
    return store.open_run(folder, manifest, text, changed)


def progress(batch, first, count=2, iterations=4, taps=2):
    """Numbers of `count` iterations of one of two batches; each tells where it comes from."""
    numbers = list(range(first, first + count))
    ce = [batch + number / 8 for number in numbers]
    terms = [[[batch + number / 16 + tap / 32 for tap in range(taps)]] for number in numbers]
    return events.RecoverProgress(batch, 2, 0.5, numbers, iterations, ce, terms, 7.0)


def layout(done=0, taps=2):
    return events.RecoverLayout([f"conv{tap}" for tap in range(taps)], ["ridge/none"], [0.5, 0.25], done)


def record_recovery(run):
    """Two batches of four iterations, in chunks of two."""
    run.record(events.StageStarted("recover", 8, "iterations"))
    run.record(layout())
    for batch in (1, 2):
        run.record(progress(batch, 0))
        run.record(progress(batch, 2))
        run.record(events.BatchRecovered(batch, 2, 0.5, 2))


def pixels(count=4, size=4):
    return np.random.default_rng(0).uniform(0, 1, (count, 1, size, size)).astype(np.float32)


def logits(epochs=3):
    return np.random.default_rng(1).standard_normal((epochs, 4, 2)).astype(np.float16)
