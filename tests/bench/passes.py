"""How fast evaluation and statistics pass over a set, beside the arithmetic that they cannot do without.

    python tests/bench/passes.py [--backbone convnet|resnet18] [--images 1000] [--size 32] [--threads 2]

evaluation: `evaluate_accuracies`, beside forward passes of the folded network over prepared batches.
statistics: `measure`, beside such forward passes and a product in float64 for Ψ of each tap and batch, of
prepared features in float64. Images are decoded and in memory. Contestants take turns; medians. On one
thread, processor time is measured, which other programs disturb less.

Legend: M images in a batch, C channels, H, W, N positions, D features.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from recovery import CPU, pull, smooth_images, teacher, timed
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from engine import backbones
from engine.config import Config, settings
from engine.data import ImageSet
from engine.spectral.moments import flatten_positions
from engine.spectral.taps import Tapped
from engine.stages import statistics as real_side
from engine.stages import training

Pass = Callable[[], object]


def prepared_batches(images: ImageSet, size: int) -> list[Tensor]:
    """Batches of normalised images, channels-last."""
    return [
        images.batch(indices, CPU).contiguous(memory_format=torch.channels_last)
        for indices in torch.split(torch.arange(len(images)), size)
    ]


def forward_pass(model: nn.Module, images: ImageSet, size: int) -> Pass:
    """Forward passes of the folded network over a set, of prepared batches."""
    network, batches = (
        backbones.place_on(backbones.fold_batchnorm(model), CPU),
        prepared_batches(images, size),
    )

    @torch.no_grad()
    def run() -> None:
        for x_MCHW in batches:
            network(x_MCHW)

    return run


def product_pass(config: Config, model: nn.Module, images: ImageSet) -> Pass:
    """A product in float64 for Ψ of every tap and batch."""
    size = config.statistics.batch
    network, batches = Tapped(model, config.objective.taps, CPU), prepared_batches(images, size)
    with torch.no_grad():
        features, _ = network(batches[0])
    rows = [flatten_positions(x_MDHW).double() for x_MDHW in features]
    sums = [rows_ND.new_zeros(rows_ND.shape[1], rows_ND.shape[1]) for rows_ND in rows]

    def run() -> None:
        for x_MCHW in batches:
            for rows_ND, sum_DD in zip(rows, sums, strict=True):
                part_ND = rows_ND[: len(rows_ND) * len(x_MCHW) // size]
                sum_DD.addmm_(part_ND.T, part_ND)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", choices=["convnet", "resnet18"], default="convnet")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], dest="sets")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    config = settings.resolve(
        preset="cifar10-10", sets=[f"backbone.name={given.backbone}", *given.sets]
    ).config
    images = smooth_images(given.images, given.size)
    model = teacher(config, given.size)
    passes: dict[str, Pass] = {
        "evaluation": lambda: training.evaluate_accuracies(model, images, CPU),
        "forward": forward_pass(model, images, training.EVALUATION_BATCH),
        "statistics": lambda: pull(real_side.measure(config, model, images, CPU)),
        "forward, batches of statistics": forward_pass(model, images, config.statistics.batch),
        "products": product_pass(config, model, images),
    }
    for run in passes.values():
        run()
    rounds = [{name: timed(run, 1) / 1e3 for name, run in passes.items()} for _ in range(given.rounds)]
    for name in passes:
        rate = len(images) / statistics.median(each[name] for each in rounds)
        print(f"{name:32} {rate:9,.0f} images/s", flush=True)
    evaluation = [each["forward"] / each["evaluation"] for each in rounds]
    least = [each["forward, batches of statistics"] + each["products"] for each in rounds]
    measured = [bound / each["statistics"] for bound, each in zip(least, rounds, strict=True)]
    for name, ratios in (("evaluation", evaluation), ("statistics", measured)):
        span = f"{min(ratios):.2f} to {max(ratios):.2f}"
        print(f"{name} reaches {statistics.median(ratios):.2f} of what it cannot do without ({span})")


if __name__ == "__main__":
    main()
