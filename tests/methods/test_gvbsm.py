"""G-VBSM beside independent float64 evaluations; several backbones in turn, cut and taken up again."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from resuming import left_everywhere, recovered_again, recovering, same
from stages import drive, small

from engine import backbones
from engine.backbones.labeller import Labeller
from engine.checkpoint import Checkpoint, StageState
from engine.config import Config
from engine.data import augmentation
from engine.events import RecoverProgress, StageProgress
from engine.methods import gvbsm
from engine.rng import generator
from engine.runs import artefacts
from engine.spectral import matching, recovery_batches, taps
from engine.spectral.moments import Moments, batch_moments
from engine.stages import recover, statistics

GOAL = {
    "taps": "bn-conv",
    "patch": 4,
    "first_tap": 10,
    "terms": [{"filter": "diagonal", "weight": 0.5}, {"filter": "identity", "signal": "mean", "weight": 0.5}],
    "schedule": {"kind": "constant", "per": "batch"},
}
MADE = {"emu": False, "group": "class", "classes_per_batch": 12, "straight_through": 0.75, "iterations": 4}


@pytest.fixture(scope="module")
def other():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        settings = Config.model_validate({"backbone": {"width": 8, "depth": 2}}).backbone
        model = backbones.build(settings, classes=10, channels=1, image_size=16)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_var.uniform_(0.5, 2.0)
                module.running_mean.normal_()
    return model.eval()


def measured(config, models, digits, cpu):
    return [(model, drive(statistics.measure(config, model, digits.train, cpu))[1]) for model in models]


def enlarged(x, size):
    """Bilinear resizing of both axes with half-pixel centres, in float64."""

    def matrix(old):
        found = np.zeros((size, old))
        for new in range(size):
            at = max((new + 0.5) * old / size - 0.5, 0.0)
            low = int(at)
            found[new, low] += 1 - (at - low)
            found[new, min(low + 1, old - 1)] += at - low
        return found

    return np.einsum("ab,mdbc,ec->mdae", matrix(x.shape[2]), x, matrix(x.shape[3]))


def blocks(x, side):
    """The patches of feature maps, one array a place."""
    whole = -(-x.shape[2] // side) * side
    x = enlarged(x, whole) if whole != x.shape[2] else x
    places = range(0, whole, side)
    return [x[:, :, top : top + side, left : left + side] for top in places for left in places]


@pytest.mark.parametrize(("size", "side"), [(8, 4), (6, 4), (8, 16), (3, 2)])
def test_patch_statistics_equal_numpy(size, side):
    x = np.random.default_rng(0).normal(size=(3, 5, size, size)) * 3 + 1
    found = batch_moments(
        "x", taps.extract_patches(torch.tensor(x).float(), side), torch.eye(3), covariance=False
    )
    np.testing.assert_allclose(found.mean_D, [each.mean() for each in blocks(x, side)], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.var_D, [each.var() for each in blocks(x, side)], rtol=1e-4)


def softmax(values):
    powers = np.exp(values - values.max())
    return powers / powers.sum()


def test_density_and_its_gradient_equal_numpy():
    rng = np.random.default_rng(1)
    x, labels = rng.normal(size=(7, 2, 4, 4)) * 0.3, np.array([0, 2, 2, 0, 2, 1, 0])

    def eigenvalues(x, label):
        rows = x[labels == label].reshape((labels == label).sum(), -1)
        return np.linalg.eigvalsh(rows @ rows.T)

    wanted = {label: softmax(eigenvalues(x, label) / 4) for label in range(3)}

    def value(x):
        each = ((wanted[label], softmax(eigenvalues(x, label))) for label in range(3))
        return sum(float((p * np.log(p / q)).sum()) for p, q in each)

    images = torch.tensor(x, requires_grad=True)
    found = gvbsm.density_loss(images, gvbsm.group_by_class(labels, torch.device("cpu")), 4.0)
    assert float(found.detach()) == pytest.approx(value(x), rel=1e-9)
    found.backward()
    direction = rng.normal(size=x.shape)
    slope = (value(x + 1e-6 * direction) - value(x - 1e-6 * direction)) / 2e-6
    assert float((images.grad.numpy() * direction).sum()) == pytest.approx(slope, rel=1e-5)


def test_classes_of_as_many_images_are_decomposed_at_once(monkeypatch):
    """What is left of a class where a batch is cut is a decomposition of its own."""
    shapes, eigvalsh = [], torch.linalg.eigvalsh
    monkeypatch.setattr(torch.linalg, "eigvalsh", lambda x: shapes.append(tuple(x.shape)) or eigvalsh(x))
    where = gvbsm.group_by_class(np.repeat(np.arange(5), (2, 3, 3, 3, 2)), torch.device("cpu"))
    assert [each.tolist() for each in where] == [[[0, 1], [11, 12]], [[2, 3, 4], [5, 6, 7], [8, 9, 10]]]
    x = torch.rand(13, 1, 8, 8, dtype=torch.float64)
    together = gvbsm.density_loss(x, where, 4.0)
    assert shapes == [(2, 2, 2), (3, 3, 3)]
    alone = sum(gvbsm.density_loss(x, [each_N[None]], 4.0) for each in where for each_N in each)
    torch.testing.assert_close(together, alone)


def test_density_sees_large_images_pooled_to_32_pixels():
    x = torch.rand(3, 3, 64, 64, dtype=torch.float64) / 20
    pooled = x.reshape(3, 3, 32, 2, 32, 2).mean(dim=(3, 5))
    where = [torch.arange(3)[None]]
    assert float(gvbsm.density_loss(x, where, 4.0)) > 1e-3
    torch.testing.assert_close(gvbsm.density_loss(x, where, 4.0), gvbsm.density_loss(pooled, where, 4.0))


def test_statistics_move_straight_through():
    rng = np.random.default_rng(2)
    moves, was = gvbsm.MovingStatistics(0.8), (np.zeros(4), np.zeros(4))
    for step in range(5):
        mean, var = rng.normal(size=4), rng.uniform(size=4)
        inputs = [torch.tensor(value, requires_grad=True) for value in (mean, var)]
        kept = np.array([step != 2])
        (found,) = moves.step(1, [Moments("a", *inputs)], kept)
        if step != 2:
            was = tuple(0.8 * old + 0.2 * new for old, new in zip(was, (mean, var), strict=True))
        np.testing.assert_allclose(found.mean_D.detach(), was[0])
        np.testing.assert_allclose(found.var_D.detach(), was[1])
        (found.mean_D.sum() + 3 * found.var_D.sum()).backward()
        assert inputs[0].grad.tolist() == [1.0] * 4
        assert inputs[1].grad.tolist() == [3.0] * 4


def test_real_statistics_are_running_ones_of_batchnorms_and_measured_ones_of_convs(teacher, digits, cpu):
    ((_, real),) = measured(small(objective=GOAL, recover=MADE), [teacher], digits, cpu)
    first = ["layers.conv.0", "layers.conv.0/patches", "layers.norm.0", "layers.conv.1"]
    assert [moments.name for moments in real][:4] == first
    norm = teacher.get_submodule("layers.norm.0")
    assert torch.equal(real[2].var_D, norm.running_var.double())
    x = digits.train.batch(range(len(digits.train)), cpu).double().numpy()
    np.testing.assert_allclose(real[0].mean_D, [x.mean()], rtol=1e-6)
    np.testing.assert_allclose(real[1].var_D, [each.var() for each in blocks(x, 4)], rtol=1e-6, atol=1e-12)
    assert all(moments.cov_DD is None for moments in real)


def inputs_of_layers(model, view):
    """Cross-entropy's logits of the plain network, and what each of its layers sees, in float64."""
    seen = {}

    def listen(name):
        def hook(module, inputs):
            seen[name] = inputs[0].double().numpy()

        return model.get_submodule(name).register_forward_pre_hook(hook)

    hooks = [listen(name) for name in backbones.layer_names(model)]
    with torch.no_grad():
        logits = model(view)
    for hook in hooks:
        hook.remove()
    return logits, seen


