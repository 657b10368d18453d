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
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from statistics import median
from typing import Any, TypeVar

import psutil
import torch
from pydantic import BaseModel
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from engine.backbones.labeller import Labeller
from engine.checkpoint import Checkpoint, StageState
from engine.config import BetaSchedule, Config, Objective
from engine.config.expressions import ALPHA
from engine.data import ImageSet
from engine.events import STAGES, Event, Stage
from engine.methods import rded
from engine.methods.gvbsm import Ensemble
from engine.runs import artefacts
from engine.runs.plan import Plan
from engine.runs.preview import Stop, known_teachers, raise_if_cancelled
from engine.spectral import recovery_batches
from engine.spectral.matching import placeholder_moments
from engine.spectral.moments import Moments
from engine.spectral.taps import Tapped
from engine.stages import recover, relabel, squeeze, statistics, training, validate
from engine.store import Cache

Work = Generator[Event, None, Any]
M = TypeVar("M", bound=BaseModel)


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
    """Seconds before the first step, seconds per step, bytes of tensors; whole: a full batch was measured."""

    setup: float = 0.0
    step: float = 0.0
    bytes: float = 0.0
    whole: bool = True


def estimate(plan: Plan, cache: Cache, stop: Stop | None = None) -> Estimate:
    """Estimate the cost of a plan by trying every stage that is not cached; this takes some seconds.

    The last repeat is tried, whose teacher is the least likely to be cached, and multiplied by their number.
    Raises Cancelled soon after `stop` returns True. Raises UserError like the stages if a first step fails.
    """
    repeats = plan.config.repeats
    trial = Trial(plan.for_repeat(repeats), cache, stop)
    works = (trial.squeeze, trial.statistics, trial.recover, trial.relabel, trial.validate)
    seconds = {stage: repeats * work() for stage, work in zip(STAGES, works, strict=True)}
    if None not in (plan.teacher, *plan.others):  # all repeats share their statistics
        seconds["statistics"] /= repeats
    how = f"from a few steps of each stage on {plan.device}"
    how += "" if trial.whole else ", large batches with fewer images"
    return Estimate(seconds, trial.memory(), repeats * plan.bytes_needed(), how)


