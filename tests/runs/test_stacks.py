"""Which students are trained together: where it is possible and faster."""

import pytest
import tiny

from engine.runs import stacks

IS_FASTER = stacks.StackTrial.is_faster  # which the other tests replace


@pytest.fixture(autouse=True)
def measured(monkeypatch):
    monkeypatch.setattr(stacks.StackTrial, "is_faster", IS_FASTER)


def plan(**settings):
    return tiny.plan(validate={"seeds": 2, "together": "auto", **settings})


def choose_stacks(**settings):
    return plan(**settings).choose_execution().execution.together


def test_a_stack_is_used_where_its_step_is_faster(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(stacks.StackTrial, "_now", lambda self: clock[0])

    def choose(alone, together):
        def step(self, network):
            seconds = together if hasattr(network, "size") else alone
            return lambda: clock.__setitem__(0, clock[0] + seconds)

        monkeypatch.setattr(stacks.StackTrial, "_step", step)
        return choose_stacks()

    students = 2 * (1 + len(plan().config.controls))
    assert choose(0.01, 0.01 * students / 1.2) == ("convnet",)
    assert choose(0.01, 0.01 * students / 1.05) == ()
    assert choose(stacks.LONG, 0.0) == ()  # not tried


def test_a_real_measurement_chooses_one_of_both():
    assert choose_stacks() in ((), ("convnet",))


def test_a_stack_that_does_not_fit_into_memory_is_not_tried(monkeypatch):
    monkeypatch.setattr(stacks, "MEMORY_SHARE", 1e-9)
    monkeypatch.setattr(stacks.StackTrial, "is_faster", pytest.fail)
    assert choose_stacks() == ()
    assert choose_stacks(together="always") == ()
