"""Networks: shapes at all sizes, names, and settings that fit no network."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
import torchvision
from networks import build, images

from engine import backbones
from engine.config import Backbone, BackboneName
from engine.errors import UserError


@pytest.mark.parametrize("name", backbones.NAMES)
def test_one_channel_at_the_smallest_size_keeps_a_map_of_more_than_a_pixel(name: str) -> None:
    model = build(name, channels=1, size=16)
    shapes: list[tuple[int, ...]] = []
    last = model.get_submodule(backbones.conv_names(model)[-1])
    last.register_forward_hook(lambda _m, _i, out: shapes.append(tuple(out.shape[2:])))
    loss = (
        model(images(1, 16)).square().sum()
    )  # training mode: a map of one pixel would be normalised to zero
    loss.backward()
    assert torch.isfinite(loss)
    assert shapes[0][0] == shapes[0][1] >= 2


@pytest.mark.parametrize("name", backbones.NAMES[1:-1])
def test_parameter_names_are_torchvisions(name: str) -> None:
    theirs = torchvision.models.get_model(name, num_classes=5).state_dict()
    for size in (32, 65):
        ours = build(name, size=size).state_dict()
        changed = [n for n in theirs if ours[n].shape != theirs[n].shape]
        assert list(ours) == list(theirs)
        assert len(changed) <= (1 if size <= 64 else 0)


@pytest.mark.parametrize("size", [17, 48, 64, 65, 97])
def test_any_size(size: int) -> None:
    for name in ("convnet", "resnet18", "shufflenet_v2_x1_0"):
        with torch.no_grad():
            assert build(name, size=size).eval()(images(3, size)).shape == (2, 5)


def test_small_resnet_keeps_its_resolution_to_the_first_block() -> None:
    model = build("resnet18")
    shapes = []
    model.get_submodule("layer1").register_forward_hook(lambda _m, i, _o: shapes.append(i[0].shape[-1]))
    model(images(3, 32))
    assert shapes == [32]


@pytest.mark.parametrize(("classes", "weights"), [(10, 691_674), (100, 703_284)])
def test_a_wide_resnet_has_the_published_number_of_weights_and_halvings(classes: int, weights: int) -> None:
    model = build("wrn_16_2", classes=classes)
    assert sum(weight.numel() for weight in model.parameters()) == weights
    names = backbones.conv_names(model)
    assert len(names) == 13
    sizes = []
    for name in (names[0], names[-1]):
        model.get_submodule(name).register_forward_hook(lambda _m, _i, out: sizes.append(out.shape[1:]))
    model(images(3, 32))
    assert sizes == [(16, 32, 32), (128, 8, 8)]


def test_the_configuration_knows_the_same_names() -> None:
    assert get_args(BackboneName) == backbones.NAMES


def test_unknown_name_offers_the_nearest_and_the_rest() -> None:
    with pytest.raises(UserError) as caught:
        backbones.build(Backbone(), classes=5, channels=3, image_size=32, name="ResNet-18")
    assert caught.value.kind == "config"
    assert "'resnet18'" in caught.value.hint
    assert all(name in caught.value.hint for name in backbones.NAMES)


def test_a_network_that_pools_to_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="halves an image of 16 px to nothing") as caught:
        build(size=16, depth=5)
    assert "at most 4" in caught.value.hint
    build(size=16, depth=4)
    with pytest.raises(UserError, match="at least 16 px"):
        build("resnet18", size=15)


@pytest.mark.parametrize(("name", "image_size", "channels"), [("resnet18", 32, 3), ("resnet18", 96, 1)])
def test_the_first_conv_starts_as_any_new_conv_of_pytorch_where_that_is_asked(name, image_size, channels):
    def stem(stem_init):
        torch.manual_seed(0)
        shape = {"classes": 3, "channels": channels, "image_size": image_size}
        return backbones.build(Backbone(name=name), **shape, stem_init=stem_init).conv1.weight.detach()

    plain, kaiming = stem("pytorch"), stem("kaiming")
    bound = (plain[0].numel()) ** -0.5  # uniform in ±1/√fan_in
    assert float(plain.abs().max()) <= bound
    assert float(kaiming.std()) == pytest.approx((2 / kaiming[:, 0].numel()) ** 0.5, rel=0.1)  # fan out
    assert float(plain.std()) == pytest.approx(bound / 3**0.5, rel=0.1)
