"""Loss curves of recovery, read from a run's record in memory that does not grow with the run.

Legend: R rows of the metrics table, P its columns (see `store.recovery_metrics`), B buckets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from engine.events import Notice, RecoverLayout
from engine.store import StoredRun
from engine.store.tail import TailRows


@dataclass(frozen=True)
class Curve:
    """Mean, minimum and maximum of every bucket; NaN for a bucket without finite values."""

    mean_B: NDArray[np.float64]
    low_B: NDArray[np.float64]
    high_B: NDArray[np.float64]

    def to_dict(self) -> dict[str, list[float]]:
        """Return the curve as plain data."""
        return {"mean": self.mean_B.tolist(), "low": self.low_B.tolist(), "high": self.high_B.tolist()}


class LossCourse:
    """All columns of the metrics table in at most `BUCKETS` buckets of `stride` consecutive rows.

    rows: total iterations of recovery. done: iterations so far. iterations: of one batch. Non-finite, damaged
    and replaced numbers are skipped. Iterations that were repeated with the same outcome count each time.
    """

    BUCKETS: ClassVar[int] = 400  #: maximum number of points of a curve

    def __init__(self, layout: RecoverLayout, iterations: int) -> None:
        self.layout = layout
        self.iterations = iterations
        self.rows = len(layout.betas) * iterations
        self.done = 0
        self.stride = max(1, -(-self.rows // self.BUCKETS))
        shape = (-(-self.rows // self.stride), len(layout.columns))
        self._sum_BP = np.zeros(shape)
        self._count_BP = np.zeros(shape)
        self._low_BP, self._high_BP = np.full(shape, np.inf), np.full(shape, -np.inf)

    def add(self, first: int, values_RP: NDArray[np.float32]) -> None:
        """Add rows of the table. first: the index of the first row."""
        values_RP = values_RP[: max(self.rows - first, 0)]
        if not len(values_RP) or values_RP.shape[1] != self._sum_BP.shape[1]:
            return
        self.done = max(self.done, first + len(values_RP))
        buckets = slice(first // self.stride, (first + len(values_RP) - 1) // self.stride + 1)
        starts_B = np.maximum(np.arange(buckets.start, buckets.stop) * self.stride - first, 0)
        finite_RP = np.isfinite(values_RP)
        wide_RP = values_RP.astype(np.float64)
        for total_BP, reduce, neutral in (
            (self._sum_BP, np.add, 0.0),
            (self._low_BP, np.minimum, np.inf),
            (self._high_BP, np.maximum, -np.inf),
        ):
            partial_BP = reduce.reduceat(np.where(finite_RP, wide_RP, neutral), starts_B, axis=0)
            total_BP[buckets] = reduce(total_BP[buckets], partial_BP)
        self._count_BP[buckets] += np.add.reduceat(finite_RP.astype(np.float64), starts_B, axis=0)

    @property
    def x_B(self) -> NDArray[np.float64]:
        """The centre of every bucket, in iterations of the whole recovery."""
        starts_B = np.arange(len(self._sum_BP)) * self.stride
        return (starts_B + np.minimum(starts_B + self.stride, self.rows) - 1) / 2

    @property
    def has_values(self) -> bool:
        """Whether there is any finite number."""
        return bool(self._count_BP.any())

    def ce(self) -> Curve:
        """Return the curve of the cross-entropy."""
        return self._build_curve(self.layout.CE)

    def term(self, term: int, tap: int) -> Curve:
        """Return the curve of an unweighted term at a tap, both given by index."""
        return self._build_curve(self.layout.column(term, tap))

    def _build_curve(self, column: int) -> Curve:
        has_data_B = self._count_BP[:, column] > 0
        with np.errstate(invalid="ignore", divide="ignore"):
            mean_B = self._sum_BP[:, column] / self._count_BP[:, column]
        sides = (np.where(has_data_B, side[:, column], np.nan) for side in (self._low_BP, self._high_BP))
        return Curve(mean_B, *sides)

    def to_dict(self) -> dict[str, Any]:
        """Return the curves as plain data: x, CE, and every term at every tap."""
        layers = []
        for tap, tap_name in enumerate(self.layout.taps):
            curves = ((name, self.term(term, tap)) for term, name in enumerate(self.layout.terms))
            layers.append(
                {"name": tap_name, "terms": [{"term": name, **curve.to_dict()} for name, curve in curves]}
            )
        course = {"iterations": self.rows, "stride": self.stride, "x": self.x_B.tolist()}
        return {**course, "ce": self.ce().to_dict(), "layers": layers}


@dataclass(frozen=True)
class LossRecord:
    """The content of a run's journal and metrics table.

    layout: None before recovery. course: None before its first numbers. warnings: damage of the journal, then
    the run's own warnings, each once.
    """

    layout: RecoverLayout | None
    course: LossCourse | None
    warnings: tuple[str, ...]

    @classmethod
    def read(cls, run: StoredRun) -> LossRecord:
        """Read the whole record of a run. Raises UserError("disk") if it cannot be read."""
        tail = run.tail()
        layout: RecoverLayout | None = None
        course: LossCourse | None = None
        warnings: list[str] = []
        while tail.behind:
            for entry in tail.read_new(0.2):
                if isinstance(entry, TailRows):
                    layout = tail.layout if layout is None else layout
                    if course is None and layout.betas and entry.total_iterations > 0:
                        course = LossCourse(layout, entry.total_iterations)
                    if course is not None:
                        course.add(entry.first, entry.values_RP)
                elif isinstance(entry.event, RecoverLayout):
                    layout = entry.event
                    parts = layout.taps, layout.terms
                    if course is not None and (course.layout.taps, course.layout.terms) != parts:
                        course = None  # recovery restarted with another objective
                elif isinstance(entry.event, Notice) and entry.event.level == "warning":
                    warnings.append(entry.event.message)
        course = course if course is not None and course.has_values else None
        return cls(layout, course, tuple(dict.fromkeys([*tail.damage(), *warnings])))
