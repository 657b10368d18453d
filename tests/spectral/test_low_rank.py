"""The low-rank form of a synthetic Ψ against NumPy in float64 and the dense form, and its choice."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from stages import drive, recovered_tensors, small

from engine import backbones, config
from engine.config import settings
from engine.errors import UserError
from engine.events import BatchRecovered
from engine.rng import torch_seeded
from engine.spectral import forms, matrix_functions, microbatch
from engine.spectral.forms import choose_low_rank, invert_constants
from engine.spectral.matching import MatchingLoss
from engine.spectral.matrix_functions import LowRankInverse, invert_constant, invert_ridges
from engine.spectral.moments import LowRank, batch_moments, cumulative_mean
from engine.spectral.taps import Tapped
from engine.stages import recover, statistics

ALL = {"low_rank": True}
TERMS = (
    {"filter": "ridge", "signal": "none", "weight": 0.1},
    {"filter": "ridge", "signal": "mean", "weight": 0.1},
    {"filter": "ridge", "signal": "class", "weight": 0.1},
    {"filter": "identity", "signal": "mean", "weight": 0.1},
)


def features(seed, images, depth, side, decay=1.0):
    """Random features that are never negative, with a falling spectrum."""
    rng = np.random.default_rng(seed)
    scale = np.arange(1, depth + 1) ** (-decay / 2)
    rotation = np.linalg.qr(np.random.default_rng(9).normal(size=(depth, depth)))[0]
    x = np.abs((rng.normal(size=(images, side, side, depth)) * scale) @ rotation)
    return torch.tensor(x.transpose(0, 3, 1, 2))


def numpy_terms(x_MDHW, earlier, real, onehot, count, beta):
    """The values of TERMS, and the gradient of their sum in the features, all in float64 by NumPy."""
    images, depth, height, width = x_MDHW.shape
    rows = x_MDHW.transpose(0, 2, 3, 1).reshape(-1, depth)
    new, old, size = 1 / count, 1 - 1 / count, len(rows)
    mean = new * rows.mean(0) + old * earlier.mean_D.numpy()
    cov = new * np.cov(rows.T, bias=True) + old * earlier.cov_DD.numpy()
    per_image = x_MDHW.mean(axis=(2, 3))
    flc = new * per_image.T @ onehot / images + old * earlier.flc_DK.numpy()
    f = np.linalg.inv(cov + beta * np.eye(depth))
    f_real = np.linalg.inv(real.cov_DD.numpy() + beta * np.eye(depth))
    gaps = [
        f - f_real,
        f @ mean - f_real @ real.mean_D.numpy(),
        f @ flc - f_real @ real.flc_DK.numpy(),
        mean - real.mean_D.numpy(),
    ]
    values = [np.linalg.norm(gap) for gap in gaps]
    unit = [gap / value for gap, value in zip(gaps, values, strict=True)]
    f_gradient = unit[0] + np.outer(unit[1], mean) + unit[2] @ flc.T
    cov_gradient = -f @ f_gradient @ f
    gradient = (rows - rows.mean(0)) @ (cov_gradient + cov_gradient.T) * (new / size)
    gradient += (f @ unit[1] + unit[3]) * (new / size)
    by_image = (onehot @ (f @ unit[2]).T) * (new / size)
    gradient = gradient.reshape(images, height, width, depth) + by_image[:, None, None, :]
    return np.array(values), gradient.transpose(0, 3, 1, 2)


def engine_terms(x_MDHW, earlier, real, onehot, count, beta, dtype, form):
    """The same by the engine, in one of the forms."""
    cpu, wide = torch.device("cpu"), torch.promote_types(dtype, torch.float32)
    x = x_MDHW.to(dtype).requires_grad_()
    real, earlier = real.to(cpu, wide), earlier.to(cpu, wide)
    objective = config.Objective.model_validate({"terms": TERMS})
    before = earlier if count > 1 else None
    low_rank = {"tap"} if form == "low_rank" else set()
    constants = invert_constants(low_rank, [real], before and [before], count, beta)
    loss = MatchingLoss(objective, [real], beta, constants)
    batch = batch_moments("tap", x, onehot.to(wide), low_rank=bool(low_rank))
    values_TL = loss.values([cumulative_mean(batch, before, count)])
    (gradient,) = torch.autograd.grad(values_TL.sum(), x)
    return values_TL.detach().flatten().double().numpy(), gradient.double().numpy()


def problem(images=4, depth=48, side=2, classes=4):
    onehot = torch.eye(classes).double()[torch.arange(images) % classes]
    earlier = batch_moments("tap", features(1, images, depth, side), onehot)
    many = torch.eye(classes).double()[torch.arange(16 * images) % classes]
    real = batch_moments("tap", features(2, 16 * images, depth, side), many)
    return features(3, images, depth, side), earlier, real, onehot


@pytest.mark.parametrize("count", [1, 2, 7])
@pytest.mark.parametrize("beta", [1.0, 0.1, 1e-3])
@pytest.mark.parametrize(("dtype", "most"), [(torch.float64, 1e-11), (torch.float32, 1e-4)])
def test_values_and_gradients_equal_numpy(count, beta, dtype, most):
    x, earlier, real, onehot = problem()
    values, gradient = numpy_terms(x.numpy(), earlier, real, onehot.numpy(), count, beta)
    for form in ("dense", "low_rank"):
        found, found_gradient = engine_terms(x, earlier, real, onehot, count, beta, dtype, form)
        np.testing.assert_allclose(found, values, rtol=most)
        assert np.linalg.norm(found_gradient - gradient) < most * np.linalg.norm(gradient)


@pytest.mark.parametrize("count", [1, 7])
def test_moments_of_bfloat16_features_are_those_of_their_values(count):
    x, earlier, real, onehot = problem()
    x = x.bfloat16()
    values, gradient = numpy_terms(x.double().numpy(), earlier, real, onehot.numpy(), count, 0.1)
    found, found_gradient = engine_terms(
        x, earlier, real, onehot, count, 0.1, torch.bfloat16, form="low_rank"
    )
    np.testing.assert_allclose(found, values, rtol=1e-4)
    one_rounding = torch.finfo(torch.bfloat16).eps / 2
    assert np.linalg.norm(found_gradient - gradient) < one_rounding * np.linalg.norm(gradient)


def test_gradients_equal_finite_differences():
    rng = np.random.default_rng(0)
    constant_DD = invert_constant(torch.tensor(np.cov(rng.normal(size=(7, 20)))), 0.5, 0.1)
    rows_ND = torch.tensor(rng.normal(size=(4, 7)), requires_grad=True)
    assert torch.autograd.gradcheck(lambda a: LowRankInverse.apply(a, constant_DD), (rows_ND,))

    def moments(x_MDHW):
        found = batch_moments("tap", x_MDHW, torch.eye(3).double(), low_rank=True)
        return found.mean_D, found.var_D, found.flc_DK, found.low_rank.rows_ND

    assert torch.autograd.gradcheck(
        moments, (torch.tensor(rng.normal(size=(3, 7, 2, 1)), requires_grad=True),)
    )


def test_an_unformed_covariance_is_formed_on_demand():
    x, earlier, _, onehot = problem()
    for count in (1, 5):
        low_rank, dense = (
            cumulative_mean(batch_moments("tap", x, onehot, **form), earlier, count) for form in (ALL, {})
        )
        formed = low_rank.detach().densify()
        assert low_rank.cov_DD is None
        assert formed.low_rank is None
        for name, value in dense.tensors().items():
            torch.testing.assert_close(formed.tensors()[name], value, rtol=1e-12, atol=1e-14)
        assert low_rank.independent_tensors().keys() == {"mean_D", "var_D", "flc_DK"}


def test_taps_of_one_shape_are_inverted_together_with_the_same_result(monkeypatch):
    rng = np.random.default_rng(0)
    spread = [torch.tensor(np.cov(rng.normal(size=(d, 40)))) for d in (6, 9, 6)]
    operands = [(cov,) for cov in spread]
    for n, cov in ((4, spread[0]), (4, spread[2]), (5, spread[1])):
        operands.append((torch.tensor(rng.normal(size=(n, len(cov)))), invert_constant(cov, 0.5, 0.1)))
    for tensors in operands:
        tensors[0].requires_grad_()
    calls = []
    original = torch.linalg.cholesky_ex
    monkeypatch.setattr(torch.linalg, "cholesky_ex", lambda *args: calls.append(1) or original(*args))

    def computed():
        inverses = invert_ridges(operands, 0.1)
        total = sum((inverse * index).square().sum() for index, inverse in enumerate(inverses, start=1))
        return inverses, torch.autograd.grad(total, [tensors[0] for tensors in operands])

    one_by_one = computed()
    assert len(calls) == 6
    monkeypatch.setattr(matrix_functions, "BATCHED_DEVICES", {"cpu"})
    together = computed()
    assert len(calls) == 6 + 4
    for each, other in zip(one_by_one, together, strict=True):
        for x, y in zip(each, other, strict=True):
            torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12)
    indefinite = [(-torch.eye(3),), (torch.eye(3),)]
    found = invert_ridges(indefinite, 0.5)  # one that fails does not spoil the others
    assert found[0].isnan().all()
    assert found[1].isfinite().all()


def mostly_low_rank(monkeypatch):
    """All taps but the pixels, whose system of thousands of positions would take seconds."""
    for name, value in (("MIN_FEATURES", 2), ("MAX_SHARE", 1e9)):
        monkeypatch.setattr(forms, name, value)


def recovered(config, teacher, digits, cpu, **options):
    """The images after recovery, and every state on the way."""
    _, real = drive(statistics.measure(config, teacher, digits.train, cpu))
    states = []
    stage = recover.recover(config, teacher, real, digits.train, cpu, **options)
    events, _ = drive(stage, lambda event, _: states.append(copy.deepcopy(event.capture())))
    batches = [recovered_tensors(event)[0] for event in events if isinstance(event, BatchRecovered)]
    return torch.cat(batches), states


BOTH_FORMS = {
    "defaults": ({}, 1e-4),
    "perturbed teachers": ({"recover": {"perturb": {"steps": 2}}}, 1e-4),
    "density term": (
        {
            "recover": {"density": {"weight": 0.5}, "group": "class"},
            "objective": {"schedule": {"per": "batch"}},
        },
        1e-4,
    ),
    "balanced gradients": ({"objective": {"balance": "gradient"}}, 1e-4),
    "bfloat16": ({"recover": {"precision": "bfloat16"}}, 0.02),
}


@pytest.mark.parametrize("case", BOTH_FORMS)
def test_recovery_in_both_forms_goes_the_same_way(case, teacher, digits, cpu):
    changes, most = BOTH_FORMS[case]
    config = small(ipc=3, **{**changes, "recover": {"lr": 0.01, **changes.get("recover", {})}})
    names = Tapped(teacher, "conv-input", cpu).names[1:]  # not the pixels, which have most positions
    dense, states = recovered(config, teacher, digits, cpu, low_rank=frozenset())
    assert states[-1].metadata["low_rank"] == []
    low_rank, states = recovered(config, teacher, digits, cpu, low_rank=frozenset(names))
    assert states[-1].metadata["low_rank"] == sorted(names)
    assert (low_rank - dense).abs().max() < most
    assert not torch.equal(low_rank, dense)


def test_a_resumed_run_keeps_its_forms(teacher, digits, cpu, monkeypatch):
    config = small(checkpoint_seconds=0)
    with monkeypatch.context() as patch:
        mostly_low_rank(patch)
        whole, states = recovered(config, teacher, digits, cpu)
    assert len(states[3].metadata["low_rank"]) == 2
    half = next(state for state in states if (state.metadata["batch"], state.metadata["iteration"]) == (2, 3))
    images, _ = recovered(config, teacher, digits, cpu, saved=half)
    assert torch.equal(images, whole[10:])
    dense, states = recovered(config, teacher, digits, cpu)
    half = next(state for state in states if (state.metadata["batch"], state.metadata["iteration"]) == (2, 3))
    assert half.metadata.pop("low_rank") == []
    mostly_low_rank(monkeypatch)
    images, _ = recovered(config, teacher, digits, cpu, saved=half)
    assert torch.equal(images, dense[10:])


def test_the_largest_eigenvalue_of_a_real_tap_is_computed_once(teacher, digits, cpu, monkeypatch):
    config = small(ipc=3)
    names = Tapped(teacher, "conv-input", cpu).names[1:]
    _, real = drive(statistics.measure(config, teacher, digits.train, cpu))
    calls, original = [], torch.linalg.eigvalsh

    def count(matrix_DD):
        calls.append(matrix_DD.dtype)
        return original(matrix_DD)

    monkeypatch.setattr(torch.linalg, "eigvalsh", count)
    stage = recover.recover(config, teacher, real, digits.train, cpu, low_rank=frozenset(names))
    events, _ = drive(stage)
    assert sum(isinstance(event, BatchRecovered) for event in events) == 3
    assert calls.count(torch.float64) == len(names)


def test_a_batch_chooses_for_its_own_size(teacher, digits, cpu, monkeypatch):
    monkeypatch.setattr(forms, "MIN_FEATURES", 1)
    config, network = small(), Tapped(teacher, "conv-input", cpu)
    _, real = drive(statistics.measure(config, teacher, digits.train, cpu))
    indices = np.arange(2)

    def build(**options):
        networks = [(network, real)]
        return recover.RecoveryBatch(config, networks, digits.train, 1, 0.1, indices, indices, **options)

    monkeypatch.setattr(forms, "MAX_SHARE", 1e9)
    batch = build()
    assert batch.low_rank == batch.unformed == set(network.names)
    monkeypatch.setattr(forms, "MAX_SHARE", 1e-9)
    assert build().low_rank == set()
    assert build(low_rank=frozenset(network.names)).unformed == set(network.names)
    assert build(low_rank=frozenset()).unformed == set()


def test_micro_batches_set_a_given_choice_aside(teacher, digits, cpu):
    config = small(ipc=1, recover={"micro_batch": 4})
    names = Tapped(teacher, "conv-input", cpu).names
    images, states = recovered(config, teacher, digits, cpu, low_rank=frozenset(names))
    assert states[-1].metadata["low_rank"] == []
    assert torch.equal(images, recovered(config, teacher, digits, cpu)[0])


def test_a_statistic_that_is_not_finite_is_named_in_low_rank_form(teacher, digits, cpu, monkeypatch):
    mostly_low_rank(monkeypatch)
    original = microbatch.batch_moments

    def spoiled(name, *args, **kwargs):
        tap = original(name, *args, **kwargs)
        return replace(tap, low_rank=LowRank(tap.low_rank.rows_ND * 1e30)) if name.endswith("1") else tap

    monkeypatch.setattr(microbatch, "batch_moments", spoiled)
    with pytest.raises(UserError, match=r"layer layers\.conv\.1 at batch 1, iteration 0"):
        recovered(small(), teacher, digits, cpu)


def choice(*changes, images=10):
    """What is chosen for a ResNet-18 at 32 px."""
    resolved = settings.resolve(preset="cifar10-10", sets=changes).config
    with torch_seeded(0, "forms"):
        model = backbones.build(resolved.backbone, classes=10, channels=3, image_size=32).eval()
    network = Tapped(model, resolved.objective.taps, torch.device("cpu"))
    chosen = choose_low_rank(resolved, network, torch.zeros(1, 3, 32, 32), images)
    assert chosen <= set(network.names)
    return sorted(chosen)


def test_taps_with_few_positions_are_left_in_low_rank_form():
    last = ["layer4.0.conv2", "layer4.1.conv1", "layer4.1.conv2"]
    assert choice() == choice("objective=hfm") == choice("objective=frepo") == last
    assert choice(images=100) == []  # 1600 positions, 512 features
    assert choice("recover.micro_batch=5") == []
    assert choice("recover.micro_batch=10") == last
    assert choice("statistics.centre=image") == []
    assert choice("objective=lfm") == choice("objective=mtt") == []


def test_a_small_beta_is_left_to_the_dense_form():
    _, earlier, real, _ = problem()
    largest = np.linalg.eigvalsh(real.cov_DD)[-1]
    cpu = torch.device("cpu")
    for dtype, share, expected in (
        (torch.float32, 1e-3, ["tap"]),
        (torch.float32, 1e-5, []),
        (torch.float64, 1e-5, ["tap"]),
    ):
        taps = [real.to(cpu, dtype)], [earlier.to(cpu, dtype)]
        assert list(invert_constants({"tap"}, *taps, 2, share * largest)) == expected
    assert invert_constants((), [real], None, 1, 1.0) == {}
