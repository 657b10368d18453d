"""Recovery: what moves, what stays, what is reported."""

from dataclasses import replace

import numpy as np
import pytest
import stages
import torch
from stages import drive, small

from engine import backbones
from engine.config import settings
from engine.data import augmentation, normalise
from engine.errors import UserError
from engine.events import BatchRecovered, Notice, RecoverLayout, RecoverProgress
from engine.rng import generator
from engine.spectral import matching, microbatch, recovery_batches
from engine.spectral.moments import batch_moments
from engine.spectral.taps import Tapped, tap_names
from engine.stages import recover, statistics


def distil(config, teacher, digits, cpu):
    _, real = drive(statistics.measure(config, teacher, digits.train, cpu))
    return stages.distil(config, teacher, real, digits.train, cpu)


@pytest.fixture(scope="module")
def run(teacher, digits, cpu):
    config = small()
    return config, *distil(config, teacher, digits, cpu)


def test_artefact_has_one_image_per_class_and_round(run):
    _, events, distilled = run
    assert distilled.images_NCHW.shape == (20, 1, 16, 16)
    assert distilled.labels_N.tolist() == list(range(10)) * 2
    assert distilled.batch_N.tolist() == [1] * 10 + [2] * 10
    assert 0 <= distilled.images_NCHW.min() <= distilled.images_NCHW.max() <= 1
    layout = next(e for e in events if isinstance(e, RecoverLayout))
    assert layout.terms == ["ridge/none", "ridge/mean"]
    assert distilled.beta_N[0].item() == pytest.approx(layout.betas[0])
    assert distilled.beta_N[-1].item() == pytest.approx(layout.betas[1])
    assert [e.batch for e in events if isinstance(e, BatchRecovered)] == [1, 2]


def test_the_teacher_says_how_sure_it_is_of_each_image_as_it_is(run, teacher, digits):
    """Expected: the plain teacher's softmax."""
    _, _, distilled = run
    train = digits.train
    with torch.no_grad():
        logits_NK = teacher(normalise(distilled.images_NCHW, train.mean, train.std))
    wanted_N = logits_NK.softmax(dim=1)[torch.arange(len(logits_NK)), distilled.labels_N]
    assert torch.allclose(distilled.confidence_N, wanted_N, atol=1e-4)
    assert distilled.confidence_N.std() > 0


def test_every_iteration_of_every_batch_is_reported_once(run):
    config, events, _ = run
    chunks = [e for e in events if isinstance(e, RecoverProgress)]
    seen = [(e.batch, i) for e in chunks for i in e.iterations]
    assert seen == [(b, i) for b in (1, 2) for i in range(config.recover.iterations)]
    for chunk in chunks:
        assert np.shape(chunk.terms) == (len(chunk.iterations), 2, 3)
        assert len(chunk.ce) == len(chunk.iterations)


def test_the_objective_falls(teacher, digits, cpu):
    config = small(ipc=1, recover={"iterations": 60, "views": {}})
    events, _ = distil(config, teacher, digits, cpu)
    chunks = [e for e in events if isinstance(e, RecoverProgress)]
    terms = np.concatenate([e.terms for e in chunks])
    ce = np.concatenate([e.ce for e in chunks])
    assert ce[-1] <= ce[0]
    assert terms[-1].sum() < 0.1 * terms[0].sum()


def test_the_same_seed_gives_the_same_images_and_another_seed_others(run, teacher, digits, cpu):
    config, _, distilled = run
    _, again = distil(config, teacher, digits, cpu)
    _, other = distil(config.model_copy(update={"seed": 1}), teacher, digits, cpu)
    assert torch.equal(distilled.images_NCHW, again.images_NCHW)
    assert not torch.equal(distilled.images_NCHW, other.images_NCHW)


