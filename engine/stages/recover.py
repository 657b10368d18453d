"""Recovery: optimise images, batch by batch, to match the filtered real statistics (Algorithm 1).

Legend: M images in a batch, C channels, H, W, K classes, L taps, T terms, N distilled images.
Source: UniDD Algorithm 1, Eq. 18–21, Table 9.
Not here: images that are not optimised, and steps that only one method takes (see `methods`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import NoReturn

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.checkpoint import (
    Checkpoint,
    IntervalTimer,
    Rate,
    StageState,
    add_prefix,
    capture_state,
    clone_to,
    optimiser_tensors,
    restore_optimiser,
    strip_prefix,
)
from engine.config import Config
from engine.data import ImageSet, augmentation, denormalise, normalise
from engine.device import conv_precision, explain_out_of_memory
from engine.errors import UserError
from engine.events import BatchRecovered, Event, RecoverLayout, RecoverProgress
from engine.methods import dwa, gvbsm, random_images, rded
from engine.rng import generator
from engine.spectral import matching, schedules
from engine.spectral.matching import Spectra
from engine.spectral.microbatch import Observer
from engine.spectral.moments import Moments, cumulative_mean, pack, unpack
from engine.spectral.recovery_batches import (
    completed_work,
    control_set,
    first_images,
    initial_indices,
    plan_batches,
    views_at_iteration,
)
from engine.spectral.taps import Tapped
from engine.store.preview import MOST_IMAGES, MOST_PIXELS, Preview

CHUNK_ITERATIONS = 200
KEPT = "earlier batches are kept"
HINT = f"lower recover.lr; {KEPT}"

Keep = Callable[[Tensor, Tensor, int, float, Tensor], None]
Backbone = tuple[nn.Module, Sequence[Moments]]


def recover(
    config: Config,
    model: nn.Module,
    real: Sequence[Moments],
    train: ImageSet,
    device: torch.device,
    keep: Keep,
    saved: StageState | None = None,
    others: Sequence[Backbone] = (),
) -> Generator[Event, None, list[Moments] | None]:
    """Distil `config.ipc` images per class from `model` and the real statistics.

    real: moments of each tap in forward order; ignored where nothing is optimised. others: further networks
    and their moments; steps alternate between all networks, and values are reported by kind of tap. keep:
    called with each finished batch: images in [0, 1], labels, the batch's number from 1, β, and the teacher's
    probability of each image's class; tensors are on the CPU. saved: resume from this state. Yields a layout,
    chunks of values, and an event per batch; returns the moving statistics of all batches, if any. Raises
    UserError("numeric") naming batch, iteration and layer where a number is not finite; that batch is then
    not passed to `keep`.
    """
    if config.recover.algorithm == "select":
        yield from rded.select(config, model, train, device, keep, saved)
        return None
    if config.recover.algorithm == "none":
        yield from random_images.copy_real_images(
            config, control_set(config, train), model, device, keep, saved
        )
        return None
    backbones = [(model, real), *others]
    return (yield from _optimise_batches(config, backbones, train, device, keep, saved))


def _optimise_batches(
    config: Config,
    backbones: Sequence[Backbone],
    train: ImageSet,
    device: torch.device,
    keep: Keep,
    saved: StageState | None,
) -> Generator[Event, None, list[Moments] | None]:
    """Run `recover` for methods that optimise images."""
    objective, plan = config.objective, plan_batches(config, len(train.classes))
    networks = [_build_tapped_network(config, model, device) for model, _ in backbones]
    reals = [[moments.to(device) for moments in real] for _, real in backbones]
    betas = schedules.betas_of_batches(objective.schedule, objective.beta, config.ipc, len(plan))
    terms = [term.title for term in matching.resolved_terms(objective)]
    position = {"batch": 1, "iteration": 0} if saved is None else saved.metadata
    yield RecoverLayout(networks[0].columns, terms, betas, completed_work(config, position))
    matching.MatchingLoss(objective, reals[0], min(betas))  # so that a singular Ψ + βI fails at once
    starts = initial_indices(config, train)
    moving_statistics = gvbsm.build_moving_statistics(config, networks, device, saved)
    earlier = None if saved is None else _restore_earlier(saved, networks[0].names, device)
    timer, spectra = IntervalTimer(config.checkpoint_seconds), Spectra(reals[0])
    for number, (rounds_M, classes_M) in list(enumerate(plan, start=1))[position["batch"] - 1 :]:
        batch = Batch(config, networks[0], reals[0], train, betas[number - 1], number, earlier)
        images = len(classes_M)
        what = f"recovery of batch {number} ({images} images of {train.size} px)"
        with explain_out_of_memory(device, what, _micro_batch_hint(config, images)):
            batch.add_backbones(list(zip(networks, reals, strict=True))[1:], moving_statistics)
            batch.start(starts[rounds_M, classes_M], classes_M, saved, backbones[0][0])
            yield from batch.optimise(len(plan), timer, spectra)
            confidence_M = batch.compute_confidence()
        if config.recover.emu:
            earlier = batch.statistics
        keep(batch.pixels(), batch.labels_M.cpu(), number, batch.objective.beta, confidence_M)
        yield BatchRecovered(number, len(plan), batch.objective.beta, images)
        capture = partial(_capture_before_batch, number + 1, earlier, moving_statistics)
        preview = partial(batch.preview, spectra) if number == len(plan) else None
        yield Checkpoint("recover", capture, always=True, preview=preview)
        saved = None
    return None if earlier is None else [moments.to(torch.device("cpu")) for moments in earlier]


def _micro_batch_hint(config: Config, images: int) -> str:
    """Return the hint of the error for a batch that does not fit into memory."""
    half = min(config.recover.micro_batch or images, images) // 2
    if half == 0:
        return "set recover.precision=bfloat16, or use a device with more memory"
    return f"resume with --set recover.micro_batch={half}; each step stays the same up to rounding"


def _capture_before_batch(
    number: int, earlier: list[Moments] | None, moving_statistics: gvbsm.MovingStatistics | None
) -> StageState:
    """Return the state before the first step of batch `number`."""
    tensors = {} if earlier is None else add_prefix("earlier", pack(earlier))
    if moving_statistics is not None:
        tensors |= moving_statistics.state_dict()
    return capture_state(tensors, f"the batches before {number}", HINT, batch=number, iteration=0)


def _restore_earlier(saved: StageState, names: Sequence[str], device: torch.device) -> list[Moments] | None:
    """Return the moving statistics of the earlier batches, or None where the state has none."""
    tensors = {
        name: clone_to(value, device) for name, value in strip_prefix("earlier", saved.tensors).items()
    }
    return unpack(tensors, names) if tensors else None


def _build_tapped_network(config: Config, model: nn.Module, device: torch.device) -> Tapped:
    objective = config.objective
    return Tapped(model, objective.taps, device, config.recover.precision, objective.patch)


class Batch:
    """One batch of images during its optimisation.

    network: the teacher. earlier: moving statistics of the batches before. turns: the networks between which
    steps alternate, with the objective of each: the teacher, or a copy perturbed for this batch, and other
    backbones.
    """

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
        self.iteration = 0
        self.device = real[0].mean_D.device
        self.objective = matching.MatchingLoss(config.objective, real, beta)
        self.turns = [(network, self.objective)]
        self.moving_statistics: gvbsm.MovingStatistics | None = None

    def add_backbones(
        self,
        others: Sequence[tuple[Tapped, Sequence[Moments]]],
        moving_statistics: gvbsm.MovingStatistics | None,
    ) -> None:
        """Alternate steps with other backbones, and average statistics over steps if given."""
        beta, objective = self.objective.beta, self.config.objective
        self.turns += [(network, matching.MatchingLoss(objective, real, beta)) for network, real in others]
        self.moving_statistics = moving_statistics

    def start(
        self,
        indices_M: np.ndarray,
        classes_M: np.ndarray,
        saved: StageState | None = None,
        model: nn.Module | None = None,
    ) -> None:
        """Initialise the images and their optimiser, or restore both from a state.

        model: the teacher, which is copied where the settings ask for a perturbed one.
        """
        settings = self.config.recover
        self.labels_M = torch.from_numpy(classes_M).to(self.device)
        self.onehot_MK = F.one_hot(self.labels_M, len(self.train.classes)).float()
        images = first_images(self.config, self.train, self.number, indices_M, self.device)
        if settings.perturb.steps and model is not None:
            view_MCHW = augmentation.apply(self._draw_views(0), images.to(self.device))
            perturbed = dwa.perturb_teacher(
                model, view_MCHW, self.labels_M, settings.perturb, settings.micro_batch
            )
            self.turns[0] = (_build_tapped_network(self.config, perturbed, self.device), self.objective)
        self.by_class = gvbsm.group_by_class(classes_M, self.device)
        if saved is not None and saved.metadata["iteration"]:
            self.iteration = int(saved.metadata["iteration"])
            images = saved.tensors["images"]
        self.images_MCHW = clone_to(images, self.device).requires_grad_()
        self.adam = torch.optim.Adam([self.images_MCHW], lr=settings.lr, betas=settings.betas, fused=True)
        if saved is not None:
            restore_optimiser(self.adam, strip_prefix("optimiser", saved.tensors))
        one = torch.ones((), device=self.device).expand(1, self.train.channels, 1, 1)
        self.lowest, self.highest = (normalise(v, self.train.mean, self.train.std) for v in (0 * one, one))

    def _draw_views(self, iteration: int) -> augmentation.Draw:
        """Draw the view, or one view per image, of an iteration."""
        settings = self.config.recover
        rng = generator(self.config.seed, "recover", self.number, iteration)
        views = views_at_iteration(self.config, iteration)
        return augmentation.draw(views, self.train.size, len(self.labels_M), rng, shared=settings.shared_view)

    def optimise(self, batches: int, timer: IntervalTimer, spectra: Spectra) -> Generator[Event, None, None]:
        """Run the remaining iterations; yield their values in chunks, and checkpoints."""
        settings, group = self.config.recover, self.adam.param_groups[0]
        chunk: list[Tensor] = []
        started, rate = time.monotonic(), Rate()
        while self.iteration < settings.iterations:
            group["lr"] = schedules.cosine_to_zero(settings.lr, self.iteration, settings.iterations)
            due, last = timer.due(), self.iteration == settings.iterations - 1
            chunk.append(self.step(self.adam, self.iteration, keep=due or last))
            self.iteration += 1
            if due or last or len(chunk) == CHUNK_ITERATIONS:
                values = torch.stack(chunk).cpu()
                recent_rate = rate.add(len(chunk), time.monotonic() - started)
                yield from self._report(values, batches, recent_rate)
                chunk, started = [], time.monotonic()
            if due and not last:
                yield Checkpoint("recover", self.capture, preview=partial(self.preview, spectra))

    def capture(self) -> StageState:
        """Return the state between two iterations. Raises UserError("numeric") where it is not finite."""
        self._require_finite_images()
        where = f"batch {self.number}, iteration {self.iteration}"
        tensors = {"images": self.images_MCHW, **add_prefix("optimiser", optimiser_tensors(self.adam))}
        if self.earlier is not None:
            tensors |= add_prefix("earlier", pack(self.earlier))
        if self.moving_statistics is not None:
            tensors |= self.moving_statistics.state_dict()
        return capture_state(tensors, where, HINT, batch=self.number, iteration=self.iteration)

    def preview(self, spectra: Spectra) -> Preview:
        """Return a preview of the batch; the last iteration must have kept its statistics."""
        x_MCHW = self._denormalise_images()[:MOST_IMAGES]
        if x_MCHW.shape[-1] > MOST_PIXELS:
            x_MCHW = F.adaptive_avg_pool2d(x_MCHW, MOST_PIXELS)
        return Preview(
            self.number,
            self.iteration,
            self.objective.beta,
            x_MCHW.mul(255).round().byte().cpu().numpy(),
            self.labels_M[:MOST_IMAGES].cpu().numpy(),
            spectra.pair_with(self.statistics) if self.config.objective.taps != "bn-conv" else {},
            time.time(),
        )

    def step(self, adam: torch.optim.Optimizer, iteration: int, *, keep: bool = False) -> Tensor:
        """Take one step and return the metrics row of `loss`, without synchronising with the device."""
        with conv_precision(self.config.recover.precision):
            loss, metrics_row = self.loss(iteration, keep=keep)
            adam.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
        if self.config.recover.clamp:
            with torch.no_grad():
                self.images_MCHW.clamp_(self.lowest, self.highest)
        return metrics_row

    def loss(self, iteration: int, *, keep: bool = False) -> tuple[Tensor, Tensor]:
        """Return the loss of an iteration, and its metrics row on the device, shape (1 + T·L + 1 + S·L,).

        The row has CE, every term at every tap, and sums of absolute values that reveal what was not finite
        before the step: of the images, and of S statistics of every tap. keep: store the statistics in
        `statistics`.
        """
        settings = self.config.recover
        turn = ((self.number - 1) * settings.iterations + iteration) % len(self.turns)
        network, terms = self.turns[turn]
        observe = Observer(
            network,
            self.labels_M,
            self.onehot_MK,
            terms.needs_covariance,
            terms.needs_labels,
            settings.micro_batch,
        )
        kept_L = gvbsm.draw_kept_taps(network, settings.drop, self.config.seed, self.number, iteration)
        view_MCHW = augmentation.apply(self._draw_views(iteration), self.images_MCHW)
        synthetic, ce = observe(view_MCHW)
        if self.earlier is not None:
            pairs = zip(synthetic, self.earlier, strict=True)
            synthetic = [cumulative_mean(batch, earlier, self.number) for batch, earlier in pairs]
        if self.moving_statistics is not None:
            synthetic = self.moving_statistics.step(turn, synthetic, kept_L)
        values_TL = terms.values(synthetic)
        loss = terms.loss(gvbsm.mask_dropped_taps(values_TL, kept_L), ce)
        if settings.density.weight:
            density = gvbsm.density_loss(view_MCHW, self.by_class, settings.density.tau)
            loss = loss + settings.density.weight * density
        constant = [tap.detach() for tap in synthetic]
        if keep:
            self.statistics = constant
        watched = [
            self.images_MCHW.detach(),
            *(x for tap in constant for x in tap.independent_tensors().values()),
        ]
        sums = torch.stack(torch._foreach_norm(watched, 1))
        return loss, network.metrics_row(ce.detach(), values_TL.detach(), sums)

    def _report(self, values: Tensor, batches: int, rate: float) -> Generator[Event, None, None]:
        """Yield a chunk's iterations; raise UserError("numeric") at the first that is not finite."""
        bad = ~values.isfinite()
        count, taps = len(values), len(self.network.columns)
        first, terms = self.iteration - count, len(self.objective.terms) * taps
        good = int(bad.any(dim=1).nonzero()[0]) if bool(bad.any()) else count
        if good:
            yield RecoverProgress(
                batch=self.number,
                batches=batches,
                beta=self.objective.beta,
                iterations=list(range(first, first + good)),
                total_iterations=self.config.recover.iterations,
                ce=values[:good, 0].tolist(),
                terms=values[:good, 1 : 1 + terms].reshape(good, -1, taps).tolist(),
                rate=rate,
            )
        if good < count:
            self._raise_non_finite(bad[good], first + good)
        self._require_finite_images()

    def _raise_non_finite(self, bad: Tensor, iteration: int) -> NoReturn:
        """Raise UserError("numeric") naming what was not finite among an iteration's values."""
        taps = len(self.network.columns)
        split = 1 + len(self.objective.terms) * taps
        bad_TL, bad_LS = bad[1:split].reshape(-1, taps), bad[split + 1 :].reshape(taps, -1)
        where = f"batch {self.number}, iteration {iteration}"
        if bad[split]:
            raise self._non_finite_images_error(iteration)
        if bool(bad_LS.any()):
            layer = self.network.columns[int(bad_LS.any(dim=1).nonzero()[0])]
            raise UserError(
                "numeric",
                f"the statistics of layer {layer} at {where} are not finite",
                HINT if self.config.recover.clamp else f"set recover.clamp=true, or {HINT}",
            )
        if bad[0]:
            raise UserError(
                "numeric", f"the cross-entropy is not finite at {where}, at the network's output", HINT
            )
        raise self._non_finite_term_error(bad_TL, where)

    def _non_finite_term_error(self, bad_TL: Tensor, where: str) -> UserError:
        """Return the error for a term that is not finite although the statistics are."""
        tap = int(bad_TL.any(dim=0).nonzero()[0])
        layer = f"layer {self.network.columns[tap]} at {where}"
        bad = [t for t, wrong in zip(self.objective.terms, bad_TL[:, tap].tolist(), strict=True) if wrong]
        for term in bad:
            if term.filter is not None and term.filter != "ridge":
                return UserError("numeric", f"the term {term.title} of {layer} is not finite", HINT)
        if not self.config.recover.clamp:  # unbounded pixels may have diverged before any filter failed
            cause = "Ψ + βI is singular" if bad[0].filter == "ridge" else "a filter has no value there"
            return UserError(
                "numeric",
                f"the {bad[0].label} terms of {layer} are not finite: the images diverged, or {cause}",
                f"set recover.clamp=true, lower recover.lr, or raise objective.beta; {KEPT}",
            )
        return matching.non_finite_error(bad[0], layer, self.objective.beta)

    def _require_finite_images(self) -> None:
        if not bool(self.images_MCHW.isfinite().all()):
            raise self._non_finite_images_error(self.iteration)

    def _non_finite_images_error(self, iteration: int) -> UserError:
        """Return the error for images that are not finite before this iteration."""
        when = f"after batch {self.number}, iteration {iteration - 1}"
        if iteration == 0:
            when = f"before batch {self.number}, iteration 0"
        return UserError("numeric", f"the images are not finite {when}", HINT)

    def pixels(self) -> Tensor:
        """Return the current images, in [0, 1], on the CPU."""
        return self._denormalise_images().cpu()

    @torch.no_grad()
    def compute_confidence(self) -> Tensor:
        """Return the teacher's probability of each image's class, without views, shape (M,), on the CPU."""
        x_MCHW = normalise(self._denormalise_images(), self.train.mean, self.train.std)
        parts = torch.split(x_MCHW, self.config.recover.micro_batch or len(x_MCHW))
        logits_MK = torch.cat([self.network(part_MCHW)[1] for part_MCHW in parts])
        confidence_M1 = logits_MK.float().softmax(dim=1).gather(1, self.labels_M.unsqueeze(1))
        return confidence_M1.squeeze(1).cpu()

    def _denormalise_images(self) -> Tensor:
        """Return the current images, in [0, 1], on their device."""
        return denormalise(self.images_MCHW.detach(), self.train.mean, self.train.std).clamp(0, 1)
