"""How fast the moments of a tap are found beside the library's own functions, on one thread.

    python tests/bench/moments.py

step: mean and variance with their gradient, as BatchNorm methods (SRe²L, CDA, DWA, G-VBSM) need them in every
iteration, beside `torch.var_mean`.
set: what the pass over the training set takes in, in float64: mean, Ψ and Φ beside `torch.cov` and the mean
over pixels; mean and variance beside `torch.var_mean`; of features widened at once.
Contestants take turns; medians.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from engine.spectral.moments import Accumulator, batch_moments, flatten_positions

STEP = [(10, 128, 32), (10, 64, 32), (10, 128, 16), (10, 256, 8), (10, 512, 4), (100, 128, 32)]  # M, D, H
SET = [(128, 64, 32), (128, 128, 16), (128, 256, 8), (128, 512, 4)]
ROUNDS = 15
Contestant = Callable[[Tensor], object]


def step(x_MDHW: Tensor) -> None:
    found = batch_moments("tap", x_MDHW, torch.empty(0), covariance=False, labels=False)
    _gradient((found.mean_D, found.var_D), x_MDHW)


def step_by_library(x_MDHW: Tensor) -> None:
    _gradient(torch.var_mean(flatten_positions(x_MDHW), dim=0, correction=0), x_MDHW)


def _gradient(found: tuple[Tensor, ...], x_MDHW: Tensor) -> None:
    torch.autograd.grad(found, x_MDHW, [torch.ones_like(each) for each in found])


def whole(x_MDHW: Tensor, covariance: bool) -> None:
    labels_M = torch.arange(len(x_MDHW)) % 10
    Accumulator("tap", 10, "pooled", covariance=covariance).update(x_MDHW.detach(), labels_M)


@torch.no_grad()
def whole_by_library(x_MDHW: Tensor, covariance: bool) -> None:
    wide_MDHW = x_MDHW.double()
    rows_ND = flatten_positions(wide_MDHW)
    if covariance:
        onehot_MK = torch.nn.functional.one_hot(torch.arange(len(x_MDHW)) % 10, 10).double()
        rows_ND.mean(dim=0), torch.cov(rows_ND.T, correction=0), wide_MDHW.mean(dim=(2, 3)).T @ onehot_MK
    else:
        torch.var_mean(rows_ND, dim=0, correction=0)


def milliseconds(contestant: Contestant, x_MDHW: Tensor) -> float:
    since = time.perf_counter()
    contestant(x_MDHW)
    return (time.perf_counter() - since) * 1e3


def compare(title: str, shapes: list[tuple[int, int, int]], ours: Contestant, library: Contestant) -> None:
    for images, depth, side in shapes:
        x_MDHW = torch.randn(images, depth, side, side).contiguous(memory_format=torch.channels_last)
        x_MDHW.requires_grad_()
        pairs = [(milliseconds(library, x_MDHW), milliseconds(ours, x_MDHW)) for _ in range(ROUNDS)]
        theirs, own = (statistics.median(each) for each in zip(*pairs, strict=True))
        name = f"{title}: {images} images, {depth} features, {side} px"
        print(f"{name:55} {theirs:8.2f} ms {own:8.2f} ms  {theirs / own:5.2f} times", flush=True)


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    torch.set_num_threads(1)
    compare("step", STEP, step, step_by_library)
    for title, covariance in (("set, Ψ and Φ", True), ("set, variances", False)):
        pair = (partial(each, covariance=covariance) for each in (whole, whole_by_library))
        compare(title, SET, *pair)


if __name__ == "__main__":
    main()
