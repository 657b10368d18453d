"""How the time of a recovery step grows with images, channels, taps and classes, each over a factor of eight.

    python tests/bench/growth.py [--axis images|channels|taps|classes] [--rounds 5] [--threads 2]

The step is that of `engine.stages.recover.RecoveryBatch` in the scene of `recovery.py`: 10 images of 32 px of
10 classes, a ConvNet of depth 3 with 128 channels, moving statistics of an earlier batch. One of these
changes along each axis; taps are as many as the depth, of a ConvNet with 16 channels on 256 px.
All sizes of an axis take turns within a round; figures are medians over rounds of the median iteration of a
round. exponent: the slope from one size to the next in logarithms; 1 is linear, 3 is cubic.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics

import numpy as np
import torch
from recovery import BETA, NUMBER, read_clock, scene

from engine.spectral.taps import Tapped
from engine.stages.recover import RecoveryBatch

SECONDS = 1.0  #: of one size in a round
AXES = {
    "images": (10, 20, 40, 80),
    "channels": (32, 64, 128, 256),
    "taps": (1, 2, 4, 8),
    "classes": (10, 20, 40, 80),
}


def build(axis: str, size: int) -> RecoveryBatch:
    """Return the batch of one size."""
    sets, pixels = [], 32
    if axis == "channels":
        sets = [f"backbone.width={size}"]
    elif axis == "taps":
        sets, pixels = [f"backbone.depth={size}", "backbone.width=16"], 256
    one = scene("convnet", classes=size if axis == "classes" else 10, size=pixels, sets=sets)
    indices_M = np.arange(size if axis == "images" else 10) % 10
    network = Tapped(one.model, one.config.objective.taps, one.device)
    return RecoveryBatch(
        one.config, [(network, one.real)], one.train, NUMBER, BETA, indices_M, indices_M, one.earlier
    )


def time_steps(batch: RecoveryBatch) -> float:
    """Return the median iteration of about a second, in milliseconds."""
    times: list[float] = []
    while sum(times) < SECONDS:
        began = read_clock()
        batch.step()
        times.append(read_clock() - began)
    return 1000 * statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--axis", choices=AXES, action="append")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    for axis in given.axis or AXES:
        batches = {size: build(axis, size) for size in AXES[axis]}
        for batch in batches.values():
            batch.step()
        rounds = [{size: time_steps(batch) for size, batch in batches.items()} for _ in range(given.rounds)]
        medians = {size: statistics.median(each[size] for each in rounds) for size in batches}
        slopes = [math.log2(medians[high] / medians[low]) for low, high in itertools.pairwise(batches)]
        print(axis, *(f"{size}: {ms:.1f} ms" for size, ms in medians.items()), sep="  ")
        print("  exponent", *(f"{slope:.2f}" for slope in slopes), sep="  ")


if __name__ == "__main__":
    main()
