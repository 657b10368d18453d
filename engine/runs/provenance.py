"""Where a number comes from: software, machine, device and command."""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import torch

from engine import device as devices
from engine.config import Config
from engine.version import product_version

_PACKAGES = ("torch", "torchvision", "numpy")


def versions() -> dict[str, str]:
    """Versions of all software that a number depends on."""
    found = {name: metadata.version(name) for name in _PACKAGES}
    return {"cfm-tui": product_version(), "python": platform.python_version(), **found}


def host() -> dict[str, Any]:
    """The machine."""
    return {"name": socket.gethostname(), "system": platform.platform(), "cpus": os.cpu_count()}


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
