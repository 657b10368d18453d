"""What a stage says while it works.

A stage is a generator: it yields these and returns its artefact. Whoever pulls, drives; not pulling
is pausing. Every event is plain data and JSON-serialisable by ``to_payload``.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeVar

T = TypeVar("T")
Stage = Literal["squeeze", "statistics", "recover", "relabel", "validate"]
STAGES: tuple[Stage, ...] = ("squeeze", "statistics", "recover", "relabel", "validate")


@dataclass(frozen=True)
class Event:
    """Base of all events."""

    @property
    def kind(self) -> str:
        """The name by which the journal knows this event."""
        return type(self).__name__


@dataclass(frozen=True)
class StageStarted(Event):
    """A stage begins: `total` units of `unit` (epochs, images…), `done` of which are there already."""

    stage: Stage
    total: int
    unit: str
    done: int = 0


@dataclass(frozen=True)
class StageProgress(Event):
    """`done` of the stage's units are finished; `rate` is units per second of late."""

    stage: Stage
    done: int
    rate: float


@dataclass(frozen=True)
class StageFinished(Event):
    """A stage ended. `reused`: its artefact was found, nothing was computed."""

    stage: Stage
    seconds: float
    rate: float
    reused: bool = False


@dataclass(frozen=True)
class EpochFinished(Event):
    """One epoch of squeezing or of a student's training.

    source: ``teacher``, ``distilled`` or ``random``; accuracy in percent where it was measured; rate is
    epochs per second of late.
    """

    stage: Stage
    architecture: str
    source: str
    seed: int
    epoch: int
    epochs: int
    loss: float
    accuracy: float | None = None
    rate: float = 0.0


@dataclass(frozen=True)
class RecoverProgress(Event):
    """A chunk of recovery iterations has left the device (batch counts from 1).

    iterations: the 0-based numbers of the iterations in this chunk; ce: cross-entropy for each.
    terms: ``terms[i][t][l]`` is the unweighted value of term t at tap l in iteration i.
    """

    batch: int
    batches: int
    beta: float
    iterations: list[int]
    total_iterations: int
    ce: list[float]
    terms: list[list[list[float]]]
    rate: float


@dataclass(frozen=True)
class RecoverLayout(Event):
    """Said before recovery: what the numbers of `RecoverProgress` stand for.

    done: iterations of all batches that were finished before the recovery was cut; the rest follows.
    """

    taps: list[str]
    terms: list[str]
    betas: list[float]
    done: int = 0


@dataclass(frozen=True)
class BatchRecovered(Event):
    """Batch `batch` of `batches` is finished; its images are in the artefact so far.

    beta: NaN where they were not optimised.
    """

    batch: int
    batches: int
    beta: float
    images: int


@dataclass(frozen=True)
class Checkpointed(Event):
    """The stage's state is on disk: its `number`, how many `bytes`, and what it took to write them."""

    stage: Stage
    number: int
    bytes: int
    seconds: float


@dataclass(frozen=True)
class Paused(Event):
    """Nothing is computed until somebody says so. by: who asked."""

    by: str


@dataclass(frozen=True)
class Continued(Event):
    """A pause is over. by: who asked."""

    by: str


@dataclass(frozen=True)
class Notice(Event):
    """Something a person should know; the stage goes on."""

    level: Literal["info", "warning"]
    message: str


def drain(work: Generator[Event, None, T], hear: Callable[[Event], object]) -> T:
    """What a stage returns, each of its events told to `hear` on the way. In the end it is closed."""
    try:
        while True:
            try:
                event = next(work)
            except StopIteration as end:
                found: T = end.value
                return found
            hear(event)
    finally:
        work.close()


def map_events(
    work: Generator[Event, None, T], tell: Callable[[Event], Iterable[Event]]
) -> Generator[Event, None, T]:
    """The same stage in other words: what `tell` makes of each of its events. In the end it is closed."""
    try:
        while True:
            try:
                event = next(work)
            except StopIteration as end:
                found: T = end.value
                return found
            yield from tell(event)
    finally:
        work.close()


def offset_progress(work: Generator[Event, None, T], done: int) -> Generator[Event, None, T]:
    """The same stage with its progress counted on from `done`."""

    def tell(event: Event) -> Iterator[Event]:
        yield replace(event, done=event.done + done) if isinstance(event, StageProgress) else event

    return map_events(work, tell)


def to_payload(event: Event) -> dict[str, Any]:
    """The event's fields as JSON-serialisable data."""
    return asdict(event)


def from_payload(kind: str, payload: Mapping[str, Any]) -> Event | None:
    """The event that `to_payload` was given; None for a kind that this version does not know."""
    known = {event.__name__: event for event in Event.__subclasses__()}
    return known[kind](**payload) if kind in known else None
