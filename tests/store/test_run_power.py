"""A run whose power is lost at any call of the store: what was reported saved is there, and it goes on."""

import contextlib
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from lossy_disk import LossyDisk, PowerLoss
from recorded import layout, opened, progress

from engine import events, store
from engine.store import files, heartbeat, journal, metrics

SETTINGS = [("seed: 0\n", "c"), ("seed: 1\n", "e")]
CHUNKS = [(1, 0), (1, 2), (2, 0), (2, 2)]


def work(folder, told):
    """Two batches in four chunks, saved after each, with other settings from the second session on."""
    first = not store.is_run(folder)
    new = {} if first else {"changed": lambda stored: True, "text": "seed: 1\n", "config": "e" * 64}
    run = opened(folder, **new)
    told["notices"] = run.notices()
    saved = run.saved("recover")
    done = 0 if saved is None else saved.facts["done"]
    run.record(events.StageStarted("recover", 8, "iterations", 2 * done))
    run.record(layout(done=2 * done))
    for batch, first in CHUNKS[done:]:
        run.record(progress(batch, first))
        told["notices"] += run.notices()
        done += 1
        run.checkpoint("recover", {"x": np.full(2, done)}, {"done": done})
        told |= {"checkpoints": done, "records": sum(1 for _ in journal.read(folder / "journal.jsonl"))}
        if done == 2:
            run.close("stopped")
            return work(folder, told)
    run.save_results({"done": True})
    run.close("finished")
    told["finished"] = True
    return None


@pytest.fixture
def quick_folder(tmp_path):
    """A folder in memory where there is one: a disk would sync thousands of times."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as place:
        yield Path(place)


def whole(folder):
    """The numbers of a run that was never cut."""
    run = opened(folder)
    run.record(layout())
    for batch, first in CHUNKS:
        run.record(progress(batch, first))
    run.close("finished")
    return metrics.read(folder / "metrics" / "recover.f32")[1]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files are looked up there")
@pytest.mark.parametrize("seed", [None, 0])
def test_a_run_goes_on_from_what_was_reported_saved(quick_folder, monkeypatch, seed):
    monkeypatch.setattr(heartbeat, "THREAD", False)
    wanted = whole(quick_folder / "whole")
    number, cut = (0 if seed is None else 1), True  # every second call, the others with the other seed
    while cut:
        number += 2
        root, after, told = quick_folder / f"{number}", quick_folder / f"{number}-after", {}
        root.mkdir()
        disk = LossyDisk(root, number)
        with monkeypatch.context() as patch:
            patch.setattr(files, "disk", disk)
            with contextlib.suppress(PowerLoss):
                work(root / "run", told)
        cut = disk.lost
        disk.leave(after, seed if seed is None else 1000 * number + seed)
        folder = after / "run"
        stored = store.StoredRun(folder)
        assert sum(1 for _ in journal.read(folder / "journal.jsonl")) >= told.get("records", 0)
        if store.is_run(folder):
            settings = (stored.config_yaml(), stored.manifest()["identity"]["config"][0])
            assert settings in SETTINGS
        assert not told.get("finished") or stored.state() == "finished"
        reported, told = told, {}
        if not reported.get("finished"):
            work(folder, told)
        assert all("torn" in notice for notice in told.get("notices", ()))
        assert np.array_equal(metrics.read(folder / "metrics" / "recover.f32")[1], wanted)
        assert [line for line in store.check(folder) if "images" not in line] == []
        assert stored.state() == "finished"
    assert number > 100
