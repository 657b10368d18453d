"""The five stages in order: squeeze → statistics → recover → relabel → validate.

`run_stages` yields the events of all stages, writes each to the run's journal before it is yielded, and
returns what they measured. A stage whose artefact exists is skipped; an interrupted stage resumes from its
last checkpoint.
Legend: M images in a batch, C channels, H, W, E epochs, N images, K classes.
Not here: what is checked before a run begins (see `plan`), what happens at checkpoints (see `control`), the
repeats of an experiment (see `repeats`).
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from torch import Tensor, nn

from engine import backbones
from engine.checkpoint import PreviewTaken, StageState
from engine.config.identity import config_hash
from engine.data import ImageSet
from engine.errors import UserError, format_names
from engine.events import BatchRecovered, Event, Notice, map_events, offset_progress
from engine.fingerprint import fingerprint_tensors
from engine.importers import distilled
from engine.importers.fkd import ReplayedViews
from engine.methods.gvbsm import Ensemble
from engine.runs import artefacts, provenance, results
from engine.runs.artefacts import ComputeContext
from engine.runs.control import Control, Steering
from engine.runs.plan import Plan
from engine.runs.resume import nonreproducible_reason
from engine.runs.stage_runner import StageRunner
from engine.runs.threads import ThreadAdapter
from engine.spectral import moments
from engine.spectral.moments import Moments
from engine.spectral.recovery_batches import completed_work, control_set, plan_batches, total_work
from engine.stages.recover import recover, spectrum_sizes
from engine.stages.relabel import StoredLabels, relabel
from engine.stages.training import evaluate_accuracy
from engine.stages.validate import Source, StudentResult, completed_epochs, validate
from engine.store import Cache, Run
from engine.store import images as stored_images
from engine.store.lock import timestamp

T = TypeVar("T")
NONREPRODUCIBLE = "results are no longer bit-for-bit reproducible"


def run_stages(
    plan: Plan, run: Run, cache: Cache, command: Sequence[str], control: Control
) -> Generator[Event, None, dict[str, Any]]:
    """Run the five stages of one repeat, and return its entry in the results (see `results`).

    Every event is in the journal before it is yielded. control: lets this process request a checkpoint, a
    pause or a stop. Raises UserError, or Stopped after a stop request; checkpoints and finished artefacts
    stay on disk. The checkpoint of validate stays until the caller has saved the results.
    """
    steering = Steering(run, control, plan.config.checkpoint_seconds)
    work = Pipeline(plan, run, cache, command, steering).stages()
    return (yield from map_events(work, partial(record_event, run)))


def record_event(run: Run, event: Event) -> Iterator[Event]:
    """Write an event to the journal, preceded by warnings from the run's files, and yield them."""
    for recorded in (*(Notice("warning", message) for message in run.notices()), event):
        run.record(recorded)
        yield recorded


