"""The rates of an experiment's stages beside the networks alone, and where they come from."""

import pytest
import torch
from stages import drive, small

from engine.config.settings import Resolved, resolve
from engine.errors import UserError
from engine.runs import bench, estimates, launch, plan
from engine.runs.estimates import Cost, Trial
from engine.spectral.step_parts import PARTS, PartTimer, time_part
from engine.spectral.taps import Tapped
from engine.store import Cache

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def own_folders(monkeypatch, tmp_path):
    monkeypatch.setenv("CFM_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("CFM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def measured(**changes):
    said = []
    document = bench.measure(plan.prepare(small(**changes)), Cache(), 1.0, said.append)
    return document, said


def rows(document):
    return [(rate["what"], rate["network"]) for rate in document["rates"]]


def test_a_whole_run_is_the_estimate_of_the_same_trial(monkeypatch):
    made = []
    real = Trial.estimate

    def keep(self, report):
        made.append(real(self, report))
        return made[-1]

    monkeypatch.setattr(Trial, "estimate", keep)
    document, said = measured()
    (estimate,) = made
    assert document["seconds"] == estimate.seconds
    assert sum(estimate.seconds.values()) > 0
    assert document["memory_bytes"] == estimate.memory_bytes > 0
    assert document["label_bytes"] == 0  # they are computed online
    assert said[0] == "trying squeeze"
    assert set(document["recovery_parts"]) == {*PARTS, "other"}
    assert sum(document["recovery_parts"].values()) == pytest.approx(1)
    for name in ("views", "forward", "statistics", "filters", "backward", "update"):
        assert document["recovery_parts"][name] > 0


def test_rates_are_those_of_the_steps_that_the_estimate_counts(monkeypatch):
    prepared = plan.prepare(small())
    trial = Trial(prepared, Cache(), enough=0.04)
    trial.estimate()
    tried = []
    monkeypatch.setattr(Trial, "_try", lambda *_, **__: tried.append(1))
    rates = {rate.what: rate for rate in bench.Bench(trial).measure_rates()}
    assert tried == []  # nothing is timed a second time
    assert rates["recovery"].rate == pytest.approx(1 / trial.measure_recovery_step().step)
    squeezing = trial.measure_squeeze_step(trial.single_configs[0])
    assert rates["squeeze"].rate == pytest.approx(rates["squeeze"].batch / squeezing.step)
    student = trial.measure_student_step("convnet")
    assert rates["students"].rate == pytest.approx(8 / student.step)
    for rate in rates.values():
        assert min(rate.rate, rate.bare, rate.share, rate.gflops, rate.of_peak) > 0


def test_a_rate_is_compared_with_the_same_number_of_images_of_the_network_alone(monkeypatch):
    """Every full step takes 0.4 s, a step of the network alone on the images that were tried 0.05 s."""
    monkeypatch.setattr(Trial, "_try", lambda _, __, size, *___: Cost(0.0, 0.04 * size, 1.0, True, size))
    monkeypatch.setattr(bench.Bench, "_time_bare", lambda *_: (0.05, 8 * 10**9))
    prepared = plan.prepare(small(squeeze={"batch": 10}, validate={"batch": 10}))
    one = bench.Bench(Trial(prepared, Cache(), enough=0.01))
    one.peaks["float32"] = 100.0
    rates = {rate.what: rate for rate in one.measure_rates()}
    tried = one.trial.measure_recovery_step().size
    assert tried < 10
    recovery = rates["recovery"]
    assert (recovery.unit, recovery.batch) == ("iterations", 10)
    assert recovery.rate == pytest.approx(1 / 0.4)
    assert recovery.bare == pytest.approx(tried / 10 / 0.05)
    assert recovery.share == pytest.approx(0.05 / (0.04 * tried))
    assert recovery.gflops == pytest.approx(8 / tried * 10 / 0.4)
    assert recovery.of_peak == pytest.approx(recovery.gflops / 100)
    squeeze = rates["squeeze"]
    assert (squeeze.unit, squeeze.rate) == ("images", pytest.approx(10 / 0.4))
    assert squeeze.share == pytest.approx(0.05 / (0.04 * tried))


def test_the_network_alone_takes_the_micro_batches_of_recovery(monkeypatch):
    seen = []
    call = Tapped.__call__
    monkeypatch.setattr(Tapped, "__call__", lambda self, x: seen.append(len(x)) or call(self, x))
    one = bench.Bench(Trial(plan.prepare(small(recover={"micro_batch": 4})), Cache()))
    one._build_recovery_step(one.trial.teachers[0], 10, "float32")()
    assert seen == [4, 4, 2]
    seen.clear()
    one._build_recovery_step(one.trial.teachers[0], 5, "float32")()  # in proportion, as the trial
    assert seen == [2, 2, 1]


def test_memory_that_the_network_alone_needs_is_explained(monkeypatch):
    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Trial, "_try", lambda _, __, size, *___: Cost(0.0, 0.1, 1.0, True, size))
    monkeypatch.setattr(bench.Bench, "_time_spans", fail)
    rates = bench.Bench(Trial(plan.prepare(small()), Cache())).measure_rates()
    with pytest.raises(UserError, match=r"timing convnet alone on 10 images \(recovery\)") as caught:
        next(rates)
    assert caught.value.kind == "memory"
    assert "recover.micro_batch" in caught.value.hint


