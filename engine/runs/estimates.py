"""Estimate a run's time, memory and disk space by running a few steps of each stage on this machine.

The real stages run, from checkpoint to checkpoint. A batch that would take long is timed at two smaller sizes
and extrapolated linearly. Nothing is written, and no random state is changed.
Legend: N images, C channels, S side, D features, K classes.
"""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import cached_property
from statistics import median, median_high
from typing import Any, TypeVar

import psutil
import torch
from pydantic import BaseModel
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from engine.backbones.labeller import Labeller
from engine.checkpoint import Checkpoint, StageState, driven_by
from engine.config import BetaSchedule, Config, Objective
from engine.config.expressions import ALPHA
from engine.data import ImageSet
from engine.device import synchronize
from engine.events import STAGES, BatchRecovered, Event, RecoverProgress, Stage
from engine.methods import rded
from engine.methods.gvbsm import Ensemble
from engine.runs import artefacts
from engine.runs.plan import Plan
from engine.runs.preview import Stop, known_teachers, raise_if_cancelled
from engine.spectral import recovery_batches
from engine.spectral.forms import choose_low_rank, is_accurate
from engine.spectral.matching import placeholder_moments
from engine.spectral.moments import Moments
from engine.spectral.schedules import betas_of_batches
from engine.spectral.step_parts import PartTimer
from engine.spectral.taps import Tapped
from engine.stages import recover, relabel, squeeze, statistics, training, validate
from engine.stages.training import SubsetEvaluator
from engine.stages.validate import Students
from engine.store import Cache

Work = Generator[Event, None, Any]
Begin = Callable[[int], Work]  #: begins a stage whose batches have so many images
Count = Callable[[Event], int]  #: returns how many steps end with an event
M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")


@dataclass(frozen=True)
class Estimate:
    """Estimated time, memory and disk space of a run.

    seconds: by stage; 0 if the artefact is cached or not needed. memory_bytes: peak; on a CPU this process's
    current memory, the images that students learn from, and the largest stage's tensors as counted in the
    trial; with CUDA the latter on the device. disk_bytes: upper bound of what the run writes. how: where the
    numbers come from, for people.
    """

    seconds: dict[Stage, float]
    memory_bytes: int
    disk_bytes: int
    how: str


@dataclass(frozen=True)
class Cost:
    """Seconds before the first step, seconds per step, bytes of tensors; whole: a full batch was measured.

    size: images in the largest batch that was measured.
    """

    setup: float = 0.0
    step: float = 0.0
    bytes: float = 0.0
    whole: bool = True
    size: int = 0


@dataclass(frozen=True)
class EvaluationCost:
    """Seconds of an evaluation before its first batch, and of each of its batches; the largest one's images.

    batch: images for which `step` holds.
    """

    setup: float
    step: float
    batch: int

    def seconds(self, images: int) -> float:
        """Return the seconds of evaluating so many images."""
        return self.setup + images / self.batch * self.step


def estimate(plan: Plan, cache: Cache, stop: Stop | None = None) -> Estimate:
    """Estimate the cost of a plan by trying every stage that is not cached; this takes some seconds.

    Raises Cancelled soon after `stop` returns True. Raises UserError like the stages if a first step fails.
    """
    return Trial(plan, cache, stop).estimate()


def _count_checkpoints(event: Event) -> int:
    return int(isinstance(event, Checkpoint))


def _count_iterations(event: Event) -> int:
    return len(event.iterations) if isinstance(event, RecoverProgress) else 0


def _count_batches(event: Event) -> int:
    return int(isinstance(event, BatchRecovered))


