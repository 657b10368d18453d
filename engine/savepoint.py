"""Where a stage can be left and taken up again: what it must remember, and how often it offers to.

A stage yields a `SavePoint` about once a second; whoever drives may take its state there, stop, wait,
or pass on. A stage that is given that state later goes on as if nothing had happened, bit for bit.
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
from engine.store.glimpse import Glimpse

OFFER_SECONDS = 1.0  #: how often a stage offers a save point, at least
RATE_SECONDS = 60.0  #: how far back a rate looks


@dataclass(frozen=True)
class State:
    """What a stage needs to go on.

    arrays: tensors by name, on the CPU and contiguous; they may be the stage's own, so they are to be
    written or copied before the stage is pulled again. facts: JSON-serialisable.
    """

    arrays: dict[str, Tensor] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SavePoint(Event):
    """The stage can be left here; everything it told so far has been yielded.

    capture: gives the state, to be called before the stage is pulled again; raises UserError("numeric")
    where it is not worth keeping. always: a point that is saved, and looked at, whenever it is reached,
    such as a batch's end. look: gives what a person may see of the work, to be called before the stage is
    pulled again; it may take as long as an iteration.
    """

    stage: Stage
    capture: Callable[[], State]
    always: bool = False
    look: Callable[[], Glimpse] | None = None


class Pace:
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


def under(prefix: str, arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, each name behind ``prefix.``."""
    return {f"{prefix}.{name}": value for name, value in arrays.items()}


def part(prefix: str, arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
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


def on_cpu(arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The arrays as a state holds them."""
    return {name: value.detach().cpu().contiguous() for name, value in arrays.items()}


def captured(arrays: Mapping[str, Tensor], where: str, hint: str, **facts: Any) -> State:
    """The state of these arrays and facts. Raises UserError("numeric") as `require_finite` does."""
    state = State(on_cpu(arrays), facts)
    require_finite(state.arrays, where, hint)
    return state


def own(value: Tensor, device: torch.device) -> Tensor:
    """A contiguous copy in memory that torch allocated: alignment may decide how a sum is rounded."""
    return torch.empty(value.shape, dtype=value.dtype, device=device).copy_(value)


def optimiser_arrays(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
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
    """Give a new optimiser what `optimiser_arrays` told of another, in the memory layout of its weights."""
    weights = [weight for group in optimiser.param_groups for weight in group["params"]]
    for number, weight in enumerate(weights):
        for name, value in part(str(number), arrays).items():
            like = weight if value.shape == weight.shape else value
            device = weight.device if name != "step" else _step_device(optimiser, weight)
            kept = torch.empty_like(like, dtype=value.dtype, device=device)
            optimiser.state[weight][name] = kept.copy_(value)


def _step_device(optimiser: torch.optim.Optimizer, weight: Tensor) -> torch.device:
    """Fused optimisers count their steps beside the weights, others on the CPU."""
    fused = any(group.get("fused") or group.get("capturable") for group in optimiser.param_groups)
    return weight.device if fused else torch.device("cpu")
