"""What runs share: a teacher and the real statistics, taken from the cache or made and put there.

A key holds everything that determines the artefact: the settings of its making, the data's
fingerprint, the seed; for statistics also the teacher's weights. Another device or number of threads
makes the same artefact but for rounding, and finds the same entry.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from engine import backbones, rng
from engine.spectral import moments
from engine.stages import statistics
from engine.config import Config
from engine.data import DataSet
from engine.errors import UserError
from engine.events import Event, Notice, Stage, StageProgress, offset_progress, map_events
from engine.checkpoint import Checkpoint, StageState
from engine.stages.squeeze import squeeze
from engine.store import Cache, DamagedEntry, Entry
from engine.store.cache import key

T = TypeVar("T")
FORMAT = 3  #: raised when an artefact's making, layout or key changes


@dataclass(frozen=True)
class ComputeContext:
    """Where work is done, and where its artefacts are shared."""

    device: torch.device
    cache: Cache


def single_backbone_configs(config: Config) -> list[Config]:
    """The experiment with each of its backbones alone, its own first."""
    backbone = config.backbone
    teachers = backbone.also_teachers or (None,) * len(backbone.also)
    pairs = [(backbone.name, backbone.teacher), *zip(backbone.also, teachers, strict=True)]
    found = []
    for number, (name, teacher) in enumerate(pairs):
        if number == 0 or name != backbone.name:
            own = {"name": name, "teacher": teacher, "also": (), "also_teachers": ()}
            found.append(config.model_copy(update={"backbone": backbone.model_copy(update=own)}))
    return found


def new_network(config: Config, data: DataSet) -> nn.Module:
    """The untrained backbone of an experiment."""
    with rng.torch_seeded(config.seed, "teacher"):
        return backbones.build(
            config.backbone,
            classes=len(data.train.classes),
            channels=data.train.channels,
            image_size=data.train.size,
        )


def require_teacher(config: Config) -> None:
    """Raise UserError("teacher") where the configuration names a file that does not exist."""
    for source in (config.backbone.teacher, *config.backbone.also_teachers):
        known = source is None or source.startswith("torchvision:")
        if not known and not Path(str(source)).expanduser().is_file():
            raise UserError(
                "teacher",
                f"teacher {source!r} is no file",
                "give a checkpoint file, or torchvision:WEIGHTS, or leave it out to squeeze one",
            )


def given_teacher(config: Config, data: DataSet) -> nn.Module | None:
    """The teacher that the configuration names, in evaluation mode; None if one is to be squeezed.

    Raises UserError("teacher"): absent, unreadable, or made for something else.
    """
    if config.backbone.teacher is None:
        return None
    model = new_network(config, data)
    backbones.load_teacher(model, config.backbone.teacher)
    return model.eval()


def teacher_key(config: Config, data: DataSet) -> str:
    """The cache key of a squeezed teacher. The precision is part of it where it rounds."""
    excluded = {"precision"} if config.squeeze.precision == "float32" else set()
    return key(
        format=FORMAT,
        seed=config.seed,
        data=data.fingerprint,
        backbone=config.backbone.model_dump(mode="json", exclude={"teacher", "also", "also_teachers"}),
        squeeze=config.squeeze.model_dump(mode="json", exclude=excluded),
    )


def load_or_train_teacher(
    config: Config, data: DataSet, place: ComputeContext, saved: StageState | None = None
) -> Generator[Event, None, tuple[nn.Module, bool]]:
    """The squeezed teacher on the CPU, and whether the cache had it.

    saved: where a squeeze that was cut goes on, if the cache has none.
    """
    name = teacher_key(config, data)
    entry = yield from _cached(place.cache, "teachers", name)
    if entry is not None:
        return _teacher(config, data, entry), True
    model = yield from squeeze(config, new_network(config, data), data.train, place.device, saved)
    model = model.to("cpu", memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
    arrays = {part: value.numpy() for part, value in model.state_dict().items()}
    info = {"backbone": config.backbone.name, "data": data.name, "seed": config.seed}
    place.cache.save("teachers", name, arrays, info)
    return model, False


def cached_teacher(config: Config, data: DataSet, cache: Cache) -> nn.Module | None:
    """The squeezed teacher on the CPU, if the cache has it."""
    entry = _entry(cache, "teachers", teacher_key(config, data))
    return None if entry is None else _teacher(config, data, entry)


def _teacher(config: Config, data: DataSet, entry: Entry) -> nn.Module:
    model = new_network(config, data)
    model.load_state_dict({part: torch.from_numpy(array) for part, array in entry.arrays.items()})
    return model.eval()


def statistics_key(config: Config, data: DataSet, teacher: nn.Module) -> str:
    """The cache key of the real statistics. The seed is part of it where it orders the images."""
    return key(
        format=FORMAT,
        seed=config.statistics.order_seed(config.seed),
        data=data.fingerprint,
        teacher=backbones.fingerprint(teacher),
        taps=config.objective.taps,
        **({"patch": config.objective.patch} if config.objective.patch else {}),
        statistics=config.statistics.model_dump(mode="json"),
    )


def load_or_measure_statistics(
    config: Config, data: DataSet, teacher: nn.Module, place: ComputeContext, saved: StageState | None = None
) -> Generator[Event, None, tuple[list[moments.Moments], bool]]:
    """The real moments of every tap, and whether the cache had them.

    saved: where a measurement that was cut goes on, if the cache has none.
    """
    name = statistics_key(config, data, teacher)
    entry = yield from _cached(place.cache, "statistics", name)
    if entry is not None:
        return _moments(entry), True
    real = yield from statistics.measure(config, teacher, data.train, place.device, saved)
    packed = {part: value.cpu().numpy() for part, value in moments.pack(real).items()}
    place.cache.save("statistics", name, packed, {"taps": [tap.name for tap in real], "data": data.name})
    return real, False


def run_in_sequence(
    stage: Stage,
    size: int,
    works: Sequence[Callable[[StageState | None], Generator[Event, None, tuple[T, bool]]]],
    saved: StageState | None,
) -> Generator[Event, None, tuple[list[T], bool]]:
    """One piece of a stage after another; its states say which (the fact `part`), and progress counts on.

    size: units of each. works: begin each from its state. Returns what they made, and whether all of it was
    there already.
    """
    found, reused, at = [], True, 0 if saved is None else int(saved.metadata.get("part", 0))
    for number, begin in enumerate(works):
        work = offset_progress(begin(saved if number == at else None), number * size)
        made, there = yield from _as_part(work, number)
        if there and len(works) > 1:
            yield StageProgress(stage, (number + 1) * size, 0.0)
        found.append(made)
        reused &= there
    return found, reused


def _as_part(work: Generator[Event, None, T], number: int) -> Generator[Event, None, T]:
    """The same, its save points knowing which part it is."""

    def tell(event: Event) -> Iterator[Event]:
        if isinstance(event, Checkpoint):
            event = replace(event, capture=partial(_state_of_part, event.capture, number))
        yield event

    return map_events(work, tell)


def _state_of_part(capture: Callable[[], StageState], number: int) -> StageState:
    state = capture()
    return StageState(state.tensors, {**state.metadata, "part": number})


def cached_statistics(
    config: Config, data: DataSet, teacher: nn.Module, cache: Cache
) -> list[moments.Moments] | None:
    """The real moments of every tap, if the cache has them."""
    entry = _entry(cache, "statistics", statistics_key(config, data, teacher))
    return None if entry is None else _moments(entry)


def _moments(entry: Entry) -> list[moments.Moments]:
    arrays = {part: torch.from_numpy(array) for part, array in entry.arrays.items()}
    return moments.unpack(arrays, entry.info["taps"])


def _entry(cache: Cache, kind: str, name: str) -> Entry | None:
    try:
        return cache.load(kind, name)
    except DamagedEntry:
        return None


def _cached(cache: Cache, kind: str, name: str) -> Generator[Event, None, Entry | None]:
    try:
        return cache.load(kind, name)
    except DamagedEntry as damage:
        yield Notice("warning", f"{damage}, and will be computed anew")
        return None