def test_the_first_steps_equal_a_plain_evaluation_of_each_backbone_in_turn(teacher, other, digits, cpu):
    config = small(objective=GOAL, recover={**MADE, "lr": 1e-12})
    through = measured(config, [teacher, other], digits, cpu)
    work = recover.recover(config, *through[0], digits.train, cpu, None, through[1:])
    first = next(event for event in drive(work)[0] if isinstance(event, RecoverProgress))
    rounds, labels = recovery_batches.plan_batches(config, 10)[0]
    start = digits.train.batch(recovery_batches.initial_indices(config, digits.train)[rounds, labels], cpu)
    for turn, (model, real) in enumerate(through):
        rng = generator(config.seed, "recover", 1, turn)
        view = augmentation.apply(augmentation.draw(config.recover.views, 16, 12, rng, shared=True), start)
        logits, seen = inputs_of_layers(model, view)
        ce = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels))
        assert first.ce[turn] == pytest.approx(float(ce), rel=1e-4)
        expected = np.zeros((2, 3))
        for moments in real:
            name, _, patch = moments.name.partition("/")
            parts = blocks(seen[name], 4) if patch else list(seen[name].transpose(1, 0, 2, 3))
            kind = 2 if patch else int("conv" in name)
            var, mean = (np.array([measure(each) for each in parts]) for measure in (np.var, np.mean))
            expected[0, kind] += np.linalg.norm(moments.var_D.numpy() - 0.25 * var)
            expected[1, kind] += np.linalg.norm(moments.mean_D.numpy() - 0.25 * mean)
        np.testing.assert_allclose(first.terms[turn], expected, rtol=1e-3)