class Trial:
    """Runs a few steps of the stages of one plan and extrapolates to whole stages.

    whole: whether all batches so far were measured at full size.
    """

    ENOUGH = 0.2  #: seconds of steps that suffice for a measurement
    QUICK = 0.4  #: seconds that a step of the larger of two sizes should take
    LONG = 1.0  #: seconds of a step from which on only one step is timed
    SHARE, LEAST = 8, 4  #: the first size tried is 1/SHARE of a batch, and at least LEAST images
    EPOCHS = 10**9  #: more than a trial ever reaches

    def __init__(self, plan: Plan, cache: Cache, stop: Stop | None = None) -> None:
        self.plan = plan
        self.cache = cache
        self.stop = stop
        self.device = plan.device
        self.train = plan.data.train
        self.config = _change(plan.config, checkpoint_seconds=0.0)  # yields a checkpoint after every step
        self.single_configs = artefacts.single_backbone_configs(self.config)
        self.known_teachers = known_teachers(plan, cache)
        self.teachers = [
            known or artefacts.build_network(config, plan.data).eval()
            for config, known in zip(self.single_configs, self.known_teachers, strict=True)
        ]
        self.teacher = self.teachers[0] if len(self.teachers) == 1 else Ensemble(self.teachers)
        self.whole = True
        self._resident = psutil.Process().memory_info().rss if self.device.type != "cuda" else 0
        self._peak = 0.0

    # --- stages -----------------------------------------------------------------------------------

    def squeeze(self) -> float:
        """Return the seconds of training the teachers that are neither given nor cached."""
        pairs = zip(self.single_configs, self.known_teachers, strict=True)
        return sum(self._squeeze(config) for config, known in pairs if known is None)

    def _squeeze(self, single_config: Config) -> float:
        settings = single_config.squeeze

        def work(size: int) -> Work:
            config = _change(single_config, squeeze=_change(settings, batch=size))
            model = artefacts.build_network(config, self.plan.data)
            return squeeze.squeeze(config, model, self.train, self.device)

        cost = self._cost(work, min(settings.batch, len(self.train)))
        return cost.setup + settings.epochs * _parts(len(self.train), settings.batch) * cost.step

    def statistics(self) -> float:
        """Return the seconds of measuring real statistics; 0 if none are needed, or they are given."""
        if not self.config.optimises or self.plan.statistics is not None:
            return 0.0
        return sum(map(self._measure, self.known_teachers, self.teachers))

    def _measure(self, known: nn.Module | None, teacher: nn.Module) -> float:
        if self._load_moments(known) is not None:
            return 0.0
        settings = self.config.statistics

        def work(size: int) -> Work:
            config = _change(self.config, statistics=_change(settings, batch=size))
            return statistics.measure(config, teacher, self.train, self.device)

        cost = self._cost(work, min(settings.batch, len(self.train)))
        return cost.setup + _parts(len(self.train), settings.batch) * cost.step

    def recover(self) -> float:
        """Return the seconds of optimising all images or selecting crops; 0 for copied and given images."""
        if self.config.recover.algorithm == "none" or self.plan.given is not None:
            return 0.0
        if self.config.recover.algorithm == "select":
            return self._select()
        settings = self.config.recover
        objective, teachers = self._matching_inputs()
        plan = recovery_batches.plan_batches(self.config, len(self.train.classes))
        images = len(plan[0][1])

        def work(size: int) -> Work:
            part = None if settings.micro_batch is None else -(-settings.micro_batch * size // images)
            smaller = _change(settings, classes_per_batch=size, iterations=self.EPOCHS, micro_batch=part)
            config = _change(self.config, recover=smaller, objective=objective)
            return recover.recover(config, *teachers[0], self.train, self.device, None, teachers[1:])

        cost = self._cost(work, images)
        return cost.setup + len(plan) * settings.iterations * cost.step

    def _select(self) -> float:
        """Return the seconds of scoring the crops of all classes."""
        settings, classes = self.config.recover, len(self.train.classes)

        def work(size: int) -> Work:
            smaller = _change(settings.select, pool=size, factor=1)
            config = _change(self.config, ipc=1, recover=_change(settings, select=smaller))
            return rded.select(config, self.teachers[0], self.train, self.device)

        pool = min(recovery_batches.pool_size(self.config), len(self.train) // classes)
        cost = self._cost(work, max(1, min(pool, rded.CHUNK)))
        return cost.setup + classes * _parts(pool, rded.CHUNK) * cost.step

    def relabel(self) -> float:
        """Return the seconds of storing labels; 0 if students are labelled while they train."""
        if self.config.relabel.mode == "online":
            return 0.0
        count = self._images()

        def work(size: int) -> Work:
            images = _take_images(self.train, size)
            return relabel.relabel(self.config, self.teacher, images, self.device, lambda *_: None, "trial")

        cost = self._cost(work, min(count, relabel.RELABEL_BATCH))
        epochs = self.config.relabel.stored_epochs or self.config.validate_.epochs
        return cost.setup + epochs * self._sources() * _parts(count, relabel.RELABEL_BATCH) * cost.step

    def validate(self) -> float:
        """Return the seconds of training and evaluating every student."""
        settings, seconds = self.config.validate_, 0.0
        measured = sum(validate.is_measured_epoch(settings, epoch) for epoch in range(settings.epochs))
        for name in settings.students or (self.config.backbone.name,):
            training_cost, evaluation_cost = self._measure_student(name)
            steps = settings.epochs * _parts(self._images(), settings.batch)
            passes = measured * _parts(len(self.plan.data.test), training.EVALUATION_BATCH)
            group = training_cost.setup + steps * training_cost.step + passes * evaluation_cost.step
            seconds += self.config.students_per_architecture // self._group_size(name) * group
        return seconds

    def _measure_student(self, name: str) -> tuple[Cost, Cost]:
        """Return the cost of a training step and of an evaluation batch of the students trained at a time."""
        settings, test = self.config.validate_, self.plan.data.test
        label = Labeller(self.teacher, self.device, settings.precision, settings.teacher_batchnorm)
        has_stored_labels = self.config.relabel.mode == "stored"

        def build_students(size: int) -> validate.Students:
            smaller = _change(settings, batch=size, epochs=self.EPOCHS, evaluate_from=1.0, average=0.0)
            images = _take_images(self.train, min(self._images(), 4 * size))
            shape = (len(images), len(self.train.classes))
            labels = relabel.StoredLabels(1, lambda _: torch.zeros(shape, dtype=torch.float16).numpy())
            member = validate.Member(0, "distilled", images, labels if has_stored_labels else None)
            members, config = [member] * self._group_size(name), _change(self.config, validate_=smaller)
            return validate.Students(config, name, members, self.device)

        def train(size: int) -> Work:
            return build_students(size).train(label, test)

        def evaluate(size: int) -> Work:
            model, images = build_students(2).model, _take_images(test, size)
            while True:
                training.evaluate_accuracies(model, images, self.device)
                yield Checkpoint("validate", StageState)

        training_cost = self._cost(train, min(settings.batch, self._images()))
        return training_cost, self._cost(evaluate, min(training.EVALUATION_BATCH, len(test)))

    # --- inputs of the stages ---------------------------------------------------------------------

    def _images(self) -> int:
        return self.plan.image_shape()[0]

    def _sources(self) -> int:
        return 1 + len(self.config.controls)

    def _group_size(self, architecture: str) -> int:
        """Return how many students of an architecture are trained at a time."""
        return self.config.students_per_architecture if architecture in self.plan.execution.together else 1

    def _matching_inputs(self) -> tuple[Objective, list[tuple[nn.Module, list[Moments]]]]:
        """Return the objective at a constant β, and each teacher with its real or placeholder moments."""
        objective = _change(
            self.config.objective, beta=1.0, schedule=BetaSchedule(kind="constant", per="batch")
        )
        moments = [self._load_moments(known) for known in self.known_teachers]
        if None in moments and ALPHA in objective.parameters:  # it may be too large for placeholders only
            objective = _change(objective, parameters={**objective.parameters, ALPHA: None})
        pairs = zip(self.teachers, moments, strict=True)
        return objective, [(t, real or self._make_placeholders(objective, t)) for t, real in pairs]

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

    def memory(self) -> int:
        """Return the run's peak memory in bytes, according to the stages tried so far."""
        return int(self._resident + self._sources() * math.prod(self.plan.image_shape()) + self._peak)

    # --- measuring --------------------------------------------------------------------------------

    def _cost(self, work: Callable[[int], Work], full: int) -> Cost:
        """Return the cost of a stage whose batches have `full` images."""
        size = min(full, max(self.LEAST, -(-full // self.SHARE)))
        cost = self._try(work, size)
        if size < full and cost.step >= self.LONG and size // 2 >= 2:
            half = size // 2
            cost = _extrapolate(self._try(work, half), half, cost, size, full)
        elif size < full and cost.step > 0:
            larger = min(full, max(2 * size, int(size * self.QUICK / cost.step)))
            cost = _extrapolate(cost, size, self._try(work, larger), larger, full)
        self.whole &= cost.whole
        self._peak = max(self._peak, cost.bytes)
        return cost

    def _try(self, work: Callable[[int], Work], size: int) -> Cost:
        meter = _CudaMeter(self.device) if self.device.type == "cuda" else _TensorMeter()
        times: list[float] = []
        with ExitStack() as stack:
            began = time.perf_counter()
            with meter:
                stage = work(size)
                stack.callback(stage.close)
                has_more = self._run_step(stage)
            first = time.perf_counter() - began
            if has_more and first < self.LONG:  # optimisers allocate their state in the first step
                began = time.perf_counter()
                with meter:
                    has_more = self._run_step(stage)
                second = time.perf_counter() - began  # the meter's overhead is negligible in a long step
                times = [second] if second > self.ENOUGH else []
            while has_more and first < self.LONG and sum(times) < self.ENOUGH:
                began = time.perf_counter()
                has_more = self._run_step(stage)
                times.append(time.perf_counter() - began)
        step = median(times) if times else first
        return Cost(max(0.0, first - step), step, meter.peak)

    def _run_step(self, stage: Work) -> bool:
        """Run a stage to its next checkpoint; return False if it ended. Raises Cancelled."""
        raise_if_cancelled(self.stop)
        with suppress(StopIteration):
            while not isinstance(next(stage), Checkpoint):
                pass
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            return True
        return False


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
        large.setup, at_full(small.step, large.step), at_full(small.bytes, large.bytes), larger == full
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
