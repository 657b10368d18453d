"""Recovery: optimise batch after batch of images until their filtered statistics match (Algorithm 1).

Legend: M images in a batch, C channels, H, W, K classes, L taps, T terms, N distilled images.
Source: UniDD Algorithm 1, Eq. 18–21, Table 9.
Not here: images that are not optimised, and what only one method does (see `methods`).
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
    """Distil `config.ipc` images per class out of `model` and the real statistics.

    real: moments of each tap in forward order; not read where nothing is optimised. others: further networks
    and their moments; steps take them in turn, and values are told by kind of tap. keep: is given each batch
    as soon as it is finished: on the CPU, images in [0, 1], labels, its number from 1, β, the teacher's
    probability of each image's class. saved: goes on from another call's save point. Yields a layout, chunks
    of values, and an event a batch; returns the moving statistics of all batches, if any. Raises
    UserError("numeric") naming batch, iteration and layer where a number is not finite; nothing of that batch
    is kept.
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
    return (yield from _optimised(config, backbones, train, device, keep, saved))


def _optimised(
    config: Config,
    backbones: Sequence[Backbone],
    train: ImageSet,
    device: torch.device,
    keep: Keep,
    saved: StageState | None,
) -> Generator[Event, None, list[Moments] | None]:
    """`recover` where images are optimised."""
    goal, plan = config.objective, plan_batches(config, len(train.classes))
    networks = [_tapped(config, model, device) for model, _ in backbones]
    reals = [[moments.to(device) for moments in real] for _, real in backbones]
    betas = schedules.betas_of_batches(goal.schedule, goal.beta, config.ipc, len(plan))
    terms = [term.title for term in matching.resolved_terms(goal)]
    at = {"batch": 1, "iteration": 0} if saved is None else saved.metadata
    yield RecoverLayout(networks[0].columns, terms, betas, completed_work(config, at))
    matching.MatchingLoss(goal, reals[0], min(betas))  # a missing inverse is known before hours of work
    starts, moves = (
        initial_indices(config, train),
        gvbsm.build_moving_statistics(config, networks, device, saved),
    )
    earlier = None if saved is None else _earlier(saved, networks[0].names, device)
    pace, spectra = IntervalTimer(config.checkpoint_seconds), Spectra(reals[0])
    for number, where in list(enumerate(plan, start=1))[at["batch"] - 1 :]:
        batch = Batch(config, networks[0], reals[0], train, betas[number - 1], number, earlier)
        images = len(where[1])
        what = f"recovery of batch {number} ({images} images of {train.size} px)"
        with explain_out_of_memory(device, what, _micro_batch_hint(config, images)):
            batch.take_turns(list(zip(networks, reals, strict=True))[1:], moves)
            batch.start(starts[where], where[1], saved, backbones[0][0])
            yield from batch.optimise(len(plan), pace, spectra)
            confidence_M = batch.confidence()
        if config.recover.emu:
            earlier = batch.statistics
        keep(batch.pixels(), batch.labels_M.cpu(), number, batch.objective.beta, confidence_M)
        yield BatchRecovered(number, len(plan), batch.objective.beta, len(where[1]))
        yield _batch_end(batch, earlier, partial(batch.preview, spectra) if number == len(plan) else None)
        saved = None
    return None if earlier is None else [moments.to(torch.device("cpu")) for moments in earlier]


def _micro_batch_hint(config: Config, images: int) -> str:
    """Return the hint for a batch that does not fit into memory."""
    half = min(config.recover.micro_batch or images, images) // 2
    if half == 0:
        return "set recover.precision=bfloat16, or use a device with more memory"
    return f"resume with --set recover.micro_batch={half}; each step stays the same up to rounding"


def _batch_end(
    batch: Batch, earlier: list[Moments] | None, preview: Callable[[], Preview] | None
) -> Checkpoint:
    """Where the next batch has not begun."""
    between = partial(_between, batch.number + 1, earlier, batch.moves)
    return Checkpoint("recover", between, always=True, preview=preview)


def _between(number: int, earlier: list[Moments] | None, moves: gvbsm.MovingStatistics | None) -> StageState:
    """The state before batch `number` is begun."""
    arrays = {} if earlier is None else add_prefix("earlier", pack(earlier))
    if moves is not None:
        arrays |= moves.state_dict()
    return capture_state(arrays, f"the batches before {number}", HINT, batch=number, iteration=0)


def _earlier(saved: StageState, names: Sequence[str], device: torch.device) -> list[Moments] | None:
    """The moving statistics of the batches before."""
    arrays = {name: clone_to(value, device) for name, value in strip_prefix("earlier", saved.tensors).items()}
    return unpack(arrays, names) if arrays else None


