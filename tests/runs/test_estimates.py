"""What a run would cost, beside what it does cost; and that finding out leaves no trace."""

from __future__ import annotations

import random
import time

import numpy as np
import pytest
import torch
from stages import drive, small

from engine.checkpoint import Checkpoint, StageState, is_checkpoint_requested
from engine.config.settings import Resolved, resolve
from engine.errors import UserError
from engine.events import STAGES, BatchRecovered, RecoverProgress, StageFinished, StageStarted
from engine.runs import artefacts, estimates, launch, plan, preview
from engine.runs.estimates import Cost, estimate
from engine.spectral.forms import MAX_ROUNDING
from engine.spectral.moments import Moments
from engine.spectral.schedules import betas_of_batches
from engine.stages.recover import RecoveryBatch
from engine.store import Cache

WORK = {
    "squeeze": {"epochs": 3},
    "recover": {"iterations": 60, "views": {"crop_scale": [0.5, 1.0]}},
    "validate": {"epochs": 40, "seeds": 1, "batch": 8, "evaluate_from": 0.5},
    "relabel": {"mode": "stored"},
}


@pytest.fixture(autouse=True)
def own_folders(monkeypatch, tmp_path):
    monkeypatch.setenv("CFM_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("CFM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def spent(config):
    """Seconds of this thread that each stage of a whole run takes."""
    seconds = {}
    for event in launch.run_experiment(Resolved(config, resolve().origins), None, "run"):
        if isinstance(event, StageStarted):
            began = time.thread_time()
        elif isinstance(event, StageFinished):
            seconds[event.stage] = 0.0 if event.reused else time.thread_time() - began
    return seconds


def test_estimates_are_of_the_order_of_what_a_run_takes(monkeypatch):
    monkeypatch.setattr(estimates.time, "perf_counter", time.thread_time)  # others may keep the machine busy
    config = small(**WORK)
    expected = estimate(plan.prepare(config), Cache()).seconds
    real = spent(config)
    for stage in STAGES:
        slack = 0.3  # of a stage that is over at once, beginning is the most
        assert real[stage] <= 4 * expected[stage] + slack, (stage, expected, real)
        assert expected[stage] <= 4 * real[stage] + slack, (stage, expected, real)
    again = estimate(plan.prepare(config), Cache()).seconds
    assert again["squeeze"] == again["statistics"] == 0
    assert again["recover"] > 0


def test_nothing_is_written_and_no_random_state_is_changed(tmp_path):
    prepared = plan.prepare(small(**WORK))
    for source in (np.random.seed, random.seed, torch.manual_seed):
        source(3)
    files = sorted(tmp_path.rglob("*"))
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    estimate(prepared, Cache())
    after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    assert sorted(tmp_path.rglob("*")) == files


def test_it_stops_between_two_steps():
    prepared = plan.prepare(small(**WORK))
    asked = []

    def stop():
        asked.append(True)
        return len(asked) > 3

    with pytest.raises(preview.Cancelled):
        estimate(prepared, Cache(), stop)
    assert len(asked) == 4


def test_a_given_teacher_is_not_squeezed_and_labels_are_not_stored_unasked(teacher, tmp_path):
    torch.save(teacher.state_dict(), tmp_path / "teacher.pth")
    config = small(backbone={"teacher": str(tmp_path / "teacher.pth")}, relabel={"mode": "online"})
    prepared = plan.prepare(config)
    found = estimate(prepared, Cache())
    assert found.seconds["squeeze"] == found.seconds["relabel"] == 0
    assert min(found.seconds[stage] for stage in ("statistics", "recover", "validate")) > 0
    assert found.disk_bytes == prepared.bytes_needed()
    assert "cpu" in found.how
    assert not prepared.teacher.training


@pytest.mark.parametrize(
    ("f", "alpha"),
    [
        ("alpha*geometric(1 - alpha*lambda, 4)", 2.0),
        ("1/(lambda - 1)", None),
        ("log(lambda + beta)/(lambda - beta)", None),
    ],
)
def test_what_the_real_images_are_not_known_to_do_is_not_refused(f, alpha):
    parameters = {} if alpha is None else {"alpha": alpha}
    goal = {"parameters": parameters, "terms": [{"f": f}, {"filter": "ridge", "signal": "class"}]}
    prepared = plan.prepare(small(objective=goal))
    assert estimates.Trial(prepared, Cache()).estimate_recovery() > 0


def test_what_the_real_images_are_known_to_do_is_refused(tmp_path):
    goal = {"parameters": {"alpha": 1e6}, "terms": [{"f": "alpha*geometric(1 - alpha*lambda, 4)"}]}
    config = small(objective=goal)
    with pytest.raises(UserError, match="alpha = 1e\\+06 is too large"):
        drive(launch.run_experiment(Resolved(config, resolve().origins), None, "run"))
    with pytest.raises(UserError, match="alpha = 1e\\+06 is too large"):
        estimates.Trial(plan.prepare(config), Cache()).estimate_recovery()


def test_batchnorm_statistics_cost_nothing():
    objective = resolve(sets=["objective=sre2l"]).config.objective
    seconds = estimates.Trial(plan.prepare(small(objective=objective)), Cache()).estimate_statistics()
    assert seconds < 0.5


@pytest.mark.parametrize(
    ("full", "seconds", "sizes"),
    [(3, 0.01, [3]), (96, 0.001, [12, 96]), (96, 0.01, [12, 40]), (96, 0.03, [12, 24]), (96, 0.1, [12, 6])],
)
def test_batches_that_take_long_are_tried_with_fewer_images(full, seconds, sizes, monkeypatch):
    tried = []

    def trying(self, begin, size, *_):
        tried.append(size)
        return Cost(1.0, seconds * size, 1e6 + size)

    monkeypatch.setattr(estimates.Trial, "_try", trying)
    one = estimates.Trial(plan.prepare(small()), Cache())
    cost = one._measure_cost(lambda size: None, full)
    assert tried == sizes
    assert cost.step == pytest.approx(seconds * full)
    assert cost.bytes == pytest.approx(1e6 + full)
    assert cost.whole == one.whole == (full in sizes)


class Clock:
    """A time that advances only where a test says so."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now


def test_the_first_step_of_an_epoch_counts_as_often_as_there_are_epochs(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(estimates.time, "perf_counter", clock.perf_counter)
    one = estimates.Trial(plan.prepare(small()), Cache(), enough=1.0)

    def begin(_):
        clock.now += 8.0  # loading
        while True:
            for seconds in (0.09, 0.01, 0.01, 0.01):  # 0.03 on average
                clock.now += seconds
                yield Checkpoint("squeeze", StageState)

    cost = one._measure_cost(begin, 3, period=lambda _: 4)
    assert cost.step == pytest.approx(0.03)
    assert cost.setup == pytest.approx(8.0 + 0.09 - 0.03)
    assert one._measure_cost(begin, 3, period=lambda _: 3.2).step == pytest.approx(0.03 * 4 / 3.2)
    one.enough = 0.01  # a whole epoch takes longer
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(one, "LONG", 1000)
        assert one._measure_cost(begin, 3, period=lambda _: 4).step == pytest.approx(0.01)


def test_iterations_are_counted_although_checkpoints_are_rare(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(estimates.time, "perf_counter", clock.perf_counter)
    one = estimates.Trial(plan.prepare(small()), Cache(), enough=1.0)

    def begin(_):
        clock.now += 2.0
        yield Checkpoint("recover", StageState)  # of tiles, before the first iteration
        done = 0
        while True:
            clock.now += 0.01
            done += 1
            if is_checkpoint_requested():
                yield RecoverProgress(1, 1, 0.1, list(range(done)), 10, [], [], 1.0)
                yield Checkpoint("recover", StageState)
                done = 0

    cost = one._measure_cost(begin, 3, count=estimates._count_iterations)
    assert (cost.setup, cost.step) == (pytest.approx(2.0), pytest.approx(0.01))


def test_what_a_stage_of_recovery_does_once_is_not_counted_in_every_batch(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(estimates.time, "perf_counter", clock.perf_counter)

    def recover(config, *_, **__):
        clock.now += 0.8  # tracing the network
        while True:
            clock.now += 0.1  # loading the images of a batch
            for iteration in range(config.recover.iterations):
                last = iteration == config.recover.iterations - 1
                clock.now += 0.5 if last else 0.01
                yield RecoverProgress(1, 1, 0.1, [iteration], 10, [], [], 1.0)
                if not last:
                    yield Checkpoint("recover", StageState)
            yield BatchRecovered(1, 2, 0.1, 10, None)
            yield Checkpoint("recover", StageState, always=True)

    def estimated(**changes):
        return estimates.Trial(plan.prepare(small(**changes)), Cache()).estimate_recovery()

    monkeypatch.setattr(estimates.recover, "recover", recover)
    assert estimated(ipc=1) == pytest.approx(0.8 + 0.1 + 6 * 0.01)
    assert estimated(ipc=5) == pytest.approx(0.8 + 5 * (0.1 + 6 * 0.01))
    many = 10**6  # beside which neither beginning counts, so no second batch is tried
    assert estimated(ipc=5, recover={"iterations": many}) == pytest.approx(5 * (0.9 + many * 0.01))


@pytest.mark.parametrize(("images", "low_rank"), [(4, True), (10, False)])
def test_the_trial_has_the_forms_of_full_batches(images, low_rank, monkeypatch):
    """A batch of 4 has few positions at a tap of 128 features, one of 10 has not."""
    seen = []
    initialise = RecoveryBatch.__init__

    def record(self, config, networks, *others):
        initialise(self, config, networks, *others)
        seen.append((len(self.labels_M), set(self.turns[0][1]._constants)))

    monkeypatch.setattr(RecoveryBatch, "__init__", record)
    config = small(backbone={"width": 128}, recover={"classes_per_batch": images, "iterations": 1})
    estimates.Trial(plan.prepare(config), Cache(), enough=0.01).measure_recovery_step()  # placeholders
    drive(launch.run_experiment(Resolved(config, resolve().origins), None, "run"))
    trial = estimates.Trial(plan.prepare(config), Cache(), enough=0.01)
    assert trial._load_moments(trial.known_teachers[0]) is not None
    trial.measure_recovery_step()
    assert min(seen)[0] <= 4
    (forms,) = {frozenset(taps) for _, taps in seen}
    assert bool(forms) == low_rank


def test_the_form_is_that_of_the_median_beta_where_statistics_are_known():
    config = small(ipc=3, backbone={"width": 128}, recover={"classes_per_batch": 4}, objective={"beta": 0.1})
    trial = estimates.Trial(plan.prepare(config), Cache())
    (tap,) = trial._choose_low_rank(None)

    def moments(largest):
        return [Moments(tap, torch.zeros(128), torch.ones(128), largest * torch.eye(128))]

    betas = betas_of_batches(config.objective.schedule, 0.1, 3, 9)
    limit = MAX_ROUNDING / torch.finfo(torch.float32).eps
    assert betas[0] > 1.1 * betas[4] > 1.1**2 * betas[8]
    assert trial._choose_low_rank(moments(0.95 * betas[4] * limit)) == {tap}
    assert trial._choose_low_rank(moments(1.05 * betas[4] * limit)) == frozenset()  # unlike at β = 1


def test_early_accuracies_take_their_share_and_the_first_one_comes_in_any_case():
    one = estimates.Trial(plan.prepare(small(validate={"preview_images": 250})), Cache())
    cost = estimates.EvaluationCost(setup=0.0, step=1.0, batch=250)
    each = cost.seconds(250)
    assert one._estimate_early_accuracies(49, 1000.0, 49, cost) == 0  # a step takes more than 2 % of that
    assert one._estimate_early_accuracies(60, 10.0, 60, cost) == each
    assert one._estimate_early_accuracies(6000, 1000.0, 60, cost) == 20 * each
    assert one._estimate_early_accuracies(6000, 1000.0, 6, cost) == 6 * each
    none = estimates.Trial(plan.prepare(small()), Cache())
    assert none._estimate_early_accuracies(6000, 1000.0, 60, cost) == 0


def test_an_unsteady_machine_does_not_bend_the_line():
    noisy = estimates._extrapolate(Cost(step=1.0), 10, Cost(step=9.0), 20, 80)
    assert noisy.step == 9.0 * 4
    assert estimates._extrapolate(Cost(step=3.0), 10, Cost(step=2.0), 20, 80).step == 2.0


def test_memory_is_what_tensors_hold_at_once():
    meter = estimates._TensorMeter()
    with meter:
        for _ in range(5):
            a = torch.ones(1000)
            b = (a * 2)[:10]
            a.add_(1)
            del a, b
        kept = torch.ones(500)
        del kept
    assert meter.peak == 8000


def test_memory_grows_with_the_images(teacher):
    def needed(**changes):
        one = estimates.Trial(plan.prepare(small(**changes)), Cache())
        one.estimate_recovery()
        return one._peak

    few, many = needed(recover={"classes_per_batch": 2}), needed(recover={"classes_per_batch": 10})
    assert 2 * few < many < 10 * few


def test_weights_that_are_drawn_meanwhile_are_not_disturbed():
    from concurrent.futures import ThreadPoolExecutor

    config = small(**WORK)
    prepared = plan.prepare(config)
    alone = artefacts.build_network(config, prepared.data).state_dict()
    with ThreadPoolExecutor(1) as pool:
        trying = pool.submit(estimate, prepared, Cache())
        while not trying.done():
            beside = artefacts.build_network(config, prepared.data).state_dict()
            assert all(torch.equal(alone[name], beside[name]) for name in alone)
