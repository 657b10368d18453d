"""Check an experiment before it runs: everything that can be checked without training or writing files.

Legend: N images, C channels, H, W.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from engine import backbones
from engine import device as devices
from engine.config import Config
from engine.config.identity import config_hash
from engine.config.teacher_source import require_teacher_files
from engine.data import DataSet, load
from engine.errors import UserError, format_names
from engine.importers import distilled, fkd, running
from engine.importers.distilled import Distilled
from engine.runs import artefacts, provenance
from engine.runs.execution import ExecutionPlan, choose_execution
from engine.spectral import taps
from engine.spectral.moments import Moments
from engine.spectral.recovery_batches import plan_batches, require_enough
from engine.store import SCHEMA_VERSION, files, preview_history
from engine.store.lock import timestamp

METADATA_BYTES = 128  #: bytes of metadata per image or epoch of labels


@dataclass(frozen=True)
class Plan:
    """A checked experiment.

    teacher: the given teacher; None if one is squeezed. others: the same for each further backbone. given: a
    distilled set, used instead of recovery. further: the given sets of further repeats, if each has its own.
    statistics: given statistics of the real images, used instead of measuring them. labels: given soft labels
    of the given images. warnings: about the given teachers. execution: how the run computes.
    """

    config: Config
    data: DataSet
    device: torch.device
    teacher: nn.Module | None
    others: tuple[nn.Module | None, ...] = ()
    given: Distilled | None = None
    statistics: list[Moments] | None = None
    labels: fkd.FkdLabels | None = None
    warnings: tuple[str, ...] = ()
    further: tuple[Distilled, ...] = ()
    execution: ExecutionPlan = field(default_factory=ExecutionPlan)

    @cached_property
    def identity(self) -> dict[str, str]:
        """The fingerprints that a run must match in order to be resumed."""
        teachers = (self.teacher, *self.others)
        prints = ("squeezed" if teacher is None else backbones.fingerprint(teacher) for teacher in teachers)
        return {
            "config": config_hash(self.config),
            "data": self.data.fingerprint,
            "teacher": " ".join(prints),
            **({} if self.given is None else {"images": self.given.fingerprint}),
            **({} if self.statistics is None else {"statistics": running.fingerprint(self.statistics)}),
            **({} if self.labels is None else {"labels": self.labels.fingerprint}),
        }

    def choose_execution(
        self, sessions: Sequence[Mapping[str, Any]] = (), given: ExecutionPlan | None = None
    ) -> Plan:
        """Return the plan with its execution plan, and set torch's number of threads.

        sessions, given: and errors: as in `execution.choose_execution`.
        """
        chosen = choose_execution(self.config, self.data.train, self.device, sessions, given)
        return replace(self, execution=chosen)

    def for_repeat(self, number: int) -> Plan:
        """Return the plan of one repeat, counted from 1: its seed and given set; warnings of the first."""
        config = self.config.for_repeat(number)
        if number == 1:
            return replace(self, config=config, further=())
        given = self.further[number - 2] if self.further else self.given
        return replace(self, config=config, given=given, further=(), warnings=())

    def recomputed_parts(self) -> list[str]:
        """Return what each repeat computes anew, in the words of the results."""
        images = "recovery" if self.config.optimises else "choice of images"
        return [
            *(["teacher"] if self.teacher is None else []),
            *([images] if self.given is None else ["given set"] if self.further else []),
            "labels",
            "students",
            *(["control"] if "random" in self.config.controls else []),
        ]

    def given_provenance(self) -> dict[str, Any]:
        """Return the provenance of given images, labels and statistics for the results."""
        given = self.config.given
        sources: dict[str, Any] = {} if self.given is None else {"images": self.given.facts}
        if self.labels is not None:
            sources["labels"] = {
                "source": given.labels,
                "fingerprint": self.labels.fingerprint,
                "epochs": self.labels.epochs,
                "agreement": self.labels.agreement,
            }
        if self.statistics is not None:
            sources["statistics"] = {
                "source": given.statistics,
                "fingerprint": running.fingerprint(self.statistics),
                "trusted": given.trust,
            }
        return sources

    def image_shape(self) -> tuple[int, int, int, int]:
        """Return the shape (N, C, H, W) of the distilled set."""
        train = self.data.train
        count = self.config.ipc * len(train.classes) if self.given is None else len(self.given.labels_N)
        return (count, train.channels, train.size, train.size)

    def bytes_needed(self) -> int:
        """Return the most bytes that one repeat writes: images, their files, labels, checkpoints, records."""
        images, channels, height, width = self.image_shape()
        pixels, classes = channels * height * width, len(self.data.train.classes)
        batches = plan_batches(self.config, classes)
        batch = len(batches[0][1])
        recovery = 3 * 4 * pixels * batch  # and two of Adam's
        previews = preview_history.bytes_needed(
            len(batches), self.config.recover.iterations, (batch, channels, height, width)
        )
        train = self.data.train
        networks = check_networks(self.config, len(train.classes), train.channels, train.size)
        weights = [sum(int(x.nbytes) for x in net.state_dict().values()) for net in networks]
        checkpoints = 3 * max(recovery, 4 * max(weights))  # two are kept while a third is written
        lossy = self.given is None and self.config.recover.save != "png"
        float_images = images * (
            (5 if lossy else 4) * pixels + METADATA_BYTES
        )  # with the pixels of lossy files
        image_files = images * max(pixels, 4096)  # the smallest file takes a block of the disk
        records = 2**20  # everything else
        return float_images + image_files + previews + self.count_label_bytes() + checkpoints + records

    def count_label_bytes(self) -> int:
        """Return the bytes of the soft labels that one repeat stores; 0 if students are labelled online."""
        if self.config.relabel.mode == "online":
            return 0
        images, classes = self.image_shape()[0], len(self.data.train.classes)
        epochs = self.config.relabel.stored_epochs or self.config.validate_.epochs
        sources = 1 + len(self.config.controls)
        return (2 * images * classes + METADATA_BYTES) * epochs * sources

    def check_room(self, folder: Path, begun: int = 0) -> None:
        """Raise UserError("disk") if the disk of `folder` has too little free space for the run.

        begun: the number of repeats that have begun, which are not counted.
        """
        needed, free = (self.config.repeats - begun) * self.bytes_needed(), files.free_bytes(folder)
        if needed > free:
            raise UserError(
                "disk",
                f"no room for the run in {folder}: it needs about {needed:,} bytes, {free:,} are free",
                "free some space, choose another disk with --out, or reduce ipc or relabel.stored_epochs",
            )

    def manifest(self, name: str, origins: dict[str, str], command: Sequence[str]) -> dict[str, Any]:
        """Return the manifest of a new run."""
        return {
            "schema_version": SCHEMA_VERSION,
            "name": name,
            "created": timestamp(),
            "identity": self.identity,
            **({} if self.given is None else {"images": self.given.facts}),
            "seeds": provenance.seeds(self.config),
            **provenance.describe_session(self.device, self.execution, command),
            "micro_batch": self.config.recover.micro_batch,
            "host": provenance.host(),
            "origins": origins,
        }


def check_networks(config: Config, classes: int, channels: int, image_size: int) -> list[nn.Module]:
    """Build all backbones and students on the meta device, without allocating weights; the backbones first.

    Raises UserError if one does not fit the images, or lacks the layers that the objective matches.
    """
    teachers = [each.backbone for each in artefacts.single_backbone_configs(config)]
    students = [config.backbone.model_copy(update={"name": name}) for name in config.validate_.students]
    with torch.device("meta"):
        networks = [
            backbones.build(each, classes=classes, channels=channels, image_size=image_size)
            for each in teachers + students
        ]
    for network in networks[: len(teachers)] if config.given.images is None else ():
        taps.tap_names(network, config.objective.taps)
    return networks


def prepare(
    config: Config,
    progress: Callable[[int, int], None] | None = None,
    folder: Path | None = None,
    data: DataSet | None = None,
) -> Plan:
    """Load data, given teachers and given artefacts, and check that every stage can begin.

    progress(done, total): called while image files are read. folder: the run's folder, if known. data: used
    instead of loading it. With given images, `ipc` becomes their number per class.
    Raises UserError: a missing device, unusable data, a class with fewer than `ipc` images, a network that
    does not fit the images, a teacher that does not fit its network or has the classes in another order, a
    given artefact that does not fit.
    """
    device = devices.choose(config.device)
    require_teacher_files(config.backbone)
    data = load(config.data, progress=progress) if data is None else data
    if isinstance(config.data.class_order, str):  # its file may change; the run keeps the names
        named = config.data.model_copy(update={"class_order": data.train.classes})
        config = config.model_copy(update={"data": named})
    given, *further = distilled.read(config, data, folder) or (None,)
    if further and config.given.labels is not None:
        message = "given.labels are those of one distilled set, but each repeat has a set of its own"
        raise UserError("config", message, "give --repeats 1")
    for each in filter(None, (given, *further)):
        config = config.model_copy(update={"ipc": _images_per_class(config, data, each)})
    if given is None or config.controls:
        require_enough(config, data.train)
    networks = check_networks(config, len(data.train.classes), data.train.channels, data.train.size)
    single = artefacts.single_backbone_configs(config)
    checked = [artefacts.load_checked_teacher(each, data, device) for each in single]
    teacher, *others = (each for each, _ in checked)
    warnings = tuple(warning for _, about_one in checked for warning in about_one)
    moments = None if given else running.read(config, networks[0], teacher, len(data.train.classes))
    labels = fkd.read(config, None if given is None else given.labels_N, data.train)
    if labels is not None:  # given labels replace the labels that relabelling would store
        stored = {"mode": "stored", "stored_epochs": min(labels.epochs, config.validate_.epochs)}
        config = config.model_copy(update={"relabel": config.relabel.model_copy(update=stored)})
    return Plan(
        config, data, device, teacher, tuple(others), given, moments, labels, warnings, tuple(further)
    )


def _images_per_class(config: Config, data: DataSet, given: Distilled) -> int:
    """Return the number of images per class of a given set.

    Raises UserError("data") if classes differ in size and there is a control, which needs equal numbers.
    """
    counts_K = given.per_class(len(data.train.classes))
    low, high = int(counts_K.min()), int(counts_K.max())
    if config.controls and (missing := given.facts["missing_classes"]):
        raise UserError(
            "data",
            f"the given set has no images of {format_names(missing)}; the control needs the same number of"
            " every class",
            "add images of these classes, or train without a control: --set validate.controls=[]",
        )
    if config.controls and low != high:
        few, many = (data.train.classes[int(np.flatnonzero(counts_K == count)[0])] for count in (low, high))
        raise UserError(
            "data",
            f"the given set has {low} images of class {few!r} and {high} of class {many!r};"
            " the control needs the same number of every class",
            "balance the classes, or train without a control: --set validate.controls=[]",
        )
    return high
