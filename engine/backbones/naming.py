"""Convert parameter names in published checkpoints to those of the networks here.

The ConvNet of DC, DSA, DM, MTT and DD-Ranking is one sequence ``features`` of conv, norm, activation and
pooling. That of RDED and UniDD has the names used here. The ResNet of DC, DD-Ranking and SRe²L's CIFAR code
is torchvision's with ``shortcut`` for ``downsample``, and ``classifier`` or ``linear`` for ``fc``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from engine.errors import UserError

_FEATURE = re.compile(r"features\.(\d+)\.(.+)")
_CLASSIFIER = re.compile(r"^(classifier|linear)\.")


def fit_names(
    weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: str
) -> dict[str, Tensor]:
    """Rename weights of a known published architecture to the names of `expected`; return others unchanged.

    source: for messages. Raises UserError("teacher") for a network whose weights would fit, but which
    computes a different function.
    """
    if "layers.conv.0.weight" in expected and "features.0.weight" in weights:
        return _rename_convnet(weights, source)
    if (
        "layer1.0.conv1.weight" in expected
        and "layer1.0.conv1.weight" in weights
        and "fc.weight" not in weights
    ):
        return {_CLASSIFIER.sub("fc.", name.replace(".shortcut.", ".downsample.")): value
                for name, value in weights.items()}  # fmt: skip
    return dict(weights)


def _rename_convnet(weights: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Rename the B-th conv of a sequence and its norm to `layers.conv.B` and `layers.norm.B`."""
    if weights["features.0.weight"].ndim == 4 and weights["features.0.weight"].shape[1] == 1:
        raise UserError(
            "teacher",
            f"teacher '{source}' is a ConvNet that pads one-channel images by three pixels, which the ConvNet"
            " here does not",
            "squeeze a teacher (backbone.teacher=null), or give one that was trained here",
        )
    layer_names: dict[int, str] = {}
    for number in sorted({int(match[1]) for name in weights if (match := _FEATURE.fullmatch(name))}):
        weight = weights.get(f"features.{number}.weight")
        kind = "conv" if weight is not None and weight.ndim == 4 else "norm"
        block = sum(name.startswith(kind) for name in layer_names.values())
        layer_names[number] = f"{kind}.{block}"
    renamed = {}
    for name, value in weights.items():
        match = _FEATURE.fullmatch(name)
        renamed[f"layers.{layer_names[int(match[1])]}.{match[2]}" if match else name] = value
    return renamed
