"""The five stages in order: squeeze → statistics → recover → relabel → validate.

`run` yields the events of all stages, each written to the run's journal before anybody sees it, and
returns the results. A stage whose artefact is there already is not computed again; one that was cut
goes on from its last checkpoint.
Legend: M images in a batch, C channels, H, W, E epochs, N images, K classes.
Not here: what is checked before a run begins (see `plan`), what is done at save points (`steering`).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from torch import Tensor, nn

from engine.runs import artefacts, provenance, results
from engine import backbones
from engine.spectral import moments
from engine.runs.artefacts import ComputeContext
from engine.config.identity import config_hash
from engine.data import ImageSet
from engine.errors import Stopped, UserError
from engine.events import STAGES, Event, Notice, offset_progress, map_events
from engine.fingerprint import fingerprint_tensors
from engine.importers import distilled
from engine.importers.fkd import ReplayedViews
from engine.methods.gvbsm import Ensemble
from engine.spectral.moments import Moments
from engine.runs.plan import Plan
from engine.stages.recover import recover
from engine.stages.relabel import StoredLabels, relabel
from engine.runs.results import Results
from engine.runs.resume import nonreproducible_reason
from engine.checkpoint import StageState
from engine.runs.stage_runner import StageRunner
from engine.spectral.recovery_batches import total_work, plan_batches, control_set, completed_work
from engine.runs.control import Control, Steering
from engine.store import Cache, Run
from engine.store import images as stored_images
from engine.store.lock import timestamp
from engine.stages.training import evaluate_accuracy
from engine.stages.validate import Source, StudentResult, validate

T = TypeVar("T")


def run(
    plan: Plan, run: Run, cache: Cache, command: Sequence[str] = (), control: Control | None = None
) -> Generator[Event, None, Results]:
    """All five stages. Every event is in the journal before it is yielded.

    control: through which this process may ask for a checkpoint, a pause, or an end.
    The run is closed however this ends: finished, failed (its message in the status), or stopped.
    Raises UserError, or Stopped where that was asked; what was saved stays.
    """
    steering = Steering(run, control or Control(), plan.config.checkpoint_seconds)
    work = steering.steer(Pipeline(plan, run, cache, command).stages())
    try:
        found = yield from _recorded(run, work)
        run.close("finished")
    except Exception as error:
        state = "stopped" if isinstance(error, Stopped) else "failed"
        with suppress(UserError, OSError):  # a full disk: what stopped the run is worth more
            run.close(state, str(error))
        raise
    except BaseException:
        run.close("stopped")
        raise
    return found


def _recorded(run: Run, work: Generator[Event, None, T]) -> Generator[Event, None, T]:
    """The same events, each in the journal; what the run's files have to say comes between them."""

    def tell(event: Event) -> Iterator[Event]:
        for told in (*(Notice("warning", message) for message in run.notices()), event):
            run.record(told)
            yield told

    return map_events(work, tell)


