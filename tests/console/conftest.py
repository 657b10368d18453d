"""Runs and folders that several modules of these tests look at."""

from __future__ import annotations

import shutil

import pytest
from forms import nowhere
from recorded import opened, record_recovery

from engine.store.json_file import read_json, write_json


@pytest.fixture(autouse=True)
def settings_folder(tmp_path_factory, monkeypatch):
    """An empty folder of the user's preferences and draft."""
    folder = tmp_path_factory.mktemp("config")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))
    return folder / "cfm-tui"


@pytest.fixture
def runs(tmp_path, finished):
    """One run each: done, stopped, failed, lost; begun a minute after each other."""
    place = tmp_path / "runs"
    shutil.copytree(finished, place / "done")
    for name, state in (("ended", "stopped"), ("broken", "failed"), ("gone", "running")):
        run = opened(place / name)
        record_recovery(run)
        run.close("stopped" if state == "running" else state, "no room" if state == "failed" else "")
    lost = place / "gone" / "status.json"
    write_json(lost, {**read_json(lost), "state": "running", "stage": "recover", "pid": 2**22 + 1})
    for minute, name in enumerate(("done", "ended", "broken", "gone")):
        path = place / name / "manifest.json"
        write_json(path, {**read_json(path), "created": f"2026-03-04T05:{10 + minute}:00Z"})
    return place


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """The cache of a module's runs."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def place(tmp_path, cache, monkeypatch):
    """An empty working folder."""
    return nowhere(tmp_path, cache, monkeypatch)
