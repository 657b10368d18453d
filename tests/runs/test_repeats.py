"""An experiment that is repeated: its repeats, their record, and how it is stopped, resumed and extended."""

import shutil

import pytest
import tiny
from commandline import call_json

from cfm_tui.display.run_state import RunModel
from engine import store
from engine.errors import Stopped, UserError
from engine.events import RepeatStarted, StageStarted
from engine.runs.control import Control
from engine.runs.results import read_results
from engine.store import StoredRun, control


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with a finished run of three repeats, and its events."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, tiny.finish(tiny.begun(folder, tiny.plan(repeats=3)))


def test_repeats_are_the_experiment_with_the_seeds_that_follow(whole, tmp_path):
    """Every repeat equals a run with its seed alone, teacher and random control included."""
    folder, _ = whole
    document = read_results(StoredRun(folder / "run"))
    assert [repeat["seed"] for repeat in document["repeats"]] == [0, 1, 2]
    assert document["covers"] == ["teacher", "recovery", "labels", "students", "control"]
    assert document["summary"]["accuracy"]["n"] == 3
    for repeat in document["repeats"][:2]:
        place = tmp_path / str(repeat["seed"])
        place.mkdir()
        tiny.finish(tiny.begun(place, tiny.plan(seed=repeat["seed"])))
        alone = read_results(StoredRun(place / "run"))["repeats"][0]
        assert (alone["students"], alone["teacher"]) == (repeat["students"], repeat["teacher"])
    teachers = {repeat["teacher"]["fingerprint"] for repeat in document["repeats"]}
    weights = {repeat["students"][1]["weights"] for repeat in document["repeats"]}
    assert (len(teachers), len(weights)) == (3, 3)


def test_a_further_repeat_is_a_run_of_its_own(whole):
    run = StoredRun(whole[0] / "run")
    assert [repeat.name for repeat in run.repeats()] == ["run", "run/repeats/2", "run/repeats/3"]
    for repeat in run.repeats():
        assert (repeat.state(), repeat.has_images()) == ("finished", True)
    second = read_results(run.repeats()[1])
    assert second["repeats"] == read_results(run)["repeats"][1:2]
    assert store.verify_run(run.folder) == []
    assert store.list_foreign_files(run.folder) == []


def test_damage_in_a_repeat_is_reported_with_its_file(whole, tmp_path):
    shutil.copytree(whole[0] / "run", tmp_path / "run")
    image = next((tmp_path / "run" / "repeats" / "2" / "images").glob("*/*.png"))
    image.write_bytes(image.read_bytes()[:-20])
    assert any(str(image) in message for message in store.verify_run(tmp_path / "run"))


def test_the_record_leads_from_repeat_to_repeat(whole):
    """A reader of the first repeat's folder gets the events of all, and its numbers are of the latest."""
    folder, events = whole
    kinds = [event.kind for event in events]
    assert [event.kind for event in StoredRun(folder / "run").events()] == kinds
    model = RunModel(StoredRun(folder / "run"))
    while model.behind:
        model.read(0.0)  # in the smallest pieces
    assert (model.repeat, model.repeats, model.repeat_run.folder.name) == (3, 3, "3")
    assert model.curves.rows == 2 * 3
    assert len(model.trainings) == 4
    assert model.results["summary"]["accuracy"]["n"] == 3


