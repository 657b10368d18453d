"""List a network's convs and BatchNorms in forward order, and fold BatchNorms into convs.

The structure comes from symbolic tracing (torch.fx), without data.
"""

from __future__ import annotations

import copy
from collections import Counter

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.ops import SqueezeExcitation


def conv_names(model: nn.Module, *, shortcuts: bool = False) -> list[str]:
    """Return the names of the convs at which features can be tapped, in forward order.

    Excluded are the two 1×1 convs of a squeeze-and-excitation gate, whose input is not a feature map, and,
    unless `shortcuts`, the projections of shortcuts (as in the released code), whose input is also that of
    another conv.
    """
    projections = set() if shortcuts else {"downsample", "proj"}  # names of their parents (ResNet, RegNet)
    gate_prefixes = [name + "." for name, m in model.named_modules() if isinstance(m, SqueezeExcitation)]
    return [
        name
        for name in _list_called(model, nn.Conv2d)
        if projections.isdisjoint(name.split(".")) and not name.startswith(tuple(gate_prefixes))
    ]


def batchnorm_names(model: nn.Module) -> list[str]:
    """Return the names of all BatchNorm2d layers, in forward order."""
    return _list_called(model, nn.BatchNorm2d)


def layer_names(model: nn.Module) -> list[str]:
    """Return the names of all BatchNorm2d layers and all convs, in forward order."""
    return _list_called(model, (nn.BatchNorm2d, nn.Conv2d))


def fold_batchnorm(model: nn.Module) -> nn.Module:
    """Return a frozen copy in evaluation mode that computes the same function with fewer operations.

    A BatchNorm that is the only reader of a conv's output is folded into the conv and becomes an identity.
    Module names do not change, so hooks can be attached by the same names. The output of a folded conv is
    that of its BatchNorm, so only the *inputs* of convs equal the features of `model`. `model` is unchanged.
    """
    folded = copy.deepcopy(model).eval().requires_grad_(False)
    for conv_name, norm_name in _find_foldable_pairs(folded):
        conv, norm = folded.get_submodule(conv_name), folded.get_submodule(norm_name)
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        folded.set_submodule(conv_name, fuse_conv_bn_eval(conv, norm).requires_grad_(False))
        folded.set_submodule(norm_name, nn.Identity().eval())
    return folded


def place_on(model: nn.Module, device: torch.device) -> nn.Module:
    """Move `model` to `device` with channels-last convolutions, and return it."""
    moved: nn.Module = model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return moved


def _list_called(model: nn.Module, kind: type[nn.Module] | tuple[type[nn.Module], ...]) -> list[str]:
    names = [str(node.target) for node in fx.Tracer().trace(model).nodes if node.op == "call_module"]
    return list(dict.fromkeys(name for name in names if isinstance(model.get_submodule(name), kind)))


def _find_foldable_pairs(model: nn.Module) -> list[tuple[str, str]]:
    """Return the names of all (conv, BatchNorm) pairs that can become one conv."""
    calls = [node for node in fx.Tracer().trace(model).nodes if node.op == "call_module"]
    call_counts = Counter(str(node.target) for node in calls)
    pairs = []
    for node in calls:
        source = node.args[0]
        if not isinstance(source, fx.Node) or source.op != "call_module" or len(source.users) != 1:
            continue
        conv_name, norm_name = str(source.target), str(node.target)
        conv, norm = model.get_submodule(conv_name), model.get_submodule(norm_name)
        if not isinstance(conv, nn.Conv2d) or not isinstance(norm, nn.BatchNorm2d):
            continue
        if norm.running_var is not None and call_counts[conv_name] == call_counts[norm_name] == 1:
            pairs.append((conv_name, norm_name))
    return pairs