def test_both_taps_of_the_first_conv_weigh_ten_times(teacher, digits, cpu):
    config = small(objective=GOAL, recover=MADE)
    ((_, real),) = measured(config, [teacher], digits, cpu)
    goal = matching.MatchingLoss(config.objective, real, 0.1)
    assert goal._weights_TL[0].tolist() == [5.0, 5.0] + [0.5] * (len(real) - 2)


def test_recovery_through_two_backbones_that_was_cut_anywhere_ends_the_same(teacher, other, digits, cpu):
    made = {**MADE, "init": "noise", "drop": 0.4, "density": {"weight": 0.5}, "iterations": 3}
    config = small(checkpoint_seconds=0, objective=GOAL, recover=made, ipc=3)
    through = measured(config, [teacher, other], digits, cpu)
    begin, parts = recovering(config, through, digits.train, cpu)
    events, _, points = left_everywhere(begin)
    assert [len(parts[batch]["labels"]) for batch in (1, 2, 3)] == [12, 12, 6]
    assert torch.cat([parts[batch]["labels"] for batch in (1, 2, 3)]).tolist() == sorted(list(range(10)) * 3)
    assert len(list(recovered_again(config, begin, parts, events, points))) == len(points)


def test_convolutions_are_left_out_with_their_patches_and_batchnorms_never(teacher, cpu):
    network = taps.Tapped(teacher, "bn-conv", cpu, patch=4)
    left = np.array([gvbsm.draw_kept_taps(network, 0.4, 0, 1, iteration) for iteration in range(1000)])
    share, kinds = 1 - left.mean(axis=0), np.array(network.column_L)
    assert (share[kinds == 0] == 0).all()
    np.testing.assert_allclose(share[kinds == 1], 0.4, atol=0.05)
    assert (left[:, kinds == 1] == left[:, kinds == 2]).all()
    assert gvbsm.draw_kept_taps(network, 0.0, 0, 1, 0).all()


def test_labels_are_the_mean_of_all_backbones_logits(teacher, other, digits, cpu):
    x = digits.train.batch(range(6), cpu)
    with torch.no_grad():
        expected = (teacher(x) + other(x)) / 2
    found = Labeller(gvbsm.Ensemble([teacher, other]), cpu, "float32")(x)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_backbones_share_the_cache_with_runs_of_each_alone(digits):
    also = ["resnet18", "convnet", "mobilenet_v2"]
    each = artefacts.single_backbone_configs(small(backbone={"also": also}, recover=MADE, objective=GOAL))
    assert [one.backbone.name for one in each] == ["convnet", "resnet18", "mobilenet_v2"]
    for one in each:
        lone = small(backbone={"name": one.backbone.name})
        assert artefacts.teacher_key(one, digits) == artefacts.teacher_key(lone, digits)
    assert len({artefacts.teacher_key(one, digits) for one in each}) == 3


def test_what_moves_is_saved_under_each_backbone(teacher, other, digits, cpu):
    networks = [taps.Tapped(model, "bn-conv", cpu, patch=4) for model in (teacher, other)]
    moves = gvbsm.MovingStatistics(0.5)
    for turn, network in enumerate(networks):
        features, _ = network(digits.train.batch(range(4), cpu))
        pairs = zip(network.names, features, strict=True)
        batch = [batch_moments(name, x, torch.eye(4), covariance=False, labels=False) for name, x in pairs]
        moves.step(turn, batch, np.ones(len(batch), dtype=bool))
    again = gvbsm.MovingStatistics(0.5)
    again.load_state_dict(moves.state_dict(), networks, cpu)
    assert same(moves.state_dict(), again.state_dict())
    assert len(moves.state_dict()) == 2 * sum(len(network.names) for network in networks)


def test_parts_of_a_stage_follow_each_other_and_go_on_where_they_were_cut():
    begun = []

    def part(name, saved):
        begun.append((name, None if saved is None else saved.metadata["n"]))
        for n in range(0 if saved is None else saved.metadata["n"], 2):
            yield Checkpoint("squeeze", lambda n=n: StageState(metadata={"n": n + 1}))
        return name, name == "a"

    works = [partial(part, name) for name in "abc"]
    states = []
    stage = artefacts.run_in_sequence("squeeze", 2, works, None)
    _, made = drive(stage, lambda point, _: states.append(point.capture()))
    assert made == (["a", "b", "c"], False)
    assert [state.metadata for state in states] == [{"n": n, "part": p} for p in range(3) for n in (1, 2)]
    begun.clear()
    assert drive(artefacts.run_in_sequence("squeeze", 2, works, states[2]))[1] == made
    assert begun == [("a", None), ("b", 1), ("c", None)]


