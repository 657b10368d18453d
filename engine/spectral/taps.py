"""Where features are read: the input or output of convolutions, or the input of each BatchNorm.

Legend: M images, D features, K classes, L taps, P patches of a feature map.
"""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine import backbones
from engine.config import Precision, TapName
from engine.device import autocast
from engine.errors import UserError
from engine.spectral.moments import Moments

PATCHES = "/patches"  #: suffix of a conv's name that names the tap of its input's patches
KINDS = ("batchnorm", "conv", "patches")  #: kinds of the taps of `bn-conv`


class Tapped:
    """A frozen backbone that returns the features of its taps along with its logits.

    The network is a private copy in evaluation mode: no weight gradients, channels-last, and BatchNorm is
    folded into the convolutions where no tap lies between the two. precision: bfloat16 applies to
    convolutions and linear layers, and therefore to the features, except the pixels. patch: with the taps
    `bn-conv`, every conv's input has a second tap, whose features are its patches of that side; 0: none.
    columns: the names under which values are reported: the taps' names, or with `bn-conv` their `KINDS`,
    which all networks share. column_L: the index in `columns` of each tap.
    """

    def __init__(
        self,
        model: nn.Module,
        taps: TapName,
        device: torch.device,
        precision: Precision = "float32",
        patch: int = 0,
    ) -> None:
        self.taps, self.patch = taps, patch
        if taps == "conv-input":
            network = backbones.fold_batchnorm(model)
        else:
            network = copy.deepcopy(model).eval().requires_grad_(False)
        if device.type == "cpu":
            _speed_up_first_conv(network)
        self.network = backbones.place_on(network, device)
        for module in self.network.modules() if precision == "bfloat16" else ():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.to(torch.bfloat16)  # once, not at every step
        self.autocast = partial(autocast, device, precision)
        self._features: dict[str, Tensor] = {}
        layers = tap_names(model, taps)
        for name in layers:
            self._register_hook(name, network.get_submodule(name))
        self.names = self.columns = layers
        self.column_L = list(range(len(layers)))
        if taps == "bn-conv":
            norms = set(backbones.batchnorm_names(model))
            self.names = []
            for name in layers:
                self.names += [name, name + PATCHES] if patch and name not in norms else [name]
            self.columns = list(KINDS if patch else KINDS[:2])
            self.column_L = [classify_tap(name, norms) for name in self.names]
        # Copied once: a copy synchronises with the device.
        self._device_column_L = torch.tensor(self.column_L, device=device)

    def _register_hook(self, name: str, module: nn.Module) -> None:
        def on_input(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self._features[name] = inputs[0]

        def on_output(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
            self._features[name] = output

        if self.taps in ("conv-output", "all-conv-output"):
            module.register_forward_hook(on_output)
        else:
            module.register_forward_pre_hook(on_input)

    def __call__(self, x_MCHW: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the features of each tap (M, D, H, W), in forward order, and the logits (M, K)."""
        self._features.clear()
        with self.autocast():
            logits_MK: Tensor = self.network(x_MCHW.contiguous(memory_format=torch.channels_last))
        features = [
            extract_patches(self._features[name.removesuffix(PATCHES)], self.patch)
            if name.endswith(PATCHES)
            else self._features[name]
            for name in self.names
        ]
        self._features.clear()
        return features, logits_MK

    def metrics_row(self, ce: Tensor, values_TL: Tensor, sums: Tensor) -> Tensor:
        """Return one step's cross-entropy, terms, and sums (of the images, then S of every tap) as a vector.

        Values of taps that share one of `columns` are added.
        """
        if self.columns is not self.names:
            column_L, size = self._device_column_L, len(self.columns)
            sums_LS = sums[1:].reshape(len(column_L), -1)
            values_TL = values_TL.new_zeros(len(values_TL), size).index_add(1, column_L, values_TL)
            added = sums.new_zeros(size, sums_LS.shape[1]).index_add(0, column_L, sums_LS)
            sums = torch.cat([sums[:1], added.flatten()])
        return torch.cat([ce.reshape(1), values_TL.flatten(), sums])


def classify_tap(name: str, norms: set[str]) -> int:
    """Return the index in `KINDS` of a tap of `bn-conv`. norms: the names of the BatchNorms."""
    return 2 if name.endswith(PATCHES) else 0 if name in norms else 1


def extract_patches(x_MDHW: Tensor, side: int) -> Tensor:
    """Split feature maps into patches, shape (M, P, D, side²); P takes the place of the features.

    A map is first resized, bilinearly, to the next multiple of `side` (G-VBSM).
    """
    height, width = (-(-length // side) * side for length in x_MDHW.shape[2:])
    if (height, width) != x_MDHW.shape[2:]:
        x_MDHW = F.interpolate(x_MDHW.float(), (height, width), mode="bilinear")
    count, depth = x_MDHW.shape[:2]
    split = x_MDHW.reshape(count, depth, height // side, side, width // side, side)
    return split.permute(0, 2, 4, 1, 3, 5).reshape(count, -1, depth, side * side)


class _PixelConv(nn.Module):
    """A frozen conv that computes the gradient of its input as one matrix product followed by a fold.

    Meant for images on the CPU, where PyTorch's kernel is as slow for three channels as for sixteen.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x_MCHW: Tensor) -> Tensor:
        output: Tensor = _PixelGradient.apply(x_MCHW, self.conv)
        return output


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


def _speed_up_first_conv(network: nn.Module) -> None:
    """Replace the first conv by a `_PixelConv`, in place, if its kernel and input channels are small."""
    name = backbones.conv_names(network)[0]
    conv = network.get_submodule(name)
    assert isinstance(conv, nn.Conv2d)
    plain = conv.groups == 1 and conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
    if plain and conv.weight[0].numel() <= conv.out_channels:  # patches take no more memory than the output
        network.set_submodule(name, _PixelConv(conv))


def tap_names(model: nn.Module, taps: TapName) -> list[str]:
    """Return the names of the tap modules in forward order.

    The convolutions of shortcuts are taps only of `all-conv-output` and `bn-conv`.
    Raises UserError("config") where the network has no such module.
    """
    if taps == "bn-conv":
        return backbones.layer_names(model)
    if taps != "batchnorm":
        return backbones.conv_names(model, shortcuts=taps == "all-conv-output")
    names = backbones.batchnorm_names(model)
    if not names:
        raise UserError(
            "config",
            f"objective.taps = {taps}, but the backbone has no BatchNorm layer",
            "set objective.taps=conv-input, or use a backbone with BatchNorm (backbone.norm=batch)",
        )
    return names


def read_running_moments(model: nn.Module) -> list[Moments]:
    """Return the real side of the BatchNorm taps: the running mean and variance (SRe²L, Eq. 4)."""
    taps = []
    for name in backbones.batchnorm_names(model):
        module = model.get_submodule(name)
        assert isinstance(module, nn.BatchNorm2d)
        assert module.running_mean is not None
        assert module.running_var is not None
        taps.append(Moments(name, module.running_mean.detach(), module.running_var.detach()))
    return taps
