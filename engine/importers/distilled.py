"""A distilled set that is given instead of recovered: read, checked, put into the order of recovery.

Whatever a set came in, it is brought into one order: the first image of each class, then the second, as
recovery makes them. So the same pixels in any layout have the same fingerprint and give the same students.
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
from engine.data.layout import listing
from engine.errors import UserError
from engine.events import Notice
from engine.importers import pt_files
from engine.importers.folders import read_images
from engine.importers.pt_files import FITTING, require_shape
from engine.store import Run, images


@dataclass(frozen=True)
class Distilled:
    """A set in the order of recovery.

    pixels_NCHW: uint8, or float32 in [0, 1]. labels_N: int64. facts: what is told of it beside its numbers.
    """

    pixels_NCHW: NDArray[Any]
    labels_N: NDArray[np.int64]
    facts: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the labels and of the pixels in 8 bits, as students see them."""
        return str(self.facts["fingerprint"])

    def per_class(self, classes: int) -> NDArray[np.int64]:
        """How many images each class has, (K,)."""
        return np.bincount(self.labels_N, minlength=classes)

    def notices(self) -> Iterator[Notice]:
        """What a person should know of the set before it is measured."""
        facts = self.facts
        yield Notice("info", f"{facts['count']} images are given by {facts['source']}: nothing is recovered")
        if facts.get("clipped"):
            share = 100 * facts["clipped"] / facts["values"]
            told = f"{facts['clipped']:,} of {facts['values']:,} values ({share:.2g} %)"
            yield Notice("warning", f"{told} lay outside the range of pixels and were clipped")
        if facts.get("soft_labels_unused"):
            yield Notice("info", "its soft labels are left aside: students learn from this run's teacher")


def read(config: Config, data: DataSet, folder: Path | None = None) -> Distilled | None:
    """The set that the settings name; None where images are to be recovered.

    folder: a run's, which holds the set already if it took it in before its source went away.
    Raises UserError("data"): absent, unreadable, unsafe, or not of this data set's classes and size.
    """
    if config.given.images is None:
        return None
    path = Path(config.given.images)
    if not path.exists() and folder is not None and images.is_complete(folder / "images"):
        return _kept(store.StoredRun(folder))
    if path.suffix in pt_files.SUFFIXES:
        found = pt_files.read(path, config.given, data)
        return _ordered(found.images_NCHW, found.labels_N, {"source": str(path), **found.facts})
    if path.suffix == ".safetensors" or store.is_run(path):
        return _of_run(path, data)
    if path.is_dir() and (tensors := pt_files.inside(path)) is not None:
        found = pt_files.read(tensors, config.given, data)
        return _ordered(found.images_NCHW, found.labels_N, {"source": str(tensors), **found.facts})
    found_set = read_images(path, data.train)
    pixels_NCHW = found_set.pixels(range(len(found_set))).numpy()
    return _ordered(pixels_NCHW, found_set.labels_N.numpy(), {"source": str(path), "layout": "pictures"})


def _of_run(path: Path, data: DataSet) -> Distilled:
    """The float images of a run, by its folder or its safetensors file."""
    is_file = path.suffix == ".safetensors"
    kept = images.read_file(path) if is_file else images.read(path / "images")
    train = data.train
    if kept.classes != train.classes:
        raise UserError(
            "data",
            f"the images of {path} are of other classes: {listing(kept.classes)}"
            f" instead of {listing(train.classes)}",
            FITTING,
        )
    require_shape(path, kept.images_NCHW.shape, data)
    layout = "safetensors" if is_file else "run"
    return _ordered(kept.images_NCHW, kept.labels_N, {"source": str(path), "layout": layout})


def _kept(run: store.StoredRun) -> Distilled:
    """The set that a run took in, its source being gone."""
    pixels_NCHW, labels_N = images.read_pixels(run.folder / "images")
    facts = run.manifest().get("images")
    found = _ordered(pixels_NCHW, labels_N, dict(facts or {}))
    if facts is None or facts["fingerprint"] != found.fingerprint:
        raise UserError("data", f"{run.folder} does not hold the images that it was given", images.HINT)
    return found


def _ordered(pixels_NCHW: NDArray[Any], labels_N: NDArray[np.int64], facts: Mapping[str, Any]) -> Distilled:
    order_N = order_of_recovery(labels_N)
    pixels_NCHW, labels_N = pixels_NCHW[order_N], labels_N[order_N]
    told = {**facts, "count": len(labels_N), "fingerprint": fingerprint(pixels_NCHW, labels_N)}
    return Distilled(pixels_NCHW, labels_N, told)


def order_of_recovery(labels_N: NDArray[np.int64]) -> NDArray[np.int64]:
    """Indices that put the first image of each class before all second ones; within a class nothing moves."""
    return np.lexsort((labels_N, ranks(labels_N)))


def ranks(labels_N: NDArray[np.int64]) -> NDArray[np.int64]:
    """The number of each image within its class, from 0."""
    sorted_N = np.argsort(labels_N, kind="stable")
    starts_N = np.searchsorted(labels_N[sorted_N], labels_N[sorted_N])
    found_N = np.empty(len(labels_N), np.int64)
    found_N[sorted_N] = np.arange(len(labels_N)) - starts_N
    return found_N


def fingerprint(pixels_NCHW: NDArray[Any], labels_N: NDArray[np.int64]) -> str:
    """SHA-256 (hex) of shape, labels, and pixels in 8 bits."""
    digest = hashlib.sha256(repr(pixels_NCHW.shape).encode())
    digest.update(labels_N.astype("<i8").tobytes())
    for pixels_CHW in pixels_NCHW:
        digest.update(in_bytes(pixels_CHW).tobytes())
    return digest.hexdigest()


def in_bytes(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """Pixels as students see them."""
    return pixels if pixels.dtype == np.uint8 else images.to_bytes(pixels)


def write(run: Run, given: Distilled, classes: tuple[str, ...]) -> None:
    """Put a set into a run's folder, as if it had been recovered there; β and confidence are not known."""
    shape = given.pixels_NCHW.shape
    writer = run.image_writer((shape[0], shape[1], shape[2], shape[3]), classes)
    ranks_N = ranks(given.labels_N)
    for rank in range(int(ranks_N.max()) + 1):
        of_rank = np.flatnonzero(ranks_N == rank)
        pixels = given.pixels_NCHW[of_rank]
        floats = pixels.astype(np.float32) / np.float32(255) if pixels.dtype == np.uint8 else pixels
        unknown_M = np.full(len(of_rank), np.nan, np.float32)
        writer.add(floats, given.labels_N[of_rank], rank + 1, float("nan"), unknown_M)
    writer.finish()
