"""Load shared artefacts from the cache, or compute and cache them: squeezed teachers, real statistics.

A cache key covers everything that determines the artefact: its settings, the data's fingerprint, the seed
and, for statistics, the teacher's weights. Device and thread count are not part of it, because they change
the artefact only by rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import nn

from engine import backbones, rng
from engine.backbones import teacher_check
from engine.checkpoint import Checkpoint, StageState
from engine.config import Config, Optimiser
from engine.data import DataSet
from engine.events import Event, Notice, Stage, StageProgress, map_events, offset_progress
from engine.spectral import moments
from engine.stages import statistics
from engine.stages.squeeze import describe_failure, squeeze
from engine.stages.training import SubsetEvaluator
from engine.store import Cache, CacheEntry, DamagedEntry
from engine.store.cache import key

T = TypeVar("T")
#: Increase when the computation, layout or key of an artefact changes.
TEACHER_FORMAT = 3
STATISTICS_FORMAT = 4
_Examined = tuple[teacher_check.Examination, tuple[str, ...]]  # and warnings about other weights in the file
#: By the teacher's file and weights, the data, the device, and the classes in the file.
_examinations: dict[tuple[str, str, str, str, tuple[str, ...] | None], _Examined] = {}


@dataclass(frozen=True)
class ComputeContext:
    """The device that computes, and the cache that stores shared artefacts."""

    device: torch.device
    cache: Cache


def single_backbone_configs(config: Config) -> list[Config]:
    """Return one configuration for each backbone of the experiment, the main backbone first."""
    backbone = config.backbone
    teachers = backbone.also_teachers or (None,) * len(backbone.also)
    pairs = [(backbone.name, backbone.teacher), *zip(backbone.also, teachers, strict=True)]
    alone = {"also": (), "also_teachers": (), "also_norm": None}
    configs = []
    for number, (name, teacher) in enumerate(pairs):
        if number == 0 or name != backbone.name:
            norm = backbone.norm if number == 0 else backbone.also_norm or backbone.norm
            changes = {**alone, "name": name, "teacher": teacher, "norm": norm}
            configs.append(config.model_copy(update={"backbone": backbone.model_copy(update=changes)}))
    return configs


def build_network(config: Config, data: DataSet) -> nn.Module:
    """Build the untrained backbone of an experiment, initialised from the experiment's seed."""
    with rng.torch_seeded(config.seed, "teacher"):
        return backbones.build(
            config.backbone,
            classes=len(data.train.classes),
            channels=data.train.channels,
            image_size=data.train.size,
        )


def load_given_teacher(config: Config, data: DataSet) -> nn.Module | None:
    """Load the teacher that the configuration names, in evaluation mode; None if it names none.

    Raises UserError("teacher"): the file is missing, unreadable, or does not fit the backbone.
    """
    if config.backbone.teacher is None:
        return None
    model = build_network(config, data)
    backbones.load_teacher(model, config.backbone.teacher)
    return model.eval()


def load_checked_teacher(
    config: Config, data: DataSet, device: torch.device
) -> tuple[nn.Module | None, tuple[str, ...]]:
    """Load the teacher that the configuration names, try it on training images, and return it with warnings.

    Raises UserError("teacher") like `load_given_teacher`, and if its outputs are in another order than the
    classes of the data.
    """
    source = config.backbone.teacher
    if source is None:
        return None, ()
    model, (examination, about_others) = _load_and_examine(config, data, device)
    examination.require_same_order(source, data.train.classes)
    return model, (*examination.warnings(source), *about_others)


def examine_given_teacher(config: Config, data: DataSet, device: torch.device) -> teacher_check.Examination:
    """Try the teacher that the configuration names on training images.

    Raises UserError("teacher") like `load_given_teacher`.
    """
    return _load_and_examine(config, data, device)[1][0]


