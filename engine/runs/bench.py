"""Measure how fast this machine runs an experiment, beside the bare network and the machine's own arithmetic.

The stages are timed by the trial that also estimates a run (see `estimates`).
Legend: M images in a batch, C channels, H, W.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from statistics import mean, median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from engine import backbones
from engine import device as devices
from engine.config import Config, Optimiser, Precision
from engine.device import autocast, conv_precision, explain_out_of_memory, synchronize
from engine.rng import torch_seeded
from engine.runs import artefacts, provenance
from engine.runs.estimates import Trial
from engine.runs.plan import Plan
from engine.runs.preview import Stop, raise_if_cancelled
from engine.spectral import matching
from engine.spectral.taps import Tapped
from engine.stages.training import Trainer
from engine.stages.validate import build_student
from engine.store import Cache

MEASUREMENTS = 25  #: among which the given time is divided, about
SPANS = 5  #: parts of the time of a measurement; the best or the median is taken
SIDE = {"cpu": 2048, "cuda": 8192, "mps": 4096}  #: of the matrices whose product shows the arithmetic peak
#: The setting that is lowered where the network alone runs out of memory; evaluation has none.
BATCH_SETTINGS = {
    "recovery": "recover.micro_batch",
    "statistics": "statistics.batch",
    "squeeze": "squeeze.batch",
    "students": "validate.batch",
}
Report = Callable[[str], None]
Step = Callable[[], object]


@dataclass(frozen=True)
class StageRate:
    """How fast a stage runs.

    what: recovery, statistics, squeeze, students or evaluation. batch: images in a step, of each student.
    rate: in `unit` per second: iterations of one batch, or images of all students together. bare: the same
    of the network alone. share: rate / bare. gflops: 1e9 operations per second of the network's convolutions
    and products, at `rate`. of_peak: their share of the machine's peak.
    """

    what: str
    network: str
    precision: Precision
    batch: int
    unit: str
    rate: float
    bare: float
    share: float
    gflops: float
    of_peak: float


def measure(
    plan: Plan,
    cache: Cache,
    seconds: float,
    report: Report = lambda _: None,
    stop: Stop | None = None,
) -> dict[str, Any]:
    """Measure a plan on this machine, and return what `cfm bench --json` prints of it.

    Takes about `seconds`, or longer where steps are long. report: called with what is measured next. Raises
    as `estimates.estimate` and `Bench.measure_rates` do.
    """
    trial = Trial(plan, cache, stop, enough=seconds / MEASUREMENTS)
    estimate = trial.estimate(report)
    bench = Bench(trial, report)
    rates = list(bench.measure_rates())
    if plan.config.optimises:
        report("timing the parts of a recovery step")
    return {
        "machine": describe_machine(plan),
        "settings": describe_settings(plan),
        "rates": [asdict(rate) for rate in rates],
        "peaks": dict(bench.peaks),
        "recovery_parts": trial.measure_recovery_parts() if plan.config.optimises else None,
        "memory_bytes": estimate.memory_bytes,
        "label_bytes": plan.config.repeats * plan.count_label_bytes(),
        "disk_bytes": estimate.disk_bytes,
        "seconds": dict(estimate.seconds),
        "how": estimate.how,
    }


def describe_machine(plan: Plan) -> dict[str, Any]:
    """Return what computes: processor, device, threads, software."""
    return {
        "processor": devices.describe_processor(),
        "processors": devices.cpus(),
        "threads": torch.get_num_threads(),
        "device": devices.describe(plan.device),
        "system": platform.platform(),
        "versions": provenance.versions(),
    }


def describe_settings(plan: Plan) -> dict[str, Any]:
    """Return the settings on which speed depends most."""
    config, train = plan.config, plan.data.train
    return {
        "data": plan.data.name,
        "train_images": len(train),
        "test_images": len(plan.data.test),
        "classes": len(train.classes),
        "channels": train.channels,
        "image_size": train.size,
        "ipc": config.ipc,
        "method": config.objective.method,
        "backbone": config.backbone.name,
        "students": list(config.validate_.students or (config.backbone.name,)),
        "students_per_architecture": config.students_per_architecture,
        "together": list(plan.execution.stacked),
        "repeats": config.repeats,
    }


class Bench:
    """Times the stages of a trial beside their networks alone.

    The network alone processes images that are already on the device: in recovery, forward and backward to
    the images, BatchNorm folded, micro-batch by micro-batch; in training, forward, backward and the update of
    the weights; else forward, BatchNorm folded. Batch and precision are those of the stage. It is always a
    single network. peaks: 1e9 operations per second that products of matrices reach, by precision, as far as
    they were measured.
    """

    def __init__(self, trial: Trial, report: Report = lambda _: None) -> None:
        self.trial = trial
        self.plan = trial.plan
        self.config = trial.plan.config
        self.device = trial.device
        self.report = report
        self.peaks: dict[Precision, float] = {}

    def measure_rates(self) -> Iterator[StageRate]:
        """Yield the rates of recovery, statistics, squeeze, students and evaluation.

        A rate that the experiment does not need is left out; one whose result is cached is not. Selecting
        crops and storing labels have no rate.
        Raises Cancelled soon after the trial is to stop, UserError("memory") if a network alone runs out of
        memory, and UserError as a stage does if its first step fails.
        """
        trial, plan = self.trial, self.plan
        configs, given = trial.single_configs, (plan.teacher, *plan.others)
        if self.config.optimises:
            yield self._measure_recovery()
            if self.config.objective.taps != "batchnorm" and plan.statistics is None:
                for single, teacher in zip(configs, trial.teachers, strict=True):
                    yield self._measure_statistics(single.backbone.name, teacher)
        for single in (single for single, teacher in zip(configs, given, strict=True) if teacher is None):
            yield self._measure_squeeze(single)
        for name in trial.architectures():
            yield self._measure_students(name)
            yield self._measure_evaluation(name)

    def _measure_recovery(self) -> StageRate:
        self.report("timing recovery")
        trial, precision = self.trial, self.config.recover.precision
        cost, batch = trial.measure_recovery_step(), trial.count_recovery_images()
        name = " ".join(dict.fromkeys(single.backbone.name for single in trial.single_configs))
        build = partial(self._build_recovery_step, precision=precision)
        return self._compare(
            "recovery", name, trial.teachers, build, precision, batch, cost.size, 1 / cost.step, batch
        )

    def _measure_statistics(self, name: str, teacher: nn.Module) -> StageRate:
        self.report(f"timing statistics of {name}")
        batch = min(self.config.statistics.batch, len(self.trial.train))
        cost = self.trial.measure_statistics_step(name, teacher)
        build, rate = self._build_forward_step, batch / cost.step
        return self._compare("statistics", name, [teacher], build, "float32", batch, cost.size, rate)

    def _measure_squeeze(self, single: Config) -> StageRate:
        name, settings = single.backbone.name, single.squeeze
        self.report(f"timing squeeze of {name}")
        batch, cost = min(settings.batch, len(self.trial.train)), self.trial.measure_squeeze_step(single)
        network = artefacts.build_network(single, self.plan.data)
        build = partial(self._build_training_step, optimiser=settings.optimiser, precision=settings.precision)
        rate = batch / cost.step
        return self._compare("squeeze", name, [network], build, settings.precision, batch, cost.size, rate)

    def _measure_students(self, name: str) -> StageRate:
        self.report(f"timing students of {name}")
        settings, images = self.config.validate_, self.plan.image_shape()[0]
        batch, cost = min(settings.batch, images), self.trial.measure_student_step(name)
        network = build_student(self.config, name, 0, self.trial.train)
        build = partial(self._build_training_step, optimiser=settings.optimiser, precision=settings.precision)
        rate = self.trial.group_size(name) * batch / cost.step
        return self._compare("students", name, [network], build, settings.precision, batch, cost.size, rate)

    def _measure_evaluation(self, name: str) -> StageRate:
        self.report(f"timing evaluation of {name}")
        test, cost = len(self.plan.data.test), self.trial.measure_student_evaluation(name)
        network = build_student(self.config, name, 0, self.trial.train)
        rate = self.trial.group_size(name) * test / cost.seconds(test)
        build = self._build_forward_step
        return self._compare("evaluation", name, [network], build, "float32", cost.batch, cost.batch, rate)

    def _compare(
        self,
        what: str,
        name: str,
        networks: Sequence[nn.Module],
        build: Callable[[nn.Module, int], Step],
        precision: Precision,
        batch: int,
        size: int,
        rate: float,
        images_per_iteration: int = 0,
    ) -> StageRate:
        """Compare a rate with steps of the networks alone, between which the steps of the stage alternate.

        name: of all networks. build: returns the step of a network on `size` images. rate: in iterations of
        so many images per second, or, if 0, in images per second.
        """
        setting = BATCH_SETTINGS.get(what)
        hint = f"set a smaller {setting}" if setting else "use a device with more memory, or --device cpu"
        with explain_out_of_memory(self.device, f"timing {name} alone on {size} images ({what})", hint):
            seconds, operations = zip(
                *(self._time_bare(build(network, size)) for network in networks), strict=True
            )
        images_per_unit = images_per_iteration or 1
        bare = size / mean(seconds) / images_per_unit
        gflops = mean(operations) / size * rate * images_per_unit / 1e9
        of_peak = gflops / self._measure_peak(precision)
        unit = "iterations" if images_per_iteration else "images"
        return StageRate(what, name, precision, batch, unit, rate, bare, rate / bare, gflops, of_peak)

    # --- networks alone ---------------------------------------------------------------------------

    def _draw_images(self, images: int) -> tuple[Tensor, Tensor]:
        """Return random images, channels-last, and their classes, on the device."""
        train = self.trial.train
        with torch_seeded(0, "bench"):
            x_MCHW = torch.randn(images, train.channels, train.size, train.size)
        labels_M = torch.arange(images, device=self.device) % len(train.classes)
        return x_MCHW.to(device=self.device, memory_format=torch.channels_last), labels_M

    def _build_recovery_step(self, model: nn.Module, images: int, precision: Precision) -> Step:
        network = Tapped(model, "conv-input", self.device, precision)  # the taps that let BatchNorm be folded
        part = self.trial.scale_micro_batch(images) or images
        x_MCHW, labels_M = self._draw_images(images)
        parts_MCHW = [x.detach().requires_grad_() for x in torch.split(x_MCHW, part)]
        parts = list(zip(parts_MCHW, torch.split(labels_M, part), strict=True))

        def step() -> None:
            for x_MCHW, labels_M in parts:
                x_MCHW.grad = None
                with conv_precision(precision):
                    _, logits_MK = network(x_MCHW)
                    matching.cross_entropy(logits_MK, labels_M).backward()  # type: ignore[no-untyped-call]

        return step

    def _build_training_step(
        self, model: nn.Module, images: int, optimiser: Optimiser, precision: Precision
    ) -> Step:
        network = backbones.place_on(model, self.device).train()
        trainer = Trainer(network, optimiser, 1, precision)
        x_MCHW, labels_M = self._draw_images(images)

        def step() -> None:
            trainer.optimiser.zero_grad()
            with conv_precision(precision):
                with autocast(self.device, precision):
                    logits_MK = network(x_MCHW)
                F.cross_entropy(logits_MK.float(), labels_M).backward()  # type: ignore[no-untyped-call]
            trainer.optimiser.step()

        return step

    def _build_forward_step(self, model: nn.Module, images: int) -> Step:
        network = backbones.place_on(backbones.fold_batchnorm(model), self.device)
        x_MCHW, _ = self._draw_images(images)
        return torch.no_grad()(lambda: network(x_MCHW))

    # --- measuring --------------------------------------------------------------------------------

    def _time_bare(self, step: Step) -> tuple[float, int]:
        """Return the seconds of a step, and the arithmetic operations of its convolutions and products."""
        with FlopCounterMode(display=False) as counter:
            step()
        return median(self._time_spans(step)), counter.get_total_flops()

    def _time_spans(self, step: Step) -> list[float]:
        """Return the mean seconds of a step in each of several spans of time."""
        step()
        times: list[float] = []
        for _ in range(SPANS):
            raise_if_cancelled(self.trial.stop)
            synchronize(self.device)
            steps, began = 0, time.perf_counter()
            while steps == 0 or time.perf_counter() - began < self.trial.enough / SPANS:
                step()
                steps += 1
            synchronize(self.device)
            times.append((time.perf_counter() - began) / steps)
        return times

    def _measure_peak(self, precision: Precision) -> float:
        """Return the 1e9 operations per second that the best of several large matrix products reaches."""
        if precision not in self.peaks:
            self.report(f"timing products of matrices in {precision}")
            side = SIDE[self.device.type]
            kind = torch.bfloat16 if precision == "bfloat16" else torch.float32
            with torch_seeded(0, "bench"):
                a, b = (torch.randn(side, side).to(device=self.device, dtype=kind) for _ in range(2))
            with _allow_tf32(precision):
                seconds = min(self._time_spans(lambda: a @ b))
            self.peaks[precision] = 2 * side**3 / seconds / 1e9
        return self.peaks[precision]


@contextmanager
def _allow_tf32(precision: Precision) -> Iterator[None]:
    """Let products of matrices on CUDA use TF32 in the block if `precision` is tf32."""
    previous = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = previous
