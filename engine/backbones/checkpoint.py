"""Load a teacher's weights from a file or from torchvision, check them, and copy them into a network.

Files are read without running code in them (see `safe_loading`).
"""

from __future__ import annotations

import http.client
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
import torchvision
from torch import Tensor, nn

from engine.backbones import safe_loading
from engine.backbones.build import Spec
from engine.backbones.safe_loading import is_plain, plain_dict
from engine.config.teacher_source import TeacherSource
from engine.errors import UserError, format_names
from engine.fingerprint import fingerprint_tensors


def load_teacher(model: nn.Module, source: str) -> None:
    """Load the weights of `source` into `model`, which stays unchanged if they do not fit.

    source: a checkpoint file (a state dict, or one under ``model``, ``state_dict`` or ``net``, with or
    without ``module.`` prefixes; or ``.safetensors``), or ``torchvision:NAME`` (``IMAGENET1K_V1``…).
    Raises UserError: "teacher" (missing, unreadable, unsafe, or does not fit), "network".
    """
    parsed = TeacherSource.parse(source)
    parsed.require_file()
    path = _get_published_file(model, parsed.tag) if parsed.kind == "torchvision" else parsed.path
    hint = "If you trust the file, save only its weights: torch.save(model.state_dict(), 'weights.pth')."
    content = safe_loading.read(path, safe_loading.Wording("teacher", "teacher", hint))
    weights = _fit_names(_extract_state_dict(content, path), model.state_dict(), source)
    _check_fit(model, weights, source)
    # Old checkpoints lack the counters of BatchNorm; evaluation does not use them.
    model.load_state_dict({**model.state_dict(), **weights})


def fingerprint(model: nn.Module) -> str:
    """Return the SHA-256 (hex) of names, types, shapes and bytes of all parameters and buffers."""
    return fingerprint_tensors(model.state_dict())


def _extract_state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    """Return the mapping of names to tensors in the content of a file. Raises UserError("teacher")."""
    reason = f"it is a {type(content).__name__}"
    wrappers = ("model", "state_dict", "net")  # keys under which training scripts store a state dict
    if isinstance(content, dict):
        outer = plain_dict(content)
        inner = next((plain_dict(outer[key]) for key in wrappers if isinstance(outer.get(key), dict)), outer)
        names = [name[:60] if isinstance(name, str) else type(name).__name__ for name in inner]
        invalid = [name for name, value in zip(names, inner.values(), strict=True) if not is_plain(value)]
        if inner and not invalid and all(isinstance(name, str) for name in inner):
            return inner
        reason = f"its keys are {format_names(names)}"
        if invalid:
            reason += f"; not plain tensors: {format_names(invalid)}"
    hint = f"Expected a dictionary of names and tensors, directly or under one of: {', '.join(wrappers)}."
    raise UserError("teacher", f"teacher '{path}' holds no state dict: {reason}", hint)


def _fit_names(
    weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: str
) -> dict[str, Tensor]:
    """Rename weights of a known published architecture to the names of `expected`.

    The prefixes of DataParallel and torch.compile are removed, and old names of DenseNet converted. The
    ConvNet of DC, DSA, DM, MTT and DD-Ranking is one sequence ``features`` of conv, norm, activation and
    pooling. That of RDED and UniDD has the names used here. The ResNet of DC, DD-Ranking and SRe²L's CIFAR
    code is torchvision's with ``shortcut`` for ``downsample``, and ``classifier`` or ``linear`` for ``fc``.
    source: for messages. Raises UserError("teacher") for a network whose weights would fit, but which
    computes a different function.
    """
    old_densenet = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..*)$")
    weights = {
        old_densenet.sub(r"\1\2", re.sub(r"^(module\.|_orig_mod\.)+", "", name)): value
        for name, value in weights.items()
    }
    if "layers.conv.0.weight" in expected and "features.0.weight" in weights:
        return _rename_convnet(weights, source)
    if (
        "layer1.0.conv1.weight" in expected
        and "layer1.0.conv1.weight" in weights
        and "fc.weight" not in weights
    ):
        return {
            re.sub(r"^(classifier|linear)\.", "fc.", name.replace(".shortcut.", ".downsample.")): value
            for name, value in weights.items()
        }
    return weights


