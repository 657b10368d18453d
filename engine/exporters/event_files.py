"""Export a run's metrics as a TensorBoard event file, written with TensorBoard's own record writer.

Tags: ``recover/ce``, ``recover/beta``, ``recover/TERM/TAP`` (unweighted) over the iterations of all
batches; ``STAGE/ARCHITECTURE/SOURCE/seed N/loss`` and ``…/accuracy`` (%) over epochs from 1.
Legend: R rows of numbers, P columns.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from engine.errors import UserError
from engine.events import EpochFinished, RecoverLayout
from engine.store import StoredRun, files
from engine.store.tail import RecordedEvent, TailRows

OUT = "choose another folder with --out"
_Scalar = tuple[float, int, str, float]  # seconds since 1970, step, tag, value


def write(run: StoredRun, out: Path) -> Path:
    """Write all metrics that a run has recorded so far to an event file in `out`; return its path.

    Raises UserError("usage") if TensorBoard is not installed, and UserError("disk").
    """
    encode = _make_encoder()
    path = out / f"events.out.tfevents.{int(run.folder.stat().st_mtime)}.{run.name}"
    unfinished = path.with_name(f".{path.name}.tmp")
    file = files.Appender(unfinished, 0)
    try:
        file.append(encode(None))
        for scalars in _read_scalars(run):
            file.append(b"".join(encode(scalar) for scalar in scalars))
    finally:
        file.close()
    files.rename(unfinished, path, OUT)
    return path


def _make_encoder() -> Callable[[_Scalar | None], bytes]:
    """Return a function that encodes a scalar as a record, and None as the file's first record."""
    try:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter
    except ImportError as error:
        raise UserError(
            "usage", "event files need the tensorboard package", "pip install 'cfm-tui[tensorboard]'"
        ) from error

    def encode(scalar: _Scalar | None) -> bytes:
        stream = io.BytesIO()
        event = Event(wall_time=0.0, file_version="brain.Event:2")
        if scalar is not None:
            time, step, tag, value = scalar
            summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
            event = Event(wall_time=time, step=step, summary=summary)
        RecordWriter(stream).write(event.SerializeToString())
        return stream.getvalue()

    return encode


def _read_scalars(run: StoredRun) -> Iterator[list[_Scalar]]:
    """Yield recovery's metrics in chunks, then those of epochs; of repeated epochs only the last values."""
    tail = run.tail()
    epochs: dict[tuple[str, int], _Scalar] = {}
    while tail.behind:
        for record in tail.read_new():
            if isinstance(record, TailRows):
                yield list(_convert_rows(record, tail.layout.columns))
            elif isinstance(record.event, EpochFinished):
                epochs |= {
                    (tag, step): (time, step, tag, value) for time, step, tag, value in _convert_epoch(record)
                }
    yield list(epochs.values())


def _convert_rows(rows: TailRows, names: list[str]) -> Iterator[_Scalar]:
    for number, name in enumerate(names):
        if name in ("batch", "iteration"):
            continue
        tag = f"recover/{name}" if name in RecoverLayout.FIXED else "recover/" + "/".join(name.split(" @ "))
        for index, value in enumerate(rows.values_RP[:, number].tolist()):
            if math.isfinite(value):
                yield rows.time, rows.first + index, tag, value


def _convert_epoch(record: RecordedEvent) -> Iterator[_Scalar]:
    event: Any = record.event
    prefix = f"{event.stage}/{event.architecture}/{event.source}/seed {event.seed}"
    for name, value in (("loss", event.loss), ("accuracy", event.accuracy)):
        if value is not None and math.isfinite(value):
            yield record.time, event.epoch, f"{prefix}/{name}", value
