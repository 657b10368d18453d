"""Checkpoints of a stage: where it can be resumed, and the state that this needs.

A stage yields a `Checkpoint` about once a second. Its driver may save the state there, stop, wait, or go on.
A stage that is given the state later continues bit for bit as if nothing had happened.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from engine.errors import UserError
from engine.events import Event, Stage
from engine.store.preview import Preview

OFFER_SECONDS = 1.0  #: how often a stage offers a save point, at least
RATE_SECONDS = 60.0  #: how far back a rate looks


@dataclass(frozen=True)
class StageState:
    """What a stage needs to resume.

    tensors: by name, on the CPU and contiguous; they may share memory with the stage, so write or copy them
    before the stage goes on. metadata: JSON-serialisable.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Checkpoint(Event):
    """The stage can be resumed from here; all events before this point have been yielded.

    capture: returns the state; call it before the stage goes on. Raises UserError("numeric") where a value is
    not finite. always: the checkpoint is saved and shown whenever it is reached, as at the end of a batch.
    preview: returns what a person may see of the work; call it before the stage goes on. It may take as long
    as an iteration.
    """

    stage: Stage
    capture: Callable[[], StageState]
    always: bool = False
    preview: Callable[[], Preview] | None = None


class IntervalTimer:
    """Says when so many seconds have passed since it last said so."""

    def __init__(self, seconds: float) -> None:
        self.seconds = min(seconds, OFFER_SECONDS)
        self._since = time.monotonic()

    def due(self) -> bool:
        """Whether it is time; if so, the seconds are counted anew."""
        now = time.monotonic()
        if now - self._since < self.seconds:
            return False
        self._since = now
        return True


class Rate:
    """Units a second over about the last minute: steps through several networks take turns, and differ."""

    def __init__(self) -> None:
        self._parts: deque[tuple[int, float]] = deque()
        self._seconds = 0.0

    def add(self, count: int, seconds: float) -> float:
        """Take in so many units and the time spent on them; returns the rate."""
        self._parts.append((count, seconds))
        self._seconds += seconds
        while self._seconds - self._parts[0][1] >= RATE_SECONDS:
            self._seconds -= self._parts.popleft()[1]
        return sum(count for count, _ in self._parts) / max(self._seconds, 1e-9)


def add_prefix(prefix: str, arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, each name behind ``prefix.``."""
    return {f"{prefix}.{name}": value for name, value in arrays.items()}


def strip_prefix(prefix: str, arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose name begins with ``prefix.``, under the rest of their names."""
    return {
        name.removeprefix(f"{prefix}."): value
        for name, value in arrays.items()
        if name.startswith(f"{prefix}.")
    }


def require_finite(arrays: Mapping[str, Tensor], where: str, hint: str) -> None:
    """Raise UserError("numeric") naming the first array with a value that is not finite, and `where`.

    What an optimiser remembers may overflow: such a weight then stands still, and does no harm.
    """
    for name, value in arrays.items():
        bad = value.isnan() if name.startswith("optimiser.") else ~value.isfinite()
        if bool(bad.any()):
            what = "the loss" if name == "total" else name
            raise UserError("numeric", f"{what} of {where} is not finite", hint)


def to_cpu(arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The arrays as a state holds them."""
    return {name: value.detach().cpu().contiguous() for name, value in arrays.items()}


def capture_state(arrays: Mapping[str, Tensor], where: str, hint: str, **facts: Any) -> StageState:
    """The state of these arrays and facts. Raises UserError("numeric") as `require_finite` does."""
    state = StageState(to_cpu(arrays), facts)
    require_finite(state.tensors, where, hint)
    return state


def clone_to(value: Tensor, device: torch.device) -> Tensor:
    """A contiguous copy in memory that torch allocated: alignment may decide how a sum is rounded."""
    return torch.empty(value.shape, dtype=value.dtype, device=device).copy_(value)


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What an optimiser remembers of each weight, as ``NUMBER.NAME``."""
    weights = [weight for group in optimiser.param_groups for weight in group["params"]]
    return {
        f"{number}.{name}": value
        for number, weight in enumerate(weights)
        for name, value in optimiser.state[weight].items()
        if isinstance(value, Tensor)
    }


@torch.no_grad()
def restore_optimiser(optimiser: torch.optim.Optimizer, arrays: Mapping[str, Tensor]) -> None:
    """Give a new optimiser what `optimiser_tensors` told of another, in the memory layout of its weights."""
    weights = [weight for group in optimiser.param_groups for weight in group["params"]]
    for number, weight in enumerate(weights):
        for name, value in strip_prefix(str(number), arrays).items():
            like = weight if value.shape == weight.shape else value
            device = weight.device if name != "step" else _step_device(optimiser, weight)
            kept = torch.empty_like(like, dtype=value.dtype, device=device)
            optimiser.state[weight][name] = kept.copy_(value)


def _step_device(optimiser: torch.optim.Optimizer, weight: Tensor) -> torch.device:
    """Fused optimisers count their steps beside the weights, others on the CPU."""
    fused = any(group.get("fused") or group.get("capturable") for group in optimiser.param_groups)
    return weight.device if fused else torch.device("cpu")
