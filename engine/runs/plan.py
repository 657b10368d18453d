"""An experiment before it runs: everything that can be checked without computing or writing is checked.

Legend: N images, C channels, H, W.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from engine.runs import artefacts, provenance
from engine import backbones
from engine.spectral import taps
from engine import device as devices
from engine.config import Config, Relabel
from engine.config.identity import config_hash
from engine.data import DataSet, ImageSet, load
from engine.errors import UserError
from engine.importers import distilled, fkd, running
from engine.importers.distilled import Distilled
from engine.spectral.moments import Moments
from engine.spectral.recovery_batches import plan_batches, require_enough
from engine.store import SCHEMA_VERSION, files
from engine.store.lock import timestamp

BLOCK = 4096  #: bytes that the smallest file takes on a disk
RECORDS = 2**20  #: bytes for everything but images, labels and checkpoints
DIGESTS = 128  #: bytes beside each image or epoch of labels
CHECKPOINTS = 3  #: of a stage, on disk while one is being written


@dataclass(frozen=True)
class Plan:
    """An experiment that was found possible.

    teacher: None if one is to be squeezed. others: likewise of each further backbone. given: the images,
    where none are to be recovered. statistics: those of the real images, where they are not to be measured.
    labels: soft ones of the given images.
    """

    config: Config
    data: DataSet
    device: torch.device
    teacher: nn.Module | None
    others: tuple[nn.Module | None, ...] = ()
    given: Distilled | None = None
    statistics: list[Moments] | None = None
    labels: fkd.Labels | None = None

    def identity(self) -> dict[str, str]:
        """What two runs must share to be the same run."""
        teachers = [
            "squeezed" if teacher is None else backbones.fingerprint(teacher)
            for teacher in (self.teacher, *self.others)
        ]
        return {
            "config": config_hash(self.config),
            "data": self.data.fingerprint,
            "teacher": " ".join(teachers),
            **({} if self.given is None else {"images": self.given.fingerprint}),
            **({} if self.statistics is None else {"statistics": running.fingerprint(self.statistics)}),
            **({} if self.labels is None else {"labels": self.labels.fingerprint}),
        }

    def given_provenance(self) -> dict[str, Any]:
        """What results say of images, labels and statistics that were given."""
        given = self.config.given
        told: dict[str, Any] = {} if self.given is None else {"images": self.given.facts}
        if self.labels is not None:
            of = {"source": given.labels, "fingerprint": self.labels.fingerprint}
            told["labels"] = {**of, "epochs": self.labels.epochs, "agreement": self.labels.agreement}
        if self.statistics is not None:
            of = {"source": given.statistics, "fingerprint": running.fingerprint(self.statistics)}
            told["statistics"] = {**of, "trusted": given.trust}
        return told

    def image_shape(self) -> tuple[int, int, int, int]:
        """(N, C, H, W) of the distilled set."""
        train = self.data.train
        count = self.config.ipc * len(train.classes) if self.given is None else len(self.given.labels_N)
        return (count, train.channels, train.size, train.size)

    def bytes_needed(self) -> int:
        """What the run will write, at most: float images, PNG files, stored labels, checkpoints, records."""
        images, channels, height, width = self.image_shape()
        pixels, classes = channels * height * width, len(self.data.train.classes)
        labels = 0
        if self.config.relabel.mode == "stored":
            epochs = self.config.relabel.stored_epochs or self.config.validate_.epochs
            sources = 2 if self.config.validate_.control else 1
            labels = (2 * images * classes + DIGESTS) * epochs * sources
        recovery = 3 * 4 * pixels * len(plan_batches(self.config, classes)[0][1])  # Adam has two more
        training = 4 * max(_bytes(network) for network in networks(self.config, self.data.train))
        saved = CHECKPOINTS * max(recovery, training)
        return images * (4 * pixels + max(pixels, BLOCK) + DIGESTS) + labels + saved + RECORDS


def _bytes(network: nn.Module) -> int:
    return sum(value.numel() * value.element_size() for value in network.state_dict().values())


def networks(config: Config, train: ImageSet) -> list[nn.Module]:
    """All backbones and students, without weights in memory. Raises UserError: one that does not fit."""
    with torch.device("meta"):
        return [
            backbones.build(
                config.backbone,
                classes=len(train.classes),
                channels=train.channels,
                image_size=train.size,
                name=name,
            )
            for name in (config.backbone.name, *config.backbone.also, *config.validate_.students)
        ]


def prepare(
    config: Config,
    progress: Callable[[int, int], None] | None = None,
    folder: Path | None = None,
    data: DataSet | None = None,
) -> Plan:
    """Load the data, unless given, the given teacher and images, and check that every stage can begin.

    Raises UserError: an absent device, data that cannot be used, a class with fewer than `ipc`
    images, a network that does not fit the images, a teacher that does not fit the network, given images
    that do not fit the data. progress(done, total): called while image files are read. folder: the run's, if
    it is known. Where images are given, `ipc` follows them.
    """
    device = devices.choose(config.device)
    artefacts.require_teacher(config)
    data = load(config.data, progress=progress) if data is None else data
    given = distilled.read(config, data, folder)
    if given is not None:
        config = config.model_copy(update={"ipc": _ipc(config, data, given)})
    if given is None or config.validate_.control:
        require_enough(config, data.train)
    own, *others = artefacts.single_backbone_configs(config)
    through = networks(config, data.train)[: 1 + len(others)]
    for network in through if given is None else ():
        taps.tap_names(network, config.objective.taps)
    teacher, *further = (artefacts.given_teacher(each, data) for each in (own, *others))
    real = None if given else running.read(config, through[0], teacher, len(data.train.classes))
    labels = fkd.read(config, None if given is None else given.labels_N, data.train)
    if labels is not None:
        config = config.model_copy(update={"relabel": _as_given(config, labels)})
    return Plan(config, data, device, teacher, tuple(further), given, real, labels)


def _as_given(config: Config, labels: fkd.Labels) -> Relabel:
    """Labels that are given are stored ones, of as many epochs as there are and are used."""
    epochs = min(labels.epochs, config.validate_.epochs)
    return config.relabel.model_copy(update={"mode": "stored", "stored_epochs": epochs})


def _ipc(config: Config, data: DataSet, given: Distilled) -> int:
    """Images per class of a given set. Raises UserError("data") where the control cannot have as many."""
    counts_K = given.per_class(len(data.train.classes))
    low, high = int(counts_K.min()), int(counts_K.max())
    if config.validate_.control and low != high:
        few, many = (data.train.classes[int(np.flatnonzero(counts_K == count)[0])] for count in (low, high))
        raise UserError(
            "data",
            f"the given set has {low} images of class {few!r} and {high} of {many!r};"
            " the control takes as many of every class",
            "even them out, or leave the control out: --set validate.control=false",
        )
    return high


def check_room(plan: Plan, folder: Path) -> None:
    """Raise UserError("disk") where `folder` has no room for what the run will write."""
    needed, free = plan.bytes_needed(), files.free_bytes(folder)
    if needed > free:
        raise UserError(
            "disk",
            f"no room for the run in {folder}: about {needed:,} bytes are needed, {free:,} are free",
            "free some space, choose another disk with --out, or lower ipc or relabel.stored_epochs",
        )


def manifest(plan: Plan, name: str, origins: dict[str, str], command: Sequence[str]) -> dict[str, Any]:
    """What is known of a run before it begins."""
    return {
        "schema_version": SCHEMA_VERSION,
        "name": name,
        "created": timestamp(),
        "identity": plan.identity(),
        **({} if plan.given is None else {"images": plan.given.facts}),
        "seeds": provenance.seeds(plan.config),
        **provenance.circumstances(plan.device, command),
        "micro_batch": plan.config.recover.micro_batch,
        "host": provenance.host(),
        "origins": origins,
    }
