"""Views as matrices, against torchvision's own crops, flips and rolls."""

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as tv

from engine.config import Views
from engine.data import augmentation
from engine.rng import generator

SIZE = 16


def images(count=5, channels=3):
    return torch.rand(count, channels, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


def by_torchvision(drawn, m, image):
    top, left, height, width = (int(v) for v in drawn.boxes_M4[m])
    if height == width == SIZE:
        view = tv.crop(image, top, left, height, width)
    else:
        view = tv.resized_crop(image, top, left, height, width, [SIZE, SIZE], antialias=False)
    view = tv.horizontal_flip(view) if drawn.flip_M[m] else view
    return torch.roll(view, tuple(int(v) for v in drawn.roll_M2[m]), dims=(-2, -1))


@pytest.mark.parametrize(
    "views",
    [
        Views(crop_scale=(0.08, 1.0), flip=True, roll=4),
        Views(crop_scale=(0.5, 1.0)),
        Views(padding=4, flip=True),
        Views(roll=3),
        Views(),
    ],
)
def test_views_equal_torchvision(views):
    x = images(40)
    drawn = augmentation.draw(views, SIZE, len(x), generator(0, "test"))
    expected = torch.stack([by_torchvision(drawn, m, x[m]) for m in range(len(x))])
    torch.testing.assert_close(augmentation.apply(drawn, x), expected, atol=1e-6, rtol=1e-5)


def test_no_views_change_nothing():
    x = images()
    drawn = augmentation.draw(Views(), SIZE, len(x), generator(0))
    assert torch.equal(augmentation.apply(drawn, x), x)


def test_one_shared_draw_serves_the_whole_batch():
    x = images()
    drawn = augmentation.draw(
        Views(crop_scale=(0.08, 1.0), flip=True, roll=4), SIZE, len(x), generator(1), shared=True
    )
    assert len(drawn.boxes_M4) == 1
    expected = torch.stack([by_torchvision(drawn, 0, image) for image in x])
    torch.testing.assert_close(augmentation.apply(drawn, x), expected, atol=1e-6, rtol=1e-5)


def test_views_are_differentiable():
    x = torch.rand(2, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    drawn = augmentation.draw(Views(crop_scale=(0.2, 0.9), flip=True, roll=2), 4, 2, generator(2))
    assert torch.autograd.gradcheck(lambda x: augmentation.apply(drawn, x), (x,))


def test_crops_follow_scale_and_aspect():
    drawn = augmentation.draw(Views(crop_scale=(0.08, 1.0)), 224, 4000, generator(3))
    top, left, height, width = drawn.boxes_M4.T
    area = height * width / 224**2
    assert area.min() >= 0.07
    assert area.max() <= 1.0
    assert 0.45 < area.mean() < 0.6
    assert (np.minimum(top, left) >= 0).all()
    assert (top + height).max() <= 224
    assert (left + width).max() <= 224
    whole = area == 1.0
    ratio = (width / height)[~whole]
    assert ratio.min() >= 0.7
    assert ratio.max() <= 1.4


def test_draws_are_a_function_of_their_key():
    views = Views(crop_scale=(0.08, 1.0), flip=True, roll=4)
    first = augmentation.draw(views, SIZE, 8, generator(7, "recover", 3, 11))
    generator(7, "recover", 3, 10).random(100)
    again = augmentation.draw(views, SIZE, 8, generator(7, "recover", 3, 11))
    other = augmentation.draw(views, SIZE, 8, generator(7, "recover", 3, 12))
    assert np.array_equal(first.boxes_M4, again.boxes_M4)
    assert not np.array_equal(first.boxes_M4, other.boxes_M4)


@pytest.mark.parametrize("shared", [True, False])
def test_cutmix_pastes_the_partner_inside_the_box_only(shared):
    x = images(6)
    batches = [np.array([4, 0, 2]), np.array([1, 5, 3])]
    drawn = augmentation.draw_cutmix(SIZE, batches, generator(4), shared=shared)
    mixed = augmentation.mix(drawn, x, x[torch.from_numpy(drawn.partner_M)])
    assert sorted(drawn.partner_M) == list(range(6))
    for m, (top, bottom, left, right) in enumerate(drawn.boxes_M4):
        expected = x[m].clone()
        expected[:, top:bottom, left:right] = x[drawn.partner_M[m], :, top:bottom, left:right]
        assert torch.equal(mixed[m], expected)


def test_a_batch_shares_its_patch_and_keeps_its_partners():
    batches = [np.array([4, 0, 2]), np.array([1, 5, 3])]
    drawn = augmentation.draw_cutmix(SIZE, batches, generator(6), shared=True)
    for batch in batches:
        assert set(drawn.partner_M[batch]) == set(batch)
        assert len(np.unique(drawn.boxes_M4[batch], axis=0)) == 1
    own = augmentation.draw_cutmix(SIZE, batches, generator(6), shared=False)
    assert len(np.unique(own.boxes_M4, axis=0)) > 2


def test_cutmix_area_is_uniform_before_clipping():
    drawn = augmentation.draw_cutmix(64, [np.arange(4000)], generator(5), shared=False)
    top, bottom, left, right = drawn.boxes_M4.T
    inside = (top > 0) & (left > 0) & (bottom < 64) & (right < 64)
    assert ((bottom - top) == (right - left))[inside].all()
    share = ((bottom - top) * (right - left) / 64**2).mean()
    assert 0.25 < share < 0.45  # E[1 − λ] = ½, less what the border cuts off


def test_a_roll_goes_one_way_or_both():
    for both, low in ((False, 0), (True, -4)):
        views = Views(roll=4, roll_both_ways=both)
        rolled = augmentation.draw(views, SIZE, 500, generator(3))
        assert set(rolled.roll_M2.ravel().tolist()) == set(range(low, 5))
        x = images(500)
        for m in range(3):
            expected = torch.roll(x[m], tuple(rolled.roll_M2[m].tolist()), (1, 2))
            torch.testing.assert_close(augmentation.apply(rolled, x)[m], expected)


def test_mixup_averages_with_partners_of_the_batch_and_one_share():
    x, batches = images(6), [np.array([4, 0, 2]), np.array([1, 5, 3])]
    drawn = augmentation.draw_mixup(batches, generator(6), 0.8)
    mixed = augmentation.mix(drawn, x, x[torch.from_numpy(drawn.partner_M)])
    for batch in batches:
        assert set(drawn.partner_M[batch]) == set(batch)
        (share,) = set(drawn.share_M[batch].tolist())
        expected = share * x[batch] + (1 - share) * x[drawn.partner_M[batch]]
        torch.testing.assert_close(mixed[batch], expected)
    taken = drawn.take(np.array([5, 0]))
    assert np.array_equal(taken.share_M, drawn.share_M[[5, 0]])
    shares = augmentation.draw_mixup([np.array([n]) for n in range(4000)], generator(7), 0.8).share_M
    assert shares.mean() == pytest.approx(0.5, abs=0.02)
    assert shares.var() == pytest.approx(1 / (4 * 2.6), abs=0.005)  # of Beta(α, α): 1/(4(2α + 1))
