"""Recovery: optimise images, batch by batch, to match the filtered real statistics (Algorithm 1).

Legend: M images in a batch, C channels, H, W, K classes, L taps, T terms, N distilled images.
Source: UniDD Algorithm 1, Eq. 18–21, Table 9.
Not here: images that are not optimised, and steps that only one method takes (see `methods`).
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass
from functools import partial
from typing import Any, NoReturn

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.backbones.labeller import Labeller
from engine.checkpoint import (
    Checkpoint,
    IntervalTimer,
    Rate,
    StageState,
    add_prefix,
    capture_state,
    clone_to,
    is_checkpoint_requested,
    optimiser_tensors,
    restore_optimiser,
    strip_prefix,
    work_clock,
)
from engine.config import Config
from engine.data import ImageSet, augmentation, denormalise, normalise
from engine.device import conv_precision, explain_out_of_memory
from engine.errors import UserError
from engine.events import BatchRecovered, Event, Notice, RecoveredImages, RecoverLayout, RecoverProgress
from engine.methods import build_extensions, random_images, rded
from engine.methods.extension import Extension, Step
from engine.rng import generator
from engine.spectral import matching, schedules
from engine.spectral.forms import choose_low_rank, invert_constants, supports_low_rank
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
from engine.spectral.step_parts import time_part
from engine.spectral.taps import Tapped
from engine.stages.batch_previews import BatchPreviews
from engine.store import preview_history
from engine.store.preview import Preview

CHUNK_ITERATIONS = 200
KEPT = "earlier batches are kept"
HINT = f"lower recover.lr; {KEPT}"

Backbone = tuple[nn.Module, Sequence[Moments]]
TappedBackbone = tuple[Tapped, Sequence[Moments]]


def recover(
    config: Config,
    model: nn.Module,
    real: Sequence[Moments],
    train: ImageSet,
    device: torch.device,
    saved: StageState | None = None,
    others: Sequence[Backbone] = (),
    low_rank: frozenset[str] | None = None,
) -> Generator[Event, None, list[Moments] | None]:
    """Distil `config.ipc` images per class from `model` and the real statistics.

    real: moments of each tap in forward order; ignored where nothing is optimised. others: further networks
    and their moments; steps alternate between all networks, and values are reported by kind of tap. saved:
    resume from this state. low_rank: the taps whose synthetic Ψ is left in low-rank form; None: those of the
    saved state, or those that `choose_low_rank` chooses. Yields a layout, chunks of values, and an event with
    the images of each finished batch; returns the moving statistics of all batches, if any. Raises
    UserError("numeric") naming batch, iteration and layer where a number is not finite; that batch is then
    not yielded.
    """
    if config.recover.algorithm == "select":
        yield from rded.select(config, model, train, device, saved)
        return None
    if config.recover.algorithm == "none":
        yield from random_images.copy_real_images(config, control_set(config, train), model, device, saved)
        return None
    return (yield from _optimise_batches(config, [(model, real), *others], train, device, saved, low_rank))


def spectrum_sizes(config: Config, real: Sequence[Moments]) -> dict[str, int]:
    """Return the number of eigenvalues of Ψ at each tap of which previews have a spectrum."""
    if config.objective.taps == "bn-conv":  # they belong to several networks
        return {}
    return {tap.name: len(tap.mean_D) for tap in real if tap.cov_DD is not None}


def _optimise_batches(
    config: Config,
    backbones: Sequence[Backbone],
    train: ImageSet,
    device: torch.device,
    saved: StageState | None,
    low_rank: frozenset[str] | None,
) -> Generator[Event, None, list[Moments] | None]:
    """Run `recover` for methods that optimise images."""
    objective, plan = config.objective, plan_batches(config, len(train.classes))
    networks = [
        (_build_tapped_network(config, model, device), [moments.to(device) for moments in real])
        for model, real in backbones
    ]
    network, real = networks[0]
    betas = schedules.betas_of_batches(objective.schedule, objective.beta, config.ipc, len(plan))
    terms = [term.title for term in objective.resolve_terms()]
    position = {"batch": 1, "iteration": 0} if saved is None else saved.metadata
    yield RecoverLayout(network.columns, terms, betas, completed_work(config, position))
    matching.MatchingLoss(objective, real, min(betas))  # so that a singular Ψ + βI fails at once
    starts = initial_indices(config, train)
    images = max(len(labels_M) for _, labels_M in plan)
    if low_rank is None and saved is not None:
        low_rank = frozenset(saved.metadata.get("low_rank", ()))
    if low_rank is None:
        what = f"recovery of batch 1 ({images} images of {train.size} px)"
        with explain_out_of_memory(device, what, _micro_batch_hint(config, images)):
            low_rank = choose_low_rank(config, network, train.batch(starts[0, :1], device), images)
    if not supports_low_rank(config, images):  # as in a run that is resumed with micro-batches
        low_rank = frozenset()
    extensions = build_extensions(config, backbones[0][0], [each for each, _ in networks], device, saved)
    earlier = None if saved is None else _restore_earlier(saved, network.names, device)
    timer = IntervalTimer(config.checkpoint_seconds)
    sizes = spectrum_sizes(config, real)
    spectra = Spectra([tap for tap in real if tap.name in sizes])
    clipped = Clipped(*saved.metadata.get("clipped", ())) if saved is not None else Clipped()
    for number, (rounds_M, labels_M) in list(enumerate(plan, start=1))[position["batch"] - 1 :]:
        images, indices_M, beta = len(labels_M), starts[rounds_M, labels_M], betas[number - 1]
        what = f"recovery of batch {number} ({images} images of {train.size} px)"
        begin = partial(_capture_before_batch, number, earlier, extensions, clipped, low_rank)
        with explain_out_of_memory(device, what, _micro_batch_hint(config, images)):
            tiles_MCHW = None
            resumes = saved is not None and saved.metadata["iteration"]
            if config.recover.init == "tiles" and (extensions or not resumes):
                labeller = Labeller(backbones[0][0], device, config.recover.precision)
                checkpoint = Checkpoint("recover", begin)
                tiles_MCHW = yield from _tile_images(
                    config, labeller, train, rounds_M, labels_M, timer, checkpoint
                )
            batch = RecoveryBatch(
                config,
                networks,
                train,
                number,
                beta,
                indices_M,
                labels_M,
                earlier,
                extensions,
                saved,
                tiles_MCHW,
                clipped,
                low_rank,
            )
            yield from batch.optimise(len(plan), timer, spectra)
            recovered, clipped = batch.finish()
        for extension in extensions:
            extension.finish()
        if config.recover.emu:
            earlier = batch.statistics
        yield BatchRecovered(number, len(plan), beta, images, recovered)
        capture = partial(_capture_before_batch, number + 1, earlier, extensions, clipped, low_rank)
        preview = partial(batch.preview, spectra) if number == len(plan) else None
        yield Checkpoint("recover", capture, always=True, preview=preview)
        saved = None
    if clipped.outside:
        yield Notice("info", str(clipped))
    return None if earlier is None else [moments.to(torch.device("cpu")) for moments in earlier]


def _tile_images(
    config: Config,
    labeller: Labeller,
    train: ImageSet,
    rounds_M: np.ndarray,
    labels_M: np.ndarray,
    timer: IntervalTimer,
    checkpoint: Checkpoint,
) -> Generator[Event, None, Tensor]:
    """Return the tiles of real crops from which the images of a batch start, normalised, (M, C, H, W).

    Yields `checkpoint`, the state before the batch, whenever `timer` is due.
    """
    by_class: dict[int, Tensor] = {}
    for label in dict.fromkeys(labels_M.tolist()):
        by_class[label] = yield from rded.select_images(config, labeller, train, label, timer, checkpoint)
        if timer.due():
            yield checkpoint
    return torch.stack([by_class[label][b] for b, label in zip(rounds_M, labels_M.tolist(), strict=True)])


@dataclass(frozen=True)
class Clipped:
    """How far pixels lay outside [0, 1] when they were clipped, after batches without `clamp`.

    outside: number of values outside. squares: sum of their squared distances. values: number of all values.
    """

    outside: int = 0
    squares: float = 0.0
    values: int = 0

    def add(self, pixels_MCHW: Tensor) -> Clipped:
        """Return the sum with the unclipped pixels of a batch."""
        gap_MCHW = pixels_MCHW - pixels_MCHW.clamp(0, 1)
        outside = self.outside + int(gap_MCHW.count_nonzero())
        squares = self.squares + float(gap_MCHW.double().square().sum())
        return Clipped(outside, squares, self.values + gap_MCHW.numel())

    def __str__(self) -> str:
        share, rmse = self.outside / self.values, 255 * (self.squares / self.values) ** 0.5
        return (
            f"{100 * share:.2g} % of the images' values lay outside the range of pixels and were clipped"
            f" ({rmse:.2g} of 255 levels RMSE over all values)"
        )


def _micro_batch_hint(config: Config, images: int) -> str:
    """Return the hint of the error for a batch that does not fit into memory."""
    half = min(config.recover.micro_batch or images, images) // 2
    if half == 0:
        return "set recover.precision=bfloat16, or use a device with more memory"
    return f"resume with --set recover.micro_batch={half}; each step stays the same up to rounding"


def _capture_before_batch(
    number: int,
    earlier: list[Moments] | None,
    extensions: Sequence[Extension],
    clipped: Clipped,
    low_rank: frozenset[str],
) -> StageState:
    """Return the state before the first step of batch `number`."""
    tensors, where = _shared_tensors(earlier, extensions), f"the batches before {number}"
    return capture_state(tensors, where, HINT, **_build_metadata(number, 0, clipped, low_rank))


def _build_metadata(
    number: int, iteration: int, clipped: Clipped, low_rank: frozenset[str]
) -> dict[str, Any]:
    """Return the metadata of a state. A state without `low_rank` has dense forms only."""
    return {
        "batch": number,
        "iteration": iteration,
        "clipped": astuple(clipped),
        "low_rank": sorted(low_rank),
    }


def _shared_tensors(earlier: list[Moments] | None, extensions: Sequence[Extension]) -> dict[str, Tensor]:
    """Return the part of a state that batches share."""
    tensors = {} if earlier is None else add_prefix("earlier", pack(earlier))
    for extension in extensions:
        tensors |= extension.state_dict()
    return tensors


def _restore_earlier(saved: StageState, names: Sequence[str], device: torch.device) -> list[Moments] | None:
    """Return the moving statistics of the earlier batches, or None where the state has none."""
    tensors = {
        name: clone_to(value, device) for name, value in strip_prefix("earlier", saved.tensors).items()
    }
    return unpack(tensors, names) if tensors else None


def _shrink(x_MCHW: Tensor, most_pixels: int) -> Tensor:
    """Return images in [0, 1] as bytes on their device, at most `most_pixels` a side."""
    if x_MCHW.shape[-1] > most_pixels:
        x_MCHW = F.adaptive_avg_pool2d(x_MCHW, most_pixels)
    return x_MCHW.mul(255).round().byte()


def _build_tapped_network(config: Config, model: nn.Module, device: torch.device) -> Tapped:
    objective = config.objective
    return Tapped(model, objective.taps, device, config.recover.precision, objective.patch)


class RecoveryBatch:
    """One batch of images during its optimisation.

    networks: the teacher, and other networks between which steps alternate, with their real moments.
    indices_M, labels_M: the real images to start from, and the class of each. earlier: moving statistics of
    the batches before. saved: restore the images and their optimiser from this state. tiles_MCHW: images to
    start from in place of the real ones, normalised. clipped: of the batches before. low_rank: the taps whose
    synthetic Ψ is left in low-rank form; None: those that `choose_low_rank` chooses. unformed: those of
    them whose Ψ_s is not formed at this β. statistics: of the last step that was asked to keep them. scale:
    with `objective.balance`, the factor on the terms; None before the first iteration.
    """

    def __init__(
        self,
        config: Config,
        networks: Sequence[TappedBackbone],
        train: ImageSet,
        number: int,
        beta: float,
        indices_M: np.ndarray,
        labels_M: np.ndarray,
        earlier: list[Moments] | None = None,
        extensions: Sequence[Extension] = (),
        saved: StageState | None = None,
        tiles_MCHW: Tensor | None = None,
        clipped: Clipped | None = None,
        low_rank: frozenset[str] | None = None,
    ) -> None:
        settings, device = config.recover, networks[0][1][0].mean_D.device
        self.config = config
        self.train = train
        self.number = number
        self.earlier = earlier
        self.clipped = clipped or Clipped()
        self.extensions = extensions
        self.statistics: list[Moments] = []
        self._real_MCHW: np.ndarray | None = None  # those of previews, once they are read
        self.iteration = 0
        self.scale: Tensor | None = None
        self.labels_M = torch.from_numpy(labels_M).to(device)
        self.onehot_MK = F.one_hot(self.labels_M, len(train.classes)).float()
        self.network = networks[0][0]
        if low_rank is None:
            real_1CHW = train.batch(indices_M[:1], device)
            low_rank = choose_low_rank(config, self.network, real_1CHW, len(labels_M))
        self.low_rank = low_rank
        constants = invert_constants(low_rank, networks[0][1], earlier, number, beta)
        self.unformed = frozenset(constants)
        self.turns = [
            (network, matching.MatchingLoss(config.objective, real, beta, constants))
            for network, real in networks
        ]
        self.objective = self.turns[0][1]
        images = tiles_MCHW
        if images is None:
            images = first_images(config, train, number, indices_M, device)
        if extensions:
            view_MCHW = augmentation.apply(self._draw_views(0), images.to(device))
        round_size = schedules.batches_per_round(len(train.classes), settings.classes_per_batch)
        starts_round = settings.group == "class" or (number - 1) % round_size == 0
        for extension in extensions:
            model = extension.prepare(view_MCHW, self.labels_M, starts_round=starts_round)
            if model is not None:
                self.turns[0] = (_build_tapped_network(config, model, device), self.objective)
        if saved is not None and saved.metadata["iteration"]:
            self.iteration = int(saved.metadata["iteration"])
            images = saved.tensors["images"]
            if "scale" in saved.tensors:
                self.scale = clone_to(saved.tensors["scale"], device)
        self.images_MCHW = clone_to(images, device).requires_grad_()
        self.adam = torch.optim.Adam([self.images_MCHW], lr=settings.lr, betas=settings.betas, fused=True)
        if saved is not None:
            restore_optimiser(self.adam, strip_prefix("optimiser", saved.tensors))
        one = torch.ones((), device=device).expand(1, train.channels, 1, 1)
        self.lowest, self.highest = (normalise(v, train.mean, train.std) for v in (0 * one, one))

    def _draw_views(self, iteration: int) -> augmentation.Draw:
        """Draw the view, or one view per image, of an iteration."""
        settings = self.config.recover
        rng = generator(self.config.seed, "recover", self.number, iteration)
        views = views_at_iteration(self.config, iteration)
        return augmentation.draw(views, self.train.size, len(self.labels_M), rng, shared=settings.shared_view)

    def optimise(self, batches: int, timer: IntervalTimer, spectra: Spectra) -> Generator[Event, None, None]:
        """Run the remaining iterations; yield their values in chunks, previews, and checkpoints."""
        settings = self.config.recover
        number, beta, labels_M = self.number, self.objective.beta, self.labels_M
        shrink = partial(self._shrink_images, preview_history.MOST_IMAGES, preview_history.MOST_PIXELS)
        history = BatchPreviews(number, batches, settings.iterations, beta, labels_M, shrink, spectra)
        if self.iteration and is_checkpoint_requested():  # it was paused when another process took over
            yield Checkpoint("recover", self.capture)
        chunk: list[Tensor] = []
        started, rate = work_clock(), Rate()
        while self.iteration < settings.iterations:
            due, last = timer.due(), self.iteration == settings.iterations - 1
            check = self.objective.uses_alpha and (self.iteration == 0 or last)
            has_spectra = history.begin_step(self.iteration)
            chunk.append(self.step(keep=due or last or check or has_spectra))
            history.end_step(self.iteration, self.statistics)
            if check and (divergence := self.objective.find_divergence(self.statistics)) is not None:
                yield self._divergence_notice(*divergence)
            is_requested = is_checkpoint_requested()
            if due or last or is_requested or len(chunk) == CHUNK_ITERATIONS:
                values = torch.stack(chunk).cpu()
                recent_rate = rate.add(len(chunk), work_clock() - started)
                yield from self._report(values, batches, recent_rate)
                yield from history.drain()
                chunk, started = [], work_clock()
            if (due or is_requested) and not last:
                preview = partial(self.preview, spectra) if due else None  # else the statistics are older
                yield Checkpoint("recover", self.capture, preview=preview)

    def _divergence_notice(self, tap: str, product: float) -> Notice:
        """Return the warning that α suits the real side of a tap, but not the synthetic one."""
        return Notice(
            "warning",
            f"batch {self.number}, iteration {self.iteration - 1}: α·λ_max(Ψ_s) of {tap} is {product:.3g},"
            " so the series in the terms diverges there, which it does from 2 on; a lower"
            " objective.parameters.alpha prevents it",
        )

    def capture(self) -> StageState:
        """Return the state between two iterations. Raises UserError("numeric") where it is not finite."""
        self._require_finite_images()
        where = f"batch {self.number}, iteration {self.iteration}"
        tensors = {"images": self.images_MCHW, **add_prefix("optimiser", optimiser_tensors(self.adam))}
        if self.scale is not None:
            tensors["scale"] = self.scale
        tensors |= _shared_tensors(self.earlier, self.extensions)
        metadata = _build_metadata(self.number, self.iteration, self.clipped, self.low_rank)
        return capture_state(tensors, where, HINT, **metadata)

    def preview(self, spectra: Spectra) -> Preview:
        """Return a preview of the batch; the last iteration must have kept its statistics."""
        return Preview(
            self.number,
            self.iteration,
            self.objective.beta,
            self._shrink_images(Preview.MOST_IMAGES, Preview.MOST_PIXELS).cpu().numpy(),
            self.labels_M[: Preview.MOST_IMAGES].cpu().numpy(),
            spectra.pair_with(self.statistics),
            time.time(),
            self._real_images(),
        )

    def _real_images(self) -> np.ndarray | None:
        """Return for each image of a preview a real one of its class, from which no `init: first` starts.

        None where they cannot be read: they are only displayed.
        """
        if self._real_MCHW is None:
            labels_N = self.train.labels_N.numpy()
            members = [
                np.flatnonzero(labels_N == label) for label in self.labels_M[: Preview.MOST_IMAGES].tolist()
            ]
            indices_M = np.array([each[self.config.ipc % len(each)] for each in members])
            with suppress(UserError):
                pixels_MCHW = _shrink(self.train.pixels(indices_M).float() / 255, Preview.MOST_PIXELS)
                self._real_MCHW = pixels_MCHW.numpy()
        return self._real_MCHW

    def _shrink_images(self, count: int, most_pixels: int) -> Tensor:
        """Return the first `count` images as bytes on their device, at most `most_pixels` a side."""
        return _shrink(self._denormalise_images(count), most_pixels)

    def step(self, *, keep: bool = False) -> Tensor:
        """Take the next step and return its metrics row (see `compute_loss`).

        Does not synchronise with the device. keep: store the step's statistics in `statistics`.
        """
        settings = self.config.recover
        self.adam.param_groups[0]["lr"] = schedules.cosine_to_zero(
            settings.lr, self.iteration, settings.iterations
        )
        with conv_precision(settings.precision):
            loss, metrics_row = self.compute_loss(keep=keep)
            self.adam.zero_grad()
            with time_part("backward"):
                loss.backward()  # type: ignore[no-untyped-call]
        with time_part("update"), torch.no_grad():
            self.adam.step()
            if settings.clamp:
                self.images_MCHW.clamp_(self.lowest, self.highest)
        self.iteration += 1
        return metrics_row

    def compute_loss(self, *, keep: bool = False) -> tuple[Tensor, Tensor]:
        """Return the loss of the next step, and its metrics row on the device, shape (1 + T·L + 1 + S·L,).

        The row has CE, every term at every tap, and sums of absolute values that reveal what was not finite
        before the step: of the images, and of S statistics of every tap.
        """
        settings = self.config.recover
        turn = ((self.number - 1) * settings.iterations + self.iteration) % len(self.turns)
        network, terms = self.turns[turn]
        observe = Observer(
            network,
            self.labels_M,
            self.onehot_MK,
            terms.needs_covariance,
            terms.needs_labels,
            settings.micro_batch,
            self.config.statistics.centre,
            self.unformed,
        )
        with time_part("views"):
            view_MCHW = augmentation.apply(self._draw_views(self.iteration), self.images_MCHW)
        synthetic, ce = observe(view_MCHW)
        if self.earlier is not None:
            pairs = zip(synthetic, self.earlier, strict=True)
            synthetic = [cumulative_mean(batch, earlier, self.number) for batch, earlier in pairs]
        step = Step(self.number, self.iteration, turn, network)
        for extension in self.extensions:
            synthetic = extension.mix(step, synthetic)
        with time_part("filters"):
            values_TL = terms.values(synthetic)
        masked_TL = values_TL
        for extension in self.extensions:
            masked_TL = extension.mask(masked_TL)
        if self.scale is None and terms.terms and self.config.objective.balance == "gradient":
            terms_norm, ce_norm = terms.gradient_norms(masked_TL, ce, self.images_MCHW)
            self.scale = torch.where(terms_norm > 0, ce_norm / terms_norm, 1.0)
        loss = terms.loss(masked_TL, ce, self.scale)
        for extension in self.extensions:
            extra = extension.extra_loss(view_MCHW)
            loss = loss if extra is None else loss + extra
        constant = [tap.detach() for tap in synthetic]
        if keep:
            self.statistics = [tap.densify() for tap in constant]
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

    @torch.no_grad()
    def finish(self) -> tuple[RecoveredImages, Clipped]:
        """Return the images with the teacher's probability of each one's class, without views; and `clipped`.

        The latter includes this batch.
        """
        clipped = self.clipped
        if not self.config.recover.clamp:
            clipped = clipped.add(denormalise(self.images_MCHW, self.train.mean, self.train.std))
        pixels_MCHW = self._denormalise_images()
        x_MCHW = normalise(pixels_MCHW, self.train.mean, self.train.std)
        parts = torch.split(x_MCHW, self.config.recover.micro_batch or len(x_MCHW))
        logits_MK = torch.cat([self.network(part_MCHW)[1] for part_MCHW in parts])
        confidence_M1 = logits_MK.float().softmax(dim=1).gather(1, self.labels_M.unsqueeze(1))
        tensors = (pixels_MCHW, self.labels_M, confidence_M1.squeeze(1))
        return RecoveredImages(*(tensor.cpu().numpy() for tensor in tensors)), clipped

    def _denormalise_images(self, count: int | None = None) -> Tensor:
        """Return the first `count` of the current images (default: all), in [0, 1], on their device."""
        return denormalise(self.images_MCHW.detach()[:count], self.train.mean, self.train.std).clamp(0, 1)
