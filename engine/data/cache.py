"""Cache of decoded pixels: one memory-mapped array per split, so that files are decoded only once.

An entry is a folder named by a digest of everything that determines its content. It is written under a
temporary name, fsynced and renamed, so a folder with the final name is always complete.

Legend: N images, C channels, S side.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections import Counter
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from engine.data.decode import decode_chunks, read_headers
from engine.data.pictures import Pictures, Progress
from engine.errors import UserError
from engine.store.cache import ELSEWHERE, default_folder
from engine.store.files import guarded, make_folders, rename, write
from engine.store.json_file import read_json, write_json
from engine.store.lock import locked


@dataclass(frozen=True)
class Shape:
    """Channels C and side S of decoded images, and the side to which their shorter side is first resized.

    resize: None for the largest centred square.
    """

    channels: int
    size: int
    resize: int | None = None


@dataclass(frozen=True)
class DecodedSplit:
    """A cache entry: one decoded split.

    pixels: uint8 (N, C, S, S), read-only; None if the entry was written without pixels.
    sums_N2C: see `channel_sums`. indices_N: index of each image among the split's pictures.
    bad: (index, name, reason) of each unreadable picture. resolutions: number of files of each
    (width, height). conversions: number of files by what `decode.list_conversions` says of them. digest:
    SHA-256 of the pixels.
    """

    pixels: NDArray[Any] | None
    sums_N2C: NDArray[Any]
    indices_N: NDArray[Any]
    bad: tuple[tuple[int, str, str], ...]
    resolutions: dict[tuple[int, int], int]
    conversions: dict[str, int]
    digest: str


def mean_std(sums_N2C: NDArray[Any], size: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the per-channel mean and standard deviation, in [0, 1] units, of size×size images.

    sums_N2C: see `channel_sums`.
    """
    mean, square = sums_N2C.sum(axis=0) / max(len(sums_N2C) * size**2, 1)
    std = np.sqrt(np.maximum(square - mean**2, 0.0))
    return tuple((mean / 255).tolist()), tuple((std / 255).tolist())


def channel_sums(pixels_MCSS: NDArray[Any]) -> NDArray[Any]:
    """Return the sum of the values and of their squares per image and channel: int64 (M, 2, C)."""
    values_MCP = pixels_MCSS.reshape(*pixels_MCSS.shape[:2], pixels_MCSS.shape[2] ** 2).astype(np.int64)
    return np.stack([values_MCP.sum(axis=2), (values_MCP**2).sum(axis=2)], axis=1)


def load_or_read_headers(pictures: Pictures, progress: Progress | None) -> dict[str, Any]:
    """Return the summary of `decode.read_headers`, from the cache if possible.

    Raises UserError("disk") if the cache cannot be written.
    """
    path = _entry_path("headers", pictures.stamp()).with_suffix(".json")
    try:
        return read_json(path)
    except UserError:
        document = read_headers(pictures, progress)
        make_folders(path.parent, hint=ELSEWHERE)
        write_json(path, document, ELSEWHERE)
        return document


def load_or_decode(
    pictures: Pictures, shape: Shape, progress: Progress | None, keep_pixels: bool = True
) -> DecodedSplit:
    """Return a split's decoded pictures, from the cache if possible.

    keep_pixels: whether the result and the cache include pixels beside the sums and metadata.
    Raises UserError("disk") if the cache cannot be written.
    """
    framing = () if shape.resize is None else (shape.resize,)
    folder = _entry_path("pixels", pictures.stamp(), shape.channels, shape.size, keep_pixels, *framing)
    if (entry := _read_entry(folder)) is not None:
        return entry
    with guarded(default_folder(), hint=ELSEWHERE):
        make_folders(folder.parent, hint=ELSEWHERE)
        with locked(folder.with_suffix(".lock")):
            if (entry := _read_entry(folder)) is None:
                _write_entry(folder, pictures, shape, progress, keep_pixels)
                entry = _read_entry(folder)
    assert entry is not None
    return entry


