"""Runs to be looked at: recorded by hand at one moment, so that a screen of them is always the same."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import numpy as np
from consoles import console, drive, until
from recorded import opened

from cfm_tui.console.engine_link import OpenRun
from cfm_tui.console.screens.monitor import MonitorPage
from engine import events
from engine.store.json_file import read_json, write_json
from engine.store.lock import timestamp
from engine.store.preview import Preview

MOMENT = 1772600000.0  #: of all that is recorded
TAPS = ["layers.conv.0", "layers.conv.1", "layers.conv.2"]
TERMS = ["ridge/none", "ridge/class"]
BETAS = [0.5 * 0.7**batch for batch in range(8)]
ITERATIONS = 40


def frozen(monkeypatch):
    """Whatever is recorded from now on, is recorded at one moment, and told in UTC."""
    monkeypatch.setattr(time, "time", lambda: MOMENT)
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


def numbers(batch, first, count):
    """Numbers of `count` iterations that fall, each tap and term at a height of its own."""
    made = list(range(first, first + count))
    ce = [2.0 / (1 + i) + 0.01 * batch for i in made]
    terms = [[[(t + 1) * 10.0**-tap / (1 + i / 8) for tap in range(3)] for t in range(2)] for i in made]
    return events.RecoverProgress(batch, len(BETAS), BETAS[batch - 1], made, ITERATIONS, ce, terms, 12.5)


def glimpse(batch=3, iteration=20):
    """Ten images that differ, and the spectra of all taps but the first."""
    y, x = np.mgrid[:16, :16]
    images = [255 * ((x // (1 + n) + y // (1 + n)) % 2) for n in range(10)]
    real = (4.0 / np.arange(1, 65) ** 2).astype(np.float32)
    spectra = {tap: (real, (real * 0.5).astype(np.float32)) for tap in TAPS[1:]}
    pixels = np.stack(images).astype(np.uint8)[:, None]
    return Preview(batch, iteration, BETAS[batch - 1], pixels, np.arange(10) % 2, spectra, MOMENT)


def train(run, stage, architecture, source, seed, epochs=6):
    for epoch in range(1, epochs + 1):
        accuracy = None if epoch % 2 else 50.0 + 4 * epoch + seed - 20 * (source == "random")
        run.record(
            events.EpochFinished(stage, architecture, source, seed, epoch, epochs, 2.0 / epoch, accuracy, 3.0)
        )


def before_recovery(run):
    run.record(events.StageStarted("squeeze", 6, "epochs"))
    train(run, "squeeze", "convnet", "teacher", 0)
    run.record(events.StageFinished("squeeze", 2.0, 3.0))
    run.record(events.StageFinished("statistics", 0.0, 0.0, True))


def recovering(run):
    """Two batches and a half of eight."""
    before_recovery(run)
    run.record(events.StageStarted("recover", len(BETAS) * ITERATIONS, "iterations"))
    run.record(events.RecoverLayout(TAPS, TERMS, BETAS))
    for batch in (1, 2, 3):
        for first in range(0, ITERATIONS if batch < 3 else ITERATIONS // 2, 10):
            run.record(numbers(batch, first, 10))
        if batch < 3:
            run.record(events.BatchRecovered(batch, len(BETAS), BETAS[batch - 1], 10))
    run.record(events.Checkpointed("recover", 2, 2_500_000, 0.25))
    run.save_preview(glimpse())


def validating(run):
    """All images there; one student and its control trained, a second at work."""
    before_recovery(run)
    run.record(events.StageFinished("recover", 3.0, 9.0))
    run.record(events.StageFinished("relabel", 0.0, 0.0, True))
    run.record(events.StageStarted("validate", 24, "epochs"))
    for seed in (0, 1):
        train(run, "validate", "convnet", "distilled", seed, 6 - 2 * seed)
        if not seed:
            train(run, "validate", "convnet", "random", seed)


def elsewhere(folder: Path, **facts):
    """Say that a process of another host is at work, or was when it stopped."""
    path = folder / "status.json"
    owner = {"pid": 4321, "host": "node7", "started": 1.0, "time": timestamp(time.time())}
    write_json(path, {**read_json(path), **owner, **facts})


def made(folder: Path, record, state="running", message="", **facts):
    """A run of another host, in a state."""
    run = opened(folder)
    record(run)
    status = dict(read_json(folder / "status.json"))
    run.close("stopped" if state in ("running", "paused") else state, message)
    if state in ("running", "paused"):
        write_json(folder / "status.json", status)
    elsewhere(folder, state=state, **facts)
    return folder


def copied(source: Path, folder: Path):
    """A copy that may be changed."""
    shutil.copytree(source, folder)
    return folder


def watch(folder, script, size=(80, 24), **options):
    """Open a run's monitor and run `script(pilot, page)` once its record is read."""

    async def play(pilot):
        await until(pilot, lambda: isinstance(pilot.app.screen, MonitorPage))
        page = pilot.app.screen
        await until(pilot, lambda: page._model is not None)
        await pilot.pause()
        await script(pilot, page)

    drive(console(folder.parent, opening=OpenRun(folder), **options), play, size)
