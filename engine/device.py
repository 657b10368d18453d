"""Which device computes, and on how many processors."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

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


def upload(x: Tensor, device: torch.device) -> Tensor:
    """Return a CPU tensor on `device`; the host does not wait for a copy to CUDA.

    The tensor is copied into pinned memory first: from pageable memory even a `non_blocking` copy may wait
    until the device has finished the work before it.
    """
    if device.type == "cuda" and x.device.type == "cpu":
        x = x.pin_memory()
    return x.to(device, non_blocking=True)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the autocast context of a forward pass in a `Precision`; it is disabled for float32 and tf32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")


@contextmanager
def conv_precision(precision: str) -> Iterator[None]:
    """Allow TF32 in cuDNN convolutions inside the block if `precision` is tf32.

    Put forward and backward pass inside. Matrix products (Ψ, filters, linear layers) stay in float32, because
    cuBLAS has its own flag. The flag is process-wide.
    """
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


@contextmanager
def explain_out_of_memory(device: torch.device, what: str, hint: str) -> Iterator[None]:
    """Raise UserError("memory") where the block runs out of memory on `device`.

    what: stage and batch, the subject of the message, as in "recovery of batch 3 (200 images of 224 px)".
    hint: the setting that reduces memory use.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        raise UserError(
            "memory", f"{what} needs more memory than {describe(device)} has free", hint
        ) from error


def _is_out_of_memory(error: Exception) -> bool:
    """Whether an allocator raised `error`; the CPU's and MPS's raise a plain RuntimeError."""
    known = isinstance(error, MemoryError | torch.OutOfMemoryError)
    texts = ("out of memory", "can't allocate memory", "ALLOC_FAILED")
    return known or any(text in str(error) for text in texts)
