"""A run on its own thread."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from cfm_tui.console.session import Session
from cfm_tui.process import detach
from engine.config import settings
from engine.store import StoredRun, control


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("CFM_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("CFM_CACHE", str(tmp_path / "cache"))
    return tmp_path


def happens(holds, seconds=60):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_session_computes_a_run_to_its_end(place):
    session = Session(settings.resolve(preset="smoke"), "smoke")
    assert session.wait(120)
    assert session.describe_failure() is None
    assert StoredRun(session.folder).state() == "finished"


def test_a_session_is_steered_and_gone_on_with(place):
    session = Session(settings.resolve(preset="smoke", sets=["recover.iterations=100000"]), "smoke")
    session.ask("checkpoint", "a test")  # while it is still loading
    happens(lambda: session.folder is not None and StoredRun(session.folder).status().get("batch"))
    session.ask("pause", "a test")
    happens(lambda: StoredRun(session.folder).state() == "paused")
    session.ask("stop", "a test")
    assert session.wait(60)
    assert session.describe_failure() is None
    assert StoredRun(session.folder).state() == "stopped"
    again = Session(None, "smoke", session.folder)
    happens(lambda: again.state == "running" and StoredRun(session.folder).state() == "running")
    again.ask("stop", "a test")
    assert again.wait(60)


def test_what_goes_wrong_is_kept_with_its_traceback(place):
    wrong = settings.resolve(preset="smoke", sets=["ipc=100000"])
    session = Session(wrong, "smoke")
    assert session.wait(60)
    message, hint, whole = session.describe_failure()
    assert "fewer than ipc" in message
    assert "set ipc to" in hint
    assert "Traceback" in whole


@pytest.fixture
def at_work(place):
    session = Session(settings.resolve(preset="smoke", sets=["recover.iterations=100000"]), "smoke")
    happens(lambda: session.folder is not None and StoredRun(session.folder).status().get("batch"))
    return session


def test_a_run_is_handed_over_once_and_stays_paused(at_work):
    at_work.ask("pause", "a test")
    happens(lambda: StoredRun(at_work.folder).state() == "paused")
    with ThreadPoolExecutor() as pool:
        heirs = set(pool.map(at_work.hand_over, ("a test", "another")))
    assert heirs == {at_work.heir}
    run = StoredRun(at_work.folder)
    happens(lambda: run.state() == "paused" and run.status()["pid"] == at_work.heir)
    assert f"it stays paused in process {at_work.heir}, which is loading" in at_work.format_farewell()
    assert "cfm attach" in at_work.format_farewell()
    first, second = (event for event in run.events() if event.kind == "Paused")
    assert (first.stage, first.batch) == ("recover", 1)
    assert second.iteration == first.iteration > 0
    control.request(at_work.folder, "stop")
    happens(lambda: run.state() == "stopped")
    detach._started.pop().wait(60)


def test_a_run_that_was_to_be_stopped_is_not_handed_over(at_work):
    at_work.ask("stop", "a test")
    assert at_work.hand_over("SIGHUP") is None
    assert StoredRun(at_work.folder).state() == "stopped"
    assert "cfm resume" in at_work.format_farewell()


def test_what_is_said_of_a_run_that_failed_before_it_had_a_folder(place):
    session = Session(settings.resolve(preset="smoke", sets=["ipc=100000"]), "smoke")
    assert session.wait(60)
    assert session.hand_over("SIGHUP") is None
    assert "set ipc to" in session.format_farewell()
    assert "None" not in session.format_farewell()
