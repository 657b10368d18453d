"""What calls what in a network: its convs and BatchNorms in forward order, and folding one into the other.

A network is traced symbolically (torch.fx), without data, for its structure only.
"""

from __future__ import annotations

import copy
from collections import Counter

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.ops import SqueezeExcitation

SHORTCUTS = frozenset({"downsample", "proj"})  #: parents of projection shortcuts (ResNet, RegNet)


def conv_names(model: nn.Module) -> list[str]:
    """Names of the convs at which features can be tapped, in forward order.

    Left out: projections of shortcuts (as in the released code), whose features are those of the conv beside
    them; and the two 1×1 convs of a squeeze-and-excitation gate, which see no feature map.
    """
    gates = [name + "." for name, m in model.named_modules() if isinstance(m, SqueezeExcitation)]
    return [
        name
        for name in _called(model, nn.Conv2d)
        if SHORTCUTS.isdisjoint(name.split(".")) and not name.startswith(tuple(gates))
    ]


def batchnorm_names(model: nn.Module) -> list[str]:
    """Names of all BatchNorm2d layers, in forward order."""
    return _called(model, nn.BatchNorm2d)


def layer_names(model: nn.Module) -> list[str]:
    """Names of all BatchNorm2d layers and convs, shortcuts and gates too, in forward order."""
    return _called(model, (nn.BatchNorm2d, nn.Conv2d))


def fold_batchnorm(model: nn.Module) -> nn.Module:
    """A frozen copy in evaluation mode that computes the same with fewer operations.

    A BatchNorm that alone reads a conv's output is multiplied into the conv and becomes an identity. All
    module names stay, so hooks on convs find their places; a folded conv puts out what its BatchNorm did, so
    only the *inputs* of convs are the features of `model`. `model` itself is left as it is.
    """
    folded = copy.deepcopy(model).eval().requires_grad_(False)
    for conv_name, norm_name in _foldable(folded):
        conv, norm = folded.get_submodule(conv_name), folded.get_submodule(norm_name)
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        folded.set_submodule(conv_name, fuse_conv_bn_eval(conv, norm).requires_grad_(False))
        folded.set_submodule(norm_name, nn.Identity().eval())
    return folded


def place_on(model: nn.Module, device: torch.device) -> nn.Module:
    """`model` moved to `device`, its convolutions channels-last."""
    moved: nn.Module = model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return moved


def _trace(model: nn.Module) -> fx.Graph:
    return fx.Tracer().trace(model)


def _called(model: nn.Module, kind: type[nn.Module] | tuple[type[nn.Module], ...]) -> list[str]:
    names = [str(node.target) for node in _trace(model).nodes if node.op == "call_module"]
    return list(dict.fromkeys(name for name in names if isinstance(model.get_submodule(name), kind)))


def _foldable(model: nn.Module) -> list[tuple[str, str]]:
    """(conv, BatchNorm) names of all pairs that can become one conv."""
    calls = [node for node in _trace(model).nodes if node.op == "call_module"]
    times = Counter(str(node.target) for node in calls)
    pairs = []
    for node in calls:
        before = node.args[0]
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) != 1:
            continue
        conv_name, norm_name = str(before.target), str(node.target)
        conv, norm = model.get_submodule(conv_name), model.get_submodule(norm_name)
        if not isinstance(conv, nn.Conv2d) or not isinstance(norm, nn.BatchNorm2d):
            continue
        if norm.running_var is not None and times[conv_name] == times[norm_name] == 1:
            pairs.append((conv_name, norm_name))
    return pairs
