"""Whether steps wait for the host, how fast they are beside the network alone, and what takes the time."""

from __future__ import annotations

import cProfile
import pstats
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar
from unittest import mock

import correctness
import numpy as np
import recovery
import students as student_loops
import torch
import torch.nn.functional as F
from harness import Options, Row
from torch import Tensor, nn
from torch.profiler import ProfilerActivity

from engine import backbones
from engine.checkpoint import Checkpoint
from engine.config import Precision
from engine.data import ImageSet
from engine.device import conv_precision
from engine.events import Event
from engine.spectral import matrix_functions
from engine.spectral.taps import Tapped
from engine.stages import squeeze, training
from engine.stages import statistics as real_side

ROUNDS = 3
SHOWN = 10  #: kernels of a profile
Step = Callable[[], object]
T = TypeVar("T")


# --- waits --------------------------------------------------------------------------------------------


@contextmanager
def forbid_sync(options: Options) -> Iterator[None]:
    """Let an operation that synchronizes host and device raise, on CUDA."""
    if options.cuda:
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        if options.cuda:
            torch.cuda.set_sync_debug_mode("default")


def waits(options: Options) -> Iterator[Row]:
    """Take 50 steps of recovery and 3 epochs of students where waiting for the device is an error."""
    steps = 3 if options.quick else 50
    for backbone, method in [*(("convnet", method) for method in correctness.METHODS), ("resnet18", "cfm")]:
        one = correctness.case(backbone, method, options.quick)
        batch = correctness.batch_on_device(one, 3, options.device, "float32")
        what = f"{steps} steps of recovery, {backbone}, {method}"
        if batch.unformed:
            what += f", low-rank form at {len(batch.unformed)} taps"
        yield _measure_waits(what, batch.step, steps, options)
    config = student_loops.configuration("convnet", ("backbone.width=32",) if options.quick else ())
    images = recovery.smooth_images(100)
    loops = student_loops.contestants(config, images, options.device)
    yield _measure_waits("3 epochs of a student, labels online", loops["ours"].epoch, 3, options)


def _measure_waits(what: str, step: Step, count: int, options: Options) -> Row:
    step()  # what is copied to the device once
    verdict = None
    try:
        with forbid_sync(options):
            for _ in range(count):
                step()
        verdict = "no" if options.cuda else None
    except RuntimeError as error:
        if "synchronizing" not in str(error):
            raise
        verdict = "yes: " + _place(error)
    return {"what": what, "waits": verdict, **_transfers(step, options)}


def _place(error: RuntimeError) -> str:
    """Name the innermost function of the engine that waited."""
    frame, found = error.__traceback__, "unknown"
    while frame is not None:
        name = frame.tb_frame.f_globals.get("__name__", "")
        if name.startswith("engine"):
            found = f"{name}.{frame.tb_frame.f_code.co_name}"
        frame = frame.tb_next
    return found


def _transfers(step: Step, options: Options) -> Row:
    """Count, in one step, calls that wait for the device and copies from memory that is not pinned."""
    names = ("waiting calls", "pageable copies", "copies to the device", "kernels")
    if not options.cuda:
        return dict.fromkeys(names)
    with torch.profiler.profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        step()
    counts: Counter[str] = Counter()
    for event in profiler.events():
        counts["waiting calls"] += event.name in ("cudaStreamSynchronize", "cudaEventSynchronize")
        counts["copies to the device"] += event.name.startswith("Memcpy HtoD")
        counts["pageable copies"] += event.name.startswith("Memcpy HtoD (Pageable")
        counts["kernels"] += _is_kernel(event)
    return {name: counts[name] for name in names}


def _is_kernel(event: torch.autograd.profiler_util.FunctionEvent) -> bool:
    on_device = event.device_type == torch.autograd.DeviceType.CUDA
    return on_device and not event.name.startswith(("Memcpy", "Memset", "ProfilerStep"))


# --- the speed of recovery ----------------------------------------------------------------------------

