"""Read and check a distilled set that is given instead of recovered.

Every set is sorted into the order of recovery: the first image of each class, then the second, and so on.
The same pixels therefore have the same fingerprint and give the same students, whatever their layout was.
Legend: N images of the set, K classes, C channels, H, W.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine import store
from engine.config import Config, yaml_io
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


def read(config: Config, data: DataSet, folder: Path | None = None) -> tuple[Distilled, ...]:
    """Read the sets that the settings name; return () if images are to be recovered.

    A run with several repeats has a set for each repeat here; anything else has one set for all.
    folder: the run's folder, whose copies are used if the source no longer exists.
    Raises UserError("data"): a set is missing, unreadable or unsafe, its classes or size differ from the data
    set's, or the source has several sets, but too few.
    """
    if config.given.images is None:
        return ()
    path = Path(config.given.images)
    is_run = store.is_run(path) and path.suffix not in (".pt", ".pth")
    if not path.exists() and folder is not None and images.is_complete(folder / "images"):
        copies = _with_images(store.StoredRun(folder))
        sets = tuple(_read_run_copy(run) for run in copies[: config.repeats])
        if "sets" not in sets[0].facts:
            return sets[:1]
        _require_sets(config, len(sets), f"the copies of {path}, which no longer exists, in {folder}")
        return sets
    if is_run and config.repeats > 1 and _planned_repeats(path) > 1:
        runs = _with_images(store.StoredRun(path))
        _require_sets(config, len(runs), str(path))
        sets = tuple(_read_run(run.folder, data) for run in runs[: config.repeats])
        return tuple(replace(each, facts={**each.facts, "sets": len(runs)}) for each in sets)
    file = None if is_run or path.suffix == ".safetensors" else pt_files.find_file(path)
    if file is None and config.given.image_labels is not None:
        raise UserError("config", "given.image_labels needs a .pt file of images", "leave it out")
    if is_run or path.suffix == ".safetensors":
        return (_read_run(path, data),)
    if file is not None:
        pixels_NCHW, labels_N, facts = pt_files.read(file, config.given, data)
        return (_sort(pixels_NCHW, labels_N, {"source": str(file), **facts}, data),)
    pictures = read_images(path, data.train)
    pixels_NCHW, labels_N = pictures.pixels(range(len(pictures))).numpy(), pictures.labels_N.numpy()
    return (_sort(pixels_NCHW, labels_N, {"source": str(path), "layout": "pictures"}, data),)


def _with_images(run: store.StoredRun) -> list[store.StoredRun]:
    """Return the runs of all repeats whose images are complete."""
    return [repeat for repeat in run.repeats() if images.is_complete(repeat.folder / "images")]


def _planned_repeats(folder: Path) -> int:
    """Return how many repeats a run was to have; 1 for a folder of images without its settings."""
    with suppress(UserError, KeyError):
        return int(yaml_io.parse(store.StoredRun(folder).config_yaml(), str(folder))["repeats"])
    return 1


def _require_sets(config: Config, count: int, source: str) -> None:
    if count < config.repeats:
        message = f"repeats is {config.repeats}, but {source} has distilled sets of {count}"
        raise UserError("data", message, f"give --repeats {count}, or finish the run that distils them")


def _read_run(path: Path, data: DataSet) -> Distilled:
    """Read a run's images, float or those of lossy files, given its folder or its safetensors file."""
    is_file = path.suffix == ".safetensors"
    stored = images.read(path if is_file else path / "images")
    classes, labels_N = data.train.classes, stored.labels_N
    if sorted(stored.classes) == sorted(classes):  # perhaps in another order (data.class_order)
        labels_N = np.array([classes.index(name) for name in stored.classes])[labels_N]
    else:
        classes = stored.classes
    pt_files.require_fit(path, stored.images_NCHW.shape, classes, data)
    pixels_NCHW = stored.pixels_NCHW if stored.lossy else stored.images_NCHW
    facts = {"source": str(path), "layout": "safetensors" if is_file else "run"}
    return _sort(pixels_NCHW, labels_N, facts, data)


def _read_run_copy(run: store.StoredRun) -> Distilled:
    """Read a run's copy of the given set, for use after the source was removed."""
    pixels_NCHW, labels_N = images.read_pixels(run.folder / "images")
    facts = run.manifest().get("images")
    copy = _sort(pixels_NCHW, labels_N, facts or {})
    if facts is None or facts["fingerprint"] != copy.fingerprint:
        raise UserError("data", f"{run.folder} does not contain the images that it was given", images.HINT)
    return copy


def _sort(
    pixels_NCHW: NDArray[Any],
    labels_N: NDArray[np.int64],
    facts: Mapping[str, Any],
    data: DataSet | None = None,
) -> Distilled:
    """Sort a set into the order of recovery. data: used to name classes without images in the facts."""
    order_N = order_of_recovery(labels_N)
    pixels_NCHW, labels_N = pixels_NCHW[order_N], labels_N[order_N]
    facts = {**facts, "count": len(labels_N), "fingerprint": fingerprint(pixels_NCHW, labels_N)}
    if data is not None:
        missing = sorted({*range(len(data.train.classes))} - {*labels_N.tolist()})
        facts["missing_classes"] = [data.train.classes[label] for label in missing]
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
