"""Fingerprints of tensors: equal if names, types, shapes and all bytes are equal."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def fingerprint_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 (hex) over names, types, shapes and bytes of tensors, on any device."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        plain = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
