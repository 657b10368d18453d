"""Several networks of one architecture as one network, so that all of them are trained in one pass.

Their channels lie side by side: a convolution gets a group for each member, a normalisation layer the
channels of all, a linear layer becomes a batched product. Small networks spend most of a step on calls, which
a stack makes once for all members.

Legend: S members, M images, C channels, H, W pixels, K classes, I, O input and output features of a layer.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

#: Layers without parameters that treat each channel alone.
_CHANNELWISE = (
    nn.Identity, nn.Flatten, nn.ReLU, nn.ReLU6, nn.SiLU, nn.Sigmoid, nn.Hardswish, nn.Hardsigmoid,
    nn.AvgPool2d, nn.MaxPool2d, nn.AdaptiveAvgPool2d,
)  # fmt: skip


class Stack(nn.Module):
    """S networks of one architecture, given as `members`, which are not modified.

    Every tensor of the state is that of the members along the first dimension; scalars are the first
    member's. Raises TypeError if a layer cannot be stacked. Whether the stack computes what its members
    compute also depends on what happens between layers: see `stack`.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.size = len(members)
        self.network = copy.deepcopy(members[0])
        for name, layer in members[0].named_modules():
            if not any(True for _ in layer.children()):
                self.network.set_submodule(name, _widen(layer, self.size))
        states = [member.state_dict() for member in members]
        self.network.load_state_dict(
            {
                name: torch.cat([state[name] for state in states]) if value.ndim else value.clone()
                for name, value in states[0].items()
            },
            assign=True,
        )

    def forward(self, x_MCHW: Tensor) -> Tensor:
        """Return logits, shape (M, S, K), of images (M, S·C, H, W): those of the first member come first."""
        logits_MK: Tensor = self.network(x_MCHW)
        return logits_MK.reshape(logits_MK.shape[0], self.size, -1)

    def member_state(self, index: int) -> dict[str, Tensor]:
        """Return the state of one member, with the names that it has alone."""
        return {
            name: value.chunk(self.size)[index] if value.ndim else value
            for name, value in self.network.state_dict().items()
        }


def stack(members: Sequence[nn.Module], x_MCHW: Tensor) -> Stack | None:
    """Return a stack of networks in training mode, or None if it would not compute what they compute.

    x_MCHW: images to compare both on, in evaluation mode. Networks that mix channels between layers, as
    ShuffleNet does, or draw random numbers, as dropout does, cannot be stacked.
    """
    try:
        stacked = Stack(members).eval()
    except TypeError:
        return None
    modes = [member.training for member in members]
    with torch.no_grad():
        alone_MSK = torch.stack([member.eval()(x_MCHW) for member in members], dim=1)
        together_MSK = stacked(x_MCHW.repeat(1, len(members), 1, 1))
    for member, mode in zip(members, modes, strict=True):
        member.train(mode)
    same = alone_MSK.shape == together_MSK.shape and torch.allclose(alone_MSK, together_MSK, 1e-3, 1e-4)
    return stacked.train() if same else None


class _StackedLinear(nn.Module):
    """A linear layer for each member: (M, S·I) → (M, S·O)."""

    def __init__(self, layer: nn.Linear, size: int) -> None:
        super().__init__()
        self.size = size
        self.weight = nn.Parameter(layer.weight.detach().repeat(size, 1))
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().repeat(size))

    def forward(self, x_MI: Tensor) -> Tensor:
        """Return the outputs of all members."""
        x_SMI = x_MI.reshape(x_MI.shape[0], self.size, -1).transpose(0, 1)
        weight_SIO = self.weight.reshape(self.size, -1, self.weight.shape[1]).transpose(1, 2)
        y_MO = (x_SMI @ weight_SIO).transpose(0, 1).flatten(1)
        return y_MO if self.bias is None else y_MO + self.bias


def _widen(layer: nn.Module, size: int) -> nn.Module:
    """Return a layer for the channels of all members, whose tensors are still without values.

    Raises TypeError if there is none.
    """
    if isinstance(layer, nn.Conv2d) and layer.padding_mode == "zeros":
        return nn.Conv2d(
            size * layer.in_channels,
            size * layer.out_channels,
            layer.kernel_size,  # type: ignore[arg-type]
            layer.stride,  # type: ignore[arg-type]
            layer.padding,  # type: ignore[arg-type]
            layer.dilation,  # type: ignore[arg-type]
            size * layer.groups,
            bias=layer.bias is not None,
            device="meta",
        )
    if isinstance(layer, nn.BatchNorm2d):
        channels, has_statistics = size * layer.num_features, layer.track_running_stats
        return nn.BatchNorm2d(channels, layer.eps, layer.momentum, layer.affine, has_statistics, "meta")
    if isinstance(layer, nn.GroupNorm):
        groups, channels = size * layer.num_groups, size * layer.num_channels
        return nn.GroupNorm(groups, channels, layer.eps, layer.affine, "meta")
    if isinstance(layer, nn.Linear):
        return _StackedLinear(layer, size)
    if isinstance(layer, _CHANNELWISE):
        return copy.deepcopy(layer)
    raise TypeError(f"a {type(layer).__name__} layer cannot be stacked")