def test_a_run_stopped_in_any_repeat_is_resumed_bit_for_bit(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(store.Run, "POLL_SECONDS", 0.0)
    asked = Control()
    work = tiny.begun(tmp_path, tiny.plan(repeats=3), asked)
    repeat = 1
    while True:
        event = next(work)
        repeat = event.repeat if isinstance(event, RepeatStarted) else repeat
        if repeat == 2 and isinstance(event, StageStarted) and event.stage == "recover":
            break
    stored = StoredRun(tmp_path / "run")
    assert (stored.status()["repeat"], stored.status()["repeats"]) == (2, 3)
    assert stored.status()["stage"] == "recover"
    assert len(read_results(stored)["repeats"]) == 1
    assert not stored.is_finished()
    control.request(stored.folder, "stop")  # as another process does, in the folder of the run
    with pytest.raises(Stopped):
        tiny.finish(work)
    assert (stored.state(), stored.repeats()[1].state()) == ("stopped", "stopped")
    model = RunModel(stored)
    while model.behind:
        model.read()
    assert len(model.results["repeats"]) == 1
    again = tiny.finish(tiny.begun(tmp_path, tiny.plan(repeats=3)))
    assert again[0] == RepeatStarted(2, 3, 1)
    assert tiny.outcome(tmp_path) == tiny.outcome(whole[0])
    begun = [event.repeat for event in stored.events() if isinstance(event, RepeatStarted)]
    assert begun == [1, 2, 2, 3]


def test_a_finished_run_gets_more_repeats(whole, tmp_path):
    tiny.finish(tiny.begun(tmp_path, tiny.plan(repeats=1)))
    stored = StoredRun(tmp_path / "run")
    assert stored.is_finished()
    events = tiny.finish(tiny.begun(tmp_path, tiny.plan(repeats=3)))
    assert events[0] == RepeatStarted(2, 3, 1)
    assert tiny.outcome(tmp_path) == tiny.outcome(whole[0])
    assert stored.results()["repeats_planned"] == 3
    with pytest.raises(UserError, match="has the results of 3 repeats") as caught:
        tiny.begun(tmp_path, tiny.plan(repeats=2))
    assert "--repeats 3" in caught.value.hint


def test_fewer_repeats_than_planned_finish_a_run_that_was_stopped(tmp_path):
    work = tiny.begun(tmp_path, tiny.plan(repeats=3))
    while next(work) != RepeatStarted(2, 3, 1):
        pass
    work.close()
    stored = StoredRun(tmp_path / "run")
    assert (stored.is_finished(), stored.is_finished(1)) == (False, True)
    tiny.finish(tiny.begun(tmp_path, tiny.plan(repeats=1)))
    assert (stored.is_finished(), stored.is_finished(3)) == (True, False)
    assert read_results(stored)["repeats_planned"] == 1


def test_an_error_in_a_repeat_is_in_the_status_of_the_run(tmp_path):
    work = tiny.begun(tmp_path, tiny.plan(repeats=2))
    while next(work) != RepeatStarted(2, 2, 1):
        pass
    next(work)
    with pytest.raises(UserError):
        work.throw(UserError("numeric", "the loss became nan", "lower the rate"))
    stored = StoredRun(tmp_path / "run")
    assert (stored.state(), stored.repeats()[1].state()) == ("failed", "failed")
    assert "the loss became nan" in stored.status()["message"]


def test_a_repeat_cannot_be_resumed_alone_and_the_hint_of_a_stop_names_the_run(whole, tmp_path, capsys):
    run = shutil.copytree(whole[0] / "run", tmp_path / "run")
    for words in (
        ["resume", run / "repeats" / "2"],
        ["run", "--preset", "smoke", "--out", run / "repeats" / "2"],
    ):
        error = call_json(capsys, "error", *words, code=2)["error"]
        assert f"is one repeat of {run}" in error["message"]
        assert f"cfm resume {run}" in error["hint"]
    work = tiny.begun(tmp_path / "other", tiny.plan(repeats=2))
    folder = tmp_path / "other" / "run"
    while next(work) != RepeatStarted(2, 2, 1):
        pass
    control.request(folder, "stop")
    with pytest.raises(Stopped) as caught:
        tiny.finish(work)
    assert f"cfm resume {folder}`" in caught.value.hint


def test_a_missing_repeat_is_reported(whole, tmp_path):
    run = shutil.copytree(whole[0] / "run", tmp_path / "run")
    shutil.rmtree(run / "repeats" / "2")
    assert store.verify_run(run) == [f"{run / 'repeats' / '2'} does not contain a run"]
