"""The list of runs while runs are deleted, and with runs of a newer version of the program."""

from __future__ import annotations

import json
import re
import shutil
import threading
from contextlib import suppress

import pytest
from commandline import call, call_json
from swept import made

from cfm_tui.console.listing import Listing
from engine import store
from engine.config import settings
from engine.errors import UserError
from engine.store import SCHEMA_VERSION, delete_run
from engine.store.json_file import read_json, write_json
from engine.store.reader import NewerRunError


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv("CFM_RUNS", str(tmp_path))
    return tmp_path


def test_runs_that_are_deleted_while_they_are_listed_vanish_quietly(runs, finished, capsys):
    kept = runs / "kept"
    shutil.copytree(finished, kept)
    deleting = threading.Event()

    def delete_and_restore() -> None:
        for number in range(60):
            copy = runs / f"run-{number % 3}"
            shutil.copytree(finished, copy, ignore=shutil.ignore_patterns("images", "labels", "metrics"))
            delete_run(copy)
        deleting.set()

    listing, found = Listing(runs), set()
    thread = threading.Thread(target=delete_and_restore)
    thread.start()
    while not deleting.is_set():
        found |= {(row.name, row.state) for row in listing.read()}
        assert any(run.name == "kept" for run in store.list_runs())
        for entry in call_json(capsys, "runs", "runs")["runs"]:
            found.add((entry["name"], entry["state"]))
    thread.join()
    assert ("kept", "finished") in found
    assert not [name for name, _ in found if ".deleted" in name]
    assert [run.name for run in store.list_runs()] == ["kept"]


def test_a_run_that_vanishes_while_it_is_summarised_is_not_listed(runs, finished, capsys, monkeypatch):
    for name in ("first", "second"):
        shutil.copytree(finished, runs / name)
    list_runs = store.list_runs

    def list_and_delete(*arguments):
        listed = list_runs(*arguments)
        delete_run(runs / "first")
        return listed

    monkeypatch.setattr(store, "list_runs", list_and_delete)
    assert [entry["name"] for entry in call_json(capsys, "runs", "runs")["runs"]] == ["second"]
    with suppress(UserError):
        store.StoredRun(runs / "first").manifest()
    assert store.StoredRun(runs / "first").created() == ""


def make_newer(folder, schema=SCHEMA_VERSION + 1):
    path = folder / "manifest.json"
    manifest = read_json(path)
    manifest["versions"] = {**manifest.get("versions", {}), "cfm-tui": "9.9"}
    manifest["schema_version"] = schema
    manifest["something"] = "new"
    write_json(path, {name: value for name, value in manifest.items() if name != "sha256"})


def test_a_run_of_a_newer_version_says_so_and_hides_no_other(runs, finished, capsys):
    for name in ("old", "new"):
        shutil.copytree(finished, runs / name)
    make_newer(runs / "new")
    states = {entry["name"]: entry["state"] for entry in call_json(capsys, "runs", "runs")["runs"]}
    assert states == {"old": "finished", "new": "newer"}
    assert {row.name: row.state for row in Listing(runs).read()} == states
    with pytest.raises(NewerRunError, match=r"new was written by cfm-tui 9\.9 in format 2; this is cfm-tui "):
        store.StoredRun(runs / "new").manifest()
    for words in (["resume", "new"], ["table", "new"]):
        error = call_json(capsys, "error", *words, code=2)["error"]
        assert "written by cfm-tui 9.9" in error["message"]
        assert "install" in error["hint"]
    out, err = call(capsys, "table", "old", "new")
    assert "33.3" in out
    assert "left out: " in err
    assert "9.9" in err
    assert json.loads(call(capsys, "show", "old", "--json")[0])["state"] == "finished"
    assert "written by cfm-tui 9.9" in call(capsys, "stop", "new", code=2)[1]
    out, err = call(capsys, "report", "old", "new", "--out", runs / "report.html")
    assert re.search(r"new was written by cfm-tui 9\.9 in format 2; this is cfm-tui", err)
    assert "33.3" in (runs / "report.html").read_text()


def test_a_sweep_of_a_newer_version_is_refused_and_not_overwritten(tmp_path, capsys):
    values = {"preset": "smoke", "grid": {"seed": [0, 1]}}
    stored = made(tmp_path / "sweep", values, {"seed=0": [50.0], "seed=1": [60.0]})
    path = stored.folder / "sweep.json"
    stored.save({**stored.manifest(), "schema_version": SCHEMA_VERSION + 1, "version": "9.9"})
    before = path.read_bytes()
    for words in (["sweep", stored.folder], ["table", stored.folder]):
        error = call_json(capsys, "error", *words, code=2)["error"]
        assert "sweep was written by cfm-tui 9.9 in format 2" in error["message"]
        assert "install" in error["hint"]
    assert path.read_bytes() == before


def test_settings_of_a_newer_version_name_the_run_and_both_versions(runs, finished):
    import hashlib

    shutil.copytree(finished, runs / "new")
    make_newer(runs / "new", SCHEMA_VERSION)
    config = runs / "new" / "config.yaml"
    config.write_text(config.read_text() + "brand_new: 1\n")
    path = runs / "new" / "manifest.json"
    digest = hashlib.sha256(config.read_bytes()).hexdigest()
    write_json(path, {**read_json(path), "config_sha256": digest})
    with pytest.raises(UserError, match=r"new was written by cfm-tui 9\.9, this is .*brand_new") as caught:
        settings.load_stored(store.StoredRun(runs / "new"))
    assert "version that wrote it" in caught.value.hint
