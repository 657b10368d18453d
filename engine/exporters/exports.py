"""Export a run's images for other programs: SRe²L, RDED, DD-Ranking, Hugging Face `datasets`, TensorBoard.

All image formats contain exactly the 8-bit pixels that this program's students are trained on.
`provenance.json` is written last: a folder that contains it is complete.
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
from engine.data import DataSet, ImageSet, load, normalise
from engine.errors import UserError
from engine.exporters import cards, event_files
from engine.exporters.event_files import OUT
from engine.importers import pt_files
from engine.importers.distilled import fingerprint, ranks_in_class
from engine.methods.gvbsm import Ensemble
from engine.runs import artefacts
from engine.runs.results import read_results
from engine.stages.relabel import RELABEL_BATCH
from engine.store import Cache, StoredRun, files, images, json_file
from engine.version import product_version

RECORD = "provenance.json"


@dataclass
class Export:
    """An export in progress. out: the new or empty folder to write to. notes: remarks to show to the user."""

    run: StoredRun
    config: Config
    out: Path
    licence: str | None = None
    notes: list[str] = field(default_factory=list)

    def write_pictures(self, name: Callable[[int, int], str]) -> None:
        """Write every image as a PNG file.

        name(label, number within the class): returns the path relative to `out`.
        """
        reader = images.Reader(self.run.folder / "images")
        paths = [
            self.out / name(int(label), int(rank))
            for label, rank in zip(reader.labels_N, ranks_in_class(reader.labels_N), strict=True)
        ]
        folders = list(dict.fromkeys(path.parent for path in paths))
        files.make_folders(*folders, hint=OUT)
        for number, path in enumerate(paths):
            files.write(path, images.png(reader.pixels(number)), hint=OUT, sync_name=False)
        for folder in folders:
            files.sync_folder(folder, OUT)

    def write_tensor(self, name: str, tensor: Tensor) -> None:
        """Write a tensor with `torch.save`."""
        stream = io.BytesIO()
        torch.save(tensor.clone(), stream)
        files.write(self.out / name, stream.getbuffer(), hint=OUT)

    def write_provenance(self, form: str) -> None:
        """Write `provenance.json`, which describes the run that the images come from."""
        pixels_NCHW, labels_N = images.read_pixels(self.run.folder / "images")
        results = read_results(self.run)
        provenance = {
            "made_by": f"cfm-tui {product_version()}",
            "format": form,
            "run": self.run.name,
            "images": {"count": len(labels_N), "fingerprint": fingerprint(pixels_NCHW, labels_N)},
            "classes": list(images.Reader(self.run.folder / "images").classes),
            "settings": cards.remove_local_paths(self.config).to_dict(),
            "identity": self.run.manifest()["identity"],
            "teacher": self.run.manifest().get("teacher"),
            "summary": None if results is None else results["summary"],
            "versions": self.run.manifest()["versions"],
        }
        json_file.write_json(self.out / RECORD, provenance)


def export(run: StoredRun, config: Config, form: str, out: Path, licence: str | None = None) -> Export:
    """Write a run to the folder `out` in one of the `FORMATS`.

    config: the run's settings. licence: licence of the images for the dataset card; None if unknown.
    Raises UserError: an unknown format, a folder that is not empty, incomplete or damaged images, a disk
    error, a package that is not installed.
    """
    if form not in FORMATS:
        raise UserError("usage", f"unknown format {form!r}", f"choose one of {', '.join(FORMATS)}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError("usage", f"{out} is not empty", "choose a new or empty folder with --out")
    if form != "tensorboard" and not run.has_images():
        raise UserError(
            "data", f"{run.folder} contains no finished images", "let the run finish its recovery first"
        )
    job = Export(run, config, out, licence)
    files.make_folders(out, hint=OUT)
    FORMATS[form](job)
    if form != "tensorboard":
        job.write_provenance(form)
    return job


def _write_huggingface(job: Export) -> None:
    reader = images.Reader(job.run.folder / "images")
    folders = images.class_folders(reader.classes)
    job.write_pictures(lambda label, rank: f"train/{folders[label]}/{rank:04d}.png")
    rows = [
        {
            "file_name": f"{folders[label]}/{rank:04d}.png",
            "label": int(label),
            "batch": int(batch),
            "beta": float(beta) if np.isfinite(beta) else None,
        }
        for label, rank, batch, beta in zip(
            reader.labels_N, ranks_in_class(reader.labels_N), reader.batch_N, reader.beta_N, strict=True
        )
    ]
    lines = "".join(json_file.to_json(row) + "\n" for row in rows)
    files.write(job.out / "train" / "metadata.jsonl", lines.encode(), hint=OUT)
    card = cards.build_card(job.run, job.config, reader.classes, len(rows), job.licence)
    files.write(job.out / "README.md", card.encode(), hint=OUT)


def _write_dd_ranking(job: Export) -> None:
    """Write `images.pt`, `labels.pt` and `soft_labels.pt`, sorted by class and normalised like DD-Ranking."""
    data = load(job.config.data)
    pixels_NCHW, labels_N = images.read_pixels(job.run.folder / "images")
    order_N = np.argsort(labels_N, kind="stable")
    train = data.train
    image_set = ImageSet.from_arrays(
        pixels_NCHW[order_N], labels_N[order_N], train.classes, train.mean, train.std
    )
    mean, std = pt_files.normalisation(Given(), data)
    pixels = image_set.pixels(range(len(image_set))).float() / 255.0
    job.write_tensor("images.pt", normalise(pixels, mean, std))
    job.write_tensor("labels.pt", image_set.labels_N)
    job.notes.append(f"images.pt is normalised with mean {list(mean)} and std {list(std)}")
    logits_NK = _compute_soft_labels(job, data, image_set)
    if logits_NK is None:
        job.notes.append("no soft_labels.pt: a teacher of the run is neither a readable file nor cached")
    else:
        job.write_tensor("soft_labels.pt", logits_NK)


@torch.no_grad()
def _compute_soft_labels(job: Export, data: DataSet, image_set: ImageSet) -> Tensor | None:
    """Return the teacher's logits (N, K) for the unaugmented images, averaged over several teachers.

    Returns None if one of the run's teachers is no longer available.
    """
    manifest = job.run.manifest()
    recorded = [manifest.get("teacher", {}).get("fingerprint"), *manifest.get("others", [])]
    loaded = [_load_teacher(config, data) for config in artefacts.single_backbone_configs(job.config)]
    teachers = [teacher for teacher in loaded if teacher is not None]
    if list(map(backbones.fingerprint, teachers)) != recorded:
        return None
    device = devices.choose(job.config.device)
    label = Labeller(teachers[0] if len(teachers) == 1 else Ensemble(teachers), device, "float32")
    starts: Sequence[int] = range(0, len(image_set), RELABEL_BATCH)
    parts = [range(start, min(start + RELABEL_BATCH, len(image_set))) for start in starts]
    return torch.cat([label(image_set.batch(part, device)).cpu() for part in parts])


def _load_teacher(config: Config, data: DataSet) -> nn.Module | None:
    try:
        teacher = artefacts.load_given_teacher(config, data)
    except UserError:
        teacher = None
    return teacher or artefacts.load_cached_teacher(config, data, Cache())


FORMATS: dict[str, Callable[[Export], Any]] = {
    "sre2l": lambda job: job.write_pictures(
        lambda label, rank: f"new{label:03d}/class{label:03d}_id{rank:03d}.png"
    ),
    "rded": lambda job: job.write_pictures(
        lambda label, rank: f"{label:05d}/class{label:05d}_id{rank:05d}.png"
    ),
    "dd-ranking": _write_dd_ranking,
    "huggingface": _write_huggingface,
    "tensorboard": lambda job: event_files.write(job.run, job.out),
}
