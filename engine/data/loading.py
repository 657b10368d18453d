"""Load a training and a test split from settings: locate, decode (or use the cache), hold out, normalise.

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
from engine.data.cache import DecodedSplit, Shape
from engine.data.catalogue import DIGITS_SIZE, KNOWN
from engine.data.decode import Progress, decode_chunks, read_headers
from engine.data.finding import find
from engine.data.image_set import DataSet
from engine.data.layout import DataSetSource, listing, refuse
from engine.data.parts import InMemorySplit, MeanStd, Split, StreamedSplit
from engine.data.pictures import Pictures
from engine.data.splitting import split_stratified
from engine.errors import UserError

SMALL = 64  # pixels; a folder of unequal pictures needs data.image_size if its usual short side is larger
LEAST = 16  # pixels; the smallest side that networks support
IN_MEMORY_BYTES = 4 * 1024**3  # a larger set is streamed


def load(settings: config.Data, root: Path | None = None, progress: Progress | None = None) -> DataSet:
    """Load the data set that the settings name.

    root: folder to search; None for the data root of the settings. progress(done, total) is called while
    files are read and restarts at 0 for every pass over a split. Raises UserError: "data" if pictures are
    missing or unreadable, "config" if settings do not fit the images, "disk" if the cache cannot be
    written.
    """
    if settings.name == "digits":
        classes, train, test = _load_digits(settings)
    else:
        classes, train, test = _load_from_disk(settings, root, progress)
    if test is None:
        keep, held = split_stratified(train.labels_N, settings.holdout, classes)
        train, test = train.take(keep), train.take(held)
    normalisation = choose_normalisation(settings, train.shape.channels, train.mean_std)
    identity = [classes, train.digests(), test.digests(), train.shape.size, normalisation]
    fingerprint = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
    train_set = train.to_image_set(classes, normalisation)
    return DataSet(settings.name, train_set, test.to_image_set(classes, normalisation), fingerprint)


def _load_digits(settings: config.Data) -> tuple[tuple[str, ...], Split, Split | None]:
    whole = InMemorySplit.from_array(*digits.load_arrays(settings.image_size or DIGITS_SIZE))
    keep, held = split_stratified(whole.labels, digits.TEST_SHARE, digits.CLASSES)
    test = whole.take(held) if settings.test == "test" else None
    return digits.CLASSES, whole.take(keep), test


def _load_from_disk(
    settings: config.Data, root: Path | None, progress: Progress | None
) -> tuple[tuple[str, ...], Split, Split | None]:
    source = find(settings, root)
    if source.test is None and settings.test == "test" and settings.name != "folder":
        refuse(f"{source.path} has no test split", "add it, or hold out training images: data.test=holdout")
    shape = decide_shape(settings, source, progress)
    train = load_split(settings, source, source.train, shape, progress)
    test = None if source.test is None else load_split(settings, source, source.test, shape, progress)
    return source.classes, train, test


def decide_shape(settings: config.Data, source: DataSetSource, progress: Progress | None) -> Shape:
    """Return the channels and side to which the images are converted.

    Named sets have three channels and a fixed default side. For a folder, the training pictures decide:
    one channel if all are grey; the common side if they are equal squares, else the most frequent short
    side. Raises UserError("data") if that side is ambiguous or too small.
    """
    known = KNOWN[settings.name]
    if known.size is not None:
        return Shape(3, settings.image_size or known.size)
    name = cache.entry_name("headers", source.train.stamp())
    summary = cache.load_or_compute_json(name, lambda: _summarise_headers(source.train, progress))
    channels = 1 if summary["grey"] else 3
    return Shape(channels, settings.image_size or _choose_side(summary["sizes"], source.path))


def _summarise_headers(pictures: Pictures, progress: Progress | None) -> dict[str, object]:
    sizes, grey = read_headers(pictures, progress)
    return {"grey": grey, "sizes": [[*size, count] for size, count in sorted(sizes.items())]}


def _choose_side(sizes: list[list[int]], path: Path) -> int:
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


def load_split(
    settings: config.Data, source: DataSetSource, pictures: Pictures, shape: Shape, progress: Progress | None
) -> Split:
    """Load one split: decoded in memory if it is small, otherwise streamed from its files.

    Unreadable pictures raise UserError("data") or are skipped, according to the settings.
    """
    if is_streamed(settings.name, len(pictures), shape):
        return _load_streamed_split(settings, source, pictures, shape, progress)
    entry = load_or_decode(pictures, shape, progress)
    skipped = _collect_skipped(settings, source, pictures, entry)
    assert entry.pixels is not None
    labels = pictures.labels_N[entry.indices_N]
    return InMemorySplit(entry.pixels, labels, entry.sums_N2C, entry.digest, np.arange(len(labels)), skipped)


def is_streamed(name: str, images: int, shape: Shape) -> bool:
    """Return whether a split is streamed: always for ImageNet, else if its pixels exceed IN_MEMORY_BYTES."""
    return name == "imagenet" or images * shape.channels * shape.size**2 > IN_MEMORY_BYTES


def _load_streamed_split(
    settings: config.Data, source: DataSetSource, pictures: Pictures, shape: Shape, progress: Progress | None
) -> Split:
    """Create a streamed split; read its files beforehand only to skip bad ones or to measure mean and std."""
    has_normalisation = KNOWN[settings.name].mean is not None or (
        settings.mean is not None and settings.std is not None
    )
    if has_normalisation and settings.on_bad_image == "refuse":
        return StreamedSplit(pictures, shape, np.arange(len(pictures)))
    entry = load_or_decode(pictures, shape, progress, keep_pixels=False)
    skipped = _collect_skipped(settings, source, pictures, entry)
    return StreamedSplit(pictures, shape, entry.indices_N, entry.sums_N2C, skipped)


def load_or_decode(
    pictures: Pictures, shape: Shape, progress: Progress | None, keep_pixels: bool = True
) -> DecodedSplit:
    """Return a split's decoded pictures, from the cache if possible.

    keep_pixels: whether the result and the cache include pixels. Raises UserError("disk").
    """
    name = cache.entry_name("pixels", pictures.stamp(), shape.channels, shape.size, keep_pixels)
    return cache.load_or_write_entry(
        name,
        shape,
        lambda: decode_chunks(pictures, shape.size, shape.channels, progress),
        pictures.name,
        keep_pixels,
    )


def _collect_skipped(
    settings: config.Data, source: DataSetSource, pictures: Pictures, entry: DecodedSplit
) -> tuple[str, ...]:
    """Return the names of unreadable pictures to skip.

    Raises UserError("data") if the settings do not allow that, or if a class would become empty.
    """
    if entry.bad and settings.on_bad_image == "refuse":
        refuse(
            f"{len(entry.bad):,} of {len(pictures):,} pictures in {source.path} cannot be read: "
            + listing([f"{name} ({reason})" for _, name, reason in entry.bad]),
            "repair or remove them, or skip them with --set data.on_bad_image=skip",
        )
    counts = np.bincount(pictures.labels_N[entry.indices_N], minlength=len(source.classes))
    if not counts.all():
        names = [source.classes[index] for index in np.flatnonzero(counts == 0)]
        refuse(
            f"no picture in {source.path} can be read for {listing(names)}", "repair or add pictures there"
        )
    return tuple(name for _, name, _ in entry.bad)


def choose_normalisation(settings: config.Data, channels: int, measure: Callable[[], MeanStd]) -> MeanStd:
    """Return mean and std: those of the settings, else the published ones of the set, else `measure()`.

    Raises UserError: "config" for a wrong number of values, "data" if a channel is constant.
    """
    known = KNOWN[settings.name]
    mean, std = settings.mean or known.mean, settings.std or known.std
    if mean is None or std is None:
        measured_mean, measured_std = measure()
        mean, std = mean or measured_mean, std or measured_std
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != channels:
            raise UserError(
                "config",
                f"data.{name} has {len(values)} values, but the images have {channels} channels",
                f"give {channels} values, or leave data.{name} out",
            )
    if not min(std) > 0:
        refuse("a colour channel is constant over all training images", "set data.std")
    return mean, std
