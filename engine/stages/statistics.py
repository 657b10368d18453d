"""The real side: moments of every tap over the training set in one pass (Eq. 17, Algorithm 1 lines 1–4).

No gradient, evaluation mode, full float32 precision; no augmentation unless `statistics.views` says so.
Legend: M images, K classes.
"""

from __future__ import annotations

from collections.abc import Generator
from functools import partial

import torch
from torch import Tensor, nn

from engine.checkpoint import (
    Checkpoint,
    IntervalTimer,
    Rate,
    StageState,
    add_prefix,
    clone_to,
    strip_prefix,
    to_cpu,
    work_clock,
)
from engine.config import Config, Views
from engine.data import ImageSet, augmentation
from engine.device import explain_out_of_memory, upload
from engine.events import Event, StageProgress
from engine.rng import generator
from engine.spectral.moments import Accumulator, Moments, require_finite
from engine.spectral.taps import Tapped, read_running_moments

HINT = "use another teacher: the features of this one overflow or are NaN"


def measure(
    config: Config, model: nn.Module, images: ImageSet, device: torch.device, saved: StageState | None = None
) -> Generator[Event, None, list[Moments]]:
    """Return the moments of each tap in forward order, in float64 on the CPU.

    BatchNorm taps need no pass over the images: their real side is the running mean and variance. The same
    holds for the BatchNorm layers among the taps `bn-conv`, which need only means and variances.
    saved: resume from this state. Raises UserError("numeric") naming a layer whose moments are not finite.
    """
    known: dict[str, Moments] = {}
    if config.objective.taps in ("batchnorm", "bn-conv"):
        running = [moments.to(torch.device("cpu"), torch.float64) for moments in read_running_moments(model)]
        require_finite(running, "the running statistics", HINT)
        if config.objective.taps == "batchnorm":
            return running
        known = {tap.name: tap for tap in running}
    network = Tapped(model, config.objective.taps, device, patch=config.objective.patch)
    measured, _ = yield from measure_set(config, network, images, device, saved, frozenset(known))
    known |= {tap.name: tap for tap in measured}
    return [known[name] for name in network.names]


def measure_set(
    config: Config,
    network: Tapped,
    images: ImageSet,
    device: torch.device,
    saved: StageState | None = None,
    known: frozenset[str] = frozenset(),
) -> Generator[Event, None, tuple[list[Moments], float]]:
    """Return the moments of each tap over any set of images, and the mean cross-entropy of its labels.

    Only means and variances where the objective does not need Ψ. saved: resume from this state. known: names
    of taps to skip. Raises UserError("numeric") naming a layer whose moments are not finite.
    """
    estimator, order_N = config.statistics.estimator, _draw_order(config, len(images))
    views = None
    if config.statistics.views != Views():
        rng = generator(config.seed, "statistics views")
        views = augmentation.draw(config.statistics.views, images.size, len(images), rng)
    classes, covariance = len(images.classes), config.objective.has_covariance
    names = [name for name in network.names if name not in known]
    centre = config.statistics.centre
    accumulators = {
        name: Accumulator(name, classes, estimator, covariance=covariance, centre=centre) for name in names
    }
    ordered = list(accumulators.values())
    ce, first = torch.zeros((), device=device), 0
    if saved is not None:
        ce, first = clone_to(saved.tensors["ce"], device), int(saved.metadata["done"])
        _restore_accumulators(ordered, saved, device)
    timer = IntervalTimer(config.checkpoint_seconds)
    rate, size = Rate(), config.statistics.batch
    for start in range(first, len(images), size):
        started, indices = work_clock(), order_N[start : start + size]
        what = f"measuring the statistics of images {start + 1} to {start + len(indices)}"
        with explain_out_of_memory(device, what, "lower statistics.batch"), torch.no_grad():
            labels_M = upload(images.labels_N[indices], device)
            view = None if views is None else views.take(indices.numpy())
            features, logits_MK = network(images.batch(indices, device, view))
            ce += nn.functional.cross_entropy(logits_MK.float(), labels_M, reduction="sum")
            for name, x_MDHW in zip(network.names, features, strict=True):
                if name in accumulators:
                    accumulators[name].update(x_MDHW, labels_M)
        done = start + len(indices)
        yield StageProgress("statistics", done, rate.add(len(indices), work_clock() - started))
        if timer.due():
            yield Checkpoint("statistics", partial(_capture, ordered, ce, done))
    moments = [accumulator.result().to(torch.device("cpu"), torch.float64) for accumulator in ordered]
    require_finite(moments, f"the statistics over {len(images)} images", HINT)
    return moments, float(ce) / max(len(images), 1)


def _draw_order(config: Config, images: int) -> Tensor:
    """Return the order in which images are measured, shape (images,)."""
    seed = config.statistics.order_seed(config.seed)
    if seed is None:
        return torch.arange(images)
    return torch.from_numpy(generator(seed, "statistics").permutation(images))


def _capture(accumulators: list[Accumulator], ce: Tensor, done: int) -> StageState:
    """Return the state after `done` images. Raises UserError("numeric") naming a layer as `measure` does."""
    moments = [accumulator.result() for accumulator in accumulators]
    require_finite(moments, f"the statistics over {done} images", HINT)
    tensors = {"ce": ce}
    for tap, accumulator in enumerate(accumulators):
        tensors |= add_prefix(str(tap), accumulator.state_dict())
    return StageState(to_cpu(tensors), {"done": done})


def _restore_accumulators(accumulators: list[Accumulator], saved: StageState, device: torch.device) -> None:
    for tap, accumulator in enumerate(accumulators):
        tensors = {
            name: clone_to(value, device) for name, value in strip_prefix(str(tap), saved.tensors).items()
        }
        accumulator.load_state_dict(tensors, int(saved.metadata["done"]))