@pytest.mark.parametrize(
    ("taps", "signal"), [("conv-input", "mean"), ("conv-output", "class"), ("conv-input", "class")]
)
def test_first_step_equals_a_plain_implementation(taps, signal, teacher, digits, cpu):
    """Folding, the cached real side and Cholesky change nothing: float64 inverses say the same."""
    config = small(objective={"taps": taps, "signal": signal})
    events, _ = distil(config, teacher, digits, cpu)
    first = next(e for e in events if isinstance(e, RecoverProgress))
    _, real = drive(statistics.measure(config, teacher, digits.train, cpu))
    wanted = tap_names(teacher, taps)
    found = {}

    def listen(name):
        def hook(module, inputs, output):
            found[name] = (inputs[0] if taps == "conv-input" else output).double()

        return teacher.get_submodule(name).register_forward_hook(hook)

    hooks = [listen(name) for name in wanted]
    start = digits.train.batch(recovery_batches.initial_indices(config, digits.train)[0], cpu)
    rng = generator(config.seed, "recover", 1, 0)
    view = augmentation.draw(config.recover.views, 16, 10, rng, shared=True)
    logits = teacher(augmentation.apply(view, start))
    for hook in hooks:
        hook.remove()
    assert first.ce[0] == pytest.approx(
        torch.nn.functional.cross_entropy(logits, torch.arange(10)).item(), rel=1e-4
    )
    for index, (name, moments) in enumerate(zip(wanted, real, strict=True)):
        x = found[name].detach().numpy()
        rows = x.transpose(0, 2, 3, 1).reshape(-1, x.shape[1])
        shift = config.objective.beta * np.eye(x.shape[1])
        ours = np.linalg.inv(np.cov(rows.T, bias=True) + shift)
        theirs = np.linalg.inv(moments.cov_DD.numpy() + shift)
        g = x.mean(axis=(2, 3)).T @ np.eye(10) / 10 if signal == "class" else rows.mean(axis=0)
        g_real = (moments.flc_DK if signal == "class" else moments.mean_D).numpy()
        assert first.terms[0][0][index] == pytest.approx(np.linalg.norm(ours - theirs), rel=1e-3)
        assert first.terms[0][1][index] == pytest.approx(np.linalg.norm(ours @ g - theirs @ g_real), rel=1e-3)


def test_moving_statistics_carry_over_batches(teacher, digits, cpu):
    with_emu, _ = distil(small(), teacher, digits, cpu)
    without, _ = distil(small(recover={"emu": False}), teacher, digits, cpu)
    first = [
        next(e for e in events if isinstance(e, RecoverProgress) and e.batch == 1)
        for events in (with_emu, without)
    ]
    second = [
        next(e for e in events if isinstance(e, RecoverProgress) and e.batch == 2)
        for events in (with_emu, without)
    ]
    assert first[0].terms == first[1].terms
    assert second[0].terms != second[1].terms


def test_classes_come_in_chunks_and_batches_of_a_round_share_beta(teacher, digits, cpu):
    config = small(recover={"iterations": 1, "classes_per_batch": 4})
    events, distilled = distil(config, teacher, digits, cpu)
    betas = [e.beta for e in events if isinstance(e, BatchRecovered)]
    assert len(betas) == 6
    assert betas[0] == betas[1] == betas[2] > betas[3] == betas[5]
    assert distilled.labels_N.tolist() == list(range(10)) * 2


@pytest.mark.parametrize("init", ["first", "random"])
def test_start_is_a_real_image_of_the_class(init, digits):
    config = small(recover={"init": init})
    indices = recovery_batches.initial_indices(config, digits.train)
    assert indices.shape == (2, 10)
    assert len(np.unique(indices)) == 20
    labels = digits.train.labels_N[torch.from_numpy(indices)]
    assert (labels == torch.arange(10)).all()
    members = np.flatnonzero(digits.train.labels_N.numpy() == 3)[:2]
    assert (indices[:, 3].tolist() == members.tolist()) is (init == "first")


def test_controls_are_real_images_the_start_unchanged_or_random_ones_of_the_seed(digits):
    start = recovery_batches.control_set(small(), digits.train, "start")
    indices = recovery_batches.initial_indices(small(), digits.train).reshape(-1)
    assert torch.equal(start.pixels(range(20)), digits.train.pixels(indices))
    drawn = {}
    for seed in (0, 1):
        for init in ("first", "random"):
            config = small(seed=seed, recover={"init": init})
            control = recovery_batches.control_set(config, digits.train)
            assert control.labels_N.tolist() == start.labels_N.tolist() == list(range(10)) * 2
            indices_KN = recovery_batches.control_indices(config, digits.train, "random")
            assert torch.equal(control.pixels(range(20)), digits.train.pixels(indices_KN.reshape(-1)))
            drawn.setdefault(seed, indices_KN.tolist())
            assert indices_KN.tolist() == drawn[seed]  # whatever recovery starts from
            assert not np.array_equal(indices_KN, recovery_batches.initial_indices(config, digits.train))
    assert drawn[0] != drawn[1]


