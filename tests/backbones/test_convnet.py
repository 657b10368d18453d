"""The ConvNet: its default depth, and InstanceNorm."""

import torch
from networks import build, images
from torch import nn

from engine import backbones


def test_every_size_between_the_limits_has_a_default_convnet_depth() -> None:
    for size in range(16, 70):
        assert len(backbones.conv_names(build(size=size))) == (3 if size < 64 else 4)


def test_instance_norm_normalises_each_image_alone_and_folds_to_itself() -> None:
    model = build(norm="instance")
    x = images(3, 32)
    assert torch.allclose(model(x)[:1], model(x[:1]), atol=1e-5)
    assert backbones.batchnorm_names(model) == []
    folded = backbones.fold_batchnorm(model)
    assert backbones.fingerprint(folded) == backbones.fingerprint(model)
    assert isinstance(model.get_submodule("layers.norm.0"), nn.GroupNorm)
