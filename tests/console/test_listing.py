"""The rows of the list of runs: what changed, what is damaged, what cannot be read."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from consoles import console, drive, shown, until
from recorded import layout, opened

from cfm_tui.console.listing import Listing
from engine import events
from engine.store import StoredRun
from engine.store.json_file import write_json


def told(text, *words):
    """Whether a line has all the words."""
    return any(all(word in line for word in words) for line in text.splitlines())


def test_a_run_that_appears_or_changes_is_seen(runs):
    async def script(pilot):
        await until(pilot, "gone")
        run = opened(runs / "fresh")
        run.record(events.StageStarted("recover", 8, "iterations"))
        run.record(layout())
        await until(pilot, "fresh")
        await until(pilot, lambda: told(shown(pilot), "fresh", "running"))
        run.close("finished")
        await until(pilot, lambda: told(shown(pilot), "fresh", "finished"))

    drive(console(runs), script)


def test_a_damaged_run_is_listed_as_such(runs):
    (runs / "ended" / "manifest.json").write_text("{")

    async def script(pilot):
        await until(pilot, "damaged")

    drive(console(runs), script)
    assert StoredRun(runs / "ended").state() == "damaged"


@pytest.mark.parametrize(
    ("name", "odd"),
    [
        ("results.json", {"summary": {"accuracy": {"n": 3}}}),
        ("results.json", {"summary": []}),
        ("results.json", {"summary": {"accuracy": {"mean": "much"}}}),
        ("status.json", {"state": "stopped", "accuracy": [1]}),
        ("status.json", {"state": "stopped", "beta": "small"}),
        ("status.json", {"state": ["stopped"]}),
    ],
)
def test_a_run_that_says_what_no_run_says_is_damaged(runs, name, odd):
    write_json(runs / "ended" / name, odd)
    rows = {row.name: row.state for row in Listing(runs).read()}
    assert rows == {"done": "finished", "ended": "damaged", "broken": "failed", "gone": "lost"}


def fails_at(monkeypatch, place, code):
    """Let everything that looks at files in `place` fail."""
    truly = os.stat

    def look(path, *words, **options):
        if not isinstance(path, int) and Path(path).is_relative_to(place):
            raise OSError(code, os.strerror(code))
        return truly(path, *words, **options)

    monkeypatch.setattr(os, "stat", look)


@pytest.mark.parametrize("code", [errno.ESTALE, errno.EIO, errno.EACCES])
def test_a_run_that_cannot_be_looked_at_hides_no_other(runs, monkeypatch, code):
    listing = Listing(runs)
    assert len(listing.read()) == 4
    with monkeypatch.context() as patch:
        fails_at(patch, runs / "ended", code)
        assert {row.name: row.state for row in listing.read()}["ended"] == "damaged"
        assert len(Listing(runs).read()) == 3  # whether it is a run cannot be seen
    assert {row.name: row.state for row in listing.read()}["ended"] == "stopped"