FULL = [("convnet", 10, 32), ("resnet18", 100, 32), ("resnet18", 200, 64), ("resnet18", 100, 224)]
QUICK = [("convnet", 4, 32)]


class Folded:
    """Forward and backward of the network of recovery, without statistics: the least a step can take."""

    def __init__(self, scene: recovery.Scene, precision: Precision) -> None:
        self.network = Tapped(scene.model, scene.config.objective.taps, scene.device, precision)
        self.images_MCHW = scene.start_MCHW.clone().requires_grad_()
        self.labels_M, self.precision = scene.labels_M, precision

    def step(self) -> None:
        self.images_MCHW.grad = None
        with conv_precision(self.precision):
            _, logits_MK = self.network(self.images_MCHW)
            F.cross_entropy(logits_MK.float(), self.labels_M).backward()


def scene(backbone: str, images: int, size: int, options: Options) -> recovery.Scene:
    """The batch that a row is measured on: one image of each of `images` classes."""
    sets = ["backbone.width=32"] if options.quick else []
    if size == 224:
        sets.append("data.image_size=224")
    return recovery.scene(backbone, options.device, images, size, sets)


def recovery_contestants(one: recovery.Scene, options: Options) -> dict[str, Step]:
    precisions: Sequence[Precision] = ("float32", "tf32", "bfloat16") if options.cuda else ("float32",)
    steps: dict[str, Step] = {"bare network": recovery.Network(one).step}
    steps["plain loop"] = recovery.Plain(one).step
    if options.cuda:
        steps["plain loop, tf32"] = with_tf32(recovery.Plain(one).step)
    for precision in precisions:
        steps[f"folded network, {precision}"] = Folded(one, precision).step
        steps[f"ours, {precision}"] = recovery.Ours(one, precision).step
    images = len(one.labels_M)
    if images in (4, 200):
        part = images // 4
        steps[f"ours, float32, micro-batches of {part}"] = recovery.Ours(one, "float32", part).step
    return steps


def with_tf32(step: Step) -> Step:
    """Take steps as PyTorch takes them by default: with TF32 in convolutions."""

    def in_tf32() -> None:
        with conv_precision("tf32"):
            step()

    return in_tf32


def recovery_speed(options: Options) -> Iterator[Row]:
    """Time a step of each contestant, in turn, with the memory that it needs at its peak."""
    for backbone, images, size in QUICK if options.quick else FULL:
        one = scene(backbone, images, size, options)
        steps = recovery_contestants(one, options)
        milliseconds, peaks = in_turn(steps, options)
        for name in steps:
            ms = statistics.median(milliseconds[name])
            ratios = [p / o for p, o in zip(milliseconds["plain loop"], milliseconds[name], strict=True)]
            yield {
                "batch": f"{backbone}, {images} × {size} px",
                "what": name,
                "ms a step": ms,
                "image-iterations/s": images / ms * 1e3,
                "plain / this": statistics.median(ratios),
                "peak MiB": peaks[name],
            }


def in_turn(
    steps: dict[str, Step], options: Options
) -> tuple[dict[str, list[float]], dict[str, float | None]]:
    """Return milliseconds a step in each round, and the most memory beyond what was held, in MiB."""
    counts, peaks = {}, {}
    for name, step in steps.items():
        step()
        counts[name], peaks[name] = _count(step, options), _peak(step, options)
    found: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(ROUNDS):
        for name, step in steps.items():
            found[name].append(_milliseconds(step, counts[name], options))
    return found, peaks


def _count(step: Step, options: Options) -> int:
    """How many steps make a round of about 0.4 s."""
    _milliseconds(step, 2, options)
    return max(2, min(200, round(400 / _milliseconds(step, 3, options)))) if not options.quick else 2


def _milliseconds(step: Step, count: int, options: Options) -> float:
    options.synchronize()
    since = time.perf_counter()
    for _ in range(count):
        step()
    options.synchronize()
    return (time.perf_counter() - since) / count * 1e3


