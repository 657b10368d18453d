"""What filters written as expressions cost beside the ridge: f(Ψ) and its gradient, on one thread.

    python tests/bench/filters.py

Contestants take turns; medians.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from engine.config import expressions
from engine.config.filters import Expression, Filter, Ridge
from engine.spectral import matrix_functions

BETA, ROUNDS = 0.1, 15
TEXTS = ["1/(lambda+beta)", "lambda/(lambda+beta)", "1/(lambda+beta)**2"]  # products and inverses
TEXTS += ["exp(-lambda)", "1/sqrt(lambda+beta)"]  # eigenvalues


def milliseconds(each: Filter, cov_DD: Tensor, gradient_DD: Tensor) -> float:
    since = time.perf_counter()
    torch.autograd.grad(matrix_functions.apply(each, cov_DD), cov_DD, gradient_DD)
    return (time.perf_counter() - since) * 1e3


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    torch.set_num_threads(1)
    contestants: dict[str, Filter] = {"ridge": Ridge(BETA)}
    for text in TEXTS:
        contestants[text] = Expression(expressions.bind(expressions.parse(text), {expressions.BETA: BETA}))
    for depth in (64, 128, 256, 512):
        rows_ND = torch.randn(4 * depth, depth)
        cov_DD = (rows_ND.T @ rows_ND / len(rows_ND)).requires_grad_()
        gradient_DD = torch.randn(depth, depth)
        found: dict[str, list[float]] = {name: [] for name in contestants}
        for _ in range(ROUNDS):
            for name, each in contestants.items():
                found[name].append(milliseconds(each, cov_DD, gradient_DD))
        ridge = statistics.median(found["ridge"])
        for name, values in found.items():
            own = statistics.median(values)
            print(
                f"{depth} features  {name:22} {own:8.2f} ms  {own / ridge:5.2f} times the ridge's", flush=True
            )


if __name__ == "__main__":
    main()
