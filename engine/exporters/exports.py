"""A run's images in the layouts that others read: SRe²L, RDED, DD-Ranking, Hugging Face `datasets`.

All of them hold the 8-bit pixels that this product's students were trained on, without loss.
`provenance.json` is written last: a folder that has it is whole.
Legend: N images, C channels, H, W, K classes.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from engine import backbones
from engine import device as devices
from engine.backbones.labeller import Labeller
from engine.config import Config, Given
from engine.config.identity import config_tree
from engine.data import DataSet, ImageSet, load, normalise
from engine.errors import UserError
from engine.exporters import cards, event_files
from engine.importers import pt_files
from engine.importers.distilled import fingerprint, ranks
from engine.methods.gvbsm import Ensemble
from engine.runs import artefacts
from engine.stages.relabel import RELABEL_BATCH
from engine.store import Cache, StoredRun, files, images, json_file
from engine.version import product_version

RECORD = "provenance.json"
OUT = "choose another folder with --out"


@dataclass
class Export:
    """One export while it is made. out: a folder that is new or empty. notes: what a person should know."""

    run: StoredRun
    config: Config
    out: Path
    licence: str | None = None
    notes: list[str] = field(default_factory=list)

    def pictures(self, name: Callable[[int, int], str]) -> None:
        """Every image as a PNG file; name(label, number within the class): its path below `out`."""
        found = images.Reader(self.run.folder / "images")
        paths = [
            self.out / name(int(label), int(rank))
            for label, rank in zip(found.labels_N, ranks(found.labels_N), strict=True)
        ]
        places = list(dict.fromkeys(path.parent for path in paths))
        files.make_folders(*places, hint=OUT)
        for number, path in enumerate(paths):
            files.write(path, images.png(found.pixels(number)), hint=OUT, sync_name=False)
        for place in places:
            files.sync_folder(place, OUT)

    def tensor(self, name: str, value: Tensor) -> None:
        """A tensor as `torch.save` writes it."""
        stream = io.BytesIO()
        torch.save(value.clone(), stream)
        files.write(self.out / name, stream.getbuffer(), hint=OUT)

    def record(self, form: str) -> None:
        """Say where the images come from."""
        pixels_NCHW, labels_N = images.read_pixels(self.run.folder / "images")
        results = self.run.results()
        told = {
            "made_by": f"cfm-tui {product_version()}",
            "format": form,
            "run": self.run.name,
            "images": {"count": len(labels_N), "fingerprint": fingerprint(pixels_NCHW, labels_N)},
            "classes": list(images.Reader(self.run.folder / "images").classes),
            "settings": config_tree(cards.without_places(self.config)),
            "identity": self.run.manifest()["identity"],
            "teacher": self.run.manifest().get("teacher"),
            "summary": None if results is None else results["summary"],
            "versions": self.run.manifest()["versions"],
        }
        json_file.write_json(self.out / RECORD, told)


def export(run: StoredRun, config: Config, form: str, out: Path, licence: str | None = None) -> Export:
    """Write a run in a format of `FORMATS` into `out`.

    config: the run's settings. licence: of the images, for a dataset card; None: unknown.
    Raises UserError: an unknown format, a folder that holds something, images that are not all there or
    damaged, a disk that refuses, a package that is not installed.
    """
    if form not in FORMATS:
        raise UserError("usage", f"there is no format {form!r}", f"choose one of {', '.join(FORMATS)}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError("usage", f"{out} holds something already", "choose a new or empty folder with --out")
    if form != "tensorboard" and not run.has_images():
        raise UserError(
            "data", f"{run.folder} holds no finished images", "let the run finish its recovery first"
        )
    made = Export(run, config, out, licence)
    files.make_folder(out, OUT)
    FORMATS[form](made)
    if form != "tensorboard":
        made.record(form)
    return made


def _sre2l(made: Export) -> None:
    made.pictures(lambda label, rank: f"new{label:03d}/class{label:03d}_id{rank:03d}.png")


def _rded(made: Export) -> None:
    made.pictures(lambda label, rank: f"{label:05d}/class{label:05d}_id{rank:05d}.png")


def _huggingface(made: Export) -> None:
    reader = images.Reader(made.run.folder / "images")
    places = images.class_folders(reader.classes)
    made.pictures(lambda label, rank: f"train/{places[label]}/{rank:04d}.png")
    rows = [
        {
            "file_name": f"{places[label]}/{rank:04d}.png",
            "label": int(label),
            "batch": int(batch),
            "beta": float(beta) if np.isfinite(beta) else None,
        }
        for label, rank, batch, beta in zip(
            reader.labels_N, ranks(reader.labels_N), reader.batch_N, reader.beta_N, strict=True
        )
    ]
    lines = "".join(json_file.to_json(row) + "\n" for row in rows)
    files.write(made.out / "train" / "metadata.jsonl", lines.encode(), hint=OUT)
    card = cards.card(made.run, made.config, reader.classes, len(rows), made.licence)
    files.write(made.out / "README.md", card.encode(), hint=OUT)


def _dd_ranking(made: Export) -> None:
    """`images.pt`, `labels.pt`, `soft_labels.pt`: class after class, normalised as DD-Ranking normalises."""
    data = load(made.config.data)
    pixels_NCHW, labels_N = images.read_pixels(made.run.folder / "images")
    order_N = np.argsort(labels_N, kind="stable")
    train = data.train
    whole = ImageSet.from_arrays(
        pixels_NCHW[order_N], labels_N[order_N], train.classes, train.mean, train.std
    )
    mean, std = pt_files.normalisation(Given(), data)
    made.tensor("images.pt", normalise(whole.pixels(range(len(whole))).float() / 255.0, mean, std))
    made.tensor("labels.pt", whole.labels_N)
    made.notes.append(f"images.pt is normalised with mean {list(mean)} and std {list(std)}")
    soft_NK = _soft_labels(made, data, whole)
    if soft_NK is None:
        made.notes.append("no soft_labels.pt: a teacher of the run is neither at hand nor in the cache")
    else:
        made.tensor("soft_labels.pt", soft_NK)


@torch.no_grad()
def _soft_labels(made: Export, data: DataSet, whole: ImageSet) -> Tensor | None:
    """The teacher's logits (N, K) for the images as they are, of several teachers their mean.

    None where one of the run's own is gone.
    """
    manifest = made.run.manifest()
    known = [manifest.get("teacher", {}).get("fingerprint"), *manifest.get("others", [])]
    found = [_teacher(config, data) for config in artefacts.single_backbone_configs(made.config)]
    teachers = [teacher for teacher in found if teacher is not None]
    if list(map(backbones.fingerprint, teachers)) != known:
        return None
    device = devices.choose(made.config.device)
    label = Labeller(teachers[0] if len(teachers) == 1 else Ensemble(teachers), device, "float32")
    starts: Sequence[int] = range(0, len(whole), RELABEL_BATCH)
    parts = [range(start, min(start + RELABEL_BATCH, len(whole))) for start in starts]
    return torch.cat([label(whole.batch(part, device)).cpu() for part in parts])


def _teacher(config: Config, data: DataSet) -> nn.Module | None:
    try:
        teacher = artefacts.given_teacher(config, data)
    except UserError:
        teacher = None
    return teacher or artefacts.cached_teacher(config, data, Cache())


def _tensorboard(made: Export) -> None:
    event_files.write(made.run, made.out)


FORMATS: dict[str, Callable[[Export], Any]] = {
    "sre2l": _sre2l,
    "rded": _rded,
    "dd-ranking": _dd_ranking,
    "huggingface": _huggingface,
    "tensorboard": _tensorboard,
}