def _peak(step: Step, options: Options) -> float | None:
    if not options.cuda:
        return None
    torch.cuda.reset_peak_memory_stats(options.device)
    held = torch.cuda.memory_allocated(options.device)
    step()
    options.synchronize()
    return (torch.cuda.max_memory_allocated(options.device) - held) / 2**20


# --- the filters of a step ----------------------------------------------------------------------------


def filters(options: Options) -> Iterator[Row]:
    """Time f(Ψ) of all taps with its gradient, and a whole step, with taps inverted one by one and stacked.

    The steps of 10 images leave Ψ of the last taps in low-rank form; f(Ψ) is that of formed Ψ.
    """
    for images in (4,) if options.quick else (10, 100):
        one = scene("resnet18", images, 32, options)
        covariances = [tap.cov_DD.clone().requires_grad_() for tap in one.earlier if tap.cov_DD is not None]
        gradients = [torch.ones_like(cov_DD) for cov_DD in covariances]

        def invert(
            covariances: Sequence[Tensor] = covariances, gradients: Sequence[Tensor] = gradients
        ) -> Sequence[Tensor]:
            inverses = matrix_functions.invert_ridges([(x,) for x in covariances], recovery.BETA)
            filtered = torch.autograd.grad(inverses, covariances, gradients)
            return [*(inverse.detach() for inverse in inverses), *filtered]

        one_by_one, batched = set[str](), {options.device.type}
        both = with_batching(one_by_one, invert)(), with_batching(batched, invert)()
        apart = [correctness.relative(y, x.cpu().double()) for x, y in zip(*both, strict=True)]
        steps: dict[str, Step] = {}
        for title, devices in (("one by one", one_by_one), ("batched", batched)):
            steps[f"filters {title}"] = with_batching(devices, invert)
            steps[f"step, filters {title}"] = with_batching(devices, recovery.Ours(one).step)
        milliseconds, peaks = in_turn(steps, options)
        for name, each in milliseconds.items():
            yield {
                "batch": f"resnet18, {images} × 32 px",
                "what": name,
                "ms": statistics.median(each),
                "peak MiB": peaks[name],
                "from one by one": max(apart) if name == "filters batched" else None,
            }


def with_batching(devices: set[str], step: Callable[[], T]) -> Callable[[], T]:
    """Take steps that invert taps of the same shapes in one call on these types of device."""

    def take() -> T:
        with mock.patch.object(matrix_functions, "BATCHED_DEVICES", devices):
            return step()

    return take


# --- profile ------------------------------------------------------------------------------------------


def profile(options: Options) -> Iterator[Row]:
    """List the most expensive kernels of our step, and the share of time in which no kernel runs."""
    cases = [(100, 32, "float32"), (100, 32, "bfloat16"), (100, 224, "float32"), (100, 224, "bfloat16")]
    for images, size, precision in [(4, 32, "float32")] if options.quick else cases:
        step = recovery.Ours(scene("resnet18", images, size, options), precision).step
        for _ in range(1 if options.quick else 5):
            step()
        options.synchronize()
        count = 1 if options.quick else 10
        kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if options.cuda else [])]
        with torch.profiler.profile(activities=kinds) as profiler:
            for _ in range(count):
                step()
            options.synchronize()
        batch = f"resnet18, {images} × {size} px, {precision}"
        yield from _kernels(batch, profiler, count) if options.cuda else _operators(batch, profiler, count)
        yield from _host(batch, step, count)


def _kernels(batch: str, profiler: torch.profiler.profile, count: int) -> Iterator[Row]:
    kernels = [event for event in profiler.events() if _is_kernel(event)]
    spans = sorted((event.time_range.start, event.time_range.end) for event in kernels)
    whole = spans[-1][1] - spans[0][0]
    busy, reached = 0.0, spans[0][0]
    for start, end in spans:
        busy += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    times: Counter[str] = Counter()
    numbers: Counter[str] = Counter()
    for event in kernels:
        times[event.name] += event.time_range.end - event.time_range.start
        numbers[event.name] += 1
    for name, spent in times.most_common(SHOWN):
        yield _cost(batch, name, numbers[name] / count, spent / count / 1e3, spent / whole)
    yield _cost(batch, "all kernels", len(kernels) / count, busy / count / 1e3, busy / whole)
    yield _cost(batch, "no kernel", 0, (whole - busy) / count / 1e3, 1 - busy / whole)