def test_what_is_cached_costs_nothing_and_still_has_a_rate():
    config = small()
    drive(launch.run_experiment(Resolved(config, resolve().origins), None, "run"))
    document, _ = measured()
    assert document["seconds"]["squeeze"] == document["seconds"]["statistics"] == 0
    names = {what for what, _ in rows(document)}
    assert names == {"recovery", "statistics", "squeeze", "students", "evaluation"}


def test_only_stages_that_the_experiment_has_are_listed(teacher, tmp_path):
    torch.save(teacher.state_dict(), tmp_path / "teacher.pth")
    objective = resolve(sets=["objective=sre2l"]).config.objective.model_dump()
    document, _ = measured(backbone={"teacher": str(tmp_path / "teacher.pth")}, objective=objective)
    assert rows(document) == [("recovery", "convnet"), ("students", "convnet"), ("evaluation", "convnet")]
    document, _ = measured(recover={"algorithm": "none"})
    assert [what for what, _ in rows(document)] == ["squeeze", "students", "evaluation"]
    assert document["recovery_parts"] is None


def test_every_network_has_its_rates(monkeypatch):
    monkeypatch.setattr(Trial, "_try", lambda _, __, size, *___: Cost(0.0, 0.1, 1.0, True, size))
    monkeypatch.setattr(Trial, "measure_recovery_parts", lambda _: {})
    monkeypatch.setattr(bench.Bench, "_time_bare", lambda *_: (0.05, 10**6))
    sets = ["objective=gvbsm", "backbone.also=[mobilenet_v2]", "validate.students=[convnet,resnet18]"]
    config = resolve(preset="smoke", sets=[*sets, "backbone.width=8"]).config
    document = bench.measure(plan.prepare(config), Cache(), 1.0)
    assert rows(document) == [
        ("recovery", "convnet mobilenet_v2"),
        ("statistics", "convnet"),
        ("statistics", "mobilenet_v2"),
        ("squeeze", "convnet"),
        ("squeeze", "mobilenet_v2"),
        ("students", "convnet"),
        ("evaluation", "convnet"),
        ("students", "resnet18"),
        ("evaluation", "resnet18"),
    ]


def test_a_stage_that_fails_says_so():
    goal = {"parameters": {"alpha": 1e6}, "terms": [{"f": "alpha*geometric(1 - alpha*lambda, 4)"}]}
    drive(launch.run_experiment(Resolved(small(), resolve().origins), None, "run"))
    with pytest.raises(UserError, match="too large"):
        measured(objective=goal)


def test_micro_batches_have_the_same_parts():
    prepared = plan.prepare(small(recover={"micro_batch": 3}))
    parts = Trial(prepared, Cache(), enough=0.04).measure_recovery_parts()
    assert parts["forward"] > 0
    assert parts["statistics"] > 0
    assert sum(parts.values()) == pytest.approx(1)


def test_parts_are_timed_only_in_the_block_of_measure(monkeypatch):
    timer, clock = PartTimer(CPU), iter(range(100))
    monkeypatch.setattr("engine.spectral.step_parts.time.perf_counter", lambda: float(next(clock)))
    with time_part("views"):
        pass
    with timer.measure():
        for _ in range(3):
            with time_part("views"):
                pass
        with time_part("update"):
            pass
    with time_part("update"):
        pass
    assert timer.seconds() == {**dict.fromkeys(PARTS, 0.0), "views": 3.0, "update": 1.0}


def test_a_part_on_mps_lasts_until_the_device_has_finished_it(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("engine.spectral.step_parts.time.perf_counter", lambda: clock[0])
    monkeypatch.setattr(torch.mps, "synchronize", lambda: clock.__setitem__(0, clock[0] + queued.pop()))
    timer, queued = PartTimer(torch.device("mps")), [0.0, 2.0, 5.0]  # 5 s of work before the part
    with timer.measure(), time_part("forward"):
        pass
    assert timer.seconds()["forward"] == 2.0


def test_an_evaluation_costs_its_beginning_once_and_each_image():
    cost = estimates.EvaluationCost(setup=2.0, step=10.0, batch=250)
    assert cost.seconds(250) == 12.0
    assert cost.seconds(1000) == 42.0