def test_progress_counts_on_over_the_parts_of_a_stage_and_past_those_that_are_there_already():
    def part(there):
        if not there:
            yield StageProgress("statistics", 3, 1.0)
            yield StageProgress("statistics", 5, 1.0)
        return "made", there

    works = [lambda _, there=there: part(there) for there in (False, True, False, True)]
    events, _ = drive(artefacts.run_in_sequence("statistics", 5, works, None))
    expected = [(3, 1.0), (5, 1.0), (5, 0.0), (10, 0.0), (13, 1.0), (15, 1.0), (15, 0.0), (20, 0.0)]
    assert [(event.done, event.rate) for event in events] == expected
    assert drive(artefacts.run_in_sequence("statistics", 5, works[1:2], None))[0] == []


def test_a_part_at_work_is_closed_with_its_stage():
    closed = []

    def part():
        try:
            yield Checkpoint("squeeze", StageState)
        finally:
            closed.append(True)
        return "made", False

    work = part()
    stage = artefacts.run_in_sequence("squeeze", 1, [lambda saved: work], None)
    next(stage)
    stage.close()
    assert closed == [True]


@pytest.mark.parametrize(("parts", "ipc", "classes"), [(1, 3, 4), (2, 6, 3), (5, 10, 4)])
def test_batches_are_filled_with_the_published_share_of_a_class_at_a_time(parts, ipc, classes):
    """Expected: the order of images of the released code, by views and permutations of all image numbers."""
    config = Config.model_validate(
        {
            "ipc": ipc,
            "objective": {"schedule": {"per": "batch"}},
            "recover": {"group": "class", "class_parts": parts, "classes_per_batch": 5},
        }
    )
    order = np.arange(ipc * classes).reshape(parts, ipc // parts, classes).transpose(0, 2, 1).ravel()
    plan = recovery_batches.plan_batches(config, classes)
    assert [len(labels) for _, labels in plan[:-1]] == [5] * (len(plan) - 1)
    assert np.array_equal(np.concatenate([rounds * classes + labels for rounds, labels in plan]), order)


def test_statistics_of_augmented_images_are_the_mean_of_their_batches(teacher, digits, cpu):
    views = {"padding": 2, "flip": True}
    config = Config.model_validate(
        {
            "checkpoint_seconds": 0,
            "objective": {**GOAL, "patch": 0},
            "statistics": {"estimator": "batched", "batch": 700, "order": "mixed", "views": views},
        }
    )
    states = []
    _, measured_taps = drive(
        statistics.measure(config, teacher, digits.train, cpu),
        lambda point, _: states.append(point.capture()),
    )
    rng = generator(config.seed, "statistics views")
    drawn = augmentation.draw(config.statistics.views, 16, len(digits.train), rng)
    order = generator(config.seed, "statistics").permutation(len(digits.train))
    parts = []
    for start in range(0, len(order), 700):
        batch = order[start : start + 700]
        x = digits.train.batch(batch, cpu, drawn.take(batch)).double().numpy()
        parts.append((len(batch), x.mean(axis=(0, 2, 3)), x.var(axis=(0, 2, 3))))
    pixels = next(tap for tap in measured_taps if tap.name == "layers.conv.0")
    share = np.array([count for count, *_ in parts]) / len(order)
    np.testing.assert_allclose(pixels.mean_D, share @ [mean for _, mean, _ in parts], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(pixels.var_D, share @ [var for _, _, var in parts], rtol=1e-5)
    for state in states:
        _, again = drive(statistics.measure(config, teacher, digits.train, cpu, state))
        assert all(
            torch.equal(one.var_D, other.var_D) for one, other in zip(measured_taps, again, strict=True)
        )
    assert artefacts.statistics_key(config, digits, teacher) != artefacts.statistics_key(
        config.model_copy(update={"seed": 1}), digits, teacher
    )


def test_a_convnet_beside_the_backbone_may_have_another_normalisation(digits):
    backbone = {"name": "resnet18", "also": ["resnet18", "convnet"], "also_norm": "instance"}
    config = Config.model_validate({"backbone": backbone, "objective": GOAL, "recover": MADE})
    first, second = artefacts.single_backbone_configs(config)
    assert (first.backbone.norm, second.backbone.norm, second.backbone.also_norm) == (
        "batch",
        "instance",
        None,
    )
    alone = config.model_copy(update={"backbone": second.backbone})
    assert artefacts.teacher_key(second, digits) == artefacts.teacher_key(alone, digits)
