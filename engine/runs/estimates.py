"""What a run would cost, found by trying a few steps of each of its stages on this machine.

The stages themselves are pulled, from save point to save point. A batch that would take long is tried with
fewer images at two sizes, and what it takes is read off the line through both. Nothing is written, and no
random state is left changed.
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

from engine.runs import artefacts
from engine.stages import recover, relabel, squeeze, statistics, training, validate
from engine.spectral import recovery_batches
from engine.backbones.labeller import Labeller
from engine.config import BetaSchedule, Config, Objective
from engine.data import ImageSet
from engine.events import STAGES, Event, Stage
from engine.config.expressions import ALPHA
from engine.methods import rded
from engine.methods.gvbsm import Ensemble
from engine.spectral.moments import Moments
from engine.spectral.matching import placeholder_moments
from engine.runs.preview import Stop, known_teachers, require_wanted
from engine.runs.plan import Plan
from engine.checkpoint import Checkpoint, StageState
from engine.store import Cache
from engine.spectral.taps import Tapped

ENOUGH = 0.2  #: seconds of steps whose time is a measurement
QUICK = 0.4  #: seconds of a step up to which a batch is tried with more images
LONG = 1.0  #: seconds of a step that is tried only once
SHARE, LEAST = 8, 4  #: of a batch that is tried first: one part of so many, but so many images
EPOCHS = 10**9  #: more than a trial ever comes to the end of

Work = Generator[Event, None, Any]
M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Estimate:
    """What a run would take.

    seconds: by stage; 0 where the cache has its artefact, or it is not needed. memory_bytes: at its peak; on
    a CPU what this process holds now, the images that students learn from, and the largest stage's tensors
    as counted in the trial; with CUDA those on the device. disk_bytes: what the run will write, at most.
    how: where the numbers come from, for a person.
    """

    seconds: dict[Stage, float]
    memory_bytes: int
    disk_bytes: int
    how: str


@dataclass(frozen=True)
class Cost:
    """Seconds before the first step, seconds of a step, bytes of tensors; whether it was tried as it is."""

    setup: float = 0.0
    step: float = 0.0
    bytes: float = 0.0
    whole: bool = True


def estimate(plan: Plan, cache: Cache, stop: Stop | None = None) -> Estimate:
    """Try every stage that the cache cannot spare. Takes seconds; raises Cancelled soon after `stop` says so.

    Raises UserError as the stages do, where a first step shows that the run cannot be.
    """
    trial = Trial(plan, cache, stop)
    stages: dict[Stage, Callable[[], float]] = {
        "squeeze": trial.squeeze,
        "statistics": trial.statistics,
        "recover": trial.recover,
        "relabel": trial.relabel,
        "validate": trial.validate,
    }
    seconds = {stage: stages[stage]() for stage in STAGES}
    tried = f"a few steps of each stage on {plan.device}"
    fewer = "" if trial.whole else ", large batches with fewer images"
    return Estimate(seconds, trial.memory(), plan.bytes_needed(), f"measured here: {tried}{fewer}")


class Trial:
    """The stages of one plan, tried one after another."""

    def __init__(self, plan: Plan, cache: Cache, stop: Stop | None = None) -> None:
        self.plan = plan
        self.cache = cache
        self.stop = stop
        self.device = plan.device
        self.train = plan.data.train
        self.config = _changed(plan.config, checkpoint_seconds=0.0)  # a save point after every step
        self.alone, self.known = artefacts.single_backbone_configs(self.config), known_teachers(plan, cache)
        self.teachers = [
            known or artefacts.new_network(config, plan.data).eval()
            for config, known in zip(self.alone, self.known, strict=True)
        ]
        self.teacher = self.teachers[0] if len(self.teachers) == 1 else Ensemble(self.teachers)
        self.whole = True
        self._held = psutil.Process().memory_info().rss if self.device.type != "cuda" else 0
        self._peak = 0.0

    # --- stages -----------------------------------------------------------------------------------

    def squeeze(self) -> float:
        """Seconds of training the teachers that are not known."""
        pairs = zip(self.alone, self.known, strict=True)
        return sum(self._squeeze(config) for config, known in pairs if known is None)

    def _squeeze(self, one: Config) -> float:
        settings = one.squeeze

        def work(size: int) -> Work:
            config = _changed(one, squeeze=_changed(settings, batch=size))
            model = artefacts.new_network(config, self.plan.data)
            return squeeze.squeeze(config, model, self.train, self.device)

        cost = self._cost(work, min(settings.batch, len(self.train)))
        return cost.setup + settings.epochs * _parts(len(self.train), settings.batch) * cost.step

    def statistics(self) -> float:
        """Seconds of measuring the real images; 0 where nothing is optimised, or statistics are given."""
        if not self.config.optimises or self.plan.statistics is not None:
            return 0.0
        return sum(map(self._measure, self.known, self.teachers))

    def _measure(self, known: nn.Module | None, teacher: nn.Module) -> float:
        if self._real(known) is not None:
            return 0.0
        settings = self.config.statistics

        def work(size: int) -> Work:
            config = _changed(self.config, statistics=_changed(settings, batch=size))
            return statistics.measure(config, teacher, self.train, self.device)

        cost = self._cost(work, min(settings.batch, len(self.train)))
        return cost.setup + _parts(len(self.train), settings.batch) * cost.step

    def recover(self) -> float:
        """Seconds of optimising all images, or of selecting crops; copied and given images take none."""
        if self.config.recover.algorithm == "none" or self.plan.given is not None:
            return 0.0
        if self.config.recover.algorithm == "select":
            return self._select()
        settings = self.config.recover
        steady, through = self._through()
        plan = recovery_batches.plan_batches(self.config, len(self.train.classes))
        images = len(plan[0][1])

        def work(size: int) -> Work:
            part = None if settings.micro_batch is None else -(-settings.micro_batch * size // images)
            few = _changed(settings, classes_per_batch=size, iterations=EPOCHS, micro_batch=part)
            config = _changed(self.config, recover=few, objective=steady)
            device, keep = self.device, lambda *_: None
            return recover.recover(config, *through[0], self.train, device, keep, None, through[1:])

        cost = self._cost(work, images)
        return cost.setup + len(plan) * settings.iterations * cost.step

    def _select(self) -> float:
        """Seconds of scoring the crops of all classes."""
        settings, classes = self.config.recover, len(self.train.classes)

        def work(size: int) -> Work:
            few = _changed(settings.select, pool=size, factor=1)
            config = _changed(self.config, ipc=1, recover=_changed(settings, select=few))
            return rded.select(config, self.teachers[0], self.train, self.device, lambda *_: None)

        pool = min(recovery_batches.pool_size(self.config), len(self.train) // classes)
        cost = self._cost(work, max(1, min(pool, rded.CHUNK)))
        return cost.setup + classes * _parts(pool, rded.CHUNK) * cost.step

    def relabel(self) -> float:
        """Seconds of storing labels; 0 where students are labelled as they learn."""
        if self.config.relabel.mode == "online":
            return 0.0
        count = self._images()

        def work(size: int) -> Work:
            images = _some(self.train, size)
            return relabel.relabel(self.config, self.teacher, images, self.device, lambda *_: None, "trial")

        cost = self._cost(work, min(count, relabel.RELABEL_BATCH))
        epochs = self.config.relabel.stored_epochs or self.config.validate_.epochs
        return cost.setup + epochs * self._sources() * _parts(count, relabel.RELABEL_BATCH) * cost.step

    def validate(self) -> float:
        """Seconds of training and measuring every student."""
        settings, seconds = self.config.validate_, 0.0
        measured = sum(validate.is_measured_epoch(settings, epoch) for epoch in range(settings.epochs))
        for name in settings.students or (self.config.backbone.name,):
            learning, measuring = self._student(name)
            steps = settings.epochs * _parts(self._images(), settings.batch)
            passes = measured * _parts(len(self.plan.data.test), training.EVALUATION_BATCH)
            each = learning.setup + steps * learning.step + passes * measuring.step
            seconds += settings.seeds * self._sources() * each
        return seconds

    def _student(self, name: str) -> tuple[Cost, Cost]:
        """What a step of its training takes, and a batch of its measurements."""
        settings, test = self.config.validate_, self.plan.data.test
        label = Labeller(self.teacher, self.device, settings.precision)
        stored = self.config.relabel.mode == "stored"

        def student(size: int) -> validate.Student:
            few = _changed(settings, batch=size, epochs=EPOCHS, evaluate_from=1.0, average=0.0)
            images = _some(self.train, min(self._images(), 4 * size))
            config = _changed(self.config, validate_=few)
            return validate.Student(config, name, 0, "distilled", images, self.device)

        def learn(size: int) -> Work:
            learner = student(size)
            shape = (len(learner.images), len(self.train.classes))
            labels = relabel.StoredLabels(1, lambda _: torch.zeros(shape, dtype=torch.float16).numpy())
            return learner.train(label, labels if stored else None, test)

        def measure(size: int) -> Work:
            model, some = student(2).model, _some(test, size)
            while True:
                training.evaluate_accuracy(model, some, self.device)
                yield Checkpoint("validate", StageState)

        learning = self._cost(learn, min(settings.batch, self._images()))
        return learning, self._cost(measure, min(training.EVALUATION_BATCH, len(test)))

    # --- what they need ---------------------------------------------------------------------------

    def _images(self) -> int:
        return self.plan.image_shape()[0]

    def _sources(self) -> int:
        return 2 if self.config.validate_.control else 1

    def _through(self) -> tuple[Objective, list[tuple[nn.Module, list[Moments]]]]:
        """An objective at one β, and each teacher with the real moments, where they are known already."""
        goal = _changed(self.config.objective, beta=1.0, schedule=BetaSchedule(kind="constant", per="batch"))
        reals = [self._real(known) for known in self.known]
        if None in reals and ALPHA in goal.parameters:  # which may be too large for a stand-in alone
            goal = _changed(goal, parameters={**goal.parameters, ALPHA: None})
        return goal, [(t, r or self._stand_in(goal, t)) for t, r in zip(self.teachers, reals, strict=True)]

    def _real(self, known: nn.Module | None) -> list[Moments] | None:
        if known is None or self.plan.statistics is not None:
            return self.plan.statistics
        return artefacts.cached_statistics(self.config, self.plan.data, known, self.cache)

    def _stand_in(self, goal: Objective, teacher: nn.Module) -> list[Moments]:
        network = Tapped(teacher, goal.taps, self.device, patch=goal.patch)
        with torch.no_grad():
            features, _ = network(self.train.batch([0], self.device))
        sizes = {name: x.shape[1] for name, x in zip(network.names, features, strict=True)}
        return placeholder_moments(goal, sizes, len(self.train.classes))

    def memory(self) -> int:
        """Bytes at the run's peak, by what was tried so far."""
        return int(self._held + self._sources() * math.prod(self.plan.image_shape()) + self._peak)

    # --- measuring --------------------------------------------------------------------------------

    def _cost(self, work: Callable[[int], Work], full: int) -> Cost:
        """What a stage takes whose batches have `full` images."""
        size = min(full, max(LEAST, -(-full // SHARE)))
        cost = self._try(work, size)
        if size < full and cost.step >= LONG and size // 2 >= 2:
            half = size // 2
            cost = _line(self._try(work, half), half, cost, size, full)
        elif size < full and cost.step > 0:
            larger = min(full, max(2 * size, int(size * QUICK / cost.step)))
            cost = _line(cost, size, self._try(work, larger), larger, full)
        self.whole &= cost.whole
        self._peak = max(self._peak, cost.bytes)
        return cost

    def _try(self, work: Callable[[int], Work], size: int) -> Cost:
        meter = _meter(self.device)
        times: list[float] = []
        with ExitStack() as left:
            began = time.perf_counter()
            with meter:
                stage = work(size)
                left.callback(stage.close)
                going = self._pull(stage)
            first = time.perf_counter() - began
            if going and first < LONG:  # what optimisers remember is there from the second step on
                began = time.perf_counter()
                with meter:
                    going = self._pull(stage)
                second = time.perf_counter() - began  # the meter's part in a long step is small
                times = [second] if second > ENOUGH else []
            while going and first < LONG and sum(times) < ENOUGH:
                began = time.perf_counter()
                going = self._pull(stage)
                times.append(time.perf_counter() - began)
        step = median(times) if times else first
        return Cost(max(0.0, first - step), step, meter.peak)

    def _pull(self, stage: Work) -> bool:
        """One step; whether there may be another. Raises Cancelled."""
        require_wanted(self.stop)
        with suppress(StopIteration):
            while not isinstance(next(stage), Checkpoint):
                pass
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            return True
        return False


def _changed(settings: M, **changes: Any) -> M:
    return settings.model_copy(update=changes)


def _parts(images: int, batch: int) -> int:
    return -(-images // batch)


def _some(images: ImageSet, count: int) -> ImageSet:
    """`count` of the images, over and over where there are fewer."""
    chosen = [index % len(images) for index in range(count)]
    labels_N = images.labels_N[chosen]
    return ImageSet.from_arrays(images.pixels(chosen), labels_N, images.classes, images.mean, images.std)


def _line(small: Cost, size: int, large: Cost, larger: int, full: int) -> Cost:
    """What `full` images take by the line through two smaller sizes.

    It neither falls nor rises faster than the images' number, however unsteady the machine was.
    """

    def at_full(low: float, high: float) -> float:
        line = high + (high - low) / (larger - size) * (full - larger)
        return min(max(high, line), high * full / larger)

    return Cost(
        large.setup, at_full(small.step, large.step), at_full(small.bytes, large.bytes), larger == full
    )


# --- memory --------------------------------------------------------------------------------------


def _meter(device: torch.device) -> _Tensors | _Cuda:
    return _Cuda(device) if device.type == "cuda" else _Tensors()


class _Cuda:
    """Bytes of the device that were taken at the peak, since it was first looked at."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.before = torch.cuda.memory_allocated(device)
        self.peak = 0
        torch.cuda.reset_peak_memory_stats(device)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self.peak = max(self.peak, torch.cuda.max_memory_allocated(self.device) - self.before)


class _Tensors(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Most bytes that lived at once of the tensors that this thread made while it was on."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._living: dict[int, int] = {}
        self._total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        for made in found if isinstance(found, tuple | list) else (found,):
            if isinstance(made, Tensor):
                self._count(made.untyped_storage())
        return found

    def _count(self, storage: torch.UntypedStorage) -> None:
        place, size = storage.data_ptr(), storage.nbytes()
        if size and place not in self._living:
            self._living[place] = size
            self._total += size
            self.peak = max(self.peak, self._total)
            weakref.finalize(storage, self._gone, place).atexit = False

    def _gone(self, place: int) -> None:
        self._total -= self._living.pop(place, 0)