def test_noise_start_ignores_the_real_images(teacher, digits, cpu):
    config = small(recover={"init": "noise", "iterations": 1, "lr": 1e-9, "clamp": False, "views": {}})
    _, distilled = distil(config, teacher, digits, cpu)
    assert distilled.images_NCHW.std() > 0.1
    assert not torch.equal(distilled.images_NCHW[0], distilled.images_NCHW[1])


def test_a_class_with_too_few_images_is_named(digits):
    with pytest.raises(UserError, match=r"class '0' has \d+ training images, fewer than ipc = 500"):
        recovery_batches.initial_indices(small(ipc=500), digits.train)


def test_nan_names_batch_iteration_and_place(teacher, digits, cpu, monkeypatch):
    original = matching.cross_entropy
    calls = []

    def poisoned(logits, labels):
        calls.append(1)
        return original(logits, labels) * (float("nan") if len(calls) == 9 else 1.0)

    monkeypatch.setattr(matching, "cross_entropy", poisoned)
    with pytest.raises(UserError, match="batch 2, iteration 2, at the network's output") as caught:
        distil(small(), teacher, digits, cpu)
    assert caught.value.kind == "numeric"


def test_singular_synthetic_side_names_layer_batch_and_beta(teacher, digits, cpu, monkeypatch):
    def without_spread(*args, **kwargs):
        found = batch_moments(*args, **kwargs)
        return type(found)(
            found.name, found.mean_D, found.var_D, found.cov_DD * 0 - torch.eye(len(found.mean_D))
        )

    monkeypatch.setattr(microbatch, "batch_moments", without_spread)
    with pytest.raises(
        UserError, match=r"layer layers.conv.0 at batch 1, iteration 0 is singular at β = 0.1"
    ):
        distil(small(), teacher, digits, cpu)


def test_batchnorm_taps_match_running_statistics_without_a_pass(teacher, digits, cpu):
    config = small(
        objective={
            "taps": "batchnorm",
            "terms": [{"filter": "diagonal"}, {"filter": "identity", "signal": "mean"}],
        }
    )
    events, real = drive(statistics.measure(config, teacher, digits.train, cpu))
    assert events == []
    norm = teacher.get_submodule("layers.norm.1")
    assert torch.equal(real[1].var_D, norm.running_var.double())
    _, distilled = stages.distil(config, teacher, real, digits.train, cpu)
    assert distilled.images_NCHW.isfinite().all()


def test_folding_keeps_the_features_of_the_taps(teacher, digits, cpu):
    x = digits.train.batch(range(8), cpu)
    features, logits = Tapped(teacher, "conv-input", cpu)(x)
    assert torch.equal(features[0], x)
    plain = {}
    hook = teacher.get_submodule("layers.conv.2").register_forward_pre_hook(
        lambda module, inputs: plain.update(x=inputs[0])
    )
    torch.testing.assert_close(logits, teacher(x), rtol=1e-4, atol=1e-4)
    hook.remove()
    torch.testing.assert_close(features[2], plain["x"], rtol=1e-4, atol=1e-4)


def test_mixed_order_keeps_the_variance_between_classes_in_batched_statistics(teacher, digits, cpu):
    order = torch.argsort(digits.train.labels_N, stable=True).numpy()
    images = digits.train.from_arrays(
        digits.train.pixels(order), digits.train.labels_N[order], digits.train.classes, (0.5,), (0.5,)
    )
    trace = {}
    for estimator, order in (
        ("pooled", "file"),
        ("batched", "file"),
        ("batched", "mixed"),
        ("pooled", "mixed"),
    ):
        config = small(statistics={"estimator": estimator, "order": order, "batch": 64})
        _, real = drive(statistics.measure(config, teacher, images, cpu))
        trace[estimator, order] = float(real[0].var_D.sum())
    assert trace["pooled", "mixed"] == pytest.approx(trace["pooled", "file"], rel=1e-6)
    assert trace["batched", "file"] < trace["batched", "mixed"] < trace["pooled", "file"]


