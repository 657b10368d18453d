"""What methods add to recovery, beside independent float64 evaluations; and each left and taken up again."""

from __future__ import annotations

import numpy as np
import pytest
import stages
import torch
from picture_trees import make_tree
from resuming import left_everywhere, recovered_again, recovering, said, same, unhurried
from stages import drive, small

from engine.backbones.labeller import Labeller
from engine.config import Data, Perturbation, Views
from engine.data import augmentation, denormalise, loading, normalise
from engine.events import BatchRecovered, RecoverProgress
from engine.methods import dwa, rded
from engine.rng import generator
from engine.spectral import recovery_batches
from engine.stages import statistics

BATCHNORM = {"taps": "batchnorm", "terms": [{"filter": "diagonal"}, {"filter": "identity", "signal": "mean"}]}
ROUND = {"perturb": {"steps": 2, "rho": 0.3, "restore": "round"}, "classes_per_batch": 4, "emu": False}
SELECT = {"algorithm": "select", "select": {"pool": 9, "crops": 3, "factor": 2}}


@pytest.fixture
def everywhere(monkeypatch):
    """A configuration that offers a checkpoint wherever possible."""
    monkeypatch.setattr(rded, "CHUNK", 4)
    return lambda **changes: small(checkpoint_seconds=0, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"recover": {"algorithm": "none", "classes_per_batch": 4}},
        {"recover": SELECT},
        {"recover": {"crop_curriculum": True, "iterations": 4}, "objective": BATCHNORM},
        {"recover": {"perturb": {"steps": 3, "rho": 0.3}, "iterations": 3}, "objective": BATCHNORM},
        {"recover": {**ROUND, "iterations": 2}, "objective": BATCHNORM},
        {"recover": {"iterations": 3}, "objective": {"balance": "gradient"}},
    ],
    ids=["random", "rded", "cda", "dwa", "dwa by round", "balanced"],
)
def test_recovery_that_was_cut_anywhere_ends_with_the_same_images(everywhere, teacher, digits, cpu, changes):
    config = everywhere(**changes)
    _, real = drive(statistics.measure(config, teacher, digits.train, cpu))
    begin, parts = recovering(config, [(teacher, real)], digits.train, cpu)
    plain, _ = drive(begin(None, unhurried(config)))
    events, _, points = left_everywhere(begin)
    assert said(plain) == said(events)
    plan = recovery_batches.plan_batches(config, 10)
    assert [len(parts[batch]["labels"]) for batch in sorted(parts)] == [len(classes) for _, classes in plan]
    assert len(points) > len(plan) or changes["recover"]["algorithm"] == "none"
    assert len(list(recovered_again(config, begin, parts, events, points))) == len(points)


def test_random_is_the_control(teacher, digits, cpu):
    for init in ("first", "random"):
        config = small(recover={"algorithm": "none", "init": init})
        _, distilled = stages.distil(config, teacher, [], digits.train, cpu)
        control = recovery_batches.control_set(config, digits.train)
        assert torch.equal(distilled.images_NCHW.mul(255).round().byte(), control.pixels(range(20)))
        assert torch.equal(distilled.labels_N, control.labels_N)
        logits_NK = teacher(control.batch(range(20), cpu)).detach()
        expected = logits_NK.softmax(dim=1)[torch.arange(20), distilled.labels_N]
        torch.testing.assert_close(distilled.confidence_N, expected, rtol=1e-4, atol=1e-5)


# --- CDA -----------------------------------------------------------------------------------------


def test_the_least_crop_falls_along_the_published_cosine():
    config = small(recover={"iterations": 40, "crop_curriculum": True, "views": {"crop_scale": [0.08, 1.0]}})
    for t in range(40):
        expected = 0.08 + 0.92 * (1 + np.cos(np.pi * t / 40)) / 2
        low, high = recovery_batches.views_at_iteration(config, t).crop_scale
        assert (low, high) == (pytest.approx(expected, rel=1e-12), 1.0)
    plain = small(recover={"iterations": 40})
    assert recovery_batches.views_at_iteration(plain, 20) == plain.recover.views


# --- DWA -----------------------------------------------------------------------------------------


