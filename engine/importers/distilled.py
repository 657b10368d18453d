"""Read and check a distilled set that is given instead of recovered.

Every set is sorted into the order of recovery: the first image of each class, then the second, and so on.
The same pixels therefore have the same fingerprint and give the same students, whatever their layout was.
Legend: N images of the set, K classes, C channels, H, W.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine import store
from engine.config import Config
from engine.data import DataSet
from engine.errors import UserError, format_names
from engine.events import Notice
from engine.importers import pt_files
from engine.importers.folders import read_images
from engine.store import Run, images


@dataclass(frozen=True)
class Distilled:
    """A distilled set in the order of recovery.

    pixels_NCHW: uint8, or float32 in [0, 1]. labels_N: int64. facts: source, layout, count, fingerprint,
    classes without images, and conversion, as the manifest stores them.
    """

    pixels_NCHW: NDArray[Any]
    labels_N: NDArray[np.int64]
    facts: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the labels and the 8-bit pixels that students train on."""
        return str(self.facts["fingerprint"])

    def per_class(self, classes: int) -> NDArray[np.int64]:
        """Return the number of images of each class, (K,)."""
        return np.bincount(self.labels_N, minlength=classes)

    def notices(self) -> Iterator[Notice]:
        """Yield notices about the set's source and conversion."""
        facts = self.facts
        yield Notice("info", f"using {facts['count']} images from {facts['source']}; recovery is skipped")
        if facts.get("clipped"):
            share = 100 * facts["clipped"] / facts["values"]
            values = f"{facts['clipped']:,} of {facts['values']:,} values ({share:.2g} %)"
            yield Notice("warning", f"{values} lay outside the range of pixels and were clipped")
        if facts["missing_classes"]:
            names = format_names(facts["missing_classes"], 10)
            yield Notice("warning", f"the set has no images of {names}: students cannot learn these classes")
        if facts.get("soft_labels_unused"):
            yield Notice("info", "its soft labels are ignored: students learn from this run's teacher")


def read(config: Config, data: DataSet, folder: Path | None = None) -> Distilled | None:
    """Read the set that the settings name; return None if images are to be recovered.

    folder: the run's folder, which has a copy of the set that is used if its source no longer exists.
    Raises UserError("data"): the set is missing, unreadable or unsafe, or its classes or size differ from the
    data set's.
    """
    if config.given.images is None:
        return None
    path = Path(config.given.images)
    if not path.exists() and folder is not None and images.is_complete(folder / "images"):
        return _read_run_copy(store.StoredRun(folder))
    is_run = store.is_run(path) and path.suffix not in (".pt", ".pth")
    file = None if is_run or path.suffix == ".safetensors" else pt_files.find_file(path)
    if file is None and config.given.image_labels is not None:
        raise UserError("config", "given.image_labels needs a .pt file of images", "leave it out")
    if is_run or path.suffix == ".safetensors":
        pixels_NCHW, labels_N, facts = _read_run(path, data)
    elif file is not None:
        pixels_NCHW, labels_N, facts = pt_files.read(file, config.given, data)
        facts = {"source": str(file), **facts}
    else:
        pictures = read_images(path, data.train)
        pixels_NCHW, labels_N = pictures.pixels(range(len(pictures))).numpy(), pictures.labels_N.numpy()
        facts = {"source": str(path), "layout": "pictures"}
    missing = np.flatnonzero(np.bincount(labels_N, minlength=len(data.train.classes)) == 0)
    facts["missing_classes"] = [data.train.classes[label] for label in missing]
    return _sort(pixels_NCHW, labels_N, facts)


def _read_run(path: Path, data: DataSet) -> tuple[NDArray[Any], NDArray[np.int64], dict[str, Any]]:
    """Read a run's images, float or those of lossy files, given its folder or its safetensors file.

    Returns pixels, labels and facts.
    """
    is_file = path.suffix == ".safetensors"
    stored = images.read(path if is_file else path / "images")
    classes, labels_N = data.train.classes, stored.labels_N
    if sorted(stored.classes) == sorted(classes):  # perhaps in another order (data.class_order)
        labels_N = np.array([classes.index(name) for name in stored.classes])[labels_N]
    else:
        classes = stored.classes
    pt_files.require_fit(path, stored.images_NCHW.shape, classes, data)
    layout = "safetensors" if is_file else "run"
    pixels_NCHW = stored.pixels_NCHW if stored.lossy else stored.images_NCHW
    return pixels_NCHW, labels_N, {"source": str(path), "layout": layout}


def _read_run_copy(run: store.StoredRun) -> Distilled:
    """Read a run's copy of the given set, for use after the source was removed."""
    pixels_NCHW, labels_N = images.read_pixels(run.folder / "images")
    facts = run.manifest().get("images")
    copy = _sort(pixels_NCHW, labels_N, dict(facts or {}))
    if facts is None or facts["fingerprint"] != copy.fingerprint:
        raise UserError("data", f"{run.folder} does not contain the images that it was given", images.HINT)
    return copy


def _sort(pixels_NCHW: NDArray[Any], labels_N: NDArray[np.int64], facts: Mapping[str, Any]) -> Distilled:
    order_N = order_of_recovery(labels_N)
    pixels_NCHW, labels_N = pixels_NCHW[order_N], labels_N[order_N]
    facts = {**facts, "count": len(labels_N), "fingerprint": fingerprint(pixels_NCHW, labels_N)}
    return Distilled(pixels_NCHW, labels_N, facts)


def order_of_recovery(labels_N: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return indices that put the first image of each class before all second ones; stable in a class."""
    return np.lexsort((labels_N, ranks_in_class(labels_N)))


def ranks_in_class(labels_N: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the number of each image within its class, from 0."""
    sorted_N = np.argsort(labels_N, kind="stable")
    starts_N = np.searchsorted(labels_N[sorted_N], labels_N[sorted_N])
    ranks_N = np.empty(len(labels_N), np.int64)
    ranks_N[sorted_N] = np.arange(len(labels_N)) - starts_N
    return ranks_N


def fingerprint(pixels_NCHW: NDArray[Any], labels_N: NDArray[np.int64]) -> str:
    """Return the SHA-256 (hex) of shape, labels and the 8-bit pixels that students train on."""
    digest = hashlib.sha256(repr(pixels_NCHW.shape).encode())
    digest.update(labels_N.astype("<i8").tobytes())
    for pixels_CHW in pixels_NCHW:
        levels_CHW = pixels_CHW if pixels_CHW.dtype == np.uint8 else images.to_bytes(pixels_CHW)
        digest.update(levels_CHW.tobytes())
    return digest.hexdigest()


def write(run: Run, given: Distilled, classes: tuple[str, ...]) -> None:
    """Write a set to a run's folder like recovered images, with NaN for the unknown β and confidence."""
    shape = given.pixels_NCHW.shape
    writer = run.image_writer((shape[0], shape[1], shape[2], shape[3]), classes)
    ranks_N = ranks_in_class(given.labels_N)
    for rank in range(int(ranks_N.max()) + 1):
        indices_M = np.flatnonzero(ranks_N == rank)
        pixels = given.pixels_NCHW[indices_M]
        floats = pixels.astype(np.float32) / np.float32(255) if pixels.dtype == np.uint8 else pixels
        confidence_M = np.full(len(indices_M), np.nan, np.float32)
        writer.add(floats, given.labels_N[indices_M], rank + 1, float("nan"), confidence_M)
    writer.finish()
