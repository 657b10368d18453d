"""The monitor on a run of this process's engine thread: from its warming up to its end, by keys alone."""

from __future__ import annotations

import threading

import pytest
from consoles import console, drive, shown, until

from cfm_tui.console.driver import Governor
from cfm_tui.console.engine_link import Launch
from cfm_tui.console.screens.dialogs import Choice
from cfm_tui.console.screens.monitor import MonitorPage
from engine.config import settings
from engine.runs import launch
from engine.store import StoredRun

LONG = ("recover.iterations=100000", "checkpoint_seconds=600")


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv("CFM_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("CFM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(Governor, "SHARE", 1.0)  # looking at the screen all the time costs, too
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


def launched(runs, script, sets=(), preset="smoke", size=(80, 24)):
    """Launch an experiment and run `script(pilot, page, session)`; the session has ended when it returns."""
    app = console(runs, opening=Launch(settings.resolve(preset=preset, sets=sets), "live"))
    sessions = []

    async def play(pilot):
        await until(pilot, lambda: isinstance(app.screen, MonitorPage))
        sessions.append(app.screen._session)
        try:
            await script(pilot, app.screen, sessions[0])
        finally:
            sessions[0].ask("stop", "the test")

    drive(app, play, size)
    assert sessions[0].wait(60)
    return sessions[0]


def test_a_run_warms_up_and_is_followed_to_its_results(runs, monkeypatch):
    begun, known = threading.Event(), launch.run_experiment

    def slow(*arguments, **options):
        arguments[5](1200, 5000)
        assert begun.wait(60)
        yield from known(*arguments, **options)

    monkeypatch.setattr(launch, "run_experiment", slow)

    async def script(pilot, page, session):
        await until(pilot, "reading images, 1,200 of 5,000, for")
        begun.set()
        await until(pilot, "FINISHED", 60)
        await until(pilot, "against random")
        text = shown(pilot)
        assert StoredRun(session.folder).progress().estimated["validate"] > 0
        assert "last epoch" in text
        assert "4 Result" in text

    session = launched(runs, script)
    assert StoredRun(session.folder).state() == "finished"


def test_a_run_is_paused_saved_and_stopped_by_keys(runs):
    async def script(pilot, page, session):
        await until(pilot, "batch 1/1", 60)
        await until(pilot, "RUNNING here")
        await until(pilot, " · batch 1, it ", 60)
        await pilot.press("space")
        await until(pilot, "the engine waits; space continues the run")
        stood = page._model.iteration
        await pilot.press("space")
        await until(pilot, lambda: page._model.iteration > stood)
        before = StoredRun(session.folder).checkpoints()
        await pilot.press("w")
        await until(pilot, lambda: StoredRun(session.folder).checkpoints() > before)
        await until(pilot, f"checkpoint {before + 1}:")
        await pilot.press("S")
        await until(pilot, lambda: isinstance(pilot.app.screen, Choice))
        await pilot.press("s")
        await until(pilot, "STOPPED in recover")
        await until(pilot, "`cfm resume live-")
        assert "■ recover" in shown(pilot)
        await pilot.press("S")
        await until(pilot, "no process is computing this run")

    session = launched(runs, script, LONG)
    assert StoredRun(session.folder).state() == "stopped"


def test_a_run_here_is_detached_by_the_application(runs, monkeypatch):
    handed = []

    async def script(pilot, page, session):
        monkeypatch.setattr(pilot.app, "action_detach", lambda: handed.append(session), raising=True)
        await until(pilot, "batch 1/1", 60)
        await until(pilot, "D leave running, quit")
        await pilot.press("D")
        await until(pilot, lambda: handed == [session])

    launched(runs, script, LONG)


def test_a_layer_of_a_live_run_has_a_spectrum(runs):
    async def script(pilot, page, session):
        await until(pilot, " · batch 1, it ", 60)
        await pilot.press("4", "enter")
        await until(pilot, "f(Ψ_s)")
        await until(pilot, "Spectrum: batch 1, it ")

    launched(runs, script, LONG)


def test_what_cannot_begin_says_why(runs):
    async def script(pilot, page, session):
        await until(pilot, "FAILED to start", 60)
        assert "cifar10" in shown(pilot)

    launched(runs, script, [f"data.root={runs}"], "cifar10-10-convnet")


def test_the_trainings_of_a_live_run_are_beside_their_control(runs):
    async def script(pilot, page, session):
        await until(pilot, "▶ validate", 60)
        await until(pilot, lambda: sum(key[0] == "validate" for key in page._model.trainings) > 1, 60)
        await pilot.press("3")
        await until(pilot, lambda: "distilled" in shown(pilot) and "random" in shown(pilot))

    launched(runs, script, ["validate.epochs=400", "relabel.mode=online"])


def test_a_run_that_was_stopped_goes_on_here(runs, monkeypatch):
    async def stop(pilot, page, session):
        await until(pilot, "batch 1/1", 60)

    folder = launched(runs, stop, LONG).folder
    begun, known = threading.Event(), launch.run_experiment

    def slow(*arguments, **options):
        assert begun.wait(60)
        yield from known(*arguments, **options)

    monkeypatch.setattr(launch, "run_experiment", slow)

    async def script(pilot):
        await until(pilot, "loading the program, for")
        assert "■ recover" in shown(pilot)
        session = pilot.app.screen._session
        begun.set()
        await until(pilot, "RUNNING here", 60)
        await until(pilot, "▶ recover")
        session.ask("stop", "the test")
        await until(pilot, "STOPPED in recover")

    drive(console(runs, opening=Launch(None, folder.name, folder)), script)
