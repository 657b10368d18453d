"""Which students are trained together: chosen, recorded, kept on resume."""

import json
from dataclasses import replace

import pytest
import tiny
import torch

from engine.runs import stacks
from engine.runs.resume import nonreproducible_reason
from engine.store import StoredRun

IS_FASTER = stacks.StackTrial.is_faster  # which the other tests replace


@pytest.fixture(autouse=True)
def measured(monkeypatch):
    monkeypatch.setattr(stacks.StackTrial, "is_faster", IS_FASTER)


@pytest.fixture
def fast(monkeypatch, measured):
    monkeypatch.setattr(stacks.StackTrial, "is_faster", lambda self: True)


def plan(**settings):
    return tiny.plan(validate={"seeds": 2, "together": "auto", **settings})


@pytest.mark.parametrize(
    ("settings", "sessions", "expected"),
    [
        ({}, (), ("convnet",)),
        ({"together": "never"}, (), ()),
        ({"together": "always"}, ({"together": []},), ("convnet",)),
        ({}, ({"together": []}, {"together": ["convnet"]}), ()),
        ({}, ({"together": ["convnet"]},), ("convnet",)),
        ({}, ({},), ()),  # earlier versions of the program had no stacks
        ({"students": ["convnet", "shufflenet_v2_x0_5"]}, (), ("convnet",)),
        ({"seeds": 1, "controls": []}, (), ()),
    ],
)
def test_the_choice_is_given_or_kept_or_measured(fast, settings, sessions, expected):
    state = torch.random.get_rng_state()
    assert stacks.choose_stacks(plan(**settings), sessions) == expected
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_stack_is_used_where_its_step_is_faster(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(stacks.StackTrial, "_now", lambda self: clock[0])

    def choose(alone, together):
        def step(self, network):
            seconds = together if hasattr(network, "size") else alone
            return lambda: clock.__setitem__(0, clock[0] + seconds)

        monkeypatch.setattr(stacks.StackTrial, "_step", step)
        return stacks.choose_stacks(plan())

    students = 2 * (1 + len(plan().config.controls))
    assert choose(0.01, 0.01 * students / 1.2) == ("convnet",)
    assert choose(0.01, 0.01 * students / 1.05) == ()
    assert choose(stacks.LONG, 0.0) == ()  # not tried


def test_a_real_measurement_chooses_one_of_both():
    assert stacks.choose_stacks(plan()) in ((), ("convnet",))


def test_a_stack_that_does_not_fit_into_memory_is_not_tried(monkeypatch):
    monkeypatch.setattr(stacks, "MEMORY_SHARE", 1e-9)
    monkeypatch.setattr(stacks.StackTrial, "is_faster", pytest.fail)
    assert stacks.choose_stacks(plan()) == ()
    assert stacks.choose_stacks(plan(together="always")) == ()


def test_runs_record_the_choice_and_another_one_is_a_reason(tmp_path):
    prepared = plan(together="always")
    tiny.finish(tiny.begun(tmp_path, replace(prepared, together=stacks.choose_stacks(prepared))))
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert [session["together"] for session in manifest["sessions"]] == [["convnet"]]
    assert StoredRun(tmp_path / "run").is_finished(1)
    base = {"versions": {"torch": "2"}, "device": "cpu", "threads": 1}
    reason = nonreproducible_reason([base | {"together": ["convnet"]}, base | {"together": []}])
    assert reason == "together was ['convnet'] in the first session and unset later"
    assert nonreproducible_reason([base, base | {"together": []}]) is None
