"""Weights of a teacher: read from a file or torchvision's published ones, checked, put into a network.

Files are read without running anything in them (see `torch_file`).
"""

from __future__ import annotations

import http.client
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
import torchvision
from torch import Tensor, nn

from engine.backbones import naming, safe_loading
from engine.backbones.build import SMALL, SPEC, Spec
from engine.backbones.safe_loading import is_plain, plain_dict
from engine.errors import UserError
from engine.fingerprint import fingerprint_tensors

WRAPPERS = ("model", "state_dict", "net")  #: keys under which training scripts store a state dict
PREFIX = re.compile(r"^(module\.|_orig_mod\.)+")  #: left by DataParallel and by torch.compile
OLD_DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..*)$")
OTHER_DATA = (
    "Give a teacher that was trained on this data set, or none (backbone.teacher=null) to squeeze one."
)
OTHER_NETWORK = "Set backbone.name (ConvNet: also depth, width, norm) to the network that the teacher is."
SHOWN = 5  #: names of each kind of difference in a message
WORDING = safe_loading.Wording(
    "teacher",
    "teacher",
    "Save the weights alone where you trust the file: torch.save(model.state_dict(), 'weights.pth').",
)


def load_teacher(model: nn.Module, source: str) -> None:
    """Put the weights of `source` into `model`, which is left as it is if they do not fit.

    source: a checkpoint file (a state dict, or one under ``model``, ``state_dict`` or ``net``, with or
    without ``module.`` prefixes; or ``.safetensors``), or ``torchvision:NAME`` (``IMAGENET1K_V1``…).
    Raises UserError: "teacher" (missing, unreadable, unsafe, or does not fit), "network".
    """
    kind, _, tag = source.partition(":")
    path = _published(model, tag) if kind == "torchvision" else Path(os.path.expanduser(source))
    named = _plain_names(_state_dict(_read(path), path))
    weights = naming.fit_names(named, model.state_dict(), source)
    _check_fit(model, weights, source)
    # Counters of BatchNorm, which old checkpoints lack, are not read in evaluation.
    model.load_state_dict({**model.state_dict(), **weights})


def fingerprint(model: nn.Module) -> str:
    """SHA-256 (hex) over names, types, shapes and bytes of all parameters and buffers, on any device."""
    return fingerprint_tensors(model.state_dict())


def _read(path: Path) -> Any:
    if not os.path.isfile(path):
        what = "is a folder" if os.path.isdir(path) else "does not exist"
        raise UserError(
            "teacher", f"teacher '{path}' {what}", "Give a checkpoint file, or torchvision:IMAGENET1K_V1."
        )
    return safe_loading.read(path, WORDING)


def _state_dict(found: Any, path: Path) -> dict[str, Tensor]:
    """The mapping of names to tensors in what a file holds."""
    what = f"it is a {type(found).__name__}"
    if isinstance(found, dict):
        outer = plain_dict(found)
        inner = next((plain_dict(outer[key]) for key in WRAPPERS if isinstance(outer.get(key), dict)), outer)
        names = [name[:60] if isinstance(name, str) else type(name).__name__ for name in inner]
        odd = [name for name, value in zip(names, inner.values(), strict=True) if not is_plain(value)]
        if inner and not odd and all(isinstance(name, str) for name in inner):
            return inner
        what = f"its keys are {_listed(names)}" + (f"; no plain tensors: {_listed(odd)}" if odd else "")
    raise UserError(
        "teacher",
        f"teacher '{path}' holds no state dict: {what}",
        f"Expected names of tensors, directly or under one of: {', '.join(WRAPPERS)}.",
    )


def _plain_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {OLD_DENSENET.sub(r"\1\2", PREFIX.sub("", name)): value for name, value in weights.items()}


