"""One account of where a run is, from its events, its journal, or its status alike."""

from recorded import layout, opened, progress

from engine import events, store
from engine.store.run_state import RunState

EVENTS = [
    events.StageStarted("squeeze", 2, "epochs"),
    events.EpochFinished("squeeze", "convnet", "teacher", 0, 1, 2, 0.5, 40.0, 3.0),
    events.EpochFinished("squeeze", "convnet", "teacher", 0, 2, 2, 0.4, None, 3.0),
    events.StageFinished("squeeze", 9.0, 0.2),
    events.StageFinished("statistics", 0.0, 0.0, reused=True),
    events.StageStarted("recover", 8, "iterations"),
    layout(),
    progress(1, 0),
    progress(1, 2),
    events.BatchRecovered(1, 2, 0.5, 10),
    progress(2, 0),
]


def folded(happened):
    state = RunState()
    for event in happened:
        state.add(event)
    return state


def test_status_journal_and_events_tell_the_same(tmp_path):
    run, stored = opened(tmp_path / "r"), store.StoredRun(tmp_path / "r")
    for number, event in enumerate(EVENTS, start=1):
        run.record(event)
        run.set_state("running")  # writes the status at once
        position = folded(EVENTS[:number]).position
        assert position.items() <= stored.status().items()
        read = stored.progress()
        assert read.position == position
        assert [view.done for view in read.stages.values()] == [
            view.done for view in folded(EVENTS[:number]).stages.values()
        ]
    assert run.stage_costs() == {"squeeze": {"seconds": 9.0, "rate": 0.2, "unit": "epochs"}}
    run.close("stopped")


def test_a_stage_is_described_from_its_start_to_its_end():
    state = folded(EVENTS)
    assert (state.stage, state.batch, state.batches, state.iteration, state.iterations) == (
        "recover",
        2,
        2,
        2,
        4,
    )
    assert {name: view.state for name, view in state.stages.items()} == {
        "squeeze": "done",
        "statistics": "reused",
        "recover": "running",
        "relabel": "waiting",
        "validate": "waiting",
    }
    assert state.started == {"squeeze", "recover"}
    assert state.position["done"] == 6
    assert folded(EVENTS[:3]).position["accuracy"] == 40.0  # the last measured one
    assert folded(EVENTS[:5]).stage is None


def test_images_of_batches_that_will_be_repeated_do_not_count():
    done = [*EVENTS, progress(2, 2), events.BatchRecovered(2, 2, 0.5, 10)]
    assert folded(done).images == {1: 10, 2: 10}
    assert folded([*done, layout(done=6)]).images == {1: 10}
    assert folded([*done, layout(done=0)]).images == {}


def test_the_time_left_of_a_run_is_unknown_before_all_its_parts_are_known():
    state = folded(EVENTS)
    assert state.run_seconds_left is None  # nothing is known of relabel and validate
    state.add(events.Estimated({"squeeze": 9.0, "recover": 99.0, "relabel": 2.0, "validate": 30.0}))
    assert state.run_seconds_left == 2 / 7.0 + 2.0 + 30.0  # 2 of 8 iterations are left, 7 in a second
    state.add(events.StageFinished("recover", 5.0, 1.6))
    assert state.run_seconds_left == 32.0
    state.add(events.StageFinished("relabel", 0.0, 0.0, reused=True))
    state.add(events.StageStarted("validate", 10, "epochs", 4))
    assert state.run_seconds_left == 0.6 * 30.0
    state.add(events.StageFinished("validate", 40.0, 1.0))
    assert state.run_seconds_left == 0.0


def test_further_repeats_take_what_the_first_took():
    stages = [("squeeze", 9.0), ("statistics", 1.0), ("recover", 5.0), ("relabel", 2.0), ("validate", 30.0)]
    state = RunState()
    state.add(events.RepeatStarted(1, 3, 0))
    for stage, seconds in stages:
        assert state.run_seconds_left is None
        state.add(events.StageStarted(stage, 10, "epochs"))
        state.add(events.StageFinished(stage, seconds, 1.0))
    assert state.run_seconds_left == 2 * 47.0
    state.add(events.RepeatStarted(2, 3, 1))
    assert state.run_seconds_left == 2 * 47.0
    state.add(events.StageFinished("squeeze", 0.0, 0.0, reused=True))  # then no repeat trains one
    assert state.run_seconds_left == 38.0 + 38.0


def test_the_status_tells_the_time_left(tmp_path):
    run = opened(tmp_path / "r")
    run.record(events.Estimated(dict.fromkeys(events.STAGES, 10.0)))
    run.record(events.StageStarted("squeeze", 2, "epochs"))
    assert store.StoredRun(tmp_path / "r").status()["seconds_left"] == 50.0
    assert store.StoredRun(tmp_path / "r").progress().estimated == dict.fromkeys(events.STAGES, 10.0)
    run.close("stopped")
    assert "seconds_left" not in store.StoredRun(tmp_path / "r").status()
