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
from engine.data import DataSet, load
from engine.errors import UserError
from engine.recover import initial_indices
from engine.store import SCHEMA_VERSION, files
from engine.store.lock import timestamp

BLOCK = 4096  #: bytes that the smallest file takes on a disk
RECORDS = 2**20  #: bytes for everything but images and labels


@dataclass(frozen=True)
class Plan:
    """An experiment that was found possible. teacher: None if one is to be squeezed."""

    config: Config
    data: DataSet
    device: torch.device
    teacher: nn.Module | None

    def identity(self) -> dict[str, str]:
        """What two runs must share to be the same run."""
        teacher = "squeezed" if self.teacher is None else backbones.fingerprint(self.teacher)
        return {
            "config": provenance.config_hash(self.config),
            "data": self.data.fingerprint,
            "teacher": teacher,
        }

    def image_shape(self) -> tuple[int, int, int, int]:
        """(N, C, H, W) of the distilled set."""
        train = self.data.train
        return (self.config.ipc * len(train.classes), train.channels, train.size, train.size)

    def bytes_needed(self) -> int:
        """What the run will write, at most: float images, PNG files, stored labels, and its records."""
        images, channels, height, width = self.image_shape()
        pixels = channels * height * width
        labels = 0
        if self.config.relabel.mode == "stored":
            epochs = self.config.relabel.stored_epochs or self.config.validate_.epochs
            sources = 2 if self.config.validate_.control else 1
            labels = 2 * epochs * images * len(self.data.train.classes) * sources
        return images * (4 * pixels + max(pixels, BLOCK)) + labels + RECORDS


def prepare(config: Config, progress: Callable[[int, int], None] | None = None) -> Plan:
    """Load the data and the given teacher, and check that every stage can begin.

    Raises UserError: an absent device, data that cannot be used, a class with fewer than `ipc`
    images, a network that does not fit the images, a teacher that does not fit the network.
    progress(done, total): called while image files are read.
    """
    device = devices.choose(config.device)
    artefacts.require_teacher(config)
    data = load(config.data, progress=progress)
    initial_indices(config, data.train)
    train = data.train
    for index, name in enumerate((config.backbone.name, *config.validate_.students)):
        with torch.device("meta"):
            network = backbones.build(
                config.backbone,
                classes=len(train.classes),
                channels=train.channels,
                image_size=train.size,
                name=name,
            )
        if index == 0:
            taps.names(network, config.objective.taps)
    return Plan(config, data, device, artefacts.given_teacher(config, data))


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
