"""The course of recovery's numbers out of a run's record, in memory that does not grow with the run.

Legend: R rows of the table of numbers, P its columns (see `store.numbers`), B buckets, T terms, L taps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.events import Notice, RecoverLayout
from engine.store import StoredRun
from engine.store.numbers import FIXED
from engine.store.tail import Rows

Floats = NDArray[np.float64]
BUCKETS = 400  #: points of a curve, at most
_PIECE_SECONDS = 0.2


@dataclass(frozen=True)
class Curve:
    """Mean, least and greatest of every bucket; NaN where nothing is finite."""

    mean_B: Floats
    low_B: Floats
    high_B: Floats


class LossCourse:
    """All columns of the table in at most `BUCKETS` buckets of `stride` rows that follow each other.

    rows: how many there are to be; done: how far recovery came; iterations: of one batch. Numbers that are
    not finite, and those that are damaged or were replaced, are left out; what was done again with the same
    outcome counts each time.
    """

    def __init__(self, layout: RecoverLayout, iterations: int) -> None:
        self.layout = layout
        self.iterations = iterations
        self.rows = len(layout.betas) * iterations
        self.done = 0
        self.stride = max(1, -(-self.rows // BUCKETS))
        shape = (-(-self.rows // self.stride), len(FIXED) + len(layout.terms) * len(layout.taps))
        self._sum_BP = np.zeros(shape)
        self._count_BP = np.zeros(shape)
        self._low_BP, self._high_BP = np.full(shape, np.inf), np.full(shape, -np.inf)

    def add(self, first: int, values_RP: NDArray[np.float32]) -> None:
        """Rows `first`… of the table."""
        values_RP = values_RP[: max(self.rows - first, 0)]
        if not len(values_RP) or values_RP.shape[1] != self._sum_BP.shape[1]:
            return
        self.done = max(self.done, first + len(values_RP))
        here = slice(first // self.stride, (first + len(values_RP) - 1) // self.stride + 1)
        starts_B = np.maximum(np.arange(here.start, here.stop) * self.stride - first, 0)
        finite_RP = np.isfinite(values_RP)
        wide_RP = values_RP.astype(np.float64)
        for held_BP, reduce, neutral in (
            (self._sum_BP, np.add, 0.0),
            (self._low_BP, np.minimum, np.inf),
            (self._high_BP, np.maximum, -np.inf),
        ):
            found_BP = reduce.reduceat(np.where(finite_RP, wide_RP, neutral), starts_B, axis=0)
            held_BP[here] = reduce(held_BP[here], found_BP)
        self._count_BP[here] += np.add.reduceat(finite_RP.astype(np.float64), starts_B, axis=0)

    @property
    def x_B(self) -> Floats:
        """The middle of every bucket, in iterations of the whole recovery."""
        starts_B = np.arange(len(self._sum_BP)) * self.stride
        return (starts_B + np.minimum(starts_B + self.stride, self.rows) - 1) / 2

    def ce(self) -> Curve:
        """The cross-entropy."""
        return self._curve(FIXED.index("ce"))

    def term(self, term: int, tap: int) -> Curve:
        """An unweighted term at a tap."""
        return self._curve(len(FIXED) + term * len(self.layout.taps) + tap)

    @property
    def told(self) -> bool:
        """Whether any number is there."""
        return bool(self._count_BP.any())

    def _curve(self, column: int) -> Curve:
        there_B = self._count_BP[:, column] > 0
        with np.errstate(invalid="ignore", divide="ignore"):
            mean_B = self._sum_BP[:, column] / self._count_BP[:, column]
        low_B, high_B = (np.where(there_B, side[:, column], np.nan) for side in (self._low_BP, self._high_BP))
        return Curve(mean_B, low_B, high_B)


@dataclass(frozen=True)
class Record:
    """What a run's journal and its table of numbers tell.

    layout: None before recovery. course: None before its first numbers. warnings: each once: damage of
    the journal, then what the run itself said.
    """

    layout: RecoverLayout | None
    course: LossCourse | None
    warnings: tuple[str, ...]


def read(run: StoredRun) -> Record:
    """The whole record of a run. Raises UserError("disk") where the system refuses to read it."""
    tail = run.tail()
    layout: RecoverLayout | None = None
    course: LossCourse | None = None
    warnings: list[str] = []
    while tail.behind:
        for told in tail.more(_PIECE_SECONDS):
            if isinstance(told, Rows):
                layout = tail.layout if layout is None else layout
                if course is None and layout.betas and told.total_iterations > 0:
                    course = LossCourse(layout, told.total_iterations)
                if course is not None:
                    course.add(told.first, told.values_RP)
            elif isinstance(told.event, RecoverLayout):
                layout = told.event
                if course is not None and (course.layout.taps, course.layout.terms) != (
                    layout.taps,
                    layout.terms,
                ):
                    course = None  # begun anew with another objective
            elif isinstance(told.event, Notice) and told.event.level == "warning":
                warnings.append(told.event.message)
    course = course if course is not None and course.told else None
    return Record(layout, course, tuple(dict.fromkeys([*tail.damage(), *warnings])))


def numbers(course: LossCourse) -> dict[str, Any]:
    """The curves as plain data: x, CE, and every term at every tap."""

    def told(curve: Curve) -> dict[str, list[float]]:
        return {"mean": _list(curve.mean_B), "low": _list(curve.low_B), "high": _list(curve.high_B)}

    layers = [
        {
            "name": tap,
            "terms": [
                {"term": name, **told(course.term(t, index))} for t, name in enumerate(course.layout.terms)
            ],
        }
        for index, tap in enumerate(course.layout.taps)
    ]
    return {
        "iterations": course.rows,
        "stride": course.stride,
        "x": _list(course.x_B),
        "ce": told(course.ce()),
        "layers": layers,
    }


def _list(values_B: Floats) -> list[float]:
    return [float(value) for value in values_B]