def _operators(batch: str, profiler: torch.profiler.profile, count: int) -> Iterator[Row]:
    averages = sorted(profiler.key_averages(), key=lambda event: -event.self_cpu_time_total)
    whole = sum(event.self_cpu_time_total for event in averages)
    for event in averages[:SHOWN]:
        spent = event.self_cpu_time_total
        yield _cost(batch, event.key, event.count / count, spent / count / 1e3, spent / whole)


def _host(batch: str, step: Step, count: int) -> Iterator[Row]:
    """The functions in which the host spends most time of its own; backward is one of them."""
    profiler = cProfile.Profile()
    profiler.enable()
    try:
        for _ in range(count):
            step()
    finally:
        profiler.disable()
    entries = pstats.Stats(profiler).stats  # by (file, line, name): calls, _, own seconds, with callees, _
    whole = sum(own for _, _, own, _, _ in entries.values())
    for (file, _, name), (_, calls, own, _, _) in sorted(entries.items(), key=lambda entry: -entry[1][2])[
        :SHOWN
    ]:
        title = f"host: {Path(file).name} {name}" if file != "~" else f"host: {name}"
        yield _cost(batch, title, calls / count, own / count * 1e3, own / whole)


def _cost(batch: str, name: str, number: float, milliseconds: float, share: float) -> Row:
    short = name if len(name) <= 90 else name[:87] + "..."
    return {
        "batch": batch,
        "kernel or host function": short,
        "a step": number,
        "ms a step": milliseconds,
        "share": share,
    }


# --- students -----------------------------------------------------------------------------------------


def students(options: Options) -> Iterator[Row]:
    """Time an epoch of a student beside a plain loop, labels online."""
    cases = [(backbone, images) for backbone in ("convnet", "resnet18") for images in (100, 1000)]
    for backbone, images in [("convnet", 20)] if options.quick else cases:
        sets = ("backbone.width=32", "validate.batch=10") if options.quick else ()
        for precision in ("float32", "bfloat16") if options.cuda else ("float32",):
            config = student_loops.configuration(backbone, (*sets, f"validate.precision={precision}"))
            both = student_loops.contestants(config, recovery.smooth_images(images), options.device)
            epochs = 1 if options.quick or images > 100 else 5
            for each in both.values():
                each.epoch()
            rounds = [
                {name: student_loops.seconds(each, epochs, options.device) for name, each in both.items()}
                for _ in range(1 if options.quick else ROUNDS)
            ]
            ours, plain = (statistics.median(each[name] for each in rounds) for name in ("ours", "plain"))
            yield {
                "student": f"{backbone}, {images} images, batches of {config.validate_.batch}",
                "ours in": precision,
                "plain, s an epoch": plain,
                "ours, s an epoch": ours,
                "plain / ours": statistics.median(each["plain"] / each["ours"] for each in rounds),
            }


def stacked_students(options: Options) -> Iterator[Row]:
    """Time six students one after another and as a stack, labels online."""
    for backbone, images in [("convnet", 20)] if options.quick else [("convnet", 100), ("resnet18", 100)]:
        sets = ("backbone.width=32", "validate.batch=10") if options.quick else ()
        for precision in ("float32", "bfloat16") if options.cuda else ("float32",):
            config = student_loops.configuration(backbone, (*sets, f"validate.precision={precision}"))
            both = student_loops.stacked_contestants(
                config, recovery.smooth_images(images), options.device, 2 if options.quick else 6
            )
            for each in both.values():
                each.epoch()
            rounds = [
                {name: student_loops.seconds(each, 1, options.device) for name, each in both.items()}
                for _ in range(1 if options.quick else ROUNDS)
            ]
            row: Row = {"student": f"{backbone}, {images} images", "in": precision}
            for name in both:
                row[f"{name}, s an epoch"] = statistics.median(each[name] for each in rounds)
            ratios = [each["one after another"] / each["together"] for each in rounds]
            yield row | {"one after another / together": statistics.median(ratios)}


