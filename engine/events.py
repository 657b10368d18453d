"""What a stage says while it works.

A stage is a generator: it yields these and returns its artefact. Whoever pulls, drives; not pulling
is pausing. Every event is plain data and JSON-serialisable by ``to_payload``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

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
    """A stage begins: `total` units of `unit` (epochs, images, iterations) lie ahead."""

    stage: Stage
    total: int
    unit: str


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

    source: ``teacher``, ``distilled`` or ``random``; accuracy in percent where it was measured.
    """

    stage: Stage
    architecture: str
    source: str
    seed: int
    epoch: int
    epochs: int
    loss: float
    accuracy: float | None = None


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
    """Said once before recovery: what the numbers of `RecoverProgress` stand for."""

    taps: list[str]
    terms: list[str]
    betas: list[float]


@dataclass(frozen=True)
class BatchRecovered(Event):
    """Batch `batch` of `batches` is finished; its images are in the artefact so far."""

    batch: int
    batches: int
    beta: float
    images: int


@dataclass(frozen=True)
class Notice(Event):
    """Something a person should know; the stage goes on."""

    level: Literal["info", "warning"]
    message: str


def to_payload(event: Event) -> dict[str, Any]:
    """The event's fields as JSON-serialisable data."""
    return asdict(event)
