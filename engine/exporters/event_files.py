"""A run's record as TensorBoard's event files, written with TensorBoard's own record writer.

Tags: ``recover/ce``, ``recover/beta``, ``recover/TERM/TAP`` (unweighted) over the number of the iteration in
the whole recovery; ``STAGE/ARCHITECTURE/SOURCE/seed N/loss`` and ``…/accuracy`` (%) over epochs from 1.
Legend: R rows of numbers, P columns.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from engine.errors import UserError
from engine.events import EpochFinished
from engine.store import StoredRun, files
from engine.store.numbers import FIXED, columns
from engine.store.tail import Rows, Told

OUT = "choose another folder with --out"
Scalar = tuple[float, int, str, float]  #: seconds since 1970, step, tag, value


def write(run: StoredRun, out: Path) -> Path:
    """Write an event file of all that a run recorded so far into `out`; returns its path.

    Raises UserError("usage") where TensorBoard is not installed, UserError("disk").
    """
    encoded = _encoder()
    path = out / f"events.out.tfevents.{int(run.folder.stat().st_mtime)}.{run.name}"
    unfinished = path.with_name(f".{path.name}.tmp")
    file = files.Appender(unfinished, 0)
    try:
        file.append(encoded(None))
        for scalars in _pieces(run):
            file.append(b"".join(encoded(scalar) for scalar in scalars))
    finally:
        file.close()
    files.rename(unfinished, path, OUT)
    return path


def _encoder() -> Callable[[Scalar | None], bytes]:
    """From a scalar to the bytes of its record; from None to those of the file's first."""
    try:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter
    except ImportError as error:
        raise UserError(
            "usage", "event files need the tensorboard package", "pip install 'cfm-tui[tensorboard]'"
        ) from error

    def encoded(scalar: Scalar | None) -> bytes:
        stream = io.BytesIO()
        event = Event(wall_time=0.0, file_version="brain.Event:2")
        if scalar is not None:
            time, step, tag, value = scalar
            summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
            event = Event(wall_time=time, step=step, summary=summary)
        RecordWriter(stream).write(event.SerializeToString())
        return stream.getvalue()

    return encoded


def _pieces(run: StoredRun) -> Iterator[list[Scalar]]:
    """Recovery's numbers piece by piece, then those of epochs; what was done again counts as it was last."""
    tail = run.tail()
    epochs: dict[tuple[str, int], Scalar] = {}
    while tail.behind:
        for told in tail.more():
            if isinstance(told, Rows):
                yield list(_of_rows(told, columns(tail.layout)))
            elif isinstance(told.event, EpochFinished):
                epochs |= {
                    (tag, step): (time, step, tag, value) for time, step, tag, value in _of_epoch(told)
                }
    yield list(epochs.values())


def _of_rows(rows: Rows, names: list[str]) -> Iterator[Scalar]:
    for number, name in enumerate(names):
        if name in ("batch", "iteration"):
            continue
        tag = f"recover/{name}" if name in FIXED else "recover/" + "/".join(name.split(" @ "))
        for index, value in enumerate(rows.values_RP[:, number].tolist()):
            if math.isfinite(value):
                yield rows.time, rows.first + index, tag, value


def _of_epoch(told: Told) -> Iterator[Scalar]:
    event: Any = told.event
    at = f"{event.stage}/{event.architecture}/{event.source}/seed {event.seed}"
    for name, value in (("loss", event.loss), ("accuracy", event.accuracy)):
        if value is not None and math.isfinite(value):
            yield told.time, event.epoch, f"{at}/{name}", value
