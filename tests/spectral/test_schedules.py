"""β_b and learning rates against their formulas."""

import math

import pytest

from engine.config import BetaSchedule, Config, Optimiser
from engine.spectral.schedules import beta_at, betas_of_batches, cosine_to_zero, learning_rate


def test_paper_counts_from_one_and_ends_at_zero():
    schedule = BetaSchedule(kind="cosine", origin=1, per="batch")
    betas = betas_of_batches(schedule, 0.1, 10, 20)
    expected = [0.1 * (1 + math.cos(math.pi * b / 20)) / 2 for b in range(1, 21)]
    assert betas == pytest.approx(expected)
    assert betas[-1] == pytest.approx(0.0, abs=1e-17)


def test_released_code_counts_from_zero_and_batches_of_a_round_share_beta():
    betas = betas_of_batches(BetaSchedule(origin=0, per="round"), 0.1, 10, 20)
    assert betas[0] == betas[1] == 0.1
    assert betas[18] == betas[19] == pytest.approx(0.1 * (1 + math.cos(math.pi * 9 / 10)) / 2)
    assert len(set(betas)) == 10


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant"])
def test_beta_never_falls_below_its_minimum_and_never_rises(kind):
    betas = betas_of_batches(BetaSchedule(kind=kind, origin=1, beta_min=0.02), 0.1, 50, 50)
    assert min(betas) >= 0.02
    assert betas == sorted(betas, reverse=True)
    assert (betas[-1] == 0.1) is (kind == "constant")


def test_linear_falls_in_equal_steps():
    assert [beta_at(BetaSchedule(kind="linear"), 1.0, t, 4) for t in range(4)] == [1.0, 0.75, 0.5, 0.25]


def test_recovery_rate_starts_full_and_ends_near_zero():
    assert cosine_to_zero(0.25, 0, 1000) == 0.25
    assert cosine_to_zero(0.25, 500, 1000) == pytest.approx(0.125)
    assert cosine_to_zero(0.25, 1000, 1000) == pytest.approx(0.0, abs=1e-16)


def test_learning_rates():
    assert learning_rate(Optimiser(lr=1.0, schedule="cosine"), 50, 100) == pytest.approx(0.5)
    half = Optimiser(lr=1.0, schedule="half-cosine")
    assert learning_rate(half, 100, 100) == pytest.approx(0.5)
    assert learning_rate(half, 50, 100) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
    assert learning_rate(Optimiser(lr=1.0, schedule="constant"), 99, 100) == 1.0
    step = Optimiser(lr=1.0, schedule="step", step_epochs=30)
    assert [learning_rate(step, e, 90) for e in (0, 29, 30, 89)] == pytest.approx([1, 1, 0.1, 0.01])


@pytest.mark.parametrize("kind", ["cosine", "half-cosine", "step"])
def test_a_warm_up_rises_from_zero_and_the_schedule_takes_the_other_epochs(kind):
    warm, plain = (Optimiser(lr=0.2, schedule=kind, step_epochs=3, warmup_epochs=w) for w in (5, 0))
    rates = [learning_rate(warm, epoch, 20) for epoch in range(20)]
    assert rates[:6] == pytest.approx([0, 0.04, 0.08, 0.12, 0.16, 0.2])
    assert rates[5:] == [learning_rate(plain, epoch, 15) for epoch in range(15)]


def test_a_warm_up_must_leave_epochs():
    with pytest.raises(ValueError, match=r"squeeze.optimiser.warmup_epochs = 5 leaves none of the squeeze"):
        Config.model_validate({"squeeze": {"epochs": 5, "optimiser": {"warmup_epochs": 5}}})
    with pytest.raises(ValueError, match=r"validate.optimiser.warmup_epochs = 5"):
        Config.model_validate({"validate": {"epochs": 5, "optimiser": {"warmup_epochs": 5}}})
