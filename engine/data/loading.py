"""From settings to a training and a test split: find, decode (or take from the cache), hold out, describe.

Legend: N images in a split, C channels, S side.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from engine import config
from engine.data import cache, digits
from engine.data.cache import Decoded, Shape
from engine.data.catalogue import DIGITS_SIZE, KNOWN
from engine.data.decode import Progress, chunks, headers
from engine.data.finding import find
from engine.data.image_set import DataSet
from engine.data.layout import Found, listing, refuse
from engine.data.parts import InMemory, MeanStd, Part, Streamed
from engine.data.pictures import Pictures
from engine.data.splitting import stratified
from engine.errors import UserError

SMALL = 64  # pixels up to which pictures of many sizes are brought to the commonest one unasked
LEAST = 16  # pixels; the smallest side that networks take
IN_MEMORY_BYTES = 4 * 1024**3  # a larger set is streamed


def load(settings: config.Data, root: Path | None = None, progress: Progress | None = None) -> DataSet:
    """The data set that the settings name, looked for below `root` (None: as the settings say).

    progress(done, total) is called while files are read, from 0 anew for every pass over a split.
    Raises UserError: "data" for what is missing or unreadable, "config" for settings that do not fit
    the images, "disk" if the cache cannot be written.
    """
    if settings.name == "digits":
        classes, train, test = _digits(settings)
    else:
        classes, train, test = _from_disk(settings, root, progress)
    if test is None:
        keep, held = stratified(train.labels_N, settings.holdout, classes)
        train, test = train.take(keep), train.take(held)
    normalisation = normalisation_of(settings, train.shape.channels, train.mean_std)
    return DataSet(
        settings.name,
        train.image_set(classes, normalisation),
        test.image_set(classes, normalisation),
        _fingerprint(classes, train, test, normalisation),
    )


def _digits(settings: config.Data) -> tuple[tuple[str, ...], Part, Part | None]:
    whole = InMemory.of(*digits.arrays(settings.image_size or DIGITS_SIZE))
    keep, held = stratified(whole.labels, digits.TEST_SHARE, digits.CLASSES)
    test = whole.take(held) if settings.test == "test" else None
    return digits.CLASSES, whole.take(keep), test


def _from_disk(
    settings: config.Data, root: Path | None, progress: Progress | None
) -> tuple[tuple[str, ...], Part, Part | None]:
    found = find(settings, root)
    if found.test is None and settings.test == "test" and settings.name != "folder":
        refuse(f"{found.path} has no test split", "add it, or hold out training images: data.test=holdout")
    shape = shape_of(settings, found, progress)
    train = part(settings, found, found.train, shape, progress)
    test = None if found.test is None else part(settings, found, found.test, shape, progress)
    return found.classes, train, test


def shape_of(settings: config.Data, found: Found, progress: Progress | None) -> Shape:
    """Channels and side that the images are brought to.

    Named sets have three channels and their own side. In a folder, the training pictures decide: one
    channel if all are grey; the side of all if they are equal squares, else the commonest short side.
    """
    known = KNOWN[settings.name]
    if known.size is not None:
        return Shape(3, settings.image_size or known.size)
    name = cache.key("headers", found.train.stamp())
    seen = cache.remembered(name, lambda: _headers(found.train, progress))
    channels = 1 if seen["grey"] else 3
    return Shape(channels, settings.image_size or _own_size(seen["sizes"], found.path))


def _headers(pictures: Pictures, progress: Progress | None) -> dict[str, object]:
    sizes, grey = headers(pictures, progress)
    return {"grey": grey, "sizes": [[*size, count] for size, count in sorted(sizes.items())]}


def _own_size(sizes: list[list[int]], path: Path) -> int:
    if not sizes:
        refuse(f"none of the training pictures in {path} can be read", "`cfm data check` names them")
    sides: Counter[int] = Counter()
    for width, height, count in sizes:
        sides[min(width, height)] += count
    size = sides.most_common(1)[0][0]
    advice = "give the side in pixels to resize them to, e.g. --set data.image_size=64"
    if (len(sizes) > 1 or sizes[0][0] != sizes[0][1]) and size > SMALL:
        refuse(f"the pictures in {path} are not equal squares (short sides mostly {size} px)", advice)
    if size < LEAST:
        refuse(f"the pictures in {path} have {size} px, fewer than {LEAST}", advice.replace("64", str(LEAST)))
    return size


def part(
    settings: config.Data, found: Found, pictures: Pictures, shape: Shape, progress: Progress | None
) -> Part:
    """One split, decoded if it is small, its unreadable files refused or left out as the settings say."""
    if is_streamed(settings.name, len(pictures), shape):
        return _streamed(settings, found, pictures, shape, progress)
    entry = decoded(pictures, shape, progress)
    skipped = _allowed(settings, found, pictures, entry)
    assert entry.pixels is not None
    labels = pictures.labels_N[entry.kept]
    return InMemory(entry.pixels, labels, entry.sums_N2C, entry.digest, np.arange(len(labels)), skipped)


def is_streamed(name: str, images: int, shape: Shape) -> bool:
    """Whether a split of so many images stays in its files: ImageNet, and what is too large to hold."""
    return name == "imagenet" or images * shape.channels * shape.size**2 > IN_MEMORY_BYTES


def _streamed(
    settings: config.Data, found: Found, pictures: Pictures, shape: Shape, progress: Progress | None
) -> Part:
    """Looks into the files beforehand only where they must be: to skip bad ones, or to measure them."""
    known = KNOWN[settings.name].mean is not None or (settings.mean is not None and settings.std is not None)
    if known and settings.on_bad_image == "refuse":
        return Streamed(pictures, shape, np.arange(len(pictures)))
    entry = decoded(pictures, shape, progress, keep_pixels=False)
    skipped = _allowed(settings, found, pictures, entry)
    return Streamed(pictures, shape, entry.kept, entry.sums_N2C, skipped)


def decoded(pictures: Pictures, shape: Shape, progress: Progress | None, keep_pixels: bool = True) -> Decoded:
    """A split's pictures, from the cache if they were decoded before."""
    name = cache.key("pixels", pictures.stamp(), shape.channels, shape.size, keep_pixels)
    return cache.decoded(
        name,
        shape,
        lambda: chunks(pictures, shape.size, shape.channels, progress),
        pictures.name,
        keep_pixels,
    )


