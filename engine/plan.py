"""An experiment before it runs: everything that can be checked without computing or writing is checked.

Legend: N images, C channels, H, W.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engine import artefacts, backbones, provenance, taps
from engine import device as devices
from engine.config import Config
from engine.data import DataSet, ImageSet, load
from engine.errors import UserError
from engine.starts import batches, require_enough
from engine.store import SCHEMA_VERSION, files
from engine.store.lock import timestamp

BLOCK = 4096  #: bytes that the smallest file takes on a disk
RECORDS = 2**20  #: bytes for everything but images, labels and checkpoints
DIGESTS = 128  #: bytes beside each image or epoch of labels
CHECKPOINTS = 3  #: of a stage, on disk while one is being written


@dataclass(frozen=True)
class Plan:
    """An experiment that was found possible.

    teacher: None if one is to be squeezed. others: likewise of each further backbone.
    """

    config: Config
    data: DataSet
    device: torch.device
    teacher: nn.Module | None
    others: tuple[nn.Module | None, ...] = ()

    def identity(self) -> dict[str, str]:
        """What two runs must share to be the same run."""
        teachers = [
            "squeezed" if teacher is None else backbones.fingerprint(teacher)
            for teacher in (self.teacher, *self.others)
        ]
        return {
            "config": provenance.config_hash(self.config),
            "data": self.data.fingerprint,
            "teacher": " ".join(teachers),
        }

    def image_shape(self) -> tuple[int, int, int, int]:
        """(N, C, H, W) of the distilled set."""
        train = self.data.train
        return (self.config.ipc * len(train.classes), train.channels, train.size, train.size)

    def bytes_needed(self) -> int:
        """What the run will write, at most: float images, PNG files, stored labels, checkpoints, records."""
        images, channels, height, width = self.image_shape()
        pixels, classes = channels * height * width, len(self.data.train.classes)
        labels = 0
        if self.config.relabel.mode == "stored":
            epochs = self.config.relabel.stored_epochs or self.config.validate_.epochs
            sources = 2 if self.config.validate_.control else 1
            labels = (2 * images * classes + DIGESTS) * epochs * sources
        recovery = 3 * 4 * pixels * len(batches(self.config, classes)[0][1])  # Adam has two more
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


def prepare(config: Config, progress: Callable[[int, int], None] | None = None) -> Plan:
    """Load the data and the given teacher, and check that every stage can begin.

    Raises UserError: an absent device, data that cannot be used, a class with fewer than `ipc`
    images, a network that does not fit the images, a teacher that does not fit the network.
    progress(done, total): called while image files are read.
    """
    device = devices.choose(config.device)
    artefacts.require_teacher(config)
    data = load(config.data, progress=progress)
    require_enough(config, data.train)
    own, *others = artefacts.alone(config)
    for network in networks(config, data.train)[: 1 + len(config.backbone.also)]:
        taps.names(network, config.objective.taps)
    teachers = tuple(artefacts.given_teacher(each, data) for each in others)
    return Plan(config, data, device, artefacts.given_teacher(own, data), teachers)


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
        "seeds": provenance.seeds(plan.config),
        **provenance.circumstances(plan.device, command),
        "host": provenance.host(),
        "origins": origins,
    }
