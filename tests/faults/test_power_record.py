"""A run whose power is lost at any call of the store: what was reported saved is there, and it goes on."""

import numpy as np
import pytest
from cases import chosen
from cut import emptied
from lossy_disk import cut_at, needs_open_files
from recorded import layout, opened, progress

from engine import events, store
from engine.store import journal, lock, metrics

SETTINGS = [("seed: 0\n", "c"), ("seed: 1\n", "e")]
CHUNKS = [(1, 0), (1, 2), (2, 0), (2, 2)]


def work(folder, told):
    """Two batches in four chunks, saved after each, with other settings from the second session on."""
    first = not store.is_run(folder)
    new = {} if first else {"changed": lambda stored: True, "text": "seed: 1\n", "config": "e" * 64}
    run = opened(folder, **new)
    told["notices"] = run.notices()
    saved = run.latest_checkpoint("recover")
    done = 0 if saved is None else saved.metadata["done"]
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


def whole(folder):
    """The numbers of a run that was never cut."""
    run = opened(folder)
    run.record(layout())
    for batch, first in CHUNKS:
        run.record(progress(batch, first))
    run.close("finished")
    return metrics.read(folder / "metrics" / "recover.f32")[1]


@needs_open_files
@pytest.mark.parametrize("seed", [None, 0])  # None: every second call, 0: those between them
def test_a_run_goes_on_from_what_was_reported_saved(quick_folder, monkeypatch, counted, seed):
    monkeypatch.setattr(lock.Heartbeat, "THREAD", False)
    wanted = whole(quick_folder / "whole")
    root, after = quick_folder / "case", quick_folder / "after"
    disk, _ = cut_at(monkeypatch, emptied(root), 0, work)
    disk.let_go()
    calls = disk.made
    assert calls > 100
    for number in chosen(range(2 if seed is None else 1, calls + 3, 2), few=12, seed=seed or 1):
        with counted("power loss, record"):
            disk, told = cut_at(monkeypatch, emptied(root), number, work)
            assert disk.lost == (number <= calls)
            disk.leave(emptied(after), seed if seed is None else 1000 * number + seed)
            require_gone_on(after / "run", told, wanted)


def require_gone_on(folder, reported, wanted):
    """What was reported is in a folder, and the run goes on from there with these metrics."""
    stored, told = store.StoredRun(folder), {}
    assert sum(1 for _ in journal.read(folder / "journal.jsonl")) >= reported.get("records", 0)
    if store.is_run(folder):
        assert (stored.config_yaml(), stored.manifest()["identity"]["config"][0]) in SETTINGS
    if reported.get("finished"):
        assert stored.state() == "finished"
    else:
        work(folder, told)
    assert all("torn" in notice for notice in told.get("notices", ()))
    assert np.array_equal(metrics.read(folder / "metrics" / "recover.f32")[1], wanted)
    assert [line for line in store.verify_run(folder) if "images" not in line] == []
    assert stored.state() == "finished"
