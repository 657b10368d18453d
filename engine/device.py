"""Which device computes."""

from __future__ import annotations

import torch

from engine.errors import UserError


def choose(name: str) -> torch.device:
    """The device of a name: auto (CUDA, else MPS, else CPU), cpu, cuda, cuda:N or mps.

    Raises UserError("config") for a name that means nothing or a device that is not there.
    """
    if name == "auto":
        return torch.device(_best())
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda", "mps"):
        raise UserError("config", f"device: {name!r} is no device", "use auto, cpu, cuda, cuda:N or mps")
    if not _present(device):
        raise UserError("config", f"device: {name} is not there", f"use --device {_best()}, or auto")
    return device


def _best() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _present(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()
    return device.type == "cpu" or torch.backends.mps.is_available()


def describe(device: torch.device) -> str:
    """The device with its model, where it tells one."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return str(device)
