"""Distilled images on disk: an ImageFolder of PNG files, and one safetensors file of float images.

Legend: N images of the whole set, M images of one recovery batch, C channels, H, W.
``images/CLASS/NNNN.png`` loads in any tool; sorting the class folders gives the labels back.
``images/distilled.safetensors`` holds images (N, C, H, W) float32 in [0, 1] pixel space, labels (N,),
batch (N,) counted from 1, and beta (N,). It grows under the name ``distilled.safetensors.partial``
and is renamed when the last image is in, so its name says that the set is complete.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.errors import UserError
from engine.store import tensors
from engine.store.files import guarded, make_folder, sync_folder, to_json, write, write_all

if TYPE_CHECKING:
    from numpy.typing import NDArray

TENSORS = "distilled.safetensors"
_DTYPES = {"labels": "<i8", "batch": "<i8", "images": "<f4", "beta": "<f4"}


@dataclass(frozen=True)
class Images:
    """Distilled images with their provenance; arrays as in the safetensors file."""

    images_NCHW: NDArray[np.float32]
    labels_N: NDArray[np.int64]
    batch_N: NDArray[np.int64]
    beta_N: NDArray[np.float32]
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


class ImageWriter:
    """Writes a set of known size batch by batch; what was added stays if a later batch fails.

    shape: (N, C, H, W) of the whole set. Creating one discards an unfinished set in the same folder.
    Raises UserError("disk"): the room for all float images is claimed at once.
    """

    def __init__(self, folder: Path, shape: tuple[int, int, int, int], classes: tuple[str, ...]) -> None:
        self.folder, self.shape = folder, shape
        self.added = 0
        self._counts = [0] * len(classes)
        self._class_folders = [folder / name for name in class_folders(classes)]
        for place in (folder, *self._class_folders):
            make_folder(place)
        self._partial = folder / f"{TENSORS}.partial"
        shapes = {name: (dtype, shape if name == "images" else shape[:1]) for name, dtype in _DTYPES.items()}
        header, self._starts, size = tensors.layout(
            shapes, {"format": "cfm-distilled", "version": "1", "classes": to_json(list(classes))}
        )
        with guarded(self._partial, size):
            self._handle = os.open(self._partial, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self._handle, 0, size)
            else:
                os.ftruncate(self._handle, size)
            write_all(self._handle, header)

    def add(
        self,
        images_MCHW: NDArray[np.float32],
        labels_M: NDArray[np.int64],
        batch: int,
        beta: float,
    ) -> None:
        """Add one recovery batch, durably. Raises UserError("disk")."""
        count = len(images_MCHW)
        assert images_MCHW.shape[1:] == self.shape[1:]
        assert self.added + count <= self.shape[0]
        for pixels_CHW, label in zip(to_bytes(images_MCHW), labels_M, strict=True):
            self._counts[label] += 1
            write(self._class_folders[label] / f"{self._counts[label] - 1:04d}.png", png(pixels_CHW))
        columns = {
            "images": images_MCHW,
            "labels": labels_M,
            "batch": np.full(count, batch),
            "beta": np.full(count, beta),
        }
        for name, values in columns.items():
            self._put(name, np.ascontiguousarray(values, _DTYPES[name]))
        with guarded(self._partial):
            os.fsync(self._handle)
        self.added += count

    def _put(self, name: str, values: NDArray[Any]) -> None:
        row = values[:1].nbytes
        with guarded(self._partial, values.nbytes):
            os.lseek(self._handle, self._starts[name] + self.added * row, os.SEEK_SET)
            write_all(self._handle, values.tobytes())

    def finish(self) -> None:
        """Give the complete set its final name."""
        assert self.added == self.shape[0]
        self.close()
        with guarded(self.folder / TENSORS):
            os.replace(self._partial, self.folder / TENSORS)
        sync_folder(self.folder)

    def close(self) -> None:
        """Close the file; an unfinished set stays under its partial name. Closing twice is allowed."""
        if self._handle >= 0:
            handle, self._handle = self._handle, -1
            os.close(handle)


def is_complete(folder: Path) -> bool:
    """Whether the folder holds a finished set."""
    return (folder / TENSORS).is_file()


def read(folder: Path, first: int | None = None) -> Images:
    """The finished set in a run's ``images`` folder, or only its `first` images. Raises UserError("data")."""
    path = _finished(folder)
    with tensors.opened(path) as file:
        count = len(file.get_tensor("labels")[:first])
        columns = {name: file.get_slice(name)[:count] for name in _DTYPES}
        facts = file.metadata() or {}
    try:
        classes = tuple(json.loads(facts["classes"]))
    except (KeyError, ValueError) as error:
        raise tensors.damaged(path, error) from error
    return Images(columns["images"], columns["labels"], columns["batch"], columns["beta"], classes)


def read_pixels(folder: Path, chunk: int = 1024) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The finished set as its PNG files hold it: (N, C, H, W) uint8, and labels (N,).

    The float images pass by `chunk` at a time. Raises UserError("data").
    """
    path = _finished(folder)
    with tensors.opened(path) as file:
        floats = file.get_slice("images")
        shape = floats.get_shape()
        pixels_NCHW = np.empty(shape, np.uint8)
        for start in range(0, shape[0], chunk):
            stop = min(start + chunk, shape[0])
            pixels_NCHW[start:stop] = to_bytes(floats[start:stop])
        return pixels_NCHW, file.get_tensor("labels")


def _finished(folder: Path) -> Path:
    path = folder / TENSORS
    if not path.is_file():
        raise UserError("data", f"{folder} holds no finished images", "let the run finish its recovery first")
    return path