def _check_fit(model: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    own = model.state_dict()
    missing = [n for n in own if n not in weights and not n.endswith("num_batches_tracked")]
    unexpected = [n for n in weights if n not in own]
    shapes = [
        f"{n} {tuple(weights[n].shape)} instead of {tuple(own[n].shape)}"
        for n in own
        if n in weights and weights[n].shape != own[n].shape
    ]
    if missing or unexpected or shapes:
        parts = (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        differences = "; ".join(f"{len(names)} {what}: {_listed(names)}" for what, names in parts if names)
        reason = _headline(own, weights)
        hint = OTHER_DATA if reason else _convnet_hint(weights) or OTHER_NETWORK
        raise UserError("teacher", f"teacher '{source}' does not fit: {reason}{differences}", hint)
    broken = [n for n, value in weights.items() if not bool(torch.isfinite(value).all())]
    if broken:
        raise UserError(
            "teacher",
            f"teacher '{source}' has NaN or infinite values in {_listed(broken)}",
            "Its training diverged or the file is damaged; use another.",
        )


def _headline(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> str:
    """The plainest reasons in words: another number of classes, another number of channels."""
    said = ""
    matrices = [n for n, value in own.items() if value.ndim == 2]
    kernels = [n for n, value in own.items() if value.ndim == 4]
    if matrices and matrices[-1] in weights:
        theirs, ours = weights[matrices[-1]].shape[:1], own[matrices[-1]].shape[:1]
        if theirs != ours:
            said += f"the teacher has {theirs[0]} classes, the data set has {ours[0]}; "
    if kernels and kernels[0] in weights and weights[kernels[0]].ndim == 4:
        channels, wanted = weights[kernels[0]].shape[1], own[kernels[0]].shape[1]
        if channels != wanted:
            said += f"the teacher reads {channels} channels, the images have {wanted}; "
    return said


def _convnet_hint(weights: Mapping[str, Tensor]) -> str:
    """The settings of the ConvNet that these weights belong to; empty if they belong to none."""
    depth = sum(bool(re.fullmatch(r"layers\.conv\.\d+\.weight", name)) for name in weights)
    if not depth or "layers.conv.0.weight" not in weights:
        return ""
    width = weights["layers.conv.0.weight"].shape[0]
    norm = "batch" if "layers.norm.0.running_mean" in weights else "instance"
    return (
        "The file holds backbone.name=convnet, "
        f"backbone.depth={depth}, backbone.width={width}, backbone.norm={norm}."
    )


def _listed(names: Iterable[str]) -> str:
    every = list(names)
    more = f" and {len(every) - SHOWN} more" if len(every) > SHOWN else ""
    return ", ".join(every[:SHOWN]) + more


def _published(model: nn.Module, tag: str) -> Path:
    """The file of torchvision's weights `tag` for this network, downloaded if it is not there yet."""
    spec = getattr(model, SPEC, None)
    assert isinstance(spec, Spec), "only networks from build() know which published weights are theirs"
    if spec.name == "convnet":
        raise UserError(
            "teacher", "torchvision publishes no ConvNet", "Give a checkpoint file, or squeeze a teacher."
        )
    offered = torchvision.models.get_model_weights(spec.name)
    if tag not in offered.__members__:
        raise UserError(
            "teacher",
            f"torchvision has no weights '{tag}' for {spec.name}",
            "Use " + " or ".join(f"torchvision:{name}" for name in offered.__members__) + ".",
        )
    weights = offered[tag]
    classes = len(weights.meta["categories"])
    if spec.adapted or spec.channels != 3 or spec.classes != classes:
        raise UserError(
            "teacher",
            f"torchvision's weights for {spec.name} take {classes} classes of colour images over {SMALL} px;"
            f" this data set has {spec.classes} classes, {spec.channels} channels, {spec.image_size} px",
            "Squeeze a teacher (backbone.teacher=null), or give one that was trained on these images.",
        )
    return _downloaded(str(weights.url))


def _downloaded(url: str) -> Path:
    name = Path(urlparse(url).path).name
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if path.is_file():
        return path
    digest = re.search(r"-([0-9a-f]{8,})\.", name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), digest[1] if digest else None, progress=False)
    except (OSError, http.client.HTTPException, RuntimeError) as error:
        raise UserError(
            "network",
            f"{url} could not be downloaded: {error}",
            f"Fetch it by hand and put it in {path.parent} as {name}.",
        ) from error
    return path