class Pipeline:
    """The stages of one repeat, and what they share."""

    def __init__(
        self, plan: Plan, run: Run, cache: Cache, command: Sequence[str], steering: Steering
    ) -> None:
        self.plan = plan
        self.config = plan.config
        self.train = plan.data.train
        self.device = plan.device
        self.context = ComputeContext(plan.device, cache)
        self.run = run
        self.command = command
        is_adaptive = plan.config.threads == "adaptive" and plan.device.type == "cpu"
        adapter = ThreadAdapter(plan.config, plan.data.train) if is_adaptive else None
        self.runner = StageRunner(run, plan.device, steering, adapter)

    def stages(self) -> Generator[Event, None, dict[str, Any]]:
        """Run squeeze, statistics, recover, relabel and validate; return the entry in the results."""
        if self.run.parent is None:
            yield from self._report_skipped_images()
        yield from (Notice("warning", text) for text in self.plan.warnings)
        if reason := nonreproducible_reason(self.run.manifest["sessions"]):
            yield Notice("warning", f"{NONREPRODUCIBLE}: {reason}")
        given = None if stored_images.is_complete(self.run.images) else self.plan.given
        if given is not None:
            yield from given.notices()
        teacher, *others = yield from self._load_teachers()
        labeller = Ensemble([teacher, *others]) if others else teacher
        if given is not None:
            distilled.write(self.run, given, self.train.classes)
        if not stored_images.is_complete(self.run.images):
            real: list[list[Moments]] = [[] for _ in (teacher, *others)]
            if self.config.recover.algorithm == "optimise":
                real = yield from self._measure_statistics([teacher, *others])
            else:
                yield from self.runner.skip("statistics")
            teachers = list(zip([teacher, *others], real, strict=True))
            yield from self.runner.run(
                "recover",
                *total_work(self.config, len(self.train.classes)),
                lambda saved: self._recover_images(teachers, saved),
                lambda metadata: completed_work(self.config, metadata),
            )
        else:
            yield from self.runner.skip("statistics")
            yield from self.runner.skip("recover")
        sources = self._read_sources()
        labels = yield from self._store_labels(labeller, sources)
        students = yield from self._train_students(labeller, sources, labels)
        return self._describe_repeat(students)

    def _report_skipped_images(self) -> Generator[Event, None, None]:
        for split, images in (("training", self.train), ("test", self.plan.data.test)):
            if images.skipped:
                names = format_names(images.skipped, 3)
                yield Notice("warning", f"skipped {len(images.skipped)} unreadable {split} images: {names}")

    # --- one stage each ---------------------------------------------------------------------------

    def _load_teachers(self) -> Generator[Event, None, list[nn.Module]]:
        """Load or squeeze the teacher of every backbone, the main one first; return them on the device."""
        given = [self.plan.teacher, *self.plan.others]
        configs = artefacts.single_backbone_configs(self.config)
        self.teacher_source = "squeezed" if given[0] is None else str(self.config.backbone.teacher)
        missing = [number for number, teacher in enumerate(given) if teacher is None]
        squeezed: list[nn.Module] = []
        if missing:
            epochs = self.config.squeeze.epochs
            parts = [
                partial(artefacts.load_or_train_teacher, configs[number], self.plan.data, self.context)
                for number in missing
            ]
            squeezed = yield from self.runner.run(
                "squeeze",
                epochs * len(parts),
                "epochs",
                lambda saved: artefacts.run_in_sequence("squeeze", epochs, parts, saved),
                lambda metadata: metadata.get("part", 0) * epochs + metadata["epoch"],
            )
        else:
            yield from self.runner.skip("squeeze")
        made = dict(zip(missing, squeezed, strict=True))
        loaded = [made.get(number, teacher) for number, teacher in enumerate(given)]
        teachers = [teacher.to(self.device) for teacher in loaded if teacher is not None]
        self._record_teachers(teachers)
        return teachers

    def _record_teachers(self, teachers: Sequence[nn.Module]) -> None:
        """Record the fingerprints and the main teacher's accuracy, or verify them in a resumed run."""
        fingerprint, *others = (backbones.fingerprint(teacher) for teacher in teachers)
        if self.run.manifest.get("teacher") is None:
            accuracy = evaluate_accuracy(teachers[0], self.plan.data.test, self.device)
            self.run.add_to_manifest(teacher={"fingerprint": fingerprint, "accuracy": accuracy})
        self.teacher: dict[str, Any] = self.run.manifest["teacher"]
        recorded = self.teacher["fingerprint"], self.run.manifest.get("others", others)
        if recorded != (fingerprint, others):
            raise UserError(
                "teacher",
                f"the teacher that {self.run.folder} started with is no longer in the cache, and the teacher "
                "squeezed here again has different weights",
                "restore the cache, resume on the machine that squeezed the teacher, or start a new run",
            )
        if others:
            self.run.add_to_manifest(others=others)

    def _measure_statistics(
        self, teachers: Sequence[nn.Module]
    ) -> Generator[Event, None, list[list[Moments]]]:
        """Return the real moments of every teacher: given, cached or measured."""
        given = self.plan.statistics
        if given is not None:
            yield Notice("info", f"using the real statistics in {self.config.given.statistics}")
            yield from self.runner.skip("statistics")
            self.run.add_to_manifest(statistics=fingerprint_tensors(moments.pack(given)))
            return [given]
        images = len(self.train)
        parts = [
            partial(artefacts.load_or_measure_statistics, self.config, self.plan.data, teacher, self.context)
            for teacher in teachers
        ]
        real = yield from self.runner.run(
            "statistics",
            images * len(parts),
            "images",
            lambda saved: artefacts.run_in_sequence("statistics", images, parts, saved),
            lambda metadata: metadata.get("part", 0) * images + metadata["done"],
        )
        fingerprint = " ".join(fingerprint_tensors(moments.pack(each)) for each in real)
        if self.run.manifest.setdefault("statistics", fingerprint) != fingerprint:
            reason = (
                "the real statistics that the run started with are no longer in the cache,"
                " and those measured again differ"
            )
            yield Notice("warning", f"{NONREPRODUCIBLE}: {reason}")
            self.run.manifest["inexact"] = reason
        self.run.add_to_manifest(statistics=fingerprint)
        return real

    def _recover_images(
        self, teachers: list[tuple[nn.Module, list[Moments]]], saved: StageState | None
    ) -> Generator[Event, None, tuple[None, bool]]:
        """Recover images and write them batch by batch. teachers: each with its real moments."""
        shape, classes = self.plan.image_shape(), self.train.classes
        plan = plan_batches(self.config, len(classes))
        written = 0 if saved is None else sum(len(part) for _, part in plan[: saved.metadata["batch"] - 1])
        if written and not stored_images.is_begun(self.run.images):
            yield Notice("warning", f"the images in {self.run.images} are missing; recovery starts over")
            saved, written = None, 0
        writer = self.run.image_writer(shape, classes, written, self.config.recover.save)
        history = None
        if self.config.recover.algorithm == "optimise":
            position = None if saved is None else (saved.metadata["batch"], saved.metadata["iteration"])
            largest = (max(len(part) for part, _ in plan), *shape[1:])
            sizes = spectrum_sizes(self.config, teachers[0][1])
            iterations = self.config.recover.iterations
            history = self.run.preview_history(len(plan), iterations, largest, position, sizes)

        def save_images(event: Event) -> Iterator[Event]:
            if isinstance(event, PreviewTaken):
                if history is not None:
                    with suppress(UserError, OSError):  # it is only displayed
                        history.put(event.preview)
                return
            if isinstance(event, BatchRecovered) and event.recovered is not None:
                batch = event.recovered
                writer.add(batch.pixels_MCHW, batch.labels_M, event.batch, event.beta, batch.confidence_M)
                event = replace(event, recovered=None)
            yield event

        work = recover(self.config, *teachers[0], self.train, self.device, saved, teachers[1:])
        moving = yield from map_events(work, save_images)
        if moving is not None:
            packed = moments.pack(moving)
            self.run.save_moving({name: tensor.numpy() for name, tensor in packed.items()})
            self.run.add_to_manifest(moving=fingerprint_tensors(packed))
        writer.finish()
        if history is not None:
            with suppress(UserError, OSError):
                history.finish()
        return None, False

    def _read_sources(self) -> dict[Source, ImageSet]:
        """Return the distilled images and the real images of each control."""
        train = self.train
        pixels_NCHW, labels_N = stored_images.read_pixels(self.run.images)
        distilled = ImageSet.from_arrays(pixels_NCHW, labels_N, train.classes, train.mean, train.std)
        sources: dict[Source, ImageSet] = {"distilled": distilled}
        return sources | {name: control_set(self.config, train, name) for name in self.config.controls}

    def _store_labels(
        self, teacher: nn.Module, sources: dict[Source, ImageSet]
    ) -> Generator[Event, None, dict[Source, StoredLabels] | None]:
        if self.config.relabel.mode == "online":
            yield from self.runner.skip("relabel")
            return None
        epochs = self.config.relabel.stored_epochs or self.config.validate_.epochs
        names = list(sources)
        return (
            yield from self.runner.run(
                "relabel",
                epochs * len(sources),
                "epochs",
                lambda saved: self._write_labels(teacher, sources, epochs, saved),
                lambda metadata: names.index(metadata["source"]) * epochs + metadata["epochs"],
            )
        )

    def _write_labels(
        self, teacher: nn.Module, sources: dict[Source, ImageSet], epochs: int, saved: StageState | None
    ) -> Generator[Event, None, tuple[dict[Source, StoredLabels], bool]]:
        labels: dict[Source, StoredLabels] = {}
        reused, given = True, self.plan.labels
        views = None if given is None else partial(ReplayedViews, self.config, labels=given)
        if given is not None:
            yield from given.notices(self.config)
        for number, (source, images) in enumerate(sources.items()):
            if self.run.labels(source) is None:
                reused = False
                first = saved.metadata["epochs"] if saved and saved.metadata["source"] == source else 0
                shape = (epochs, len(images), len(images.classes))
                try:
                    writer = self.run.label_writer(source, shape, first)
                except UserError as damage:
                    if not first or damage.kind != "data":
                        raise
                    yield Notice("warning", f"{damage}; its labels are computed again")
                    first, writer = 0, self.run.label_writer(source, shape)
                keep = partial(_write_logits, writer)
                if given is not None and source == "distilled":
                    work = given.copy_logits(epochs, keep, first)
                else:
                    replayed = None if views is None else views(images, self.device)
                    work = relabel(self.config, teacher, images, self.device, keep, source, first, replayed)
                yield from offset_progress(work, number * epochs)
                writer.finish()
            stored = self.run.labels(source)
            if stored is None:
                raise UserError(
                    "disk",
                    f"the labels of the {source} images that were written to {self.run.folder} are missing",
                    "check the disk, which lost files that it had reported as written, and resume",
                )
            labels[source] = StoredLabels(stored.epochs, stored.epoch, views)
        return labels, reused

    def _train_students(
        self, teacher: nn.Module, sources: dict[Source, ImageSet], labels: dict[Source, StoredLabels] | None
    ) -> Generator[Event, None, list[StudentResult]]:
        settings = self.config.validate_
        total = settings.epochs * settings.seeds * len(sources) * max(1, len(settings.students))
        test = self.plan.data.test

        def train(saved: StageState | None) -> Generator[Event, None, tuple[list[StudentResult], bool]]:
            together = self.plan.execution.stacked
            work = validate(self.config, teacher, sources, test, self.device, labels, saved, together)
            return (yield from work), False

        count = partial(completed_epochs, self.config)
        return (yield from self.runner.run("validate", total, "epochs", train, count))

    def _describe_repeat(self, students: list[StudentResult]) -> dict[str, Any]:
        """Return the repeat's entry in the results."""
        sessions = self.run.manifest["sessions"]
        return results.describe_repeat(
            seed=self.config.seed,
            students=students,
            teacher=self.teacher | {"architecture": self.config.backbone.name, "source": self.teacher_source},
            timings=self.runner.timings,
            provenance={
                **provenance.describe_session(self.device, self.plan.execution, self.command),
                "config_hash": config_hash(self.config),
                "data": {"name": self.plan.data.name, "fingerprint": self.plan.data.fingerprint},
                "measured_on": {"split": self.config.data.test, "images": len(self.plan.data.test)},
                **self.plan.given_provenance(),
                "teacher_fingerprint": self.teacher["fingerprint"],
                "seeds": provenance.seeds(self.config),
                "sessions": len(sessions),
                "bit_exact": nonreproducible_reason(sessions) is None and "inexact" not in self.run.manifest,
                "finished": timestamp(),
            },
        )


def _write_logits(writer: Any, epoch: int, logits_NK: Tensor) -> None:
    writer.put(epoch, logits_NK.numpy())
