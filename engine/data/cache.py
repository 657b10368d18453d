"""Decoded pixels, kept as one memory-mapped array a split, so that files are decoded only once.

An entry is a folder named by a digest of everything that determines it. It is written under another
name, fsynced and renamed: whatever has the right name is whole.

Legend: N images, C channels, S side.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np
from filelock import FileLock

from engine.data.decode import Chunk
from engine.errors import UserError
from engine.store.cache import ELSEWHERE, default_folder
from engine.store.files import guarded, make_folder, rename, write
from engine.store.json_file import read_json, write_json

Array = np.ndarray[Any, Any]
FORMAT = 1  # of an entry; another number never finds the old ones


@dataclass(frozen=True)
class Shape:
    """What a split is decoded to: channels C and side S."""

    channels: int
    size: int


@dataclass(frozen=True)
class Decoded:
    """One split as it stands in the cache.

    pixels: uint8 (N, C, S, S), read-only; None if they were not kept. sums_N2C: see `channel_sums`.
    kept: index of each image among the split's pictures. bad: (index, name, why) of the unreadable.
    resolutions: (width, height) of the files and how many have it. digest: SHA-256 of the pixels.
    """

    shape: Shape
    pixels: Array | None
    sums_N2C: Array
    kept: Array
    bad: tuple[tuple[int, str, str], ...]
    resolutions: dict[tuple[int, int], int]
    digest: str


def mean_std(sums_N2C: Array, size: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Per-channel mean and standard deviation, in [0, 1] units, of images of size×size pixels."""
    mean, square = sums_N2C.sum(axis=0) / max(len(sums_N2C) * size**2, 1)
    std = np.sqrt(np.maximum(square - mean**2, 0.0))
    return tuple((mean / 255).tolist()), tuple((std / 255).tolist())


def channel_sums(pixels_MCSS: Array) -> Array:
    """Of each image and channel, the sum of the values and that of their squares: int64 (M, 2, C)."""
    values_MCP = pixels_MCSS.reshape(*pixels_MCSS.shape[:2], -1).astype(np.int64)
    return np.stack([values_MCP.sum(axis=2), (values_MCP**2).sum(axis=2)], axis=1)


def key(*parts: object) -> str:
    """The name of an entry that is determined by `parts`."""
    return hashlib.sha256(json.dumps([FORMAT, *parts]).encode()).hexdigest()[:32]


def remembered(name: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The small JSON document `name`, computed if it is not there. Raises UserError("disk")."""
    root = default_folder()
    path = root / "images" / f"{name}.json"
    try:
        return read_json(path)
    except UserError:
        found = compute()
        make_folder(path.parent, ELSEWHERE)
        write_json(path, found, ELSEWHERE)
        return found


def decoded(
    name: str,
    shape: Shape,
    produce: Callable[[], Iterator[Chunk]],
    title: Callable[[int], str],
    keep_pixels: bool = True,
) -> Decoded:
    """The entry `name`, written from what `produce` decodes if it is not there.

    title: what messages call picture i. keep_pixels: False, all but the pixels is remembered.
    Raises UserError("disk") if the cache cannot be written.
    """
    root = default_folder()
    folder = root / "images" / name
    if (found := _read(folder)) is not None:
        return found
    with guarded(root, hint=ELSEWHERE):
        make_folder(folder.parent, ELSEWHERE)
        with FileLock(folder.with_suffix(".lock")):
            if (found := _read(folder)) is None:
                _write(folder, shape, produce, title, keep_pixels)
                found = _read(folder)
    assert found is not None
    return found


def _write(
    folder: Path,
    shape: Shape,
    produce: Callable[[], Iterator[Chunk]],
    title: Callable[[int], str],
    keep_pixels: bool,
) -> None:
    draft = folder.with_suffix(".draft")
    for leftover in (draft, folder):
        shutil.rmtree(leftover, ignore_errors=True)
    draft.mkdir()
    try:
        with open(draft / "pixels.u8", "wb") as file:
            sums, about = _drain(produce(), shape, title, file if keep_pixels else None)
            _flush(file)
        table = BytesIO()
        np.save(table, sums)
        write(draft / "sums.npy", table.getbuffer(), hint=ELSEWHERE)
        write_json(draft / "about.json", about, ELSEWHERE)
        rename(draft, folder, ELSEWHERE)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def _drain(
    chunks: Iterator[Chunk], shape: Shape, title: Callable[[int], str], file: IO[bytes] | None
) -> tuple[Array, dict[str, Any]]:
    """Pass all chunks on to `file`; returns the images' sums, and what else an entry tells."""
    digest = hashlib.sha256()
    sums = [np.zeros((0, 2, shape.channels), np.int64)]
    bad: list[tuple[int, str, str]] = []
    resolutions: Counter[tuple[int, int]] = Counter()
    for chunk in chunks:
        data = chunk.pixels_MCSS.tobytes()
        digest.update(data)
        if file is not None:
            file.write(data)
        sums.append(channel_sums(chunk.pixels_MCSS))
        bad += [(index, title(index), why) for index, why in chunk.bad]
        resolutions.update(chunk.resolutions)
    about = {
        "images": sum(map(len, sums)),
        "channels": shape.channels,
        "size": shape.size,
        "pixels": file is not None,
        "bad": bad,
        "resolutions": [[*size, count] for size, count in sorted(resolutions.items())],
        "digest": digest.hexdigest(),
    }
    return np.concatenate(sums), about


def _flush(file: IO[Any]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _read(folder: Path) -> Decoded | None:
    """The entry, or None if there is none or its files do not fit each other."""
    try:
        about = read_json(folder / "about.json")
        shape = Shape(about["channels"], about["size"])
        count = about["images"]
        sums_N2C = np.load(folder / "sums.npy")
        if sums_N2C.shape != (count, 2, shape.channels):
            return None
        size = (count if about["pixels"] else 0, shape.channels, shape.size, shape.size)
        if (folder / "pixels.u8").stat().st_size != math.prod(size):
            return None
        pixels = _mapped(folder / "pixels.u8", size)
    except (OSError, ValueError, KeyError, TypeError, EOFError, MemoryError):
        return None
    bad = tuple((int(index), str(name), str(why)) for index, name, why in about["bad"])
    kept = np.setdiff1d(np.arange(count + len(bad)), [index for index, _, _ in bad])
    sizes = {(width, height): number for width, height, number in about["resolutions"]}
    return Decoded(shape, pixels if about["pixels"] else None, sums_N2C, kept, bad, sizes, about["digest"])


def _mapped(path: Path, shape: tuple[int, ...]) -> Array:
    if math.prod(shape) == 0:
        return np.zeros(shape, dtype=np.uint8)
    return np.memmap(path, dtype=np.uint8, mode="r", shape=shape)