class Pipeline:
    """One run while it is computed: what its stages share, and how long each took."""

    def __init__(self, plan: Plan, run: Run, cache: Cache, command: Sequence[str]) -> None:
        self.plan = plan
        self.config = plan.config
        self.train = plan.data.train
        self.device = plan.device
        self.place = ComputeContext(plan.device, cache)
        self.run = run
        self.command = command
        self.work = StageRunner(run, plan.device)

    def stages(self) -> Generator[Event, None, Results]:
        """Squeeze, statistics, recover, relabel, validate; returns the document of results."""
        if self.run.results is not None:
            return (yield from self._finished_before(self.run.results))
        yield from self._say_what_was_skipped()
        yield from self._say_what_is_inexact()
        teacher, *others = yield from self._teachers()
        labeller = Ensemble([teacher, *others]) if others else teacher
        yield from self._take_given()
        if not stored_images.is_complete(self.run.images):
            real: list[list[Moments]] = [[] for _ in (teacher, *others)]
            if self.config.recover.algorithm == "optimise":
                real = yield from self._statistics([teacher, *others])
            else:
                yield from self.work.skip("statistics")
            yield from self._recover(list(zip([teacher, *others], real, strict=True)))
        else:
            yield from self.work.skip("statistics")
            yield from self.work.skip("recover")
        sources = self._sources()
        labels = yield from self._labels(labeller, sources)
        students = yield from self._students(labeller, sources, labels)
        document = self._results(teacher, students)
        self.run.save_results(document)
        self.run.forget("validate")
        return document

    def _finished_before(self, document: Results) -> Generator[Event, None, Results]:
        yield Notice("info", f"{self.run.folder} is finished; these are its results")
        for stage in STAGES:
            yield from self.work.skip(stage)
        return document

    def _say_what_was_skipped(self) -> Generator[Event, None, None]:
        for split, images in (("training", self.train), ("test", self.plan.data.test)):
            if images.skipped:
                names = ", ".join(images.skipped[:3]) + (", …" if len(images.skipped) > 3 else "")
                yield Notice("warning", f"{len(images.skipped)} unreadable {split} images left out: {names}")

    def _say_what_is_inexact(self) -> Generator[Event, None, None]:
        if why := nonreproducible_reason(self.run.manifest["sessions"]):
            yield Notice("warning", f"no longer bit for bit what one session would give: {why}")

    # --- one stage each ---------------------------------------------------------------------------

    def _teachers(self) -> Generator[Event, None, list[nn.Module]]:
        """The teacher, and those of further backbones, on the device; they are frozen from here on."""
        given = [self.plan.teacher, *self.plan.others]
        alone = dict(enumerate(artefacts.single_backbone_configs(self.config)))
        self.teacher_source = "squeezed" if given[0] is None else str(self.config.backbone.teacher)
        missing = [number for number, teacher in enumerate(given) if teacher is None]
        made: list[nn.Module] = []
        if missing:
            epochs = self.config.squeeze.epochs
            works = [partial(artefacts.load_or_train_teacher, alone[n], self.plan.data, self.place) for n in missing]
            made = yield from self.work.run(
                "squeeze",
                epochs * len(works),
                "epochs",
                lambda saved: artefacts.run_in_sequence("squeeze", epochs, works, saved),
                lambda facts: facts.get("part", 0) * epochs + facts["epoch"],
            )
        else:
            yield from self.work.skip("squeeze")
        squeezed = dict(zip(missing, made, strict=True))
        teachers = [squeezed.get(n, teacher) for n, teacher in enumerate(given)]
        found = [teacher.to(self.device) for teacher in teachers if teacher is not None]
        self._know(found[0])
        self._know_others(found[1:])
        return found

    def _know(self, teacher: nn.Module) -> None:
        """Note who the teacher is, or see that it is still the one that the run began with."""
        known, fingerprint = self.run.manifest.get("teacher"), backbones.fingerprint(teacher)
        if known is None:
            known = {
                "fingerprint": fingerprint,
                "accuracy": evaluate_accuracy(teacher, self.plan.data.test, self.device),
            }
            self.run.add_to_manifest(teacher=known)
        elif known["fingerprint"] != fingerprint:
            raise self._another_teacher()
        self.teacher: dict[str, Any] = known

    def _know_others(self, others: Sequence[nn.Module]) -> None:
        """The same of further backbones."""
        fingerprints = [backbones.fingerprint(teacher) for teacher in others]
        if others and self.run.manifest.get("others", fingerprints) != fingerprints:
            raise self._another_teacher()
        if others:
            self.run.add_to_manifest(others=fingerprints)

    def _another_teacher(self) -> UserError:
        return UserError(
            "teacher",
            f"the teacher that {self.run.folder} was begun with is no longer in the cache, and one "
            "squeezed anew here has other weights",
            "bring the cache back, resume where the teacher was squeezed, or begin anew elsewhere",
        )

    def _statistics(self, teachers: Sequence[nn.Module]) -> Generator[Event, None, list[list[Moments]]]:
        given = self.plan.statistics
        if given is not None:
            yield Notice("info", f"the real statistics are given by {self.config.given.statistics}")
            yield from self.work.skip("statistics")
            self.run.add_to_manifest(statistics=fingerprint_tensors(moments.pack(given)))
            return [given]
        images = len(self.train)
        works = [partial(artefacts.load_or_measure_statistics, self.config, self.plan.data, t, self.place) for t in teachers]
        real = yield from self.work.run(
            "statistics",
            images * len(works),
            "images",
            lambda saved: artefacts.run_in_sequence("statistics", images, works, saved),
            lambda facts: facts.get("part", 0) * images + facts["done"],
        )
        fingerprint = " ".join(fingerprint_tensors(moments.pack(each)) for each in real)
        if self.run.manifest.setdefault("statistics", fingerprint) != fingerprint:
            other = "the real statistics are not those that the run began with, which left the cache"
            yield Notice("warning", f"no longer bit for bit what one session would give: {other}")
            self.run.manifest["inexact"] = other
        self.run.add_to_manifest(statistics=fingerprint)
        return real

    def _take_given(self) -> Generator[Event, None, None]:
        """Put given images where recovered ones would be."""
        given = self.plan.given
        if given is not None and not stored_images.is_complete(self.run.images):
            yield from given.notices()
            distilled.write(self.run, given, self.train.classes)

    def _recover(self, through: list[tuple[nn.Module, list[Moments]]]) -> Generator[Event, None, None]:
        yield from self.work.run(
            "recover",
            *total_work(self.config, len(self.train.classes)),
            lambda saved: self._images(through, saved),
            lambda facts: completed_work(self.config, facts),
        )

    def _images(
        self, through: list[tuple[nn.Module, list[Moments]]], saved: StageState | None
    ) -> Generator[Event, None, tuple[None, bool]]:
        """Recovery, its images written batch by batch."""
        shape, classes = self.plan.image_shape(), self.train.classes
        plan = plan_batches(self.config, len(classes))
        there = 0 if saved is None else sum(len(part) for _, part in plan[: saved.metadata["batch"] - 1])
        if there and not stored_images.is_begun(self.run.images):
            yield Notice("warning", f"the images in {self.run.images} are gone; recovery begins anew")
            saved, there = None, 0
        writer = self.run.image_writer(shape, classes, there)

        def keep(
            images_MCHW: Tensor, labels_M: Tensor, batch: int, beta: float, confidence_M: Tensor
        ) -> None:
            writer.add(images_MCHW.numpy(), labels_M.numpy(), batch, beta, confidence_M.numpy())

        moving = yield from recover(
            self.config, *through[0], self.train, self.device, keep, saved, through[1:]
        )
        if moving is not None:
            packed = moments.pack(moving)
            self.run.save_moving({name: value.numpy() for name, value in packed.items()})
            self.run.add_to_manifest(moving=fingerprint_tensors(packed))
        writer.finish()
        return None, False

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
            yield from self.work.skip("relabel")
            return None
        epochs = self.config.relabel.stored_epochs or self.config.validate_.epochs
        names = list(sources)
        return (
            yield from self.work.run(
                "relabel",
                epochs * len(sources),
                "epochs",
                lambda saved: self._store_labels(teacher, sources, epochs, saved),
                lambda facts: names.index(facts["source"]) * epochs + facts["epochs"],
            )
        )

    def _store_labels(
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
                    yield Notice("warning", f"{damage}; its labels are made anew")
                    first, writer = 0, self.run.label_writer(source, shape)
                keep = _keeping(writer)
                if given is not None and source == "distilled":
                    work = given.kept(epochs, keep, first)
                else:
                    drawn = None if views is None else views(images, self.device)
                    work = relabel(self.config, teacher, images, self.device, keep, source, first, drawn)
                yield from offset_progress(work, number * epochs)
                writer.finish()
            stored = self.run.labels(source)
            if stored is None:
                raise UserError(
                    "disk",
                    f"the labels of {source} that were written to {self.run.folder} are not there",
                    "look at the disk, which lost what it said it had written, and resume",
                )
            labels[source] = StoredLabels(stored.epochs, stored.epoch, views)
        return labels, reused

    def _students(
        self,
        teacher: nn.Module,
        sources: dict[Source, ImageSet],
        labels: dict[Source, StoredLabels] | None,
    ) -> Generator[Event, None, list[StudentResult]]:
        settings = self.config.validate_
        total = settings.epochs * settings.seeds * len(sources) * max(1, len(settings.students))
        test = self.plan.data.test
        return (
            yield from self.work.run(
                "validate",
                total,
                "epochs",
                lambda saved: _computed(
                    validate(self.config, teacher, sources, test, self.device, labels, saved)
                ),
                lambda facts: len(facts["finished"]) * settings.epochs + facts["epoch"],
            )
        )

    def _results(self, teacher: nn.Module, students: list[StudentResult]) -> Results:
        sessions = self.run.manifest["sessions"]
        return results.document(
            run=self.run.folder.resolve().name,
            students=students,
            teacher={
                **self.teacher,
                "architecture": self.config.backbone.name,
                "source": self.teacher_source,
            },
            timings=self.work.timings,
            provenance={
                **provenance.circumstances(self.device, self.command),
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


def _keeping(writer: Any) -> Callable[[int, Tensor], None]:
    return lambda epoch, logits_NK: writer.put(epoch, logits_NK.numpy())


def _computed(work: Generator[Event, None, T]) -> Generator[Event, None, tuple[T, bool]]:
    """A stage that was computed, not reused."""
    return (yield from work), False