def _rename_convnet(weights: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Rename the B-th conv of a sequence and its norm to `layers.conv.B` and `layers.norm.B`."""
    if weights["features.0.weight"].ndim == 4 and weights["features.0.weight"].shape[1] == 1:
        raise UserError(
            "teacher",
            f"teacher '{source}' is a ConvNet that pads one-channel images by three pixels, which the ConvNet"
            " here does not",
            "squeeze a teacher (backbone.teacher=null), or give one that was trained here",
        )
    feature = re.compile(r"features\.(\d+)\.(.+)")
    layer_names: dict[int, str] = {}
    for number in sorted({int(match[1]) for name in weights if (match := feature.fullmatch(name))}):
        weight = weights.get(f"features.{number}.weight")
        kind = "conv" if weight is not None and weight.ndim == 4 else "norm"
        block = sum(name.startswith(kind) for name in layer_names.values())
        layer_names[number] = f"{kind}.{block}"
    renamed = {}
    for name, value in weights.items():
        match = feature.fullmatch(name)
        renamed[f"layers.{layer_names[int(match[1])]}.{match[2]}" if match else name] = value
    return renamed


def _check_fit(model: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Raise UserError("teacher") if names or shapes differ, or if values are not finite."""
    expected = model.state_dict()
    missing = [n for n in expected if n not in weights and not n.endswith("num_batches_tracked")]
    unexpected = [n for n in weights if n not in expected]
    shapes = [
        f"{n} {tuple(weights[n].shape)} instead of {tuple(expected[n].shape)}"
        for n in expected
        if n in weights and weights[n].shape != expected[n].shape
    ]
    if missing or unexpected or shapes:
        parts = (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        differences = "; ".join(
            f"{len(names)} {kind}: {format_names(names)}" for kind, names in parts if names
        )
        reason, hint = _explain_mismatch(expected, weights)
        raise UserError("teacher", f"teacher '{source}' does not fit: {reason}{differences}", hint)
    not_finite = [n for n, value in weights.items() if not bool(torch.isfinite(value).all())]
    if not_finite:
        message = f"teacher '{source}' has NaN or infinite values in {format_names(not_finite)}"
        raise UserError("teacher", message, "Its training diverged or the file is damaged; use another.")


def _explain_mismatch(expected: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> tuple[str, str]:
    """Return reasons for a mismatch (another number of classes or channels; may be empty), and a hint."""
    reasons = ""
    matrices = [n for n, value in expected.items() if value.ndim == 2]
    kernels = [n for n, value in expected.items() if value.ndim == 4]
    if matrices and matrices[-1] in weights and weights[matrices[-1]].ndim:
        classes, wanted_classes = weights[matrices[-1]].shape[0], expected[matrices[-1]].shape[0]
        if classes != wanted_classes:
            reasons += f"the teacher has {classes} classes, the data set has {wanted_classes}; "
    if kernels and kernels[0] in weights and weights[kernels[0]].ndim == 4:
        channels, wanted_channels = weights[kernels[0]].shape[1], expected[kernels[0]].shape[1]
        if channels != wanted_channels:
            reasons += f"the teacher reads {channels} channels, the images have {wanted_channels}; "
    if reasons:
        hint = "Give a teacher that was trained on this data set, or none (backbone.teacher=null)"
        return reasons, f"{hint} to squeeze one."
    depth = sum(bool(re.fullmatch(r"layers\.conv\.\d+\.weight", name)) for name in weights)
    if not depth or "layers.conv.0.weight" not in weights:
        hint = "Set backbone.name (ConvNet: also depth, width, norm) to the architecture of the teacher."
        return "", hint
    width = weights["layers.conv.0.weight"].shape[0]
    norm = "batch" if "layers.norm.0.running_mean" in weights else "instance"
    settings = f"backbone.name=convnet, backbone.depth={depth}, backbone.width={width}, backbone.norm={norm}"
    return "", f"The file holds {settings}."


def _get_published_file(model: nn.Module, tag: str) -> Path:
    """Return the file of torchvision's weights `tag` for this network; download it if it is missing.

    Raises UserError: "teacher" if there are no such weights or they cannot fit, "network".
    """
    spec = getattr(model, Spec.ATTRIBUTE, None)
    assert isinstance(spec, Spec), "published weights need a network from build()"
    if spec.name == "convnet":
        raise UserError(
            "teacher", "torchvision publishes no ConvNet", "Give a checkpoint file, or squeeze a teacher."
        )
    published = torchvision.models.get_model_weights(spec.name)
    if tag not in published.__members__:
        hint = "Use " + " or ".join(f"torchvision:{name}" for name in published.__members__) + "."
        raise UserError("teacher", f"torchvision has no weights '{tag}' for {spec.name}", hint)
    weights = published[tag]
    classes = len(weights.meta["categories"])
    if spec.adapted or spec.channels != 3 or spec.classes != classes:
        raise UserError(
            "teacher",
            f"torchvision's weights for {spec.name} take {classes} classes of colour images over"
            f" {Spec.SMALL} px; this data set has {spec.classes} classes, {spec.channels} channels,"
            f" {spec.image_size} px",
            "Squeeze a teacher (backbone.teacher=null), or give one that was trained on these images.",
        )
    return _download(str(weights.url))


def _download(url: str) -> Path:
    """Return the file at `url` in torch's cache; download it if missing. Raises UserError("network")."""
    name = Path(urlparse(url).path).name
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if path.is_file():
        return path
    digest = re.search(r"-([0-9a-f]{8,})\.", name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), digest[1] if digest else None, progress=False)
    except (OSError, http.client.HTTPException, RuntimeError) as error:
        hint = f"Download it by hand and put it in {path.parent} as {name}."
        raise UserError("network", f"{url} could not be downloaded: {error}", hint) from error
    return path