def test_a_term_that_overflows_is_not_called_singular(teacher, digits, cpu):
    config = small(objective={"terms": [{"filter": "lambda"}]}, recover={"lr": 1e30, "clamp": False})
    with pytest.raises(UserError, match=r"batch 1, iteration \d+") as caught:
        distil(config, teacher, digits, cpu)
    assert "singular" not in str(caught.value)
    ridge = small(recover={"lr": 1e30, "clamp": False})
    with pytest.raises(UserError, match=r"statistics of layer layers.conv.0 at batch 1, iteration 1 are not"):
        distil(ridge, teacher, digits, cpu)
    ridge = small(objective={"taps": "conv-output"}, recover={"lr": 1e8, "clamp": False})
    with pytest.raises(UserError, match=r"images diverged, or Ψ \+ βI is singular"):
        distil(ridge, teacher, digits, cpu)


def test_taps_that_a_network_lacks_are_refused(cpu):
    config = small(backbone={"norm": "instance"})
    model = backbones.build(config.backbone, classes=10, channels=1, image_size=16)
    with pytest.raises(UserError, match="no BatchNorm"):
        tap_names(model, "batchnorm")


def test_a_schedule_that_ends_where_there_is_no_inverse_is_refused_before_the_first_batch(
    teacher, digits, cpu
):
    config = small(objective={"taps": "conv-output", "schedule": {"origin": 1, "per": "batch"}})
    _, real = drive(statistics.measure(config, teacher, digits.train, cpu))
    assert torch.linalg.matrix_rank(real[0].cov_DD) <= 9  # sixteen channels out of nine pixels
    stage = recover.recover(config, teacher, real, digits.train, cpu)
    assert next(stage).kind == "RecoverLayout"
    with pytest.raises(UserError, match=r"real tap layers.conv.0 is singular at β = 0"):
        next(stage)


def test_balanced_terms_pull_as_hard_as_the_cross_entropy_at_first_and_keep_their_scale(teacher, digits, cpu):
    config = small(objective={"balance": "gradient"}, recover={"emu": False})
    _, real = drive(statistics.measure(config, teacher, digits.train, cpu))
    networks = [(recover._build_tapped_network(config, teacher, cpu), real_as_float(real))]

    def begun():
        indices = recovery_batches.initial_indices(config, digits.train)[0]
        return recover.RecoveryBatch(config, networks, digits.train, 1, 0.1, indices, np.arange(10))

    batch = begun()
    batch.step()
    scale = float(batch.scale)
    plain = begun()
    plain.scale = torch.zeros(())
    ce_gradient = torch.autograd.grad(plain.compute_loss()[0], plain.images_MCHW)[0]
    plain.scale = torch.tensor(scale)
    both = torch.autograd.grad(plain.compute_loss()[0], plain.images_MCHW)[0]
    assert float((both - ce_gradient).norm()) == pytest.approx(float(ce_gradient.norm()), rel=1e-3)
    batch.step()
    assert float(batch.scale) == scale
    assert scale != pytest.approx(1.0, rel=0.1)


def real_as_float(real):
    return [tap.to(torch.device("cpu")) for tap in real]


def test_a_series_that_diverges_on_the_synthetic_side_is_told(teacher, digits, cpu):
    objective = settings.resolve(sets=["objective=mtt"]).config.objective.model_dump(mode="json")
    config = small(objective=objective, ipc=1)
    _, real = drive(statistics.measure(config, teacher, digits.train, cpu))
    narrow = [replace(tap, cov_DD=tap.cov_DD / 100, var_D=tap.var_D / 100) for tap in real]
    for taps, notices in ((real, 0), (narrow, 2)):
        events, _ = drive(recover.recover(config, teacher, taps, digits.train, cpu))
        told = [event.message for event in events if isinstance(event, Notice)]
        assert len(told) == notices
    assert "batch 1, iteration 0: α·λ_max(Ψ_s) of layers.conv." in told[0]
    assert "batch 1, iteration 5" in told[1]


