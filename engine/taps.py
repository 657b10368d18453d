"""Where features are read: the input or output of each convolution, or the input of each BatchNorm.

Legend: M images, D features, K classes, L taps.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from engine import backbones
from engine.config import TapName
from engine.moments import Moments


class Tapped:
    """A frozen backbone that returns its taps' features beside its logits.

    The network is a private copy in evaluation mode: no weight gradients, channels-last, and with
    BatchNorm folded into the convolutions where no tap stands between the two.
    """

    def __init__(self, model: nn.Module, taps: TapName, device: torch.device) -> None:
        self.taps = taps
        if taps == "conv-input":
            network = backbones.fold_batchnorm(model)
        else:
            network = copy.deepcopy(model).eval().requires_grad_(False)
        self.network = backbones.placed(network, device)
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
        logits_MK: Tensor = self.network(x_MCHW.contiguous(memory_format=torch.channels_last))
        features = [self._features[name] for name in self.names]
        self._features.clear()
        return features, logits_MK


def names(model: nn.Module, taps: TapName) -> list[str]:
    """The tap modules in forward order; shortcut convolutions are not taps."""
    return backbones.batchnorm_names(model) if taps == "batchnorm" else backbones.conv_names(model)


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
