"""Distilled images on disk: an ImageFolder of PNG files, and one safetensors file of float images.

Legend: N images of the whole set, M images of one recovery batch, C channels, H, W.
``images/CLASS/NNNN.png`` loads in any tool; sorting the class folders gives the labels back.
``images/distilled.safetensors`` holds images (N, C, H, W) float32 in [0, 1] pixel space, labels (N,),
batch (N,) counted from 1, beta (N,), confidence (N,), and the digest of each PNG file, png_sha256 (N, 32). It
is a table of `rows`, an image each: until the last one is in, its name ends in ``.partial``.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from engine.errors import UserError
from engine.store import files, json_file, tensors
from engine.store.rows import Columns, Rows, RowWriter, partial

if TYPE_CHECKING:
    from numpy.typing import NDArray

TENSORS = "distilled.safetensors"
HINT = "restore it, or delete it and resume: the images are recovered again"
_DTYPES = {"labels": "<i8", "batch": "<i8", "images": "<f4", "beta": "<f4", "confidence": "<f4"}
_PNG = "png_sha256"


@dataclass(frozen=True)
class Images:
    """Distilled images with their provenance; arrays as in the safetensors file.

    confidence_N: the teacher's probability of the image's own class, for the image as it is.
    """

    images_NCHW: NDArray[np.float32]
    labels_N: NDArray[np.int64]
    batch_N: NDArray[np.int64]
    beta_N: NDArray[np.float32]
    confidence_N: NDArray[np.float32]
    classes: tuple[str, ...]


def class_folders(classes: tuple[str, ...]) -> list[str]:
    """One folder name a class, in an order that sorting keeps (ImageFolder labels by sorted name)."""
    plain = all(name and name not in {".", ".."} and "/" not in name and "\0" not in name for name in classes)
    if plain and list(classes) == sorted(set(classes)):
        return list(classes)
    digits = len(str(len(classes) - 1))
    safe = (name.replace("/", "_").replace("\0", "_") for name in classes)
    return [f"{index:0{digits}d}_{name}" for index, name in enumerate(safe)]


def to_bytes(images_MCHW: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Pixels in [0, 1] as the nearest of 256 levels, what the PNG files hold."""
    levels: NDArray[np.uint8] = np.rint(np.clip(images_MCHW, 0.0, 1.0) * 255.0).astype(np.uint8)
    return levels


def png(pixels_CHW: NDArray[np.uint8]) -> bytes:
    """One image, 1 or 3 channels, as the bytes of a PNG file."""
    from PIL import Image

    shown = pixels_CHW[0] if len(pixels_CHW) == 1 else pixels_CHW.transpose(1, 2, 0)
    buffer = BytesIO()
    Image.fromarray(np.ascontiguousarray(shown)).save(buffer, "PNG")
    return buffer.getvalue()


