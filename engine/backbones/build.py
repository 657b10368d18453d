"""Build backbones by name: ConvNet, WRN-16-2, and torchvision's classifiers, adapted to small images.

torchvision's networks halve an image five times, which reduces 32 pixels to one. For images of up to 64 px,
the first two halvings are removed, so the total stride is 8 instead of 32; nothing else changes. The first
conv becomes 3×3 with stride 1 (ResNet, DenseNet: from 7×7; ConvNeXt: from 4×4 with stride 4, which contains
both halvings). The second halving is removed: a max-pool (ResNet, DenseNet, ShuffleNet) or the stride of the
first strided stage (RegNet, MobileNet, EfficientNet). Parameter names are those of torchvision.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torchvision
from torch import nn

from engine import config as settings
from engine.backbones.convnet import ConvNet
from engine.backbones.wide_resnet import WideResNet
from engine.config.messages import unknown_name_error
from engine.errors import UserError


@dataclass(frozen=True)
class _Stem:
    """The layers in which an architecture does its first two halvings."""

    conv: str  #: the first conv
    pool: str | None = None  #: the pool that does the second halving
    strided: tuple[str, ...] = ()  #: or the convs (of all parallel branches) that do it


StemInit = Literal["kaiming", "pytorch"]

_STEMS = {
    "resnet18": _Stem("conv1", pool="maxpool"),
    "resnet50": _Stem("conv1", pool="maxpool"),
    "resnet101": _Stem("conv1", pool="maxpool"),
    "densenet121": _Stem("features.conv0", pool="features.pool0"),
    "regnet_y_8gf": _Stem(
        "stem.0", strided=("trunk_output.block1.block1-0.proj.0", "trunk_output.block1.block1-0.f.b.0")
    ),
    "convnext_tiny": _Stem("features.0.0"),
    "mobilenet_v2": _Stem("features.0.0", strided=("features.2.conv.1.0",)),
    "efficientnet_b0": _Stem("features.0.0", strided=("features.2.0.block.1.0",)),
    "shufflenet_v2_x1_0": _Stem("conv1.0", pool="maxpool"),
    "shufflenet_v2_x0_5": _Stem("conv1.0", pool="maxpool"),
}

#: The first and the last are networks of this package, which are made for small images.
NAMES: tuple[str, ...] = ("convnet", *_STEMS, "wrn_16_2")


@dataclass(frozen=True)
class Spec:
    """The arguments that a network was built for; `build` stores it on the network as `ATTRIBUTE`."""

    ATTRIBUTE: ClassVar = "backbone_spec"
    SMALL: ClassVar = 64  #: largest image, in pixels, for which a stem is adapted

    name: str
    classes: int
    channels: int
    image_size: int

    @property
    def adapted(self) -> bool:
        """Whether the stem of torchvision was adapted to small images."""
        return self.name in _STEMS and self.image_size <= self.SMALL


def build(
    config: settings.Backbone,
    *,
    classes: int,
    channels: int,
    image_size: int,
    name: str | None = None,
    stem_init: StemInit = "kaiming",
) -> nn.Module:
    """Build a network that maps (M, channels, image_size, image_size) to logits (M, classes).

    name: overrides ``config.name`` (for students). stem_init: weights of an adapted first conv, torchvision's
    (`kaiming`) or those that PyTorch gives a new conv. Weights are drawn from torch's global generator.
    Raises UserError("config") for an unknown name, or an image too small for the network.
    """
    spec = Spec(name or config.name, classes, channels, image_size)
    if spec.name not in NAMES:
        raise unknown_name_error("backbone", spec.name, NAMES)
    if spec.name == "convnet":
        model: nn.Module = _build_convnet(config, spec)
    elif spec.name == "wrn_16_2":
        model = WideResNet(classes=spec.classes, channels=spec.channels, depth=16, widen=2)
    else:
        model = _build_torchvision(spec, stem_init)
    setattr(model, Spec.ATTRIBUTE, spec)
    return model


def _build_convnet(config: settings.Backbone, spec: Spec) -> nn.Module:
    depth = config.depth or (3 if spec.image_size < 64 else 4)
    if spec.image_size >> depth < 1:
        raise UserError(
            "config",
            f"backbone.depth={depth} halves an image of {spec.image_size} px to nothing",
            f"Use a depth of at most {spec.image_size.bit_length() - 1}, or larger images (data.image_size).",
        )
    return ConvNet(
        classes=spec.classes,
        channels=spec.channels,
        image_size=spec.image_size,
        depth=depth,
        width=config.width,
        norm=config.norm,
    )


def _build_torchvision(spec: Spec, stem_init: StemInit) -> nn.Module:
    smallest = 16
    if spec.image_size < smallest:
        raise UserError(
            "config",
            f"backbone '{spec.name}' needs images of at least {smallest} px; these have {spec.image_size} px",
            f"Set data.image_size={smallest} or more.",
        )
    model: nn.Module = torchvision.models.get_model(spec.name, weights=None, num_classes=spec.classes)
    stem = _STEMS[spec.name]
    first = model.get_submodule(stem.conv)
    assert isinstance(first, nn.Conv2d)
    if spec.adapted or spec.channels != first.in_channels:
        model.set_submodule(stem.conv, _adapt_first_conv(first, spec, stem_init))
    if spec.adapted:
        if stem.pool:
            model.set_submodule(stem.pool, nn.Identity())
        for name in stem.strided:
            conv = model.get_submodule(name)
            assert isinstance(conv, nn.Conv2d)
            conv.stride = (1, 1)
    return model


def _adapt_first_conv(old: nn.Conv2d, spec: Spec, stem_init: StemInit) -> nn.Conv2d:
    """Return a new first conv for the spec's channels; 3×3 with stride 1 if the stem is adapted."""
    new = copy.deepcopy(old)
    new.in_channels = spec.channels
    if spec.adapted:
        new.kernel_size, new.stride, new.padding = (3, 3), (1, 1), (1, 1)
    new.weight = nn.Parameter(torch.empty(new.out_channels, new.in_channels, *new.kernel_size))
    if stem_init == "pytorch":
        new.reset_parameters()
        return new
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    if new.bias is not None:
        nn.init.zeros_(new.bias)
    return new
