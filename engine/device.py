"""Which device computes, and on how many processors."""

from __future__ import annotations

import os

import torch

from engine.errors import UserError


def choose(name: str) -> torch.device:
    """The device of a name that `config` takes: auto (CUDA, else MPS, else CPU), cpu, cuda, cuda:N or mps.

    From then on cuDNN computes in a fixed order: a resumed run is to equal an uninterrupted one. And
    float32 is float32, not TF32, whose ten bits are too few for inverses at a small β.
    Raises UserError("config") for a device that is not there.
    """
    kind, _, number = (_best() if name == "auto" else name).partition(":")
    index = int(number) if number else None
    if not _present(kind, index or 0):
        raise UserError("config", f"device: {name} is not there", f"use --device {_best()}, or auto")
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    return torch.device(kind) if index is None else torch.device(kind, index)


def _best() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _present(kind: str, index: int) -> bool:
    if kind == "cuda":
        return torch.cuda.is_available() and index < torch.cuda.device_count()
    return kind == "cpu" or torch.backends.mps.is_available()


def describe(device: torch.device) -> str:
    """The device with its model, where it tells one."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return str(device)


def cpus() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def autocast(device: torch.device, precision: torch.dtype) -> torch.autocast:
    """Mixed precision for forward passes; does nothing for float32."""
    return torch.autocast(device.type, dtype=precision, enabled=precision != torch.float32)
