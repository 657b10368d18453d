"""Names in published checkpoints brought to those of this product's networks.

ConvNet of DC, DSA, DM, MTT, DD-Ranking: one sequence ``features`` of conv, norm, activation and pooling. That
of RDED and UniDD has this product's names. ResNet of DC, DD-Ranking and SRe²L's CIFAR code: torchvision's
network with ``shortcut`` for ``downsample``, and ``classifier`` or ``linear`` for ``fc``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from engine.errors import UserError

_FEATURE = re.compile(r"features\.(\d+)\.(.+)")
_LAST = re.compile(r"^(classifier|linear)\.")


def fit_names(weights: Mapping[str, Tensor], own: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """The weights under the names of `own` where they are known to mean the same; else as they are.

    Raises UserError("teacher") for a network whose weights fit, but which computes something else.
    """
    if "layers.conv.0.weight" in own and "features.0.weight" in weights:
        return _convnet(weights, source)
    if "layer1.0.conv1.weight" in own and "layer1.0.conv1.weight" in weights and "fc.weight" not in weights:
        return {_LAST.sub("fc.", name.replace(".shortcut.", ".downsample.")): value
                for name, value in weights.items()}  # fmt: skip
    return dict(weights)


def _convnet(weights: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """`layers.conv.B` and `layers.norm.B` for the B-th convolution of a sequence and the norm after it."""
    if weights["features.0.weight"].ndim == 4 and weights["features.0.weight"].shape[1] == 1:
        raise UserError(
            "teacher",
            f"teacher '{source}' is a ConvNet that pads one-channel images by three pixels, which this one"
            " does not",
            "squeeze a teacher (backbone.teacher=null), or give one that was trained here",
        )
    places: dict[int, str] = {}
    for number in sorted({int(found[1]) for name in weights if (found := _FEATURE.fullmatch(name))}):
        weight = weights.get(f"features.{number}.weight")
        kind = "conv" if weight is not None and weight.ndim == 4 else "norm"
        block = sum(place.startswith(kind) for place in places.values())
        places[number] = f"{kind}.{block}"
    named = {}
    for name, value in weights.items():
        found = _FEATURE.fullmatch(name)
        named[f"layers.{places[int(found[1])]}.{found[2]}" if found else name] = value
    return named
