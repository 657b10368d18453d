"""Where features are read: the input or output of each convolution, or the input of each BatchNorm.

Legend: M images, D features, K classes, L taps.
"""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine import backbones
from engine.config import TapName
from engine.device import autocast
from engine.errors import UserError
from engine.moments import Moments


class Tapped:
    """A frozen backbone that returns its taps' features beside its logits.

    The network is a private copy in evaluation mode: no weight gradients, channels-last, and with
    BatchNorm folded into the convolutions where no tap stands between the two. A precision
    of bfloat16 is that of convolutions and linear layers, and so of the features, but for the pixels.
    """

    def __init__(
        self, model: nn.Module, taps: TapName, device: torch.device, precision: torch.dtype = torch.float32
    ) -> None:
        self.taps = taps
        if taps == "conv-input":
            network = backbones.fold_batchnorm(model)
        else:
            network = copy.deepcopy(model).eval().requires_grad_(False)
        if device.type == "cpu":
            _ease_first_conv(network)
        self.network = backbones.placed(network, device)
        for module in self.network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.to(precision)  # once, not at every step
        self.autocast = partial(autocast, device, precision)
        self.names = names(model, taps)
        self._features: dict[str, Tensor] = {}
        for name in self.names:
            self._listen(name, network.get_submodule(name))

    def _listen(self, name: str, module: nn.Module) -> None:
        def on_input(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self._features[name] = inputs[0]

        def on_output(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
            self._features[name] = output

        if self.taps == "conv-output":
            module.register_forward_hook(on_output)
        else:
            module.register_forward_pre_hook(on_input)

    def __call__(self, x_MCHW: Tensor) -> tuple[list[Tensor], Tensor]:
        """Features of each tap (M, D, H, W), in forward order, and logits (M, K)."""
        self._features.clear()
        with self.autocast():
            logits_MK: Tensor = self.network(x_MCHW.contiguous(memory_format=torch.channels_last))
        features = [self._features[name] for name in self.names]
        self._features.clear()
        return features, logits_MK


class _PixelConv(nn.Module):
    """A frozen conv whose gradient for its input is one product, spread over overlapping patches.

    For images: the CPU's own kernel computes three channels as slowly as sixteen.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x_MCHW: Tensor) -> Tensor:
        found: Tensor = _PixelGradient.apply(x_MCHW, self.conv)
        return found


class _PixelGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_MCHW: Tensor, conv: nn.Conv2d) -> Tensor:
        ctx.conv, ctx.size = conv, x_MCHW.shape[2:]
        return conv(x_MCHW)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        conv = ctx.conv
        patches = conv.weight.flatten(1).T @ gradients[0].flatten(2)
        return F.fold(patches, ctx.size, conv.kernel_size, conv.dilation, conv.padding, conv.stride), None


def _ease_first_conv(network: nn.Module) -> None:
    """Replace a first conv that sees small patches of few channels, in place, by a `_PixelConv`."""
    name = backbones.conv_names(network)[0]
    conv = network.get_submodule(name)
    assert isinstance(conv, nn.Conv2d)
    plain = conv.groups == 1 and conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
    if plain and conv.weight[0].numel() <= conv.out_channels:  # patches take no more memory than the output
        network.set_submodule(name, _PixelConv(conv))


def names(model: nn.Module, taps: TapName) -> list[str]:
    """The tap modules in forward order; shortcut convolutions are not taps.

    Raises UserError("config") where the network has none.
    """
    found = backbones.batchnorm_names(model) if taps == "batchnorm" else backbones.conv_names(model)
    if not found:
        raise UserError(
            "config",
            f"objective.taps = {taps}, but the backbone has no BatchNorm layer to read",
            "set objective.taps=conv-input, or a backbone with BatchNorm (backbone.norm=batch)",
        )
    return found


def running_moments(model: nn.Module) -> list[Moments]:
    """Real side of the BatchNorm taps: the running mean and variance (SRe²L, Eq. 4)."""
    found = []
    for name in names(model, "batchnorm"):
        module = model.get_submodule(name)
        assert isinstance(module, nn.BatchNorm2d)
        assert module.running_mean is not None
        assert module.running_var is not None
        found.append(Moments(name, module.running_mean.detach(), module.running_var.detach()))
    return found