def test_ascent_steps_are_rho_over_k_long_along_the_gradient_of_all_weights():
    """Expected: softmax regression, its gradient written out in float64 NumPy."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(7, 5)), rng.integers(0, 3, 7)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(5, 3)).double()
    w, b = (value.detach().numpy().copy() for value in (model[1].weight, model[1].bias))
    before = w.copy()
    rho, steps = 0.3, 4
    for _ in range(steps):
        logits = x @ w.T + b
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        error = (p - np.eye(3)[y]) / len(y)
        dw, db = error.T @ x, error.sum(0)
        norm = np.sqrt((dw**2).sum() + (db**2).sum())
        w, b = w + rho / steps * dw / norm, b + rho / steps * db / norm
    found = dwa.perturb_teacher(
        model, torch.tensor(x)[:, :, None, None], torch.tensor(y), Perturbation(steps=steps, rho=rho)
    )
    np.testing.assert_allclose(found[1].weight.numpy(), w, rtol=1e-9)
    np.testing.assert_allclose(found[1].bias.numpy(), b, rtol=1e-9)
    assert np.array_equal(model[1].weight.detach().numpy(), before)
    assert not any(weight.requires_grad for weight in found.parameters())


def test_each_batch_has_a_teacher_of_its_own_and_the_statistics_stay(teacher, digits, cpu):
    config = small(
        recover={"perturb": {"steps": 2, "rho": 0.5}, "iterations": 1, "emu": False}, objective=BATCHNORM
    )
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    _, real = drive(statistics.measure(config, teacher, digits.train, cpu))
    events, distilled = stages.distil(config, teacher, real, digits.train, cpu)
    assert same(before, dict(teacher.state_dict()))
    for number in (1, 2):
        start = digits.train.batch(recovery_batches.initial_indices(config, digits.train)[number - 1], cpu)
        rng = generator(config.seed, "recover", number, 0)
        view = augmentation.apply(augmentation.draw(config.recover.views, 16, 10, rng, shared=True), start)
        climber = dwa.perturb_teacher(teacher, view, torch.arange(10), config.recover.perturb)
        first = next(e for e in events if isinstance(e, RecoverProgress) and e.batch == number)
        with torch.no_grad():
            expected = torch.nn.functional.cross_entropy(climber(view), torch.arange(10))
            plain = torch.nn.functional.cross_entropy(teacher(view), torch.arange(10))
        assert first.ce[0] == pytest.approx(float(expected), rel=1e-4)
        assert float(expected) > float(plain)
        norm = climber.get_submodule("layers.norm.1")
        assert torch.equal(norm.running_var, before["layers.norm.1.running_var"])
    with torch.no_grad():  # how sure the teacher is, is asked of the teacher itself
        x = normalise(distilled.images_NCHW, digits.train.mean, digits.train.std)
        sure = teacher(x).softmax(dim=1)[torch.arange(20), distilled.labels_N]
    torch.testing.assert_close(distilled.confidence_N, sure, rtol=1e-3, atol=1e-4)


def test_the_perturbation_accumulates_until_a_round_ends(teacher, digits, cpu):
    config = small(recover={**ROUND, "iterations": 1}, objective=BATCHNORM)
    _, real = drive(statistics.measure(config, teacher, digits.train, cpu))
    events, _ = stages.distil(config, teacher, real, digits.train, cpu)
    starts, climber = recovery_batches.initial_indices(config, digits.train), teacher
    for number, (rounds, labels) in enumerate(recovery_batches.plan_batches(config, 10), start=1):
        if number in (1, 4):  # the first of three batches of a round
            climber = teacher
        rng = generator(config.seed, "recover", number, 0)
        draw = augmentation.draw(config.recover.views, 16, len(labels), rng, shared=True)
        view = augmentation.apply(draw, digits.train.batch(starts[rounds, labels], cpu))
        climber = dwa.perturb_teacher(climber, view, torch.from_numpy(labels), config.recover.perturb)
        with torch.no_grad():
            expected = torch.nn.functional.cross_entropy(climber(view), torch.from_numpy(labels))
        first = next(e for e in events if isinstance(e, RecoverProgress) and e.batch == number)
        assert first.ce[0] == pytest.approx(float(expected), rel=1e-4)


# --- RDED ----------------------------------------------------------------------------------------


def triangle(extent, start, side, pixels):
    """Antialiased bilinear weights of one line, written out pixel by pixel in float64."""
    weights = np.zeros((side, pixels))
    scale = extent / side
    for new in range(side):
        for pixel in range(start, start + extent):
            distance = abs(pixel - (start + (new + 0.5) * scale - 0.5)) / max(scale, 1.0)
            weights[new, pixel] = max(0.0, 1.0 - distance)
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("side", [8, 16])
def test_crops_are_resized_as_numpy_and_torchvision_do(side):
    x = torch.rand(4, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    boxes = torch.tensor([[0, 0, 16], [3, 5, 9], [12, 1, 4], [0, 8, 8]])
    found = rded.crop(x, boxes, side)
    for image, (top, left, extent) in enumerate(boxes.tolist()):
        rows, columns = triangle(extent, top, side, 16), triangle(extent, left, side, 16)
        np.testing.assert_allclose(found[image], rows @ x[image].numpy() @ columns.T, rtol=1e-9)
        crop = x[image : image + 1, :, top : top + extent, left : left + extent].float()
        theirs = torch.nn.functional.interpolate(crop, (side, side), mode="bilinear", antialias=True)
        torch.testing.assert_close(found[image].float(), theirs[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("streamed", [False, True])
def test_crops_come_from_the_whole_file_at_full_resolution(tmp_path, monkeypatch, cpu, streamed):
    """Expected: PyTorch's antialiased resizing of the file's own pixels, but for rounding to 8 bits."""
    monkeypatch.setenv("CFM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(loading, "is_streamed", lambda *_: streamed)
    made = make_tree(tmp_path / "set", {"train/a": 9, "train/b": 9, "test/a": 1, "test/b": 1}, size=(44, 28))
    train = loading.load(Data(name="folder", root=str(tmp_path / "set"), image_size=16)).train
    pool, boxes = rded.draw_crops(small(ipc=1, recover=SELECT), train, 1)
    top, left, side = np.moveaxis(boxes, 2, 0)
    assert min(top.min(), left.min()) >= 0
    assert ((top + side).max(), (left + side).max()) <= (28, 44)
    assert left.min() < 8 < 36 < (left + side).max()  # beyond the central square
    assert side.min() < 14 < 20 < side.max()
    found = train.crop_pictures(pool, boxes, 8, cpu)
    assert found.shape == (9, 3, 3, 8, 8)
    pixels = denormalise(found.flatten(0, 1), train.mean, train.std).reshape(found.shape)
    for m, index in enumerate(pool):
        whole = torch.from_numpy(made[f"train/b/{index - 9}"]).permute(2, 0, 1)[None].float() / 255
        for r, (y, x, extent) in enumerate(boxes[m].tolist()):
            crop = whole[:, :, y : y + extent, x : x + extent]
            wanted = torch.nn.functional.interpolate(crop, (8, 8), mode="bilinear", antialias=True)
            torch.testing.assert_close(pixels[m, r], wanted[0], atol=1.5 / 255, rtol=0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 2))
    label = Labeller(model, cpu, "float32")
    best, scores = rded.best_crops(label, train, pool, boxes, 2)
    for m in range(9):
        logits = label(rded.pad_to_size(found[m], 16))
        losses = torch.nn.functional.cross_entropy(logits, torch.ones(3, dtype=torch.int64), reduction="none")
        assert float(scores[m]) == pytest.approx(float(losses.min()), rel=1e-5)
        assert torch.equal(best[m], found[m, int(losses.argmin())])


def test_areas_that_do_not_fit_leave_the_central_square(digits, monkeypatch):
    monkeypatch.setattr(digits.train, "picture_sizes", lambda indices: np.full((len(indices), 2), (2, 90)))
    _, boxes = rded.draw_crops(small(ipc=1, recover=SELECT), digits.train, 1)
    assert (boxes == [0, 44, 2]).all()


def test_the_likeliest_crops_are_found_scored_and_tiled(teacher, digits, cpu):
    """Expected: every crop scored alone, by float64 NumPy out of the plain teacher's logits."""
    config = small(recover=SELECT)
    events, distilled = stages.distil(config, teacher, [], digits.train, cpu)
    assert [event.batch for event in events if isinstance(event, BatchRecovered)] == list(range(1, 11))
    assert distilled.labels_N.tolist() == sorted(list(range(10)) * 2)
    train, label = digits.train, 3
    pool, boxes = rded.draw_crops(config, train, label)
    assert len(set(pool.tolist())) == 9
    assert set(train.labels_N[pool].tolist()) == {label}
    best = []
    for index, own in zip(pool, boxes, strict=True):
        scored = []
        for top, left, extent in own:
            x = train.batch([index], cpu).double().numpy()[0, 0]
            crop = triangle(extent, top, 8, 16) @ x @ triangle(extent, left, 8, 16).T
            whole = np.zeros((16, 16))
            whole[4:12, 4:12] = crop
            with torch.no_grad():
                logits = teacher(torch.tensor(whole, dtype=torch.float32)[None, None])[0].double().numpy()
            scored.append((np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[label], crop))
        best.append(min(scored, key=lambda pair: pair[0]))
    ranked = [crop for _, crop in sorted(best, key=lambda pair: pair[0])[:8]]
    pixels = denormalise(torch.tensor(np.array(ranked))[:, None], train.mean, train.std)[:, 0].numpy()
    for image in range(2):
        a, b, c, d = (pixels[rank] for rank in range(image, 8, 2))
        expected = np.block([[a, b], [c, d]]).clip(0, 1)
        np.testing.assert_allclose(distilled.images_NCHW[label * 2 + image, 0], expected, atol=1e-5)