def _load_and_examine(config: Config, data: DataSet, device: torch.device) -> tuple[nn.Module, _Examined]:
    """Load the teacher that the configuration names and try it on training images, once in this process.

    The points of a sweep, and the console after each change of a setting, prepare runs with one teacher.
    """
    model, source = build_network(config, data).eval(), str(config.backbone.teacher)
    loaded = backbones.load_teacher(model, source)
    tried = source, backbones.fingerprint(model), data.fingerprint, str(device), loaded.classes
    if tried not in _examinations:
        examination = teacher_check.examine(model, data.train, device, loaded.classes)
        others = loaded.others
        compared = teacher_check.compare_weights(source, model, others, data.train, device) if others else ()
        _examinations[tried] = examination, tuple(compared)
    return model, _examinations[tried]


def teacher_key(config: Config, data: DataSet) -> str:
    """Return the cache key of a squeezed teacher.

    It contains the precision, the warm-up and the exemption from decay where they are not the defaults.
    """
    excluded: dict[str, Any] = {"precision": True} if config.squeeze.precision == "float32" else {}
    optimiser, plain = config.squeeze.optimiser, Optimiser()
    newer = ("warmup_epochs", "decay_norm_and_bias")
    excluded["optimiser"] = {name for name in newer if getattr(optimiser, name) == getattr(plain, name)}
    return key(
        format=TEACHER_FORMAT,
        seed=config.seed,
        data=data.fingerprint,
        backbone=config.backbone.model_dump(
            mode="json", exclude={"teacher", "also", "also_teachers", "also_norm"}
        ),
        squeeze=config.squeeze.model_dump(mode="json", exclude=excluded),
    )


