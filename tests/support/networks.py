"""Networks that the tests of backbones build."""

import torch
from torch import nn

from engine import backbones
from engine.config import Backbone


def build(
    name: str = "convnet", *, classes: int = 5, channels: int = 3, size: int = 32, **options
) -> nn.Module:
    config = Backbone(**{"name": name, "width": 8, **options})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return backbones.build(config, classes=classes, channels=channels, image_size=size)


def trained_looking(model: nn.Module) -> nn.Module:
    """Give BatchNorms statistics and weights that a wrong fold cannot survive."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            with torch.no_grad():
                module.running_mean.normal_(0, 0.1, generator=generator)
                module.running_var.uniform_(0.5, 2, generator=generator)
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.bias.normal_(0, 0.1, generator=generator)
    return model


def images(channels: int, size: int) -> torch.Tensor:
    return torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(2))