def _tapped(config: Config, model: nn.Module, device: torch.device) -> Tapped:
    goal = config.objective
    return Tapped(model, goal.taps, device, config.recover.precision, goal.patch)


class Batch:
    """One batch of images while it is optimised.

    network: the teacher. turns: what steps see the images through in turn, with the objective of each: the
    teacher, or a copy of the batch's own, and other backbones.
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
        self.moves: gvbsm.MovingStatistics | None = None

    def take_turns(
        self, others: Sequence[tuple[Tapped, Sequence[Moments]]], moves: gvbsm.MovingStatistics | None
    ) -> None:
        """See the images through other backbones too, and let the statistics move from step to step."""
        beta, goal = self.objective.beta, self.config.objective
        self.turns += [(network, matching.MatchingLoss(goal, real, beta)) for network, real in others]
        self.moves = moves

    def start(
        self,
        indices_M: np.ndarray,
        classes_M: np.ndarray,
        saved: StageState | None = None,
        model: nn.Module | None = None,
    ) -> None:
        """Place the images: as they begin, or as they were saved. model: the teacher, for one to perturb."""
        settings = self.config.recover
        self.labels_M = torch.from_numpy(classes_M).to(self.device)
        self.onehot_MK = F.one_hot(self.labels_M, len(self.train.classes)).float()
        images = first_images(self.config, self.train, self.number, indices_M, self.device)
        if settings.perturb.steps and model is not None:
            view_MCHW = augmentation.apply(self._draw(0), images.to(self.device))
            climber = dwa.perturb_teacher(
                model, view_MCHW, self.labels_M, settings.perturb, settings.micro_batch
            )
            self.turns[0] = (_tapped(self.config, climber, self.device), self.objective)
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

    def _draw(self, iteration: int) -> augmentation.Draw:
        """The view, or views, through which an iteration sees the images."""
        settings = self.config.recover
        rng = generator(self.config.seed, "recover", self.number, iteration)
        views = views_at_iteration(self.config, iteration)
        return augmentation.draw(views, self.train.size, len(self.labels_M), rng, shared=settings.shared_view)

    def optimise(self, batches: int, pace: IntervalTimer, spectra: Spectra) -> Generator[Event, None, None]:
        """All iterations that are left; values leave the device in chunks, as events, with a save point."""
        settings, group = self.config.recover, self.adam.param_groups[0]
        chunk: list[Tensor] = []
        since, rate = time.monotonic(), Rate()
        while self.iteration < settings.iterations:
            group["lr"] = schedules.cosine_to_zero(settings.lr, self.iteration, settings.iterations)
            due, last = pace.due(), self.iteration == settings.iterations - 1
            chunk.append(self.step(self.adam, self.iteration, keep=due or last))
            self.iteration += 1
            if due or last or len(chunk) == CHUNK_ITERATIONS:
                values = torch.stack(chunk).cpu()
                late = rate.add(len(chunk), time.monotonic() - since)
                yield from self._tell(values, batches, late)
                chunk, since = [], time.monotonic()
            if due and not last:
                yield Checkpoint("recover", self.state, preview=partial(self.preview, spectra))

    def state(self) -> StageState:
        """The state between two iterations. Raises UserError("numeric") where an image is not finite."""
        self._require_images()
        where = f"batch {self.number}, iteration {self.iteration}"
        arrays = {"images": self.images_MCHW, **add_prefix("optimiser", optimiser_tensors(self.adam))}
        if self.earlier is not None:
            arrays |= add_prefix("earlier", pack(self.earlier))
        if self.moves is not None:
            arrays |= self.moves.state_dict()
        return capture_state(arrays, where, HINT, batch=self.number, iteration=self.iteration)

    def preview(self, spectra: Spectra) -> Preview:
        """What the batch looks like now, after an iteration that kept its statistics."""
        x_MCHW = self._shown()[:MOST_IMAGES]
        if x_MCHW.shape[-1] > MOST_PIXELS:
            x_MCHW = F.adaptive_avg_pool2d(x_MCHW, MOST_PIXELS)
        return Preview(
            self.number,
            self.iteration,
            self.objective.beta,
            x_MCHW.mul(255).round().byte().cpu().numpy(),
            self.labels_M[:MOST_IMAGES].cpu().numpy(),
            spectra.beside(self.statistics) if self.config.objective.taps != "bn-conv" else {},
            time.time(),
        )

    def step(self, adam: torch.optim.Optimizer, iteration: int, *, keep: bool = False) -> Tensor:
        """Take one step and return the iteration's numbers, as `loss` does; no step waits for the device."""
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
        """Return the loss of an iteration, and its numbers on the device, shape (1 + T·L + 1 + S·L,).

        They are CE, every term at every tap, and sums of absolute values that tell what was not finite before
        the step: of the images, and of S statistics of every tap. keep: the statistics stay in `statistics`.
        """
        settings = self.config.recover
        turn = ((self.number - 1) * settings.iterations + iteration) % len(self.turns)
        network, terms = self.turns[turn]
        observe = Observer(
            network, self.labels_M, self.onehot_MK, terms.covariance, terms.labels, settings.micro_batch
        )
        kept_L = gvbsm.draw_kept_taps(network, settings.drop, self.config.seed, self.number, iteration)
        view_MCHW = augmentation.apply(self._draw(iteration), self.images_MCHW)
        synthetic, ce = observe(view_MCHW)
        if self.earlier is not None:
            pairs = zip(synthetic, self.earlier, strict=True)
            synthetic = [cumulative_mean(batch, earlier, self.number) for batch, earlier in pairs]
        if self.moves is not None:
            synthetic = self.moves.step(turn, synthetic, kept_L)
        values_TL = terms.values(synthetic)
        loss = terms.loss(gvbsm.mask_dropped_taps(values_TL, kept_L), ce)
        if settings.density.weight:
            apart = gvbsm.density(view_MCHW, self.by_class, settings.density.tau)
            loss = loss + settings.density.weight * apart
        constant = [tap.detach() for tap in synthetic]
        if keep:
            self.statistics = constant
        watched = [self.images_MCHW.detach(), *(x for tap in constant for x in tap.measured().values())]
        sums = torch.stack(torch._foreach_norm(watched, 1))
        return loss, network.metrics_row(ce.detach(), values_TL.detach(), sums)

    def _tell(self, values: Tensor, batches: int, rate: float) -> Generator[Event, None, None]:
        """A chunk's iterations up to the first with a number that is not finite, which is then refused."""
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
            self._explain(bad[good], first + good)
        self._require_images()

    def _explain(self, bad: Tensor, iteration: int) -> NoReturn:
        """Raise UserError("numeric") saying which of an iteration's numbers were not finite."""
        taps = len(self.network.columns)
        split = 1 + len(self.objective.terms) * taps
        bad_TL, bad_LS = bad[1:split].reshape(-1, taps), bad[split + 1 :].reshape(taps, -1)
        where = f"batch {self.number}, iteration {iteration}"
        if bad[split]:
            raise self._bad_images(iteration)
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
        raise self._bad_term(bad_TL, where)

    def _bad_term(self, bad_TL: Tensor, where: str) -> UserError:
        """The report of a term that is not finite though the statistics are."""
        tap = int(bad_TL.any(dim=0).nonzero()[0])
        layer = f"layer {self.network.columns[tap]} at {where}"
        bad = [t for t, wrong in zip(self.objective.terms, bad_TL[:, tap].tolist(), strict=True) if wrong]
        for term in bad:
            if term.filter is not None and term.filter != "ridge":
                return UserError("numeric", f"the term {term.title} of {layer} is not finite", HINT)
        if not self.config.recover.clamp:  # unbounded pixels may have run away before any filter failed
            which, why = f"the {bad[0].label} terms", "a filter has no value there"
            if bad[0].filter == "ridge":
                why = "Ψ + βI is singular"
            return UserError(
                "numeric",
                f"{which} of {layer} are not finite: the images ran away, or {why}",
                f"set recover.clamp=true, lower recover.lr, or raise objective.beta; {KEPT}",
            )
        return matching.non_finite_error(bad[0], layer, self.objective.beta)

    def _require_images(self) -> None:
        if not bool(self.images_MCHW.isfinite().all()):
            raise self._bad_images(self.iteration)

    def _bad_images(self, iteration: int) -> UserError:
        """The report of images that are not finite before this iteration."""
        when = f"after batch {self.number}, iteration {iteration - 1}"
        if iteration == 0:
            when = f"before batch {self.number}, iteration 0"
        return UserError("numeric", f"the images are not finite {when}", HINT)

    def pixels(self) -> Tensor:
        """The images as they stand, in [0, 1], on the CPU."""
        return self._shown().cpu()

    @torch.no_grad()
    def confidence(self) -> Tensor:
        """The teacher's probability of each image's own class, shape (M,), on the CPU; no view is drawn."""
        shown_MCHW = normalise(self._shown(), self.train.mean, self.train.std)
        parts = torch.split(shown_MCHW, self.config.recover.micro_batch or len(shown_MCHW))
        logits_MK = torch.cat([self.network(part_MCHW)[1] for part_MCHW in parts])
        found_M1 = logits_MK.float().softmax(dim=1).gather(1, self.labels_M.unsqueeze(1))
        return found_M1.squeeze(1).cpu()

    def _shown(self) -> Tensor:
        """The images as they stand, in [0, 1], on their device."""
        return denormalise(self.images_MCHW.detach(), self.train.mean, self.train.std).clamp(0, 1)
