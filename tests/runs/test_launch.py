"""An experiment that begins where it is pulled: on a thread of its own, left to others however it ends."""

from __future__ import annotations

import threading

import pytest
import tiny

from engine.config import settings
from engine.errors import Stopped, UserError
from engine.events import STAGES, EpochFinished, Estimated, RecoverProgress, StageFinished, StageProgress
from engine.runs import launch
from engine.runs.control import Control
from engine.runs.thread import Engine
from engine.store import StoredRun, list_runs


@pytest.fixture(autouse=True)
def own_folders(monkeypatch, tmp_path):
    monkeypatch.setenv("CFM_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("CFM_CACHE", str(tmp_path / "cache"))


def smoke(*sets):
    return settings.resolve(preset="smoke", sets=["repeats=1", "validate.seeds=1", *sets])


def test_everything_happens_on_the_engines_thread(tmp_path):
    where, events, folders = set(), [], []

    def opened(folder):
        where.add(threading.current_thread())
        assert StoredRun(folder).owner() is not None
        folders.append(folder)

    engine = Engine(launch.run_experiment(smoke(), None, "mine", ["test"], None, None, opened), events.append)
    assert list_runs() == []
    engine.start()
    results = engine.result()
    assert where == {engine}
    assert [event.stage for event in events if isinstance(event, StageFinished)] == list(STAGES)
    stored = StoredRun(folders[0])
    assert stored.name == results["run"]
    assert stored.name.startswith("mine-")
    assert (stored.state(), stored.owner()) == ("finished", None)


def test_a_run_that_was_stopped_is_taken_up_again(tmp_path):
    folder, control = tmp_path / "run", Control()
    control.ask("stop", "a test")
    with pytest.raises(Stopped):
        list(launch.run_experiment(smoke("checkpoint_seconds=0"), folder, "run", control=control))
    assert (StoredRun(folder).state(), StoredRun(folder).owner()) == ("stopped", None)
    list(launch.run_experiment(smoke("checkpoint_seconds=0"), folder, "run"))
    assert StoredRun(folder).state() == "finished"


def test_a_run_that_is_left_at_any_point_has_no_owner(tmp_path):
    work = launch.run_experiment(smoke(), tmp_path / "pulled", "run")
    next(work)
    assert StoredRun(tmp_path / "pulled").owner() is not None
    work.close()
    assert StoredRun(tmp_path / "pulled").owner() is None

    def opened(folder):
        raise RuntimeError("nobody listens")

    with pytest.raises(RuntimeError, match="nobody listens"):
        list(launch.run_experiment(smoke(), tmp_path / "unheard", "run", on_open=opened))
    assert StoredRun(tmp_path / "unheard").owner() is None


def test_what_cannot_begin_leaves_nothing(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        list(launch.run_experiment(smoke("backbone.teacher=none.pth"), tmp_path / "run", "run"))
    assert not (tmp_path / "run").exists()


def test_folders_and_files_are_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prepared = tiny.plan(data={"root": "images"}, backbone={"width": 4, "teacher": "t.pth"})
    anchored = launch.with_absolute_paths(prepared.config)
    assert anchored.data.root == str(tmp_path / "images")
    assert anchored.backbone.teacher == str(tmp_path / "t.pth")
    published = tiny.plan(backbone={"width": 4, "teacher": "torchvision:X"}).config
    assert launch.with_absolute_paths(published).backbone.teacher == "torchvision:X"


def test_an_estimate_comes_first_and_changes_no_number(tmp_path):
    plain = list(launch.run_experiment(smoke(), tmp_path / "plain", "run"))
    assert not [event for event in plain if isinstance(event, Estimated)]
    control = Control()
    work = launch.run_experiment(smoke(), tmp_path / "run", "run", control=control, estimate="first")
    first = next(work)
    assert isinstance(first, Estimated)
    assert set(first.seconds) == set(STAGES)
    assert first.seconds["validate"] > 0
    control.ask("stop", "a test")
    with pytest.raises(Stopped):
        list(work)
    resumed = launch.run_experiment(smoke(), tmp_path / "run", "run")
    assert next(resumed) == first  # it is not estimated again
    list(resumed)
    runs = [StoredRun(tmp_path / name) for name in ("plain", "run")]
    assert runs[0].results()["summary"] == runs[1].results()["summary"]
    assert (runs[0].images().pixels_NCHW == runs[1].images().pixels_NCHW).all()
    again = list(launch.run_experiment(smoke(), tmp_path / "run", "run", estimate="first"))
    assert not [event for event in again if isinstance(event, Estimated)]  # it is finished


def test_a_late_estimate_follows_the_first_progress_and_changes_no_number(tmp_path):
    list(launch.run_experiment(smoke(), tmp_path / "plain", "run"))
    events = list(launch.run_experiment(smoke(), tmp_path / "run", "run", estimate="late"))
    at = next(index for index, event in enumerate(events) if isinstance(event, Estimated))
    progress = [isinstance(event, StageProgress | EpochFinished | RecoverProgress) for event in events]
    assert at == progress.index(True) + 1
    assert set(events[at].seconds) == set(STAGES)
    assert len([event for event in events if isinstance(event, Estimated)]) == 1
    assert StoredRun(tmp_path / "run").progress().estimated == events[at].seconds
    runs = [StoredRun(tmp_path / name) for name in ("plain", "run")]
    assert runs[0].results()["summary"] == runs[1].results()["summary"]
    assert (runs[0].images().pixels_NCHW == runs[1].images().pixels_NCHW).all()


def test_an_estimate_that_fails_or_is_in_the_way_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr("engine.runs.estimates.estimate", lambda *_: 1 / 0)
    events = list(launch.run_experiment(smoke(), tmp_path / "run", "run", estimate="first"))
    assert not [event for event in events if isinstance(event, Estimated)]
    monkeypatch.undo()
    control = Control()
    control.ask("stop", "a test")
    monkeypatch.setenv("CFM_CACHE", str(tmp_path / "fresh"))
    work = launch.run_experiment(smoke(), tmp_path / "other", "run", control=control, estimate="first")
    assert not isinstance(next(work), Estimated)
    work.close()
