"""Recovery: optimise batch after batch of images until their filtered statistics match (Algorithm 1).

Legend: M images in a batch, C channels, H, W, K classes, L taps, T terms, N distilled images.
Source: UniDD Algorithm 1, Eq. 18–21, Table 9.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine import augment, objective, schedules
from engine.config import Config
from engine.data import ImageSet, denormalise, normalise
from engine.errors import UserError
from engine.events import BatchRecovered, Event, RecoverLayout, RecoverProgress
from engine.moments import Moments, moving, of_batch
from engine.rng import generator
from engine.taps import Tapped

CHUNK_SECONDS = 1.0  # how long values may stay on the device before a person sees them
CHUNK_ITERATIONS = 200

Keep = Callable[[Tensor, Tensor, int, float], None]


def batches(config: Config, classes: int) -> list[tuple[int, np.ndarray]]:
    """Every recovery batch in order: its 0-based IPC round and the classes in it, one image each."""
    chunks = np.array_split(np.arange(classes), -(-classes // config.recover.classes_per_batch))
    return [(ipc_round, chunk) for ipc_round in range(config.ipc) for chunk in chunks]


def initial_indices(config: Config, train: ImageSet) -> np.ndarray:
    """Real images that recovery starts from, shape (ipc, K); also the `random` control.

    The b-th of each class in file order, or a seeded choice without repetition.
    Raises UserError("data") naming a class that has too few.
    """
    labels_N = train.labels_N.numpy()
    columns = []
    for label, name in enumerate(train.classes):
        members = np.flatnonzero(labels_N == label)
        if len(members) < config.ipc:
            raise UserError(
                "data",
                f"class {name!r} has {len(members)} training images, fewer than ipc = {config.ipc}",
                f"set ipc to {len(members)} or less, or add images to the class",
            )
        if config.recover.init != "first":
            members = generator(config.seed, "initial", label).permutation(members)
        columns.append(members[: config.ipc])
    return np.stack(columns, axis=1)


def control_set(config: Config, train: ImageSet) -> ImageSet:
    """The `random` control: the real images of `initial_indices`, unchanged."""
    indices = initial_indices(config, train).reshape(-1)
    return ImageSet.from_arrays(
        train.pixels(indices), train.labels_N[torch.from_numpy(indices)], train.classes, train.mean, train.std
    )


def recover(
    config: Config,
    model: nn.Module,
    real: Sequence[Moments],
    train: ImageSet,
    device: torch.device,
    keep: Keep,
) -> Generator[Event, None, None]:
    """Distil `config.ipc` images per class out of `model` and the real statistics.

    real: moments of each tap in forward order. keep: is given each batch as soon as it is finished
    (images in [0, 1] and labels on the CPU, its number from 1, β). Yields a layout, then chunks of
    values, then one event a batch. Raises UserError("numeric") naming batch, iteration and layer
    where a loss is not finite; nothing of that batch is kept.
    """
    precision = getattr(torch, config.recover.precision)
    network = Tapped(model, config.objective.taps, device, precision)
    real = [moments.to(device) for moments in real]
    plan = batches(config, len(train.classes))
    betas = schedules.betas_of_batches(
        config.objective.schedule, config.objective.beta, config.ipc, len(plan)
    )
    terms = [f"{term.filter}/{term.signal}" for term in objective.resolved_terms(config.objective)]
    yield RecoverLayout(network.names, terms, betas)
    objective.Objective(
        config.objective, real, min(betas)
    )  # a real side without inverse is known before hours of work
    starts = initial_indices(config, train)
    earlier: list[Moments] | None = None
    for index, (ipc_round, classes) in enumerate(plan):
        batch = Batch(config, network, real, train, betas[index], index + 1, earlier)
        batch.start(starts[ipc_round][classes], classes)
        yield from batch.optimise(len(plan))
        if config.recover.emu:
            earlier = batch.statistics
        keep(batch.pixels(), batch.labels_M.cpu(), index + 1, betas[index])
        yield BatchRecovered(index + 1, len(plan), betas[index], len(classes))


class Batch:
    """One batch of images while it is optimised."""

    def __init__(
        self,
        config: Config,
        network: Tapped,
        real: Sequence[Moments],
        train: ImageSet,
        beta: float,
        number: int,
        earlier: list[Moments] | None,
    ) -> None:
        self.config = config
        self.network = network
        self.train = train
        self.number = number
        self.earlier = earlier
        self.statistics: list[Moments] = []
        self.device = real[0].mean_D.device
        self.objective = objective.Objective(config.objective, real, beta)

    def start(self, indices_M: np.ndarray, classes_M: np.ndarray) -> None:
        """Place the images: real ones, or Gaussian noise in normalised space."""
        self.labels_M = torch.from_numpy(classes_M).to(self.device)
        self.onehot_MK = F.one_hot(self.labels_M, len(self.train.classes)).float()
        if self.config.recover.init == "noise":
            shape = (len(classes_M), self.train.channels, self.train.size, self.train.size)
            noise = generator(self.config.seed, "noise", self.number).standard_normal(shape, dtype=np.float32)
            images = torch.from_numpy(noise).to(self.device)
        else:
            images = self.train.batch(indices_M, self.device)
        self.images_MCHW = images.requires_grad_()
        one = torch.ones((), device=self.device).expand(1, self.train.channels, 1, 1)
        self.lowest, self.highest = (normalise(v, self.train.mean, self.train.std) for v in (0 * one, one))

    def optimise(self, batches: int) -> Generator[Event, None, None]:
        """All iterations; values leave the device in chunks, as events."""
        settings = self.config.recover
        adam = torch.optim.Adam([self.images_MCHW], lr=settings.lr, betas=settings.betas, fused=True)
        chunk: list[Tensor] = []
        since = time.monotonic()
        for iteration in range(settings.iterations):
            adam.param_groups[0]["lr"] = schedules.cosine_to_zero(settings.lr, iteration, settings.iterations)
            chunk.append(self.step(adam, iteration))
            last = iteration == settings.iterations - 1
            seconds = time.monotonic() - since
            if last or seconds >= CHUNK_SECONDS or len(chunk) == CHUNK_ITERATIONS:
                yield self._progress(torch.stack(chunk), iteration + 1 - len(chunk), batches, since)
                chunk, since = [], time.monotonic()

    def step(self, adam: torch.optim.Optimizer, iteration: int) -> Tensor:
        """One iteration; returns CE and every term at every tap, shape (1 + T·L,), on the device."""
        settings = self.config.recover
        rng = generator(self.config.seed, "recover", self.number, iteration)
        drawn = augment.draw(
            settings.views, self.train.size, len(self.labels_M), rng, shared=settings.shared_view
        )
        features, logits_MK = self.network(augment.apply(drawn, self.images_MCHW))
        terms = self.objective
        synthetic = [
            of_batch(name, x_MDHW, self.onehot_MK, covariance=terms.covariance, labels=terms.labels)
            for name, x_MDHW in zip(self.network.names, features, strict=True)
        ]
        if self.earlier is not None:
            pairs = zip(synthetic, self.earlier, strict=True)
            synthetic = [moving(batch, earlier, self.number) for batch, earlier in pairs]
        values_TL = terms.values(synthetic)
        ce = objective.cross_entropy(logits_MK, self.labels_M)
        adam.zero_grad()
        terms.loss(values_TL, ce).backward()  # type: ignore[no-untyped-call]
        adam.step()
        if settings.clamp:
            with torch.no_grad():
                self.images_MCHW.clamp_(self.lowest, self.highest)
        if iteration == settings.iterations - 1:
            self.statistics = [moments.detach() for moments in synthetic]
        return torch.cat([ce.detach().reshape(1), values_TL.detach().flatten()])

    def _progress(self, chunk: Tensor, first: int, batches: int, since: float) -> RecoverProgress:
        values = chunk.cpu()
        self._check_finite(values, first)
        count, taps = len(values), len(self.network.names)
        return RecoverProgress(
            batch=self.number,
            batches=batches,
            beta=self.objective.beta,
            iterations=list(range(first, first + count)),
            total_iterations=self.config.recover.iterations,
            ce=values[:, 0].tolist(),
            terms=values[:, 1:].reshape(count, -1, taps).tolist(),
            rate=count / max(time.monotonic() - since, 1e-9),
        )

    def _check_finite(self, values: Tensor, first: int) -> None:
        bad = ~values.isfinite()
        if not bool(bad.any()):
            return
        row = int(bad.any(dim=1).nonzero()[0])
        where = f"batch {self.number}, iteration {first + row}"
        if bad[row, 0]:
            raise UserError(
                "numeric",
                f"the cross-entropy became {float(values[row, 0])} at {where}, at the network's output",
                "lower recover.lr; earlier batches are kept",
            )
        bad_TL = bad[row, 1:].reshape(-1, len(self.network.names))
        tap = int(bad_TL.any(dim=0).nonzero()[0])
        layer = f"layer {self.network.names[tap]} at {where}"
        for term, wrong in zip(self.objective.terms, bad_TL[:, tap].tolist(), strict=True):
            if wrong and term.filter != "ridge":
                raise UserError(
                    "numeric",
                    f"the term {term.filter}/{term.signal} of {layer} is not finite",
                    "lower recover.lr; earlier batches are kept",
                )
        if not self.config.recover.clamp:  # unbounded pixels may have run away before any inverse failed
            raise UserError(
                "numeric",
                f"the ridge terms of {layer} are not finite: the images ran away, or Ψ + βI is singular",
                "set recover.clamp=true, lower recover.lr, or raise objective.beta; earlier batches are kept",
            )
        raise objective.singular(layer, self.objective.beta)

    def pixels(self) -> Tensor:
        """The images as they stand, in [0, 1], on the CPU."""
        images = denormalise(self.images_MCHW.detach(), self.train.mean, self.train.std)
        return images.clamp(0, 1).cpu()
