"""Checkpoints of a stage: where it can be resumed, and the state that this needs.

A stage yields a `Checkpoint` about once a second, and after the current step where one is requested. Its
driver may then save the state, stop, or pause.
A stage that is resumed from the state gives the same result, bit for bit, as one that was not interrupted.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from engine.errors import UserError
from engine.events import Event, Stage
from engine.store.preview import Preview

OFFER_SECONDS = 1.0  #: the longest time between two checkpoints that a stage yields
RATE_SECONDS = 60.0  #: the period over which a rate is averaged


@dataclass(frozen=True)
class StageState:
    """What a stage needs to resume.

    tensors: by name, on the CPU and contiguous. They may share memory with the stage, so write or copy them
    before the stage continues. metadata: JSON-serialisable.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Checkpoint(Event):
    """The stage can be resumed from here; all events before this point have been yielded.

    capture: returns the state; call it before the stage continues. Raises UserError("numeric") if a value is
    not finite. always: save and show this checkpoint however recent the last one is, as at a batch's end.
    preview: returns a preview of the work for display; call it before the stage continues. It may take as
    long as an iteration.
    """

    stage: Stage
    capture: Callable[[], StageState]
    always: bool = False
    preview: Callable[[], Preview] | None = None


@dataclass(frozen=True)
class PreviewTaken(Event):
    """A preview for the history of a recovery, taken where `choose_positions` says; it is not recorded."""

    preview: Preview = field(repr=False, compare=False)


_is_requested: ContextVar[Callable[[], bool]] = ContextVar("_is_requested", default=lambda: False)
_idle_seconds: ContextVar[float] = ContextVar("_idle_seconds", default=0.0)


@contextmanager
def driven_by(is_requested: Callable[[], bool], idle_seconds: float) -> Iterator[None]:
    """Let a stage compute in the block.

    is_requested: whether it should yield a checkpoint. idle_seconds: how long its driver has left it alone so
    far, as during a pause.
    """
    tokens = _is_requested.set(is_requested), _idle_seconds.set(idle_seconds)
    try:
        yield
    finally:
        _is_requested.reset(tokens[0])
        _idle_seconds.reset(tokens[1])


def work_clock() -> float:
    """Return a time in seconds that does not advance while the driver of the stage leaves it alone."""
    return time.monotonic() - _idle_seconds.get()


def is_checkpoint_requested() -> bool:
    """Return whether a checkpoint is to be yielded after the current step; takes about a microsecond."""
    return _is_requested.get()()


class IntervalTimer:
    """Fires at most once every `seconds` seconds, or every OFFER_SECONDS if that is shorter.

    It also fires where a checkpoint is requested.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = min(seconds, OFFER_SECONDS)
        self._since = time.monotonic()

    def due(self) -> bool:
        """Return whether the interval has passed, and if so start the next one."""
        now = time.monotonic()
        if now - self._since < self.seconds and not is_checkpoint_requested():
            return False
        self._since = now
        return True


class Rate:
    """Units per second, averaged over about the last minute.

    The average is long because steps through different networks alternate and differ in speed.
    """

    def __init__(self) -> None:
        self._parts: deque[tuple[int, float]] = deque()
        self._seconds = 0.0

    def add(self, count: int, seconds: float) -> float:
        """Add `count` units that took `seconds`, and return the rate."""
        self._parts.append((count, seconds))
        self._seconds += seconds
        while self._seconds - self._parts[0][1] >= RATE_SECONDS:
            self._seconds -= self._parts.popleft()[1]
        return sum(count for count, _ in self._parts) / max(self._seconds, 1e-9)


def add_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the same tensors with ``prefix.`` before each name."""
    return {f"{prefix}.{name}": value for name, value in tensors.items()}


def strip_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names begin with ``prefix.``, with that prefix removed from the names."""
    return {
        name.removeprefix(f"{prefix}."): value
        for name, value in tensors.items()
        if name.startswith(f"{prefix}.")
    }


def require_finite(tensors: Mapping[str, Tensor], where: str, hint: str) -> None:
    """Raise UserError("numeric") that names `where` and the first tensor with a value that is not finite.

    An infinity in an optimiser's state is allowed: it only keeps the weight from changing.
    """
    for name, value in tensors.items():
        invalid = value.isnan() if name.startswith("optimiser.") else ~value.isfinite()
        if bool(invalid.any()):
            quantity = "the loss" if name == "total" else name
            raise UserError("numeric", f"{quantity} of {where} is not finite", hint)


def to_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors detached, on the CPU and contiguous, as a `StageState` holds them."""
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}


def capture_state(tensors: Mapping[str, Tensor], where: str, hint: str, **metadata: Any) -> StageState:
    """Return the state of a stage with these tensors and metadata.

    Raises UserError("numeric") as `require_finite` does.
    """
    state = StageState(to_cpu(tensors), metadata)
    require_finite(state.tensors, where, hint)
    return state


def clone_to(value: Tensor, device: torch.device) -> Tensor:
    """Return a contiguous copy on `device`, in memory that torch allocated.

    Alignment can change how a sum is rounded, so a restored tensor needs the alignment of the original.
    """
    return torch.empty(value.shape, dtype=value.dtype, device=device).copy_(value)


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the state tensors of an optimiser, named ``NUMBER.NAME`` by number of the weight."""
    weights = [weight for group in optimiser.param_groups for weight in group["params"]]
    return {
        f"{number}.{name}": value
        for number, weight in enumerate(weights)
        for name, value in optimiser.state[weight].items()
        if isinstance(value, Tensor)
    }


@torch.no_grad()
def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Restore a new optimiser from `optimiser_tensors` of another, in the memory layout of its weights."""
    weights = [weight for group in optimiser.param_groups for weight in group["params"]]
    fused = any(group.get("fused") or group.get("capturable") for group in optimiser.param_groups)
    for number, weight in enumerate(weights):
        for name, value in strip_prefix(str(number), tensors).items():
            like = weight if value.shape == weight.shape else value
            # Fused optimisers count their steps on the device of the weights, others on the CPU.
            device = weight.device if fused or name != "step" else torch.device("cpu")
            restored = torch.empty_like(like, dtype=value.dtype, device=device)
            optimiser.state[weight][name] = restored.copy_(value)
