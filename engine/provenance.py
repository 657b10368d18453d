"""Where a number comes from: software, device, settings, data and weights."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import socket
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import torch
from torch import Tensor

from engine import device as devices
from engine.config import Config
from engine.version import product_version

_PACKAGES = ("torch", "torchvision", "numpy")
#: Settings that say where and how a run is computed; none of them changes what comes out but for rounding.
ELSEWHERE = (
    "device",
    "checkpoint_seconds",
    "recover.micro_batch",
    "data.root",
    "backbone.teacher",
    "backbone.also_teachers",
    "given.images",
    "given.labels",
    "given.statistics",
)


def versions() -> dict[str, str]:
    """Versions of all software that a number depends on."""
    found = {name: metadata.version(name) for name in _PACKAGES}
    return {"cfm-tui": product_version(), "python": platform.python_version(), **found}


def host() -> dict[str, Any]:
    """The machine."""
    return {"name": socket.gethostname(), "system": platform.platform(), "cpus": os.cpu_count()}


def config_tree(config: Config) -> dict[str, Any]:
    """The configuration as nested JSON-serialisable data, under the names that its files use."""
    return config.model_dump(mode="json", by_alias=True)


def config_hash(config: Config) -> str:
    """SHA-256 of every setting that can change a result.

    Which device, how many images pass through it at once, how often a checkpoint is written, and where
    data, teachers, given images, labels and statistics lie, is left out: what lies there has a fingerprint.
    """
    tree = config_tree(config)
    for *parents, name in (key.split(".") for key in ELSEWHERE):
        part = tree
        for parent in parents:
            part = part[parent]
        del part[name]
    text = json.dumps(tree, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 (hex) over names, types, shapes and bytes of tensors, on any device."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        plain = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def seeds(config: Config) -> dict[str, Any]:
    """The seed of the run, and how many students it gives their own."""
    return {"run": config.seed, "students": config.validate_.seeds}


def circumstances(device: torch.device, command: Sequence[str]) -> dict[str, Any]:
    """What a result owes to the way it was computed: `command`, versions, device and threads."""
    return {
        "command": list(command),
        "versions": versions(),
        "device": devices.describe(device),
        "threads": torch.get_num_threads(),
    }