def test_crops_are_squares_of_eight_to_a_hundred_percent_inside_the_image(digits):
    config = small(recover={"algorithm": "select", "select": {"pool": 100, "crops": 20}})
    _, boxes = rded.draw_crops(config, digits.train, 0)
    top, left, side = boxes.reshape(-1, 3).T
    assert (np.minimum(top, left) >= 0).all()
    assert (np.maximum(top, left) + side <= 16).all()
    assert (side.min(), side.max()) == (5, 16)  # √0.08·16 = 4.5
    assert np.mean(side**2 / 256) == pytest.approx(0.54, abs=0.02)


def test_tiles_of_a_size_that_does_not_divide_cover_the_image():
    crops = torch.arange(1.0, 10.0)[:, None, None, None].expand(9, 1, 5, 5)
    image = rded.tile(crops, 3, 17)
    assert image.shape == (1, 1, 17, 17)
    assert image[0, 0, ::6, ::6].tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert [int((image == value).sum()) for value in (1, 3, 9)] == [36, 30, 25]


def test_nothing_is_measured_where_crops_score_by_the_folded_teacher(teacher, digits, cpu):
    label = Labeller(teacher, cpu, "float32")
    crops, scores = rded.best_crops(label, digits.train, np.array([0, 1]), np.full((2, 1, 3), (0, 0, 16)), 1)
    assert torch.equal(crops, digits.train.batch([0, 1], cpu))
    assert scores.shape == (2,)


