"""Distilled images on disk: an ImageFolder of PNG or JPEG files, and one safetensors file of float images.

Legend: N images of the whole set, M images of one recovery batch, C channels, H, W.
``images/CLASS/NNNN.png`` loads in any tool; sorting the class folders gives the labels back.
``images/distilled.safetensors`` holds images (N, C, H, W) float32 in [0, 1] pixel space, labels (N,),
batch (N,) counted from 1, beta (N,), confidence (N,), and the digest of each PNG file, png_sha256 (N, 32). It
is a table of `rows`, one per image; its name ends in ``.partial`` until the last image is written.
A set may be saved as JPEG of quality 75 instead (``NNNN.jpg``). It has the digests jpeg_sha256 (N, 32), and
the decoded pixels (N, C, H, W) uint8, which are what students train on.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from engine.errors import UserError
from engine.store import files, json_file, tensors
from engine.store.rows import Columns, Rows, RowWriter, partial

if TYPE_CHECKING:
    from numpy.typing import NDArray

TENSORS = "distilled.safetensors"
HINT = "restore it, or delete it and resume: the images are recovered again"
FileFormat = Literal["png", "jpeg75"]
_DTYPES = {"labels": "<i8", "batch": "<i8", "images": "<f4", "beta": "<f4", "confidence": "<f4"}
_DIGESTS: dict[FileFormat, str] = {"png": "png_sha256", "jpeg75": "jpeg_sha256"}  # columns
_SUFFIXES: dict[FileFormat, str] = {"png": ".png", "jpeg75": ".jpg"}
_PIXELS = "pixels"


@dataclass(frozen=True)
class Images:
    """Distilled images with their provenance; arrays as in the safetensors file.

    pixels_NCHW: what the image files hold and students train on. lossy: whether those are more than rounded.
    confidence_N: the teacher's probability of the image's label, for the image without augmentation.
    """

    images_NCHW: NDArray[np.float32]
    labels_N: NDArray[np.int64]
    batch_N: NDArray[np.int64]
    beta_N: NDArray[np.float32]
    confidence_N: NDArray[np.float32]
    classes: tuple[str, ...]
    pixels_NCHW: NDArray[np.uint8]
    lossy: bool


def class_folders(classes: tuple[str, ...]) -> list[str]:
    """Return a folder name for each class; sorting the names keeps their order, as ImageFolder needs."""
    valid = all(name and name not in {".", ".."} and "/" not in name and "\0" not in name for name in classes)
    if valid and list(classes) == sorted(set(classes)):
        return list(classes)
    digits = len(str(len(classes) - 1))
    safe = (name.replace("/", "_").replace("\0", "_") for name in classes)
    return [f"{index:0{digits}d}_{name}" for index, name in enumerate(safe)]


def to_bytes(images_MCHW: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return pixels in [0, 1] rounded to the nearest of 256 levels, as the PNG files hold them."""
    levels: NDArray[np.uint8] = np.rint(np.clip(images_MCHW, 0.0, 1.0) * 255.0).astype(np.uint8)
    return levels


def png(pixels_CHW: NDArray[np.uint8]) -> bytes:
    """Encode an image of 1 or 3 channels as PNG."""
    from PIL import Image

    pixels_HWC = pixels_CHW[0] if len(pixels_CHW) == 1 else pixels_CHW.transpose(1, 2, 0)
    buffer = BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels_HWC)).save(buffer, "PNG")
    return buffer.getvalue()


def _encode(images_MCHW: NDArray[np.float32], form: FileFormat) -> tuple[list[bytes], NDArray[np.uint8]]:
    """Return the content of each image's file, and the pixels (M, C, H, W) that it holds.

    `jpeg75` rounds pixels down before it compresses them, as the released code of UniDD does.
    """
    if form == "png":
        levels_MCHW = to_bytes(images_MCHW)
        return [png(pixels_CHW) for pixels_CHW in levels_MCHW], levels_MCHW
    from PIL import Image

    contents, decoded = [], np.empty(images_MCHW.shape, np.uint8)
    for index, image_CHW in enumerate(np.clip(images_MCHW, 0.0, 1.0)):
        levels_CHW = (image_CHW * 255).astype(np.uint8)
        levels_HWC = levels_CHW[0] if len(levels_CHW) == 1 else levels_CHW.transpose(1, 2, 0)
        buffer = BytesIO()
        Image.fromarray(np.ascontiguousarray(levels_HWC)).save(buffer, "JPEG", quality=75)
        contents.append(buffer.getvalue())
        with Image.open(buffer) as file:
            decoded[index] = np.moveaxis(np.atleast_3d(np.asarray(file)), 2, 0)
    return contents, decoded


