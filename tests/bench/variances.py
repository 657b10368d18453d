"""How fast a tap's mean and variance are, with their gradient, beside `torch.var_mean`, on one thread.

    python tests/bench/variances.py

The taps of BatchNorm methods (SRe²L, CDA, DWA, G-VBSM) need no more. Contestants take turns; medians.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from engine.moments import of_batch

SHAPES = [(10, 128, 32), (10, 64, 32), (10, 128, 16), (10, 256, 8), (10, 512, 4), (100, 128, 32)]  # M, D, H
ROUNDS = 25


def ours(x_MDHW: Tensor) -> tuple[Tensor, Tensor]:
    found = of_batch("tap", x_MDHW, torch.empty(0), covariance=False, labels=False)
    return found.mean_D, found.var_D


def library(x_MDHW: Tensor) -> tuple[Tensor, Tensor]:
    rows_ND = x_MDHW.permute(0, 2, 3, 1).reshape(-1, x_MDHW.shape[1])
    return torch.var_mean(rows_ND, dim=0, correction=0)[::-1]


def milliseconds(moments: Callable[[Tensor], tuple[Tensor, ...]], x_MDHW: Tensor) -> float:
    since = time.perf_counter()
    found = moments(x_MDHW)
    torch.autograd.grad(found, x_MDHW, [torch.ones_like(each) for each in found])
    return (time.perf_counter() - since) * 1e3


def main() -> None:
    torch.set_num_threads(1)
    for images, depth, side in SHAPES:
        x_MDHW = torch.randn(images, depth, side, side).contiguous(memory_format=torch.channels_last)
        x_MDHW.requires_grad_()
        pairs = [(milliseconds(library, x_MDHW), milliseconds(ours, x_MDHW)) for _ in range(ROUNDS)]
        theirs, own = (statistics.median(side) for side in zip(*pairs, strict=True))
        name = f"{images} images, {depth} features, {side} px"
        print(f"{name:34} {theirs:8.2f} ms  {own:8.2f} ms  {theirs / own:5.2f} times")


if __name__ == "__main__":
    main()