# --- shuffled patches ----------------------------------------------------------------------------


@pytest.mark.parametrize(("patches", "size"), [(2, 16), (3, 16), (4, 16)])
def test_patches_keep_their_pixels_and_come_in_every_order(patches, size):
    draw = augmentation.draw(Views(patches=patches), size, 200, np.random.default_rng(0))
    x = torch.arange(size * size, dtype=torch.float32).reshape(1, 1, size, size).expand(200, 1, size, size)
    seen = augmentation.apply(draw, x).numpy()[:, 0]
    strips = [list(range(k * (size // patches), (k + 1) * (size // patches))) for k in range(patches)]
    strips[-1] = list(range((patches - 1) * (size // patches), size))
    orders = set()
    for image, (rows, columns) in zip(seen, draw.source_M2S, strict=True):
        assert np.array_equal(image, np.arange(size * size).reshape(size, size)[np.ix_(rows, columns)])
        for line in (rows.tolist(), columns.tolist()):
            order = sorted(range(patches), key=lambda k: line.index(strips[k][0]))
            assert line == [pixel for k in order for pixel in strips[k]]
            orders.add(tuple(order))
    assert len(orders) == np.prod(np.arange(1, patches + 1))


def test_patches_are_shuffled_before_the_crop():
    views = Views(patches=2, crop_scale=(0.25, 0.5), flip=True, roll=3)
    draw = augmentation.draw(views, 16, 8, np.random.default_rng(1))
    x = torch.rand(8, 1, 16, 16)
    first = torch.stack([x[i][:, rows][:, :, columns] for i, (rows, columns) in enumerate(draw.source_M2S)])
    plain = augmentation.Draw(draw.boxes_M4, draw.flip_M, draw.roll_M2, 16)
    torch.testing.assert_close(augmentation.apply(draw, x), augmentation.apply(plain, first))
    few = np.array([5, 2])
    torch.testing.assert_close(augmentation.apply(draw.take(few), x[few]), augmentation.apply(draw, x)[few])