class Trial:
    """Runs a few steps of the stages of one plan and extrapolates to whole stages.

    Of several repeats the last is tried, whose teacher is the least likely to be cached. enough: seconds of
    steps that suffice for a measurement. whole: whether all batches so far were measured at full size. Each
    cost is measured once.
    """

    ENOUGH = 0.2  #: seconds of steps that suffice for a measurement where little time may be spent
    QUICK = 2  #: how many times as long as that a step of the larger of two sizes should take, at most
    LONG = 5  #: how many times as long a step of the first size takes where the other size is the smaller one
    SPANS = 5  #: parts of the measured time; the median is taken of their mean steps
    SHARE, LEAST = 8, 4  #: the first size tried is 1/SHARE of a batch, and at least LEAST images
    EPOCHS = 10**9  #: more than a trial ever reaches, also of iterations
    NEGLIGIBLE = 0.01  #: share of a batch's time below which its setup is not measured apart

    def __init__(self, plan: Plan, cache: Cache, stop: Stop | None = None, *, enough: float = ENOUGH) -> None:
        self.repeated_plan = plan
        self.plan = plan.for_repeat(plan.config.repeats)
        self.cache = cache
        self.stop = stop
        self.enough = enough
        self.device = plan.device
        self.train = plan.data.train
        self.config = _change(self.plan.config, checkpoint_seconds=0.0)  # a checkpoint after every step
        self.single_configs = artefacts.single_backbone_configs(self.config)
        self.known_teachers = known_teachers(self.plan, cache)
        self.teachers = [
            known or artefacts.build_network(config, plan.data).eval()
            for config, known in zip(self.single_configs, self.known_teachers, strict=True)
        ]
        self.teacher = self.teachers[0] if len(self.teachers) == 1 else Ensemble(self.teachers)
        self.whole = True
        self._resident = psutil.Process().memory_info().rss if self.device.type != "cuda" else 0
        self._peak = 0.0
        self._costs: dict[tuple[str, ...], Any] = {}

    def estimate(self, report: Callable[[str], None] = lambda _: None) -> Estimate:
        """Estimate the cost of all repeats by trying every stage that is not cached.

        report: called with what is tried next. Raises as the function `estimate` does.
        """
        plan = self.repeated_plan
        repeats = plan.config.repeats
        estimates = (
            self.estimate_squeeze,
            self.estimate_statistics,
            self.estimate_recovery,
            self.estimate_relabelling,
            self.estimate_validation,
        )
        seconds: dict[Stage, float] = {}
        for stage, estimate_one in zip(STAGES, estimates, strict=True):
            report(f"trying {stage}")
            seconds[stage] = repeats * estimate_one()
        if None not in (plan.teacher, *plan.others):  # all repeats share their statistics
            seconds["statistics"] /= repeats
        how = f"from a few steps of each stage on {plan.device}"
        how += "" if self.whole else ", large batches with fewer images"
        return Estimate(seconds, self.estimate_memory(), repeats * plan.bytes_needed(), how)

    # --- stages -----------------------------------------------------------------------------------

    def estimate_squeeze(self) -> float:
        """Return the seconds of training the teachers that are neither given nor cached."""
        trios = zip(self.single_configs, self.known_teachers, self.teachers, strict=True)
        return sum(
            self._estimate_teacher(config, teacher) for config, known, teacher in trios if known is None
        )

    def _estimate_teacher(self, single_config: Config, teacher: nn.Module) -> float:
        settings, cost = single_config.squeeze, self.measure_squeeze_step(single_config)
        steps = settings.epochs * len(self.train) / min(settings.batch, len(self.train))
        evaluation = self._measure_evaluation(teacher)
        early = self._estimate_early_accuracies(steps, steps * cost.step, settings.epochs, evaluation)
        sample = squeeze.count_sample_images(len(self.train.classes))
        check = sum(evaluation.seconds(min(sample, len(s))) for s in (self.train, self.plan.data.test))
        return cost.setup + steps * cost.step + early + check

    def measure_squeeze_step(self, single_config: Config) -> Cost:
        """Return the cost of training the backbone of a configuration on a batch of real images."""
        settings = single_config.squeeze

        def begin(size: int) -> Work:
            config = _change(single_config, squeeze=_change(settings, batch=size, epochs=self.EPOCHS))
            model = artefacts.build_network(config, self.plan.data)
            return squeeze.squeeze(config, model, self.train, self.device)

        def measure() -> Cost:
            batch = min(settings.batch, len(self.train))
            return self._measure_cost(begin, batch, period=lambda size: len(self.train) / size)

        return self._once(measure, "squeeze", single_config.backbone.name)

    def estimate_statistics(self) -> float:
        """Return the seconds of measuring real statistics; 0 if none are needed, or they are given."""
        if not self.config.optimises or self.plan.statistics is not None:
            return 0.0
        return sum(map(self._estimate_moments, self.single_configs, self.known_teachers, self.teachers))

    def _estimate_moments(self, single_config: Config, known: nn.Module | None, teacher: nn.Module) -> float:
        if self._load_moments(known) is not None:
            return 0.0
        cost = self.measure_statistics_step(single_config.backbone.name, teacher)
        return cost.setup + len(self.train) / min(self.config.statistics.batch, len(self.train)) * cost.step

    def measure_statistics_step(self, name: str, teacher: nn.Module) -> Cost:
        """Return the cost of measuring the statistics of a batch of real images. name: of the backbone."""
        settings = self.config.statistics

        def begin(size: int) -> Work:
            config = _change(self.config, statistics=_change(settings, batch=size))
            return statistics.measure(config, teacher, self.train, self.device)

        return self._once(
            lambda: self._measure_cost(begin, min(settings.batch, len(self.train))), "statistics", name
        )

    def estimate_recovery(self) -> float:
        """Return the seconds of optimising all images or selecting crops; 0 for copied and given images."""
        if self.config.recover.algorithm == "none" or self.plan.given is not None:
            return 0.0
        if self.config.recover.algorithm == "select":
            return self._estimate_selection()
        batches = len(recovery_batches.plan_batches(self.config, len(self.train.classes)))
        cost = self.measure_recovery_step()
        seconds = cost.setup + batches * self.config.recover.iterations * cost.step
        return seconds + (batches - 1) * self._measure_batch_setup() if batches > 1 else seconds

    def measure_recovery_step(self) -> Cost:
        """Return the cost of one iteration on a batch of recovery."""
        return self._once(
            lambda: self._measure_cost(
                self._begin_recovery(), self.count_recovery_images(), count=_count_iterations
            ),
            "recover",
        )

    def _measure_batch_setup(self) -> float:
        """Return the seconds before the first step of the second batch of recovery, and of each later one.

        Of the setup of a stage, what is done once, such as tracing the network, is left out. Where that setup
        is negligible beside the iterations of a batch, it is returned as it is.
        """
        cost = self.measure_recovery_step()
        if cost.setup <= self.NEGLIGIBLE * self.config.recover.iterations * cost.step:
            return cost.setup
        seconds: list[float] = []
        with closing(self._begin_recovery(iterations=3)(cost.size)) as stage:  # the last step takes longer
            self._run(stage, _count_batches)
            for _ in range(2):
                began = time.perf_counter()
                self._run(stage, _count_iterations)
                seconds.append(time.perf_counter() - began)
        return max(0.0, seconds[0] - seconds[1])

    def count_recovery_images(self) -> int:
        """Return the images in a batch of recovery."""
        return len(recovery_batches.plan_batches(self.config, len(self.train.classes))[0][1])

    def scale_micro_batch(self, size: int) -> int | None:
        """Return the micro-batch for a recovery batch of `size` images, in proportion; None: all at once."""
        part = self.config.recover.micro_batch
        return None if part is None else _parts(part * size, self.count_recovery_images())

    def measure_recovery_parts(self) -> dict[str, float]:
        """Return the share of each part of a recovery step, and of `other` work; they add up to 1."""
        timer, begin = PartTimer(self.device), self._begin_recovery()
        with closing(begin(self.measure_recovery_step().size)) as stage:
            for _ in range(2):
                self._run(stage, _count_iterations)
            with timer.measure():
                began = time.perf_counter()
                self._run(stage, _count_iterations, self.enough)
                seconds = time.perf_counter() - began
        shares: dict[str, float] = {name: spent / seconds for name, spent in timer.seconds().items()}
        return {**shares, "other": max(0.0, 1.0 - sum(shares.values()))}

    def _begin_recovery(self, iterations: int = EPOCHS) -> Begin:
        settings = self.config.recover
        objective, teachers, low_rank = self._recovery_inputs

        def begin(size: int) -> Work:
            part = self.scale_micro_batch(size)
            smaller = _change(settings, classes_per_batch=size, iterations=iterations, micro_batch=part)
            config = _change(self.plan.config, recover=smaller, objective=objective)
            return recover.recover(
                config, *teachers[0], self.train, self.device, None, teachers[1:], low_rank
            )

        return begin

    def _choose_low_rank(self, moments: list[Moments] | None) -> frozenset[str]:
        """Return the taps whose synthetic Ψ has the low-rank form in a full batch of the run.

        moments: the teacher's real ones. Where they are known, the form is as in the batch with the median β.
        """
        config, images = self.config, self.count_recovery_images()
        network = Tapped(self.teachers[0], config.objective.taps, self.device, patch=config.objective.patch)
        low_rank = choose_low_rank(config, network, self.train.batch([0], self.device), images)
        if moments is None:
            return low_rank
        batches = len(recovery_batches.plan_batches(config, len(self.train.classes)))
        objective = config.objective
        betas = betas_of_batches(objective.schedule, objective.beta, config.ipc, batches)
        taps = (tap for tap in moments if tap.name in low_rank)
        return frozenset(tap.name for tap in taps if is_accurate(tap, median_high(betas)))

    def _estimate_selection(self) -> float:
        """Return the seconds of scoring the crops of all classes."""
        settings, classes = self.config.recover, len(self.train.classes)

        def begin(size: int) -> Work:
            smaller = _change(settings.select, pool=size, factor=1)
            config = _change(self.config, ipc=1, recover=_change(settings, select=smaller))
            return rded.select(config, self.teachers[0], self.train, self.device)

        pool = min(recovery_batches.pool_size(self.config), len(self.train) // classes)
        cost = self._measure_cost(begin, max(1, min(pool, rded.CHUNK)))
        return cost.setup + classes * _parts(pool, rded.CHUNK) * cost.step

    def estimate_relabelling(self) -> float:
        """Return the seconds of storing labels; 0 if students are labelled while they train."""
        if self.config.relabel.mode == "online":
            return 0.0
        count = self._images()

        def begin(size: int) -> Work:
            images = _take_images(self.train, size)
            return relabel.relabel(self.config, self.teacher, images, self.device, lambda *_: None, "trial")

        cost = self._measure_cost(begin, min(count, relabel.RELABEL_BATCH))
        epochs = self.config.relabel.stored_epochs or self.config.validate_.epochs
        return cost.setup + epochs * self._sources() * _parts(count, relabel.RELABEL_BATCH) * cost.step

    def estimate_validation(self) -> float:
        """Return the seconds of training and evaluating every student."""
        settings, seconds = self.config.validate_, 0.0
        measured = sum(validate.is_measured_epoch(settings, epoch) for epoch in range(settings.epochs))
        for name in self.architectures():
            cost, evaluation = self.measure_student_step(name), self.measure_student_evaluation(name)
            steps = settings.epochs * self._images() / min(settings.batch, self._images())
            training = steps * cost.step
            early = self._estimate_early_accuracies(steps, training, settings.epochs - measured, evaluation)
            group = cost.setup + training + measured * evaluation.seconds(len(self.plan.data.test)) + early
            seconds += self.config.students_per_architecture // self.group_size(name) * group
        return seconds

    def _estimate_early_accuracies(
        self, steps: float, seconds: float, epochs: int, evaluation: EvaluationCost
    ) -> float:
        """Return the seconds of the accuracies that are shown during training.

        steps, seconds: of training. epochs: after which one may be shown, and nothing else is evaluated. See
        `SubsetEvaluator`, which expects the first one to take as long as a step.
        """
        images = min(self.config.validate_.preview_images, len(self.plan.data.test))
        if images == 0 or SubsetEvaluator.SHARE * steps < 1:
            return 0.0
        each = evaluation.seconds(images)
        return min(epochs, max(1, SubsetEvaluator.SHARE * seconds // each)) * each

    def architectures(self) -> Sequence[str]:
        """Return the architectures of the students."""
        return self.config.validate_.students or (self.config.backbone.name,)

    def measure_student_step(self, name: str) -> Cost:
        """Return the cost of a training step of an architecture's students that are trained at a time."""
        settings = self.config.validate_
        label = Labeller(self.teacher, self.device, settings.precision, settings.teacher_batchnorm)

        def begin(size: int) -> Work:
            return self._build_students(name, size).train(label, self.plan.data.test)

        def measure() -> Cost:
            batch = min(settings.batch, self._images())
            return self._measure_cost(begin, batch, period=lambda size: self._trial_images(size) / size)

        return self._once(measure, "students", name)

    def measure_student_evaluation(self, name: str) -> EvaluationCost:
        """Return the cost of evaluating the students of an architecture that are trained at a time."""
        return self._once(
            lambda: self._measure_evaluation(self._build_students(name, 2).model), "evaluation", name
        )

    def _measure_evaluation(self, model: nn.Module) -> EvaluationCost:
        test, device = self.plan.data.test, self.device

        def begin(size: int) -> Work:
            images = _take_images(test, size)
            while True:
                training.evaluate_accuracies(model, images, device)
                yield Checkpoint("validate", StageState)

        batch = min(training.EVALUATION_BATCH, len(test))
        smallest, largest = self._try(begin, 1).step, self._measure_cost(begin, batch).step
        each = max(largest - smallest, 0.0) / max(batch - 1, 1)
        return EvaluationCost(max(smallest - each, 0.0), batch * each, batch)

    def _build_students(self, name: str, size: int) -> Students:
        """Build the students of an architecture that are trained at a time, with batches of `size`."""
        smaller = _change(
            self.config.validate_, batch=size, epochs=self.EPOCHS, evaluate_from=1.0, average=0.0
        )
        images = _take_images(self.train, self._trial_images(size))
        shape = (len(images), len(self.train.classes))
        labels = relabel.StoredLabels(1, lambda _: torch.zeros(shape, dtype=torch.float16).numpy())
        has_stored_labels = self.config.relabel.mode == "stored"
        member = validate.Member(0, "distilled", images, labels if has_stored_labels else None)
        members, config = [member] * self.group_size(name), _change(self.config, validate_=smaller)
        return Students(config, name, members, self.device)

    def _trial_images(self, size: int) -> int:
        """Return with how many images students are tried: their epochs have the same batches as a run's."""
        return min(self._images(), 4 * size)

    # --- inputs of the stages ---------------------------------------------------------------------

    def _images(self) -> int:
        return self.plan.image_shape()[0]

    def _sources(self) -> int:
        return 1 + len(self.config.controls)

    def group_size(self, architecture: str) -> int:
        """Return how many students of an architecture are trained at a time."""
        return self.config.students_per_architecture if architecture in self.plan.execution.stacked else 1

    @cached_property
    def _recovery_inputs(self) -> tuple[Objective, list[tuple[nn.Module, list[Moments]]], frozenset[str]]:
        """The objective at a constant β, each teacher with its moments, and the taps in low-rank form.

        The moments are the real ones, or placeholders where these are not cached.
        """
        moments = [self._load_moments(known) for known in self.known_teachers]
        objective = _change(
            self.config.objective, beta=1.0, schedule=BetaSchedule(kind="constant", per="batch")
        )
        if None in moments and ALPHA in objective.parameters:  # it may be too large for placeholders only
            objective = _change(objective, parameters={**objective.parameters, ALPHA: None})
        pairs = zip(self.teachers, moments, strict=True)
        teachers = [(t, real or self._make_placeholders(objective, t)) for t, real in pairs]
        return objective, teachers, self._choose_low_rank(moments[0])

    def _load_moments(self, known: nn.Module | None) -> list[Moments] | None:
        if known is None or self.plan.statistics is not None:
            return self.plan.statistics
        return artefacts.load_cached_statistics(self.config, self.plan.data, known, self.cache)

    def _make_placeholders(self, objective: Objective, teacher: nn.Module) -> list[Moments]:
        network = Tapped(teacher, objective.taps, self.device, patch=objective.patch)
        with torch.no_grad():
            features, _ = network(self.train.batch([0], self.device))
        sizes = {name: x.shape[1] for name, x in zip(network.names, features, strict=True)}
        return placeholder_moments(objective, sizes, len(self.train.classes))

    def estimate_memory(self) -> int:
        """Return the run's peak memory in bytes, according to the stages tried so far."""
        return int(self._resident + self._sources() * math.prod(self.plan.image_shape()) + self._peak)

    # --- measuring --------------------------------------------------------------------------------

    def _once(self, measure: Callable[[], T], *key: str) -> T:
        """Return what was measured under this key, or measure it."""
        if key not in self._costs:
            self._costs[key] = measure()
        cost: T = self._costs[key]
        return cost

    def _measure_cost(
        self,
        begin: Begin,
        full: int,
        *,
        count: Count = _count_checkpoints,
        period: Callable[[int], float] = lambda _: 1.0,
    ) -> Cost:
        """Return the cost of a stage whose batches have `full` images.

        count: returns how many steps end with an event. period: returns how many full batches an epoch has,
        given their size; its first step takes longer, and its last may be on fewer images.
        """

        def attempt(size: int) -> Cost:
            return self._try(begin, size, count, period(size))

        size = min(full, max(self.LEAST, -(-full // self.SHARE)))
        cost = attempt(size)
        if size < full and cost.step >= self.LONG * self.enough and size // 2 >= 2:
            half = size // 2
            cost = _extrapolate(attempt(half), half, cost, size, full)
        elif size < full and cost.step > 0:
            larger = min(full, max(2 * size, int(size * self.QUICK * self.enough / cost.step)))
            cost = _extrapolate(cost, size, attempt(larger), larger, full)
        self.whole &= cost.whole
        self._peak = max(self._peak, cost.bytes)
        return cost

    def _try(
        self,
        begin: Begin,
        size: int,
        count: Count = _count_checkpoints,
        period: float = 1.0,
    ) -> Cost:
        """Return the cost of a stage whose batches have `size` images, from a few of its steps."""
        meter = _CudaMeter(self.device) if self.device.type == "cuda" else _TensorMeter()
        times: list[float] = []
        with ExitStack() as stack:
            began = time.perf_counter()
            with meter:
                stage = begin(size)
                stack.callback(stage.close)
                self._run(stage, count)
            first = time.perf_counter() - began
            if first < 2 * self.LONG * self.enough:  # else a second one would take too long
                began = time.perf_counter()
                with meter:  # optimisers allocate their state in the first step
                    steps = self._run(stage, count)
                second = time.perf_counter() - began  # the meter's overhead is negligible in a long step
                times = [second] if steps and second > self.enough else []
                if not times and steps:
                    period = period if period * second <= self.enough else 1.0
                    times = self._time_steps(stage, count, period)
        step = median(times) if times else first
        return Cost(max(0.0, first - step), step, meter.peak, True, size)

    def _time_steps(self, stage: Work, count: Count, period: float) -> list[float]:
        """Return the mean seconds of a full batch in each of several spans of time, each of whole periods."""
        steps_in_period = math.ceil(period)
        times: list[float] = []
        spent = 0.0
        while spent < self.enough:
            began = time.perf_counter()
            steps = self._run(stage, count, self.enough / self.SPANS, steps_in_period)
            if steps == 0:
                break
            span = time.perf_counter() - began
            spent += span
            times.append(span / steps * steps_in_period / period)
        return times

    def _run(self, stage: Work, count: Count, seconds: float = 0.0, period: int = 1) -> int:
        """Run a stage for some seconds and at least one period of steps; return the number of steps.

        It is smaller if the stage ended. Raises Cancelled.
        """
        steps, until = 0, time.perf_counter() + seconds
        with driven_by(lambda: time.perf_counter() >= until, 0.0):
            for event in stage:
                raise_if_cancelled(self.stop)
                steps += count(event)
                is_whole = steps > 0 and steps % period == 0
                if isinstance(event, Checkpoint) and is_whole and time.perf_counter() >= until:
                    break
        synchronize(self.device)
        return steps


def _change(settings: M, **changes: Any) -> M:
    return settings.model_copy(update=changes)


def _parts(images: int, batch: int) -> int:
    return -(-images // batch)


def _take_images(images: ImageSet, count: int) -> ImageSet:
    """Return the first `count` images, repeating them if there are fewer."""
    indices = [index % len(images) for index in range(count)]
    labels_N = images.labels_N[indices]
    return ImageSet.from_arrays(images.pixels(indices), labels_N, images.classes, images.mean, images.std)


def _extrapolate(small: Cost, size: int, large: Cost, larger: int, full: int) -> Cost:
    """Return the cost of `full` images by linear extrapolation from two smaller sizes.

    Timings may be noisy, so the value stays between that of the larger size and proportional growth from it.
    """

    def at_full(low: float, high: float) -> float:
        linear = high + (high - low) / (larger - size) * (full - larger)
        return min(max(high, linear), high * full / larger)

    return Cost(
        large.setup,
        at_full(small.step, large.step),
        at_full(small.bytes, large.bytes),
        larger == full,
        larger,
    )


# --- memory --------------------------------------------------------------------------------------


class _CudaMeter:
    """Measures the peak of memory allocated on a CUDA device, relative to its creation.

    peak: bytes, the maximum over all uses as a context manager.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.before = torch.cuda.memory_allocated(device)
        self.peak = 0
        torch.cuda.reset_peak_memory_stats(device)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self.peak = max(self.peak, torch.cuda.max_memory_allocated(self.device) - self.before)


class _TensorMeter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Measures the peak memory of CPU tensors that this thread creates while the meter is active.

    peak: bytes, the maximum over all uses as a context manager.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._living: dict[int, int] = {}
        self._total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        for tensor in output if isinstance(output, tuple | list) else (output,):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return output

    def _count(self, storage: torch.UntypedStorage) -> None:
        address, size = storage.data_ptr(), storage.nbytes()
        if size and address not in self._living:
            self._living[address] = size
            self._total += size
            self.peak = max(self.peak, self._total)
            weakref.finalize(storage, self._release, address).atexit = False

    def _release(self, address: int) -> None:
        self._total -= self._living.pop(address, 0)