def _allowed(settings: config.Data, found: Found, pictures: Pictures, entry: Decoded) -> tuple[str, ...]:
    """Names of the unreadable pictures, if the settings let them be left out. Raises UserError("data")."""
    if entry.bad and settings.on_bad_image == "refuse":
        refuse(
            f"{len(entry.bad):,} of {len(pictures):,} pictures in {found.path} cannot be read: "
            + listing([f"{name} ({why})" for _, name, why in entry.bad]),
            "mend or remove them, or leave them out with --set data.on_bad_image=skip",
        )
    counts = np.bincount(pictures.labels_N[entry.kept], minlength=len(found.classes))
    if not counts.all():
        names = [found.classes[index] for index in np.flatnonzero(counts == 0)]
        refuse(f"no picture in {found.path} can be read for {listing(names)}", "mend or add pictures there")
    return tuple(name for _, name, _ in entry.bad)


def normalisation_of(settings: config.Data, channels: int, measure: Callable[[], MeanStd]) -> MeanStd:
    """The settings' mean and std, else those known of the set, else the training split's own."""
    known = KNOWN[settings.name]
    mean, std = settings.mean or known.mean, settings.std or known.std
    if mean is None or std is None:
        own_mean, own_std = measure()
        mean, std = mean or own_mean, std or own_std
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != channels:
            raise UserError(
                "config",
                f"data.{name} has {len(values)} values, but the images have {channels} channels",
                f"give {channels} values, or leave data.{name} out",
            )
    if not min(std) > 0:
        refuse("a colour channel is the same in all training images", "give data.std by hand")
    return mean, std


def _fingerprint(classes: tuple[str, ...], train: Part, test: Part, normalisation: MeanStd) -> str:
    parts = [classes, train.identity(), test.identity(), train.shape.size, normalisation]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
