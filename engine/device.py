"""The device that computes: its choice, copies to it, waiting for it, precision, and errors of its memory."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch
from torch import Tensor

from engine.errors import UserError


def choose(name: str) -> torch.device:
    """Return the device of a name: auto (CUDA, else MPS, else CPU), cpu, cuda, cuda:N or mps.

    Also makes cuDNN deterministic, because a resumed run must equal an uninterrupted one, and switches TF32
    off, because its ten mantissa bits are too few for inverses at a small β.
    Raises UserError("config") if the device is not available.
    """
    kind, _, number = (_best_kind() if name == "auto" else name).partition(":")
    index = int(number) if number else None
    if kind == "cuda":
        available = torch.cuda.is_available() and (index or 0) < torch.cuda.device_count()
    else:
        available = kind == "cpu" or torch.backends.mps.is_available()
    if not available:
        raise UserError("config", f"device: {name} is not available", f"use --device {_best_kind()}, or auto")
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    return torch.device(kind) if index is None else torch.device(kind, index)


def _best_kind() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def describe(device: torch.device) -> str:
    """Return the device's name, with its model if it is a CUDA device."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return str(device)


def describe_processor() -> str:
    """Return the model of the processor as the operating system names it, else its architecture."""
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:  # Linux
        for line in file:
            name, _, value = line.partition(":")
            if name.strip() == "model name" and value.strip():
                return value.strip()
    return platform.processor() or platform.machine()


def cpus() -> int:
    """Return how many processors this process may use."""
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


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished its work; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the autocast context of a forward pass in a `Precision`; it is disabled for float32 and tf32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")


@contextmanager
def conv_precision(precision: str) -> Iterator[None]:
    """Allow TF32 in cuDNN convolutions inside the block if `precision` is tf32.

    Put forward and backward pass inside. Matrix products (Ψ, filters, linear layers) stay in float32, because
    cuBLAS has its own flag. The flag is process-wide.
    """
    previous = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = previous


@contextmanager
def explain_out_of_memory(device: torch.device, what: str, hint: str) -> Iterator[None]:
    """Raise UserError("memory") if the block runs out of memory on `device`.

    what: stage and batch, the subject of the message, as in "recovery of batch 3 (200 images of 224 px)".
    hint: the setting that reduces memory use.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        is_memory_error = isinstance(error, MemoryError | torch.OutOfMemoryError)
        # The allocators of CPU and MPS raise a plain RuntimeError.
        texts = ("out of memory", "can't allocate memory", "ALLOC_FAILED")
        if not is_memory_error and not any(text in str(error) for text in texts):
            raise
        raise UserError(
            "memory", f"{what} needs more memory than {describe(device)} has free", hint
        ) from error