def _digest(data: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(hashlib.sha256(data).digest(), np.uint8)


class ImageWriter(RowWriter):
    """Writer of a set of known size, batch by batch; added batches survive a later failure.

    shape: (N, C, H, W) of the whole set. done: how many images of an unfinished set in the same folder to
    keep; the rest is discarded. Kept float images are verified; an image file that does not match its digest
    is rewritten and named in `repaired`. form: of the image files.
    Raises UserError("disk"); the space for all float images is reserved at once. Raises UserError("data")
    if a kept image is damaged.
    """

    def __init__(
        self,
        folder: Path,
        shape: tuple[int, int, int, int],
        classes: tuple[str, ...],
        done: int = 0,
        form: FileFormat = "png",
    ) -> None:
        self.folder, self.shape, self.form = folder, shape, form
        self.repaired: list[str] = []
        self._counts = [0] * len(classes)
        self._class_folders = [folder / name for name in class_folders(classes)]
        files.make_folders(folder, *self._class_folders)
        self._changed: list[tuple[int, Columns]] = []
        shapes: dict[str, tuple[str, tuple[int, ...]]] = {
            name: (dtype, shape if name == "images" else shape[:1]) for name, dtype in _DTYPES.items()
        }
        shapes[_DIGESTS[form]] = ("|u1", (shape[0], 32))
        if form != "png":
            shapes[_PIXELS] = ("|u1", shape)
        metadata = {"format": "cfm-distilled", "version": "1", "classes": json_file.to_json(list(classes))}
        path = folder / TENSORS
        super().__init__(path, shapes, metadata, done, noun="image", hint=HINT, on_rows=self._keep)
        try:
            for row, columns in self._changed:
                self.put_rows(row, columns)
            for class_folder, count in zip(self._class_folders, self._counts, strict=True):
                files.sweep(class_folder)
                for path in class_folder.glob(f"*{_SUFFIXES[form]}"):
                    if path.stem.isdecimal() and int(path.stem) >= count:
                        files.remove(path, sync_name=False)
        except BaseException:
            self.close()
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

        The names of image files are synced when the set is finished; a file that is lost earlier is rewritten
        when the set is resumed.
        """
        count = len(images_MCHW)
        assert images_MCHW.shape[1:] == self.shape[1:]
        counts = list(self._counts)
        paths = _file_paths(self._class_folders, labels_M, counts, self.form)
        contents, pixels_MCHW = _encode(images_MCHW, self.form)
        columns: Columns = {
            "images": images_MCHW,
            "labels": labels_M,
            "batch": np.full(count, batch),
            "beta": np.full(count, beta),
            "confidence": confidence_M,
            _DIGESTS[self.form]: np.array(list(map(_digest, contents)), np.uint8).reshape(count, 32),
            **({} if self.form == "png" else {_PIXELS: pixels_MCHW}),
        }
        self.put_rows(self.done, columns)
        for path, content in zip(paths, contents, strict=True):
            files.write(path, content, sync_name=False)
        self.sync()
        self._counts = counts

    def finish(self) -> None:
        """Rename the complete set to its final name, durably."""
        for class_folder in self._class_folders:
            files.sync_folder(class_folder)
        super().finish()

    def _keep(self, first: int, columns: Columns) -> None:
        """Count kept images, and rewrite their damaged files."""
        digests = columns[_DIGESTS[self.form]]
        paths = _file_paths(self._class_folders, columns["labels"], self._counts, self.form)
        for index, path in enumerate(paths):
            if _matches(path, digests[index]):
                continue
            (content,), pixels_1CHW = _encode(columns["images"][index : index + 1], self.form)
            files.write(path, content, sync_name=False)
            self.repaired.append(str(path.relative_to(self.folder)))
            if not np.array_equal(_digest(content), digests[index]):  # the encoder has changed
                row = {name: values[index : index + 1].copy() for name, values in columns.items()}
                row[_DIGESTS[self.form]][0] = _digest(content)
                if self.form != "png":
                    row[_PIXELS] = pixels_1CHW
                self._changed.append((first + index, row))


def _file_paths(
    class_folders: list[Path], labels_M: NDArray[np.int64], counts: list[int], form: FileFormat
) -> list[Path]:
    """Return the path of each new image, and add them to `counts`, the number of images of each class."""
    paths = []
    for label in labels_M:
        paths.append(class_folders[label] / f"{counts[label]:04d}{_SUFFIXES[form]}")
        counts[label] += 1
    return paths


def _matches(path: Path, digest: NDArray[np.uint8]) -> bool:
    """Return whether an image file exists and matches its digest."""
    try:
        return np.array_equal(_digest(path.read_bytes()), digest)
    except OSError:
        return False


def is_complete(folder: Path) -> bool:
    """Return whether the folder holds a finished set."""
    return (folder / TENSORS).is_file()


def is_begun(folder: Path) -> bool:
    """Return whether the folder holds an unfinished set, which a writer can resume."""
    return partial(folder / TENSORS).is_file()


def read(path: Path, first: int | None = None) -> Images:
    """Return the finished set in a run's ``images`` folder, or its `first` images, verified.

    path: the folder, or a file like its ``distilled.safetensors``. Raises UserError("data") that names the
    file and the damaged image.
    """
    rows = _open_finished(path)
    if not {"images", "labels", "batch", "beta"} <= rows.header.parts.keys():
        raise tensors.damaged_error(rows.path, "it holds no distilled images", HINT)
    columns = rows.read(0, rows.count if first is None else min(first, rows.count))
    pixels_NCHW, labels_N, batch_N, beta_N = (columns[n] for n in ("images", "labels", "batch", "beta"))
    confidence_N = columns.get("confidence", np.full(len(labels_N), np.nan, np.float32))
    levels_NCHW = _saved_pixels(columns)
    known = (pixels_NCHW, labels_N, batch_N, beta_N, confidence_N, _classes(rows))
    return Images(*known, levels_NCHW, _PIXELS in columns)


def _saved_pixels(columns: Columns) -> NDArray[Any]:
    """Return the pixels that the image files of some rows hold, (M, C, H, W)."""
    return columns[_PIXELS] if _PIXELS in columns else to_bytes(columns["images"])


def read_pixels(folder: Path, chunk: int | None = None) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the finished set with 8 bits, as its files hold it: pixels (N, C, H, W) and labels (N,).

    Only `chunk` float images are in memory at a time. Raises UserError("data") as `read` does.
    """
    rows = _open_finished(folder)
    pixels_NCHW = np.empty(rows.shape("images"), np.uint8)
    labels_N = np.empty(rows.count, np.int64)

    def copy_rows(first: int, columns: Columns) -> None:
        end = first + len(columns["labels"])
        pixels_NCHW[first:end] = _saved_pixels(columns)
        labels_N[first:end] = columns["labels"]

    rows.walk(rows.count, copy_rows, chunk)
    return pixels_NCHW, labels_N


class Reader:
    """Reader of a set, finished or not: metadata of all images at once, pixels one image at a time.

    classes: names. shape: of an image, (C, H, W). total: images of the finished set. count: images written so
    far; labels_N, batch_N, beta_N, confidence_N (NaN if unknown) describe them and are not verified.
    path: the file that is read.
    Raises UserError("data") or UserError("disk") if there is no set yet, or it cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / TENSORS
        self._rows = Rows(path if path.is_file() else partial(path), "image", HINT)
        self.path, self.total = self._rows.path, self._rows.count
        self.shape = self._rows.shape("images")[1:]
        self.classes = _classes(self._rows)
        self.count = 0
        self.refresh()

    def refresh(self) -> bool:
        """Read metadata again if images were added; return whether there are. Raises as the class does."""
        previous, self.count = self.count, self._rows.written()
        if self.count == previous and previous:
            return False
        columns = {name: self._rows.column(name, 0, self.count) for name in ("labels", "batch", "beta")}
        self.labels_N, self.batch_N, self.beta_N = columns.values()
        self.confidence_N = np.full(self.count, np.nan, np.float32)
        if "confidence" in self._rows.header.parts:  # older sets have none
            self.confidence_N = self._rows.column("confidence", 0, self.count)
        return self.count != previous

    def pixels(self, number: int) -> NDArray[np.uint8]:
        """Return one image as its file holds it, (C, H, W).

        Raises UserError: "data" if it is damaged, "disk" if it is gone.
        """
        pixels_CHW: NDArray[np.uint8] = _saved_pixels(self._rows.read(number, 1))[0]
        return pixels_CHW


def check(folder: Path, done: int = 0) -> list[str]:
    """Return a message for each damaged or missing file or image of a run's ``images`` folder.

    done: how many images an unfinished set must have. Nothing is repaired.
    """
    path = folder / TENSORS
    if not path.is_file():
        if not done:
            return []
        path = partial(path)
    try:
        rows = Rows(path, "image", HINT)
        folders = [folder / name for name in class_folders(_classes(rows))]
    except UserError as error:
        return [error.message]
    count = min(done, rows.count) if path.suffix == ".partial" else rows.count
    messages = rows.check(count)
    counts = [0] * len(folders)
    form: FileFormat = "jpeg75" if _DIGESTS["jpeg75"] in rows.header.parts else "png"

    def check_image_files(_: int, columns: Columns) -> None:
        paths = _file_paths(folders, columns["labels"], counts, form)
        for path, digest in zip(paths, columns[_DIGESTS[form]], strict=True):
            if not path.is_file():
                messages.append(f"{path} does not exist")
            elif not _matches(path, digest):
                messages.append(f"{path} is damaged: its content does not match its checksum")

    if not messages:
        rows.walk(count, check_image_files)
    return messages


def _open_finished(path: Path) -> Rows:
    file = path if path.suffix == ".safetensors" else path / TENSORS
    if file != path and not file.is_file():
        raise UserError("data", f"{path} holds no finished images", "let the run finish its recovery first")
    return Rows(file, "image", HINT)


def _classes(rows: Rows) -> tuple[str, ...]:
    try:
        return tuple(json_file.from_json(rows.metadata["classes"]))
    except (KeyError, ValueError) as error:
        raise tensors.damaged_error(rows.path, error, HINT) from error
