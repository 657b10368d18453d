"""The parts of a recovery step, and a timer that measures them on request."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Literal, get_args

import torch

from engine.device import synchronize

Part = Literal["views", "forward", "statistics", "filters", "backward", "update"]
PARTS: tuple[Part, ...] = get_args(Part)

_NOTHING = nullcontext()


class PartTimer:
    """Measures the parts of the steps that this thread takes in the block of `measure`.

    On CUDA, with events in the device's stream, for which no step waits. Elsewhere, with the clock; on MPS,
    each part then waits for the device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self._events: list[tuple[Part, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def measure(self) -> Iterator[None]:
        """Measure the parts of steps in the block."""
        token = _timer.set(self)
        try:
            yield
        finally:
            _timer.reset(token)

    @contextmanager
    def add(self, name: Part) -> Iterator[None]:
        """Add the time of the block to a part."""
        if self._device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            start.record()
            yield
            end.record()
            self._events.append((name, start, end))
            return
        synchronize(self._device)
        began = time.perf_counter()
        yield
        synchronize(self._device)
        self._seconds[name] += time.perf_counter() - began

    def seconds(self) -> dict[Part, float]:
        """Return the seconds of each part so far; synchronises with the device."""
        synchronize(self._device)
        for name, start, end in self._events:
            self._seconds[name] += start.elapsed_time(end) / 1e3
        self._events = []
        return dict(self._seconds)


_timer: ContextVar[PartTimer | None] = ContextVar("_timer", default=None)


def time_part(name: Part) -> AbstractContextManager[None]:
    """Time the block as a part of a step; without an active timer, this takes less than a microsecond."""
    timer = _timer.get()
    return _NOTHING if timer is None else timer.add(name)