# --- passes over a set --------------------------------------------------------------------------------


def passes(options: Options) -> Iterator[Row]:
    """Images a second of statistics, squeeze and evaluation, beside the network alone."""
    count = 64 if options.quick else 10_000
    images = recovery.smooth_images(count)
    for backbone in ("convnet",) if options.quick else ("convnet", "resnet18"):
        sets = (
            "squeeze.epochs=1000",
            "checkpoint_seconds=0",
            *(["backbone.width=32"] if options.quick else []),
        )
        config = student_loops.configuration(backbone, sets)
        model = recovery.teacher(config)
        works: dict[str, tuple[Step, Step]] = {
            "statistics": (
                lambda config=config, model=model: recovery.pull(
                    real_side.measure(config, model, images, options.device)
                ),
                partial(_forward, model, images, config.statistics.batch, options),
            ),
            "evaluation": (
                partial(training.evaluate_accuracy, model, images, options.device),
                partial(_forward, model, images, training.EVALUATION_BATCH, options),
            ),
        }
        for name, (ours, bare) in works.items():
            ours(), bare()
            pairs = [
                (_milliseconds(ours, 1, options), _milliseconds(bare, 1, options)) for _ in range(ROUNDS)
            ]
            yield _rates(f"{name}, {backbone}", count, pairs, "folded forward")
        steps = 2 if options.quick else 30
        pairs = [_squeeze(config, images, steps, options) for _ in range(ROUNDS)]
        seen = steps * min(config.squeeze.batch, count)
        yield _rates(f"squeeze, {backbone}", seen, pairs, "forward, backward, SGD")


def _rates(what: str, images: int, pairs: list[tuple[float, float]], bare: str) -> Row:
    ours, alone = (statistics.median(each) for each in zip(*pairs, strict=True))
    return {
        "what": what,
        "ours, images/s": images / ours * 1e3,
        "bare, images/s": images / alone * 1e3,
        "bare is": bare,
        "ours / bare": statistics.median(bare_ms / ours_ms for ours_ms, bare_ms in pairs),
    }


@torch.no_grad()
def _forward(model: nn.Module, images: ImageSet, batch: int, options: Options) -> Tensor:
    """A forward pass of the folded network over the set, its images ready on the device."""
    network = backbones.place_on(backbones.fold_batchnorm(model), options.device)
    for start in range(0, len(images), batch):
        indices = np.arange(start, min(start + batch, len(images)))
        x_MCHW = images.batch(indices, options.device)
        logits_MK = network(x_MCHW.contiguous(memory_format=torch.channels_last))
    return logits_MK


def _squeeze(config, images: ImageSet, steps: int, options: Options) -> tuple[float, float]:
    """Milliseconds of some steps of squeeze, and of forward, backward and SGD alone."""
    batch = min(config.squeeze.batch, len(images))
    work = squeeze.squeeze(config, recovery.teacher(config), images, options.device)
    _advance(work, 2)
    ours = _milliseconds(lambda: _advance(work, steps), 1, options)
    work.close()
    network = backbones.place_on(recovery.teacher(config), options.device).train()
    optimiser = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, weight_decay=5e-4, fused=True)
    x_MCHW = images.batch(np.arange(batch), options.device).contiguous(memory_format=torch.channels_last)
    labels_M = images.labels_N[:batch].to(options.device)

    def step() -> None:
        optimiser.zero_grad()
        F.cross_entropy(network(x_MCHW), labels_M).backward()
        optimiser.step()

    step()
    return ours, _milliseconds(step, steps, options) * steps


def _advance(work: Iterator[Event], steps: int) -> None:
    """Pull a stage over so many checkpoints; there is one after every step."""
    for event in work:
        steps -= isinstance(event, Checkpoint)
        if steps == 0:
            return
