"""Record where results come from: software versions, machine, device, command and seeds."""

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
from engine.runs.execution import ExecutionPlan
from engine.version import product_version

_PACKAGES = ("torch", "torchvision", "numpy")


def versions() -> dict[str, str]:
    """Return the versions of the software that results depend on."""
    packages = {name: metadata.version(name) for name in _PACKAGES}
    return {"cfm-tui": product_version(), "python": platform.python_version(), **packages}


def host() -> dict[str, Any]:
    """Return name, operating system and CPU count of this machine."""
    return {"name": socket.gethostname(), "system": platform.platform(), "cpus": os.cpu_count()}


def seeds(config: Config) -> dict[str, Any]:
    """Return the run's seed and the number of student seeds derived from it."""
    return {"run": config.seed, "students": config.validate_.seeds}


def describe_session(
    device: torch.device, execution: ExecutionPlan, command: Sequence[str]
) -> dict[str, Any]:
    """Return how this session computes: command line, software versions, device and execution plan."""
    return {
        "command": list(command),
        "versions": versions(),
        "device": devices.describe(device),
        "execution": execution.model_dump(mode="json"),
    }