def _entry_path(*parts: object) -> Path:
    """Return the path of the entry that `parts` (JSON-serialisable) determine."""
    version = 2  # of the format of entries and of how pictures are decoded; old ones are ignored
    name = hashlib.sha256(json.dumps([version, *parts]).encode()).hexdigest()[:32]
    return default_folder() / "images" / name


def _write_entry(
    folder: Path, pictures: Pictures, shape: Shape, progress: Progress | None, keep_pixels: bool
) -> None:
    draft = folder.with_suffix(".draft")
    for leftover in (draft, folder):
        shutil.rmtree(leftover, ignore_errors=True)
    draft.mkdir()
    try:
        with open(draft / "pixels.u8", "wb") as file:
            sums, metadata = _write_pixels(file if keep_pixels else None, pictures, shape, progress)
            file.flush()
            os.fsync(file.fileno())
        table = BytesIO()
        np.save(table, sums)
        write(draft / "sums.npy", table.getbuffer(), hint=ELSEWHERE)
        write_json(draft / "about.json", metadata, ELSEWHERE)
        rename(draft, folder, ELSEWHERE)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def _write_pixels(
    file: IO[bytes] | None, pictures: Pictures, shape: Shape, progress: Progress | None
) -> tuple[NDArray[Any], dict[str, Any]]:
    """Decode all pictures to `file`, if any; return the images' sums and the entry's metadata."""
    digest = hashlib.sha256()
    sums = [np.zeros((0, 2, shape.channels), np.int64)]
    bad: list[tuple[int, str, str]] = []
    resolutions: Counter[tuple[int, int]] = Counter()
    conversions: Counter[str] = Counter()
    for chunk in decode_chunks(pictures, shape.size, shape.channels, progress, shape.resize):
        data = chunk.pixels_MCSS.tobytes()
        digest.update(data)
        if file is not None:
            file.write(data)
        sums.append(channel_sums(chunk.pixels_MCSS))
        bad += [(index, pictures.name(index), reason) for index, reason in chunk.bad]
        resolutions.update(chunk.resolutions)
        conversions.update(chunk.conversions)
    metadata = {
        "images": sum(map(len, sums)),
        "channels": shape.channels,
        "size": shape.size,
        "pixels": file is not None,
        "bad": bad,
        "resolutions": [[*size, count] for size, count in sorted(resolutions.items())],
        "conversions": dict(sorted(conversions.items())),
        "digest": digest.hexdigest(),
    }
    return np.concatenate(sums), metadata


def _read_entry(folder: Path) -> DecodedSplit | None:
    """Return the entry in `folder`; None if it is missing or damaged."""
    try:
        metadata = read_json(folder / "about.json")
        shape = Shape(metadata["channels"], metadata["size"])
        count = metadata["images"]
        sums_N2C = np.load(folder / "sums.npy")
        if sums_N2C.shape != (count, 2, shape.channels):
            return None
        shape_NCSS = (count if metadata["pixels"] else 0, shape.channels, shape.size, shape.size)
        if (folder / "pixels.u8").stat().st_size != math.prod(shape_NCSS):
            return None
        if math.prod(shape_NCSS) == 0:  # an empty file cannot be mapped
            pixels: NDArray[Any] = np.zeros(shape_NCSS, dtype=np.uint8)
        else:
            pixels = np.memmap(folder / "pixels.u8", dtype=np.uint8, mode="r", shape=shape_NCSS)
    except (OSError, ValueError, KeyError, TypeError, EOFError, MemoryError):
        return None
    bad = tuple((int(index), str(name), str(reason)) for index, name, reason in metadata["bad"])
    indices_N = np.setdiff1d(np.arange(count + len(bad)), [index for index, _, _ in bad])
    sizes = {(width, height): number for width, height, number in metadata["resolutions"]}
    return DecodedSplit(
        pixels if metadata["pixels"] else None,
        sums_N2C,
        indices_N,
        bad,
        sizes,
        metadata["conversions"],
        metadata["digest"],
    )
