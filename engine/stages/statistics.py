"""The real side: moments of every tap over the training set in one pass (Eq. 17, Algorithm 1 lines 1–4).

No gradient, no augmentation, evaluation mode, full float32. Legend: M images, K classes.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from functools import partial

import torch
from torch import Tensor, nn

from engine.checkpoint import (
    Checkpoint,
    IntervalTimer,
    StageState,
    add_prefix,
    clone_to,
    strip_prefix,
    to_cpu,
)
from engine.config import Config
from engine.data import ImageSet
from engine.device import explain_out_of_memory, upload
from engine.events import Event, StageProgress
from engine.rng import generator
from engine.spectral.moments import Accumulator, Moments, require_finite
from engine.spectral.taps import Tapped, running_moments

HINT = "use another teacher: this one's features overflow, or are no numbers"


def measure(
    config: Config, model: nn.Module, images: ImageSet, device: torch.device, saved: StageState | None = None
) -> Generator[Event, None, list[Moments]]:
    """Moments of each tap in forward order, float64 on the CPU.

    BatchNorm taps need no pass: their real side is the running mean and variance. So it is among the taps
    `bn-conv`, of which only means and variances are kept.
    Raises UserError("numeric") naming a layer whose moments are not finite.
    """
    known: dict[str, Moments] = {}
    if config.objective.taps in ("batchnorm", "bn-conv"):
        running = [moments.to(torch.device("cpu"), torch.float64) for moments in running_moments(model)]
        require_finite(running, "the running statistics", HINT)
        if config.objective.taps == "batchnorm":
            return running
        known = {own.name: own for own in running}
    network = Tapped(model, config.objective.taps, device, patch=config.objective.patch)
    found, _ = yield from measure_set(config, network, images, device, saved, frozenset(known))
    known |= {own.name: own for own in found}
    return [known[name] for name in network.names]


def measure_set(
    config: Config,
    network: Tapped,
    images: ImageSet,
    device: torch.device,
    saved: StageState | None = None,
    known: frozenset[str] = frozenset(),
) -> Generator[Event, None, tuple[list[Moments], float]]:
    """Moments of each tap over any set of images, and the mean cross-entropy of its labels.

    Where the taps tell no Ψ, only means and variances. known: names of taps that are left out.
    saved: goes on from where another call offered a save point. Raises UserError("numeric") naming a layer.
    """
    estimator, order_N = config.statistics.estimator, _order(config, len(images))
    classes, covariance = len(images.classes), config.objective.has_covariance
    new = [name for name in network.names if name not in known]
    accumulators = {name: Accumulator(name, classes, estimator, covariance=covariance) for name in new}
    ordered = list(accumulators.values())
    ce, first = torch.zeros((), device=device), 0
    if saved is not None:
        ce, first = clone_to(saved.tensors["ce"], device), int(saved.metadata["done"])
        _go_on(ordered, saved, device)
    pace = IntervalTimer(config.checkpoint_seconds)
    since, size = time.monotonic(), config.statistics.batch
    for start in range(first, len(images), size):
        indices = order_N[start : start + size]
        what = f"measuring the statistics of images {start + 1} to {start + len(indices)}"
        with explain_out_of_memory(device, what, "lower statistics.batch"), torch.no_grad():
            labels_M = upload(images.labels_N[indices], device)
            features, logits_MK = network(images.batch(indices, device))
            ce += nn.functional.cross_entropy(logits_MK.float(), labels_M, reduction="sum")
            for name, x_MDHW in zip(network.names, features, strict=True):
                if name in accumulators:
                    accumulators[name].update(x_MDHW, labels_M)
        done = start + len(indices)
        yield StageProgress("statistics", done, (done - first) / max(time.monotonic() - since, 1e-9))
        if pace.due():
            yield Checkpoint("statistics", partial(_state, ordered, ce, done))
    found = [each.result().to(torch.device("cpu"), torch.float64) for each in ordered]
    require_finite(found, f"the statistics over {len(images)} images", HINT)
    return found, float(ce) / max(len(images), 1)


def _order(config: Config, images: int) -> Tensor:
    """The order in which images are taken in, shape (images,)."""
    seed = config.statistics.order_seed(config.seed)
    if seed is None:
        return torch.arange(images)
    return torch.from_numpy(generator(seed, "statistics").permutation(images))


def _state(accumulators: list[Accumulator], ce: Tensor, done: int) -> StageState:
    require_finite([each.result() for each in accumulators], f"the statistics over {done} images", HINT)
    arrays = {"ce": ce}
    for tap, each in enumerate(accumulators):
        arrays |= add_prefix(str(tap), each.state_dict())
    weights = [each.weight for each in accumulators]
    return StageState(to_cpu(arrays), {"done": done, "weights": weights})


def _go_on(accumulators: list[Accumulator], saved: StageState, device: torch.device) -> None:
    for tap, (each, weight) in enumerate(zip(accumulators, saved.metadata["weights"], strict=True)):
        sums = {
            name: clone_to(value, device) for name, value in strip_prefix(str(tap), saved.tensors).items()
        }
        each.load_state_dict(sums, float(weight), int(saved.metadata["done"]))
