"""The execution plan of a run: chosen once, recorded, kept on resume, and given to another run."""

import json

import pytest
import tiny
import torch

from engine.errors import UserError
from engine.runs import execution, stacks
from engine.runs.execution import ExecutionPlan, read_execution_plan
from engine.runs.results import read_results
from engine.runs.resume import nonreproducible_reason
from engine.store import StoredRun

SEVERAL = {"seeds": 2, "together": "auto"}


@pytest.fixture(autouse=True)
def measured(monkeypatch):
    """Measurements that find two threads, and stacks, to be faster."""
    monkeypatch.setattr(execution, "measure_threads", lambda *_: 2)
    monkeypatch.setattr(stacks.StackTrial, "is_faster", lambda self: True)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("setting", "sessions", "given", "expected"),
    [
        (3, (), None, 3),
        (3, ({"execution": {"threads": 1}},), ExecutionPlan(threads=5), 3),
        ("auto", (), None, 2),
        ("auto", (), ExecutionPlan(together=("convnet",)), 2),
        ("auto", ({"execution": {"threads": 4}}, {"execution": {"threads": 5}}), None, 4),
        ("auto", ({"threads": 4},), None, 4),  # as earlier versions recorded it
        ("auto", ({"execution": {"threads": "adaptive"}},), None, 2),
        ("auto", ({"execution": {"threads": 4}},), ExecutionPlan(threads=5), 5),
        ("auto", ({"execution": {"threads": 4}},), ExecutionPlan(together=()), 4),
        ("adaptive", ({"execution": {"threads": 4}},), None, "adaptive"),
    ],
)
def test_the_number_of_threads_is_set_or_given_or_kept_or_measured(setting, sessions, given, expected):
    chosen = tiny.plan(threads=setting).choose_execution(sessions, given).execution.threads
    assert chosen == expected
    assert torch.get_num_threads() == (2 if expected == "adaptive" else expected)


@pytest.mark.parametrize(
    ("settings", "sessions", "given", "expected"),
    [
        ({}, (), None, ("convnet",)),
        ({"together": "never"}, (), ExecutionPlan(together=("convnet",)), ()),
        ({"together": "always"}, ({"execution": {"together": []}},), None, ("convnet",)),
        ({}, ({"execution": {"together": []}}, {"execution": {"together": ["convnet"]}}), None, ()),
        ({}, ({"execution": {"together": ["convnet"]}},), None, ("convnet",)),
        ({}, ({"execution": {"together": ["convnet"]}},), ExecutionPlan(threads=1), ("convnet",)),
        ({}, ({"execution": {"together": ["convnet"]}},), ExecutionPlan(together=()), ()),
        ({}, (), ExecutionPlan(together=("resnet18", "convnet")), ("convnet",)),
        ({}, ({"threads": 1},), None, ()),  # earlier versions of the program had no stacks
        ({}, ({"threads": 1, "together": ["convnet"]},), None, ("convnet",)),
        ({"students": ["convnet", "shufflenet_v2_x0_5"]}, (), None, ("convnet",)),
        ({"seeds": 1, "controls": []}, (), None, ()),
    ],
)
def test_stacks_are_set_or_given_or_kept_or_measured(settings, sessions, given, expected):
    state = torch.random.get_rng_state()
    planned = tiny.plan(validate=SEVERAL | settings).choose_execution(sessions, given)
    assert planned.execution.together == expected
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_run_records_its_plan_and_another_one_follows_it(tmp_path):
    planned = tiny.plan(threads=1, validate=SEVERAL).choose_execution()
    tiny.finish(tiny.begun(tmp_path, planned))
    recorded = {"threads": 1, "together": ["convnet"]}
    stored = StoredRun(tmp_path / "run")
    assert [session["execution"] for session in stored.manifest()["sessions"]] == [recorded]
    (repeat,) = read_results(stored)["repeats"]
    assert repeat["provenance"]["execution"] == recorded
    assert repeat["provenance"]["bit_exact"] is True
    followed = tiny.plan(validate=SEVERAL).choose_execution(given=read_execution_plan(str(stored.folder)))
    assert followed.execution == planned.execution


def test_a_plan_is_read_from_a_file(tmp_path):
    file = tmp_path / "plan.json"
    file.write_text(json.dumps({"threads": 3, "together": ["convnet"]}))
    assert read_execution_plan(str(file)) == ExecutionPlan(threads=3, together=("convnet",))
    file.write_text('{"threads": 1, "together": ["convnett"]}')
    with pytest.raises(UserError, match="must be one of"):
        read_execution_plan(str(file))
    file.write_text('{"threads": "adaptive"}')
    with pytest.raises(UserError, match="number of threads follows the machine"):
        read_execution_plan(str(file))
    file.write_text('{"threads": 0, "stacked": true}')
    with pytest.raises(
        UserError, match=r"plan.json: 2 problems: threads: must be auto, .*unknown key 'stacked'"
    ) as caught:
        read_execution_plan(str(file))
    assert "Known keys: threads, together" in caught.value.hint


def test_a_plan_that_stacks_what_cannot_be_stacked_is_refused():
    prepared = tiny.plan(validate=SEVERAL | {"students": ["shufflenet_v2_x0_5"]})
    with pytest.raises(
        UserError, match="students of shufflenet_v2_x0_5 together, which is not possible here"
    ):
        prepared.choose_execution(given=ExecutionPlan(together=("shufflenet_v2_x0_5",)))


def test_the_plan_of_a_later_version_is_refused():
    with pytest.raises(UserError, match="this version of the program cannot read"):
        tiny.plan().choose_execution([{"execution": {"threads": 1, "compile": True}}])


def test_a_run_whose_threads_follow_the_machine_is_not_bit_exact_and_has_no_plan_for_others(tmp_path):
    tiny.finish(tiny.begun(tmp_path, tiny.plan(threads="adaptive").choose_execution()))
    stored = StoredRun(tmp_path / "run")
    (repeat,) = read_results(stored)["repeats"]
    assert repeat["provenance"]["execution"]["threads"] == "adaptive"
    assert repeat["provenance"]["bit_exact"] is False
    with pytest.raises(UserError, match="number of threads follows the machine"):
        read_execution_plan(str(stored.folder))


def test_another_plan_on_resume_is_a_reason_why_a_run_is_not_bit_exact():
    base = {"versions": {"torch": "2"}, "device": "cpu"}

    def reason(*plans):
        return nonreproducible_reason([base | {"execution": plan} for plan in plans])

    stacked = {"threads": 1, "together": ["convnet"]}
    assert reason(stacked, stacked) is None
    assert reason(stacked, {"threads": 1}) == (
        "the architecture of students trained together was convnet in the first session and unset later"
    )
    assert (
        reason({"threads": 1}, {"threads": 2})
        == "the number of threads was 1 in the first session and 2 later"
    )
    assert "adaptive" in reason({"threads": "adaptive"})
    earlier = [base | {"threads": 1}, base | {"execution": {"threads": 1, "together": []}}]
    assert nonreproducible_reason(earlier) is None
