"""The five stages in order: squeeze → statistics → recover → relabel → validate.

`run` yields the events of all stages, each written to the run's journal before anybody sees it, and
returns the results. A stage whose artefact is there already is not computed again.
Legend: M images in a batch, C channels, H, W, E epochs, N images, K classes.
Not here: what is checked before a run begins (see `plan`).
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from torch import Tensor, nn

from engine import artefacts, backbones, provenance, results
from engine.artefacts import Place
from engine.data import ImageSet
from engine.errors import UserError
from engine.events import STAGES, Event, Notice, Stage, StageFinished, StageProgress, StageStarted
from engine.moments import Moments
from engine.plan import Plan
from engine.recover import batches, control_set, recover
from engine.relabel import StoredLabels, relabel
from engine.results import Results
from engine.savepoint import SavePoint
from engine.store import Cache, Run
from engine.store import images as stored_images
from engine.store.lock import timestamp
from engine.training import accuracy
from engine.validate import Source, StudentResult, validate

T = TypeVar("T")


def run(plan: Plan, run: Run, cache: Cache, command: Sequence[str] = ()) -> Generator[Event, None, Results]:
    """All five stages. Every event is in the journal before it is yielded.

    The run is closed however this ends: finished, failed (its message in the status), or stopped.
    Raises UserError; what earlier stages left stays.
    """
    pipeline = Pipeline(plan, run, cache, command)
    work = pipeline.stages()
    try:
        while True:
            try:
                event = next(work)
            except StopIteration as end:
                run.close("finished")
                found: Results = end.value
                return found
            if isinstance(event, SavePoint):
                continue
            run.record(event)
            yield event
    except Exception as error:
        with suppress(UserError):  # a full disk: what stopped the run is worth more than saying so twice
            run.close("failed", str(error))
        raise
    except BaseException:
        run.close("stopped")
        raise
    finally:
        work.close()


class Pipeline:
    """One run while it is computed: what its stages share, and how long each took."""

    def __init__(self, plan: Plan, run: Run, cache: Cache, command: Sequence[str]) -> None:
        self.plan = plan
        self.config = plan.config
        self.train = plan.data.train
        self.device = plan.device
        self.place = Place(plan.device, cache)
        self.run = run
        self.command = command
        self.timings: dict[str, Any] = {}

    def stages(self) -> Generator[Event, None, Results]:
        """Squeeze, statistics, recover, relabel, validate; returns the document of results."""
        if self.run.results is not None:
            return (yield from self._finished_before(self.run.results))
        yield from self._say_what_was_skipped()
        teacher = yield from self._teacher()
        if not stored_images.is_complete(self.run.images):
            real = yield from self._statistics(teacher)
            yield from self._recover(teacher, real)
        else:
            yield from self._skip("statistics")
            yield from self._skip("recover")
        sources = self._sources()
        labels = yield from self._labels(teacher, sources)
        students = yield from self._students(teacher, sources, labels)
        document = self._results(teacher, students)
        self.run.save_results(document)
        return document

    def _finished_before(self, document: Results) -> Generator[Event, None, Results]:
        yield Notice("info", f"{self.run.folder} is finished; these are its results")
        for stage in STAGES:
            yield from self._skip(stage)
        return document

    def _say_what_was_skipped(self) -> Generator[Event, None, None]:
        for split, images in (("training", self.train), ("test", self.plan.data.test)):
            if images.skipped:
                names = ", ".join(images.skipped[:3]) + (", …" if len(images.skipped) > 3 else "")
                yield Notice("warning", f"{len(images.skipped)} unreadable {split} images left out: {names}")

    # --- one stage each ---------------------------------------------------------------------------

    def _teacher(self) -> Generator[Event, None, nn.Module]:
        teacher, self.teacher_source = self.plan.teacher, str(self.config.backbone.teacher)
        if teacher is None:
            self.teacher_source = "squeezed"
            work = artefacts.squeezed(self.config, self.plan.data, self.place)
            teacher = yield from self._timed("squeeze", self.config.squeeze.epochs, "epochs", work)
        else:
            yield from self._skip("squeeze")
        teacher = teacher.to(self.device)
        self.teacher_accuracy = accuracy(teacher, self.plan.data.test, self.device)
        self.run.add_to_manifest(teacher=backbones.fingerprint(teacher))
        return teacher

    def _statistics(self, teacher: nn.Module) -> Generator[Event, None, list[Moments]]:
        work = artefacts.measured(self.config, self.plan.data, teacher, self.place)
        return (yield from self._timed("statistics", len(self.train), "images", work))

    def _recover(self, teacher: nn.Module, real: list[Moments]) -> Generator[Event, None, None]:
        writer = self.run.image_writer(self.plan.image_shape(), self.train.classes)

        def keep(images_MCHW: Tensor, labels_M: Tensor, batch: int, beta: float) -> None:
            writer.add(images_MCHW.numpy(), labels_M.numpy(), batch, beta)

        count = len(batches(self.config, len(self.train.classes)))
        work = recover(self.config, teacher, real, self.train, self.device, keep)
        try:
            total = count * self.config.recover.iterations
            yield from self._timed("recover", total, "iterations", _computed(work))
            writer.finish()
        finally:
            writer.close()

    def _sources(self) -> dict[Source, ImageSet]:
        train = self.train
        pixels_NCHW, labels_N = stored_images.read_pixels(self.run.images)
        distilled = ImageSet.from_arrays(pixels_NCHW, labels_N, train.classes, train.mean, train.std)
        if not self.config.validate_.control:
            return {"distilled": distilled}
        return {"distilled": distilled, "random": control_set(self.config, train)}

    def _labels(
        self, teacher: nn.Module, sources: dict[Source, ImageSet]
    ) -> Generator[Event, None, dict[Source, StoredLabels] | None]:
        if self.config.relabel.mode == "online":
            yield from self._skip("relabel")
            return None
        epochs = self.config.relabel.stored_epochs or self.config.validate_.epochs
        work = self._store_labels(teacher, sources)
        return (yield from self._timed("relabel", epochs * len(sources), "epochs", work))

    def _store_labels(
        self, teacher: nn.Module, sources: dict[Source, ImageSet]
    ) -> Generator[Event, None, tuple[dict[Source, StoredLabels], bool]]:
        labels: dict[Source, StoredLabels] = {}
        reused, epochs = True, 0
        for source, images in sources.items():
            logits_ENK = _load_labels(self.run, source)
            if logits_ENK is None:
                reused = False
                kept: list[np.ndarray] = []

                def keep(_: int, logits_NK: Tensor, kept: list[np.ndarray] = kept) -> None:
                    kept.append(logits_NK.numpy())

                work = relabel(self.config, teacher, images, self.device, keep, source)
                yield from _counted_on(work, epochs)
                logits_ENK = np.stack(kept)
                _save_labels(self.run, source, logits_ENK)
            labels[source] = StoredLabels(len(logits_ENK), logits_ENK.__getitem__)
            epochs += len(logits_ENK)
        return labels, reused

    def _students(
        self,
        teacher: nn.Module,
        sources: dict[Source, ImageSet],
        labels: dict[Source, StoredLabels] | None,
    ) -> Generator[Event, None, list[StudentResult]]:
        settings = self.config.validate_
        total = settings.epochs * settings.seeds * len(sources) * max(1, len(settings.students))
        work = validate(self.config, teacher, sources, self.plan.data.test, self.device, labels)
        return (yield from self._timed("validate", total, "epochs", _computed(work)))

    # --- around the stages ------------------------------------------------------------------------

    def _timed(
        self, stage: Stage, total: int, unit: str, work: Generator[Event, None, tuple[T, bool]]
    ) -> Generator[Event, None, T]:
        """Run a stage; only the time that it works counts. `work` returns its artefact and `reused`."""
        yield StageStarted(stage, total, unit)
        seconds = 0.0
        try:
            while True:
                began = time.perf_counter()
                try:
                    event = next(work)
                except StopIteration as end:
                    found: tuple[T, bool] = end.value
                    break
                finally:
                    seconds += time.perf_counter() - began
                yield event
        finally:
            work.close()
        artefact, reused = found
        yield from self._finish(stage, seconds, 0 if reused else total, unit, reused)
        return artefact

    def _skip(self, stage: Stage) -> Generator[Event, None, None]:
        yield from self._finish(stage, 0.0, 0, "", True)

    def _finish(
        self, stage: Stage, seconds: float, done: int, unit: str, reused: bool
    ) -> Generator[Event, None, None]:
        rate = done / max(seconds, 1e-9)
        self.timings[stage] = {"seconds": seconds, "rate": rate, "unit": unit, "reused": reused}
        yield StageFinished(stage, seconds, rate, reused)

    def _results(self, teacher: nn.Module, students: list[StudentResult]) -> Results:
        fingerprint = backbones.fingerprint(teacher)
        return results.document(
            run=self.run.folder.resolve().name,
            students=students,
            teacher={
                "accuracy": self.teacher_accuracy,
                "architecture": self.config.backbone.name,
                "source": self.teacher_source,
                "fingerprint": fingerprint,
            },
            timings=self.timings,
            provenance={
                **provenance.circumstances(self.device, self.command),
                "config_hash": provenance.config_hash(self.config),
                "data": {"name": self.plan.data.name, "fingerprint": self.plan.data.fingerprint},
                "measured_on": {"split": self.config.data.test, "images": len(self.plan.data.test)},
                "teacher_fingerprint": fingerprint,
                "seeds": provenance.seeds(self.config),
                "finished": timestamp(),
            },
        )


def _computed(work: Generator[Event, None, T]) -> Generator[Event, None, tuple[T, bool]]:
    """A stage that was computed, not reused."""
    return (yield from work), False


def _counted_on(work: Generator[Event, None, T], done: int) -> Generator[Event, None, T]:
    """The same stage with its progress counted on from `done`."""
    while True:
        try:
            event = next(work)
        except StopIteration as end:
            found: T = end.value
            return found
        yield replace(event, done=event.done + done) if isinstance(event, StageProgress) else event


def _load_labels(run: Run, source: Source) -> Any:
    """A source's stored logits (E, N, K), or None."""
    from numpy import stack

    stored = run.labels(source)
    return None if stored is None else stack([stored.epoch(epoch) for epoch in range(stored.epochs)])


def _save_labels(run: Run, source: Source, logits_ENK: Any) -> None:
    """Store a source's logits."""
    writer = run.label_writer(source, logits_ENK.shape)
    for epoch, logits_NK in enumerate(logits_ENK):
        writer.put(epoch, logits_NK)
    writer.finish()
