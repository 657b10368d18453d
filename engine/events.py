"""Events that a stage yields while it runs.

A stage is a generator: it yields events and returns its artefact. It computes only while its consumer
iterates, so a consumer that stops iterating pauses it. Every event is plain data, which ``to_payload`` makes
JSON-serialisable, except for the images of a finished batch, which only the stage's driver receives.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

T = TypeVar("T")
Stage = Literal["squeeze", "statistics", "recover", "relabel", "validate"]
STAGES: tuple[Stage, ...] = ("squeeze", "statistics", "recover", "relabel", "validate")


@dataclass(frozen=True)
class Event:
    """Base class of all events."""

    @property
    def kind(self) -> str:
        """The name of this kind of event in the journal."""
        return type(self).__name__


@dataclass(frozen=True)
class RepeatStarted(Event):
    """Repeat `repeat` of `repeats` begins or resumes, with seed `seed`; not recorded if there is only one."""

    repeat: int
    repeats: int
    seed: int


@dataclass(frozen=True)
class Estimated(Event):
    """The stages of one repeat will take about so many seconds each, by an estimate before they begin."""

    seconds: dict[Stage, float]


@dataclass(frozen=True)
class StageStarted(Event):
    """A stage begins: `total` units of `unit` (epochs, images…), of which `done` are already finished."""

    stage: Stage
    total: int
    unit: str
    done: int = 0


@dataclass(frozen=True)
class StageProgress(Event):
    """`done` of the stage's units are finished; `rate`: recent units per second, 0 if unknown."""

    stage: Stage
    done: int
    rate: float


@dataclass(frozen=True)
class StageFinished(Event):
    """A stage ended. reused: its artefact came from the cache or an earlier session; nothing was computed."""

    stage: Stage
    seconds: float
    rate: float
    reused: bool = False


@dataclass(frozen=True)
class EpochFinished(Event):
    """One epoch of squeezing or of a student's training.

    source: ``teacher``, ``distilled`` or ``random``. accuracy: in percent, None if it was not measured.
    rate: the recent rate in epochs per second.
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
class SubsetEvaluated(Event):
    """The accuracy in percent, after an epoch, on `images` of the test images; it is only displayed.

    The others are as in `EpochFinished`, which precedes it.
    """

    stage: Stage
    architecture: str
    source: str
    seed: int
    epoch: int
    images: int
    accuracy: float


@dataclass(frozen=True)
class RecoverProgress(Event):
    """A chunk of recovery iterations was copied from the device (batch counts from 1).

    iterations: the 0-based numbers of the iterations in this chunk. ce: the cross-entropy of each.
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
    """Names of the values in `RecoverProgress`; yielded before the recovery begins or resumes.

    Owns the columns of the table of metrics: batch, iteration, β, CE, then each term at each tap.
    done: iterations, over all batches, that were finished before the recovery was interrupted.
    """

    FIXED: ClassVar = ("batch", "iteration", "beta", "ce")
    CE: ClassVar = 3  #: the column of the cross-entropy

    taps: list[str]
    terms: list[str]
    betas: list[float]
    done: int = 0

    @property
    def columns(self) -> list[str]:
        """The names of the columns."""
        return [*self.FIXED, *(f"{term} @ {tap}" for term in self.terms for tap in self.taps)]

    def column(self, term: int, tap: int) -> int:
        """Return the column of a term at a tap."""
        return len(self.FIXED) + term * len(self.taps) + tap

    def split_terms(self, values_RP: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the terms in rows of the table, shape (R, T, L). values_RP: R rows, P columns."""
        terms_RC = values_RP[:, len(self.FIXED) :]
        return terms_RC.reshape(len(values_RP), len(self.terms), len(self.taps))


@dataclass(frozen=True)
class RecoveredImages:
    """The images of a finished batch.

    pixels_MCHW: in [0, 1]. confidence_M: the teacher's probability of each image's class.
    """

    pixels_MCHW: NDArray[np.float32]
    labels_M: NDArray[np.int64]
    confidence_M: NDArray[np.float32]


@dataclass(frozen=True)
class BatchRecovered(Event):
    """Batch `batch` of `batches` is finished.

    beta: NaN if the images were not optimised. recovered: the images, which the run saves before it records
    the event; they are never serialised, and None in the events that a run passes on.
    """

    batch: int
    batches: int
    beta: float
    images: int
    recovered: RecoveredImages | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Checkpointed(Event):
    """The stage's state was written as checkpoint `number`: `bytes` bytes in `seconds` seconds."""

    stage: Stage
    number: int
    bytes: int
    seconds: float


@dataclass(frozen=True)
class Paused(Event):
    """The run is paused until it is continued. by: who requested it.

    batch, iteration: in recovery, the batch, from 1, and its finished iterations. epoch, batch: in training,
    the finished epochs, and the finished batches of the current one. None: not counted by the stage.
    """

    by: str
    stage: Stage | None = None
    batch: int | None = None
    iteration: int | None = None
    epoch: int | None = None


@dataclass(frozen=True)
class Continued(Event):
    """A paused run continues. by: who requested it."""

    by: str


@dataclass(frozen=True)
class Notice(Event):
    """A message for the user; the stage continues."""

    level: Literal["info", "warning"]
    message: str


def drain(work: Generator[Event, None, T], on_event: Callable[[Event], object]) -> T:
    """Run a stage to completion, pass each event to `on_event`, and return the artefact.

    The stage is closed in any case.
    """
    try:
        while True:
            try:
                event = next(work)
            except StopIteration as end:
                artefact: T = end.value
                return artefact
            on_event(event)
    finally:
        work.close()


def map_events(
    work: Generator[Event, None, T], transform: Callable[[Event], Iterable[Event]]
) -> Generator[Event, None, T]:
    """Run a stage, yield the events that `transform` returns for each of its events, and return its artefact.

    The stage is closed in any case.
    """
    try:
        while True:
            try:
                event = next(work)
            except StopIteration as end:
                artefact: T = end.value
                return artefact
            yield from transform(event)
    finally:
        work.close()


def offset_progress(work: Generator[Event, None, T], done: int) -> Generator[Event, None, T]:
    """Run a stage with `done` added to the `done` of its progress events."""

    def add_done(event: Event) -> Iterator[Event]:
        yield replace(event, done=event.done + done) if isinstance(event, StageProgress) else event

    return map_events(work, add_done)


def to_payload(event: Event) -> dict[str, Any]:
    """Return the event's fields as JSON-serialisable data; images are omitted."""
    return {each.name: getattr(event, each.name) for each in fields(event) if each.name != "recovered"}


def from_payload(kind: str, payload: Mapping[str, Any]) -> Event | None:
    """Return the event that `to_payload` serialised, or None for a kind that this version does not know."""
    known = {event.__name__: event for event in Event.__subclasses__()}
    return known[kind](**payload) if kind in known else None