def test_tiles_of_real_crops_are_what_rded_selects(teacher, digits, cpu):
    select = {"pool": 12, "crops": 3, "factor": 2}
    options = {"iterations": 1, "lr": 1e-9, "views": {}, "classes_per_batch": 5, "select": select}
    config = small(recover={"init": "tiles", **options})
    _, found = distil(config, teacher, digits, cpu)
    rded = small(recover={"algorithm": "select", "select": select})
    _, expected = stages.distil(rded, teacher, [], digits.train, cpu)
    assert len(found.labels_N) == len(expected.labels_N) == 20
    for label in range(10):
        tiles = expected.images_NCHW[expected.labels_N == label]
        torch.testing.assert_close(found.images_NCHW[found.labels_N == label], tiles, atol=1e-5, rtol=0)


def test_tiles_need_enough_real_images(digits):
    config = small(ipc=40, recover={"init": "tiles", "select": {"factor": 2}})
    with pytest.raises(UserError, match="crops need 160 images"):
        recovery_batches.require_enough(config, digits.train)
    without = small(ipc=40, recover={"init": "tiles", "algorithm": "none", "select": {"factor": 2}})
    recovery_batches.require_enough(without, digits.train)


def test_the_share_of_clipped_values_is_told_at_the_end(teacher, digits, cpu):
    events, _ = distil(small(), teacher, digits, cpu)
    assert not [event for event in events if isinstance(event, Notice)]
    states = []
    config = small(recover={"clamp": False, "lr": 0.5}, checkpoint_seconds=0)
    _, real = drive(statistics.measure(config, teacher, digits.train, cpu))
    work = recover.recover(config, teacher, real, digits.train, cpu)
    events, _ = drive(work, lambda event, _: states.append(event.capture()))
    clipped = states[-1].metadata["clipped"]
    assert isinstance(events[-1], Notice)
    assert events[-1].level == "info"
    told = recover.Clipped(*clipped)
    assert told.values == 20 * 256
    assert 0 < told.outside < told.values
    assert events[-1].message == str(told)
    between = next(state for state in states if state.metadata["batch"] == 2)
    again, _ = drive(recover.recover(config, teacher, real, digits.train, cpu, between))
    assert again[-1] == events[-1]


def test_clipped_values_are_counted_as_numpy_counts_them():
    pixels = np.random.default_rng(0).normal(0.5, 0.4, (4, 3, 5, 5))
    gap = pixels - np.clip(pixels, 0, 1)
    halves = [torch.tensor(part) for part in np.split(pixels, 2)]
    told = str(recover.Clipped().add(halves[0]).add(halves[1]))
    share, rmse = 100 * (gap != 0).mean(), 255 * np.sqrt((gap**2).mean())
    assert told.startswith(f"{share:.2g} % of")
    assert f"({rmse:.2g} of 255 levels RMSE" in told


def test_both_sides_are_centred_on_each_image(teacher, digits, cpu):
    config = small(statistics={"centre": "image"}, recover={"views": {}, "iterations": 1})
    events, _ = distil(config, teacher, digits, cpu)
    first = next(event for event in events if isinstance(event, RecoverProgress))
    start = digits.train.batch(recovery_batches.initial_indices(config, digits.train)[0], cpu)

    def literal(x_MDHW):
        centred = (x_MDHW - x_MDHW.mean(axis=(2, 3), keepdims=True)).transpose(0, 2, 3, 1)
        rows = centred.reshape(-1, x_MDHW.shape[1])
        return rows.T @ rows / len(rows)

    network = Tapped(teacher, config.objective.taps, cpu)
    with torch.no_grad():
        synthetic, _ = network(start)
        real, _ = network(digits.train.batch(range(len(digits.train)), cpu))
    for index, sides in enumerate(zip(synthetic, real, strict=True)):
        shift = config.objective.beta * np.eye(sides[0].shape[1])
        ours, theirs = (np.linalg.inv(literal(x.double().numpy()) + shift) for x in sides)
        assert first.terms[0][0][index] == pytest.approx(np.linalg.norm(ours - theirs), rel=1e-3)