def _digest(data: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(hashlib.sha256(data).digest(), np.uint8)


class ImageWriter:
    """Writes a set of known size batch by batch; what was added stays if a later batch fails.

    shape: (N, C, H, W) of the whole set. done: images of an unfinished set in the same folder that are
    kept; the rest of it is discarded. Kept float images are verified; a PNG file that does not fit its
    float image is written again and named in `mended`.
    Raises UserError("disk"): the room for all float images is claimed at once. Raises UserError("data")
    where a kept image is damaged.
    """

    def __init__(
        self, folder: Path, shape: tuple[int, int, int, int], classes: tuple[str, ...], done: int = 0
    ) -> None:
        self.folder, self.shape = folder, shape
        self.added = 0
        self.mended: list[str] = []
        self._counts = [0] * len(classes)
        self._class_folders = [folder / name for name in class_folders(classes)]
        files.make_folders(folder, *self._class_folders)
        self._changed: list[tuple[int, Columns]] = []
        shapes: dict[str, tuple[str, tuple[int, ...]]] = {
            name: (dtype, shape if name == "images" else shape[:1]) for name, dtype in _DTYPES.items()
        }
        shapes[_PNG] = ("|u1", (shape[0], 32))
        facts = {"format": "cfm-distilled", "version": "1", "classes": json_file.to_json(list(classes))}
        path = folder / TENSORS
        self._rows = RowWriter(path, shapes, facts, done, noun="image", hint=HINT, seen=self._keep)
        try:
            for row, columns in self._changed:
                self._rows.put(row, columns)
            for place, count in zip(self._class_folders, self._counts, strict=True):
                _discard(place, count)
        except BaseException:
            self._rows.close()
            raise

    def add(
        self,
        images_MCHW: NDArray[np.float32],
        labels_M: NDArray[np.int64],
        batch: int,
        beta: float,
        confidence_M: NDArray[np.float32],
    ) -> None:
        """Add one recovery batch, durably. Raises UserError("disk").

        The names of PNG files are synced when the set is finished; one that is lost before is mended.
        """
        count = len(images_MCHW)
        assert images_MCHW.shape[1:] == self.shape[1:]
        assert self.added + count <= self.shape[0]
        paths, counts = self._paths(labels_M)
        contents = [png(pixels_CHW) for pixels_CHW in to_bytes(images_MCHW)]
        columns: Columns = {
            "images": images_MCHW,
            "labels": labels_M,
            "batch": np.full(count, batch),
            "beta": np.full(count, beta),
            "confidence": confidence_M,
            _PNG: np.array([_digest(content) for content in contents], np.uint8).reshape(count, 32),
        }
        self._rows.put(self.added, columns)
        for path, content in zip(paths, contents, strict=True):
            files.write(path, content, sync_name=False)
        self.sync()
        self.added, self._counts = self.added + count, counts

    def sync(self) -> None:
        """Make durable what was added so far."""
        self._rows.sync()

    def finish(self) -> None:
        """Give the complete set its final name, durably."""
        assert self.added == self.shape[0]
        for place in self._class_folders:
            files.sync_folder(place)
        self._rows.finish()

    def close(self) -> None:
        """Close the file; an unfinished set stays under its partial name. Closing twice is allowed."""
        self._rows.close()

    def _paths(self, labels_M: NDArray[np.int64]) -> tuple[list[Path], list[int]]:
        """The PNG file of each image, and how many images each class has then."""
        counts, paths = list(self._counts), []
        for label in labels_M:
            paths.append(_png_path(self._class_folders[label], counts[label]))
            counts[label] += 1
        return paths, counts

    def _keep(self, first: int, columns: Columns) -> None:
        """Count kept images, and mend their PNG files."""
        paths, self._counts = self._paths(columns["labels"])
        self.added = first + len(paths)
        for index, path in enumerate(paths):
            if _fits(path, columns[_PNG][index]):
                continue
            content = png(to_bytes(columns["images"][index]))
            files.write(path, content, sync_name=False)
            self.mended.append(str(path.relative_to(self.folder)))
            if not np.array_equal(_digest(content), columns[_PNG][index]):  # another encoder by now
                row = {name: values[index : index + 1].copy() for name, values in columns.items()}
                row[_PNG][0] = _digest(content)
                self._changed.append((first + index, row))


def _png_path(folder: Path, number: int) -> Path:
    return folder / f"{number:04d}.png"


def _fits(path: Path, digest: NDArray[np.uint8]) -> bool:
    """Whether a PNG file is there and holds what was written."""
    try:
        return np.array_equal(_digest(path.read_bytes()), digest)
    except OSError:
        return False


def _discard(folder: Path, first: int) -> None:
    """Remove PNG files from number `first` on, and what writers that died left."""
    files.sweep(folder)
    for path in folder.glob("*.png"):
        if path.stem.isdecimal() and int(path.stem) >= first:
            files.remove(path, sync_name=False)


def is_complete(folder: Path) -> bool:
    """Whether the folder holds a finished set."""
    return (folder / TENSORS).is_file()


def is_begun(folder: Path) -> bool:
    """Whether the folder holds an unfinished set, which a writer can take up."""
    return partial(folder / TENSORS).is_file()


def read(folder: Path, first: int | None = None) -> Images:
    """The finished set in a run's ``images`` folder, or only its `first` images, verified.

    Raises UserError("data") that names the file and the image that is damaged.
    """
    return _read(_finished(folder), first)


def read_file(path: Path) -> Images:
    """The finished set in a file like ``distilled.safetensors``, wherever it lies. Raises as `read` does."""
    return _read(Rows(path, "image", HINT), None)


def _read(rows: Rows, first: int | None) -> Images:
    if not {"images", "labels", "batch", "beta"} <= rows.header.parts.keys():
        raise tensors.damaged(rows.path, "it holds no distilled images", HINT)
    columns = rows.read(0, rows.count if first is None else min(first, rows.count))
    unknown_N = np.full(len(columns["labels"]), np.nan, np.float32)
    return Images(
        columns["images"],
        columns["labels"],
        columns["batch"],
        columns["beta"],
        columns.get("confidence", unknown_N),
        _classes(rows),
    )


def read_pixels(folder: Path, chunk: int | None = None) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The finished set as its PNG files hold it: (N, C, H, W) uint8, and labels (N,); verified.

    The float images pass by `chunk` at a time. Raises UserError("data") as `read` does.
    """
    rows = _finished(folder)
    pixels_NCHW = np.empty(rows.shape("images"), np.uint8)
    labels_N = np.empty(rows.count, np.int64)

    def keep(first: int, columns: Columns) -> None:
        end = first + len(columns["labels"])
        pixels_NCHW[first:end] = to_bytes(columns["images"])
        labels_N[first:end] = columns["labels"]

    rows.walk(rows.count, keep, chunk)
    return pixels_NCHW, labels_N


class Reader:
    """A set image by image, finished or not: what each one is at once, its pixels when they are asked for.

    classes: names. shape: of an image, (C, H, W). total: how many images there are to be. count: how many
    there are; labels_N, batch_N, beta_N, confidence_N (NaN: unknown) are theirs, not verified. path: the file
    that is read.
    Raises UserError("data") or ("disk") where there is no set yet, or it cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / TENSORS
        self._rows = Rows(path if path.is_file() else partial(path), "image", HINT)
        self.path, self.total = self._rows.path, self._rows.count
        self.shape = self._rows.shape("images")[1:]
        self.classes = _classes(self._rows)
        self.count = 0
        self.look()

    def look(self) -> bool:
        """Whether there are other images than at the last look. Raises as the beginning does."""
        before, self.count = self.count, self._rows.written()
        if self.count == before and before:
            return False
        columns = {name: self._rows.column(name, 0, self.count) for name in ("labels", "batch", "beta")}
        self.labels_N, self.batch_N, self.beta_N = columns.values()
        self.confidence_N = np.full(self.count, np.nan, np.float32)
        if "confidence" in self._rows.header.parts:  # older sets have none
            self.confidence_N = self._rows.column("confidence", 0, self.count)
        return self.count != before

    def pixels(self, number: int) -> NDArray[np.uint8]:
        """One image, (C, H, W). Raises UserError("data") where it is damaged, ("disk") where it is gone."""
        return to_bytes(self._rows.read(number, 1)["images"][0])


def check(folder: Path, done: int = 0) -> list[str]:
    """What is damaged in a run's ``images`` folder, a message each; nothing is mended.

    done: how many images of an unfinished set are to be there.
    """
    path = folder / TENSORS
    if not path.is_file():
        if not done:
            return []
        path = partial(path)
    try:
        rows = Rows(path, "image", HINT)
        places = [folder / name for name in class_folders(_classes(rows))]
    except UserError as error:
        return [error.message]
    count = min(done, rows.count) if path.suffix == ".partial" else rows.count
    found = [rows.damage(row).message for row in rows.wrong(count)]
    return found if found else _check_files(rows, count, places)


def _check_files(rows: Rows, count: int, places: list[Path]) -> list[str]:
    """PNG files that do not fit their float images."""
    found: list[str] = []
    counts = [0] * len(places)

    def look(_: int, columns: Columns) -> None:
        for label, digest in zip(columns["labels"], columns[_PNG], strict=True):
            path = _png_path(places[label], counts[label])
            counts[label] += 1
            if not path.is_file():
                found.append(f"{path} does not exist")
            elif not _fits(path, digest):
                found.append(f"{path} is damaged: its content is not what was written")

    rows.walk(count, look)
    return found


def _finished(folder: Path) -> Rows:
    path = folder / TENSORS
    if not path.is_file():
        raise UserError("data", f"{folder} holds no finished images", "let the run finish its recovery first")
    return Rows(path, "image", HINT)


def _classes(rows: Rows) -> tuple[str, ...]:
    try:
        return tuple(json_file.from_json(rows.facts["classes"]))
    except (KeyError, ValueError) as error:
        raise tensors.damaged(rows.path, error, HINT) from error