def load_or_train_teacher(
    config: Config, data: DataSet, context: ComputeContext, saved: StageState | None = None
) -> Generator[Event, None, tuple[nn.Module, bool]]:
    """Load the squeezed teacher from the cache, or train and cache it.

    saved: state of an interrupted squeeze, resumed if the teacher is not cached. Returns the teacher, on the
    CPU, and whether it came from the cache. Raises UserError("teacher") if it learned nothing.
    """
    cache_key = teacher_key(config, data)
    entry = yield from _load_entry(context.cache, "teachers", cache_key)
    if entry is not None:
        if entry.info.get("warning"):
            yield Notice("warning", entry.info["warning"])
        return _restore_teacher(config, data, entry), True
    network = build_network(config, data)
    context.cache.require_writable("teachers", sum(x.nbytes for x in network.state_dict().values()))
    evaluator = SubsetEvaluator(data.test, config.validate_.preview_images, context.device)
    model = yield from squeeze(config, network, data.train, context.device, saved, evaluator)
    if warning := describe_failure(model, data, context.device):
        yield Notice("warning", warning)
    model = model.to("cpu", memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
    arrays = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    info = {"backbone": config.backbone.name, "data": data.name, "seed": config.seed}
    info |= {"classes": list(data.train.classes), "warning": warning}
    return _restore_teacher(config, data, context.cache.save("teachers", cache_key, arrays, info)), False


def load_cached_teacher(config: Config, data: DataSet, cache: Cache) -> nn.Module | None:
    """Return the squeezed teacher on the CPU, or None if it is not cached."""
    entry = _find_entry(cache, "teachers", teacher_key(config, data))
    return None if entry is None else _restore_teacher(config, data, entry)


def _restore_teacher(config: Config, data: DataSet, entry: CacheEntry) -> nn.Module:
    model = build_network(config, data)
    model.load_state_dict({name: torch.from_numpy(array) for name, array in entry.arrays.items()})
    return model.eval()


def statistics_key(config: Config, data: DataSet, teacher: nn.Module) -> str:
    """Return the cache key of the real statistics. It contains the seed only if something is drawn."""
    return key(
        format=STATISTICS_FORMAT,
        seed=config.statistics.used_seed(config.seed),
        data=data.fingerprint,
        teacher=backbones.fingerprint(teacher),
        taps=config.objective.taps,
        **({"patch": config.objective.patch} if config.objective.patch else {}),
        statistics=config.statistics.model_dump(mode="json"),
    )


def load_or_measure_statistics(
    config: Config,
    data: DataSet,
    teacher: nn.Module,
    context: ComputeContext,
    saved: StageState | None = None,
) -> Generator[Event, None, tuple[list[moments.Moments], bool]]:
    """Load the real moments of every tap from the cache, or measure and cache them.

    saved: state of an interrupted measurement, resumed if the moments are not cached. Returns the moments and
    whether they came from the cache.
    """
    cache_key = statistics_key(config, data, teacher)
    entry = yield from _load_entry(context.cache, "statistics", cache_key)
    if entry is not None:
        return _restore_moments(entry), True
    context.cache.require_writable("statistics")
    real = yield from statistics.measure(config, teacher, data.train, context.device, saved)
    packed = {name: tensor.cpu().numpy() for name, tensor in moments.pack(real).items()}
    info = {"taps": [tap.name for tap in real], "data": data.name}
    return _restore_moments(context.cache.save("statistics", cache_key, packed, info)), False


def run_in_sequence(
    stage: Stage,
    size: int,
    parts: Sequence[Callable[[StageState | None], Generator[Event, None, tuple[T, bool]]]],
    saved: StageState | None,
) -> Generator[Event, None, tuple[list[T], bool]]:
    """Run the parts of a stage in sequence; progress is cumulative and checkpoints record the part's number.

    size: units of each part. parts: start each part from its state. Returns the artefacts, and whether all of
    them already existed.
    """
    first = 0 if saved is None else int(saved.metadata.get("part", 0))
    artefacts, all_reused = [], True
    for number, begin in enumerate(parts):
        work = offset_progress(begin(saved if number == first else None), number * size)
        artefact, reused = yield from _number_checkpoints(work, number)
        if len(parts) > 1:  # networks differ in speed, so the rate of the next part is unknown
            yield StageProgress(stage, (number + 1) * size, 0.0)
        artefacts.append(artefact)
        all_reused &= reused
    return artefacts, all_reused


def _number_checkpoints(work: Generator[Event, None, T], number: int) -> Generator[Event, None, T]:
    """Add the part's number to the metadata of every checkpoint."""

    def capture_part(capture: Callable[[], StageState]) -> StageState:
        state = capture()
        return StageState(state.tensors, {**state.metadata, "part": number})

    def add_number(event: Event) -> Iterator[Event]:
        if isinstance(event, Checkpoint):
            event = replace(event, capture=partial(capture_part, event.capture))
        yield event

    return map_events(work, add_number)


def load_cached_statistics(
    config: Config, data: DataSet, teacher: nn.Module, cache: Cache
) -> list[moments.Moments] | None:
    """Return the real moments of every tap, or None if they are not cached."""
    entry = _find_entry(cache, "statistics", statistics_key(config, data, teacher))
    return None if entry is None else _restore_moments(entry)


def require_writable_cache(
    config: Config, data: DataSet, teachers: Sequence[nn.Module | None], cache: Cache, *, measures: bool
) -> None:
    """Raise UserError("disk") if a run has to write to the cache and cannot.

    teachers: the given one of each backbone, or None. measures: whether the run needs real statistics.
    """
    for each, teacher in zip(single_backbone_configs(config), teachers, strict=True):
        if teacher is None and not cache.path("teachers", teacher_key(each, data)).is_file():
            cache.require_writable("teachers")
        if teacher is not None and measures:
            name = statistics_key(config, data, teacher)
            if not cache.path("statistics", name).is_file():
                cache.require_writable("statistics")


def _restore_moments(entry: CacheEntry) -> list[moments.Moments]:
    tensors = {name: torch.from_numpy(array) for name, array in entry.arrays.items()}
    return moments.unpack(tensors, entry.info["taps"])


def _find_entry(cache: Cache, kind: str, name: str) -> CacheEntry | None:
    try:
        return cache.load(kind, name)
    except DamagedEntry:
        return None


def _load_entry(cache: Cache, kind: str, name: str) -> Generator[Event, None, CacheEntry | None]:
    """Load a cache entry; report a damaged one as a warning."""
    try:
        return cache.load(kind, name)
    except DamagedEntry as damage:
        yield Notice("warning", f"{damage}, and will be computed again")
        return None
