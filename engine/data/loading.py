"""Load a training and a test split from settings: locate, decode (or use the cache), hold out, normalise.

Legend: N images in a split, C channels, S side.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from engine import config
from engine.data.cache import (
    DecodedSplit,
    Shape,
    channel_sums,
    load_or_decode,
    load_or_read_headers,
    mean_std,
)
from engine.data.catalogue import KNOWN
from engine.data.decode import list_bad_headers
from engine.data.image_folders import read_text
from engine.data.image_set import DataSet, ImageSet, StreamedImages
from engine.data.pictures import DataSetSource, Pictures, Progress
from engine.data.sources import find_source
from engine.environment import expand_home
from engine.errors import UserError, format_names, raise_data_error, suggest_name
from engine.rng import generator

MeanStd = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True)
class Split:
    """A split before it becomes an `ImageSet`: the images at `rows` of `content`.

    content: decoded pixels (·, C, S, S), or pictures that are decoded on demand. digest, labels: of all of
    `content`. sums_N2C: `channel_sums` of the images at `rows`; None if they were not measured.
    files: the files that `content` was decoded from, and the index of each of its images among them; None if
    it is those files, or if all of them have its size.
    """

    content: NDArray[Any] | Pictures
    digest: str
    shape: Shape
    labels: NDArray[Any]
    rows: NDArray[Any]
    sums_N2C: NDArray[Any] | None = None
    skipped: tuple[str, ...] = ()
    files: tuple[Pictures, NDArray[Any]] | None = None

    @property
    def labels_N(self) -> NDArray[Any]:
        """Labels of the images of this split: int64, in [0, number of classes)."""
        labels_N: NDArray[Any] = self.labels[self.rows]
        return labels_N

    def take(self, indices: NDArray[Any]) -> Split:
        """Return the split of the images at `indices`."""
        sums_N2C = None if self.sums_N2C is None else self.sums_N2C[indices]
        return replace(self, rows=self.rows[indices], sums_N2C=sums_N2C)

    def mean_std(self) -> MeanStd:
        """Return mean and std per channel, in [0, 1] units, over the images of this split."""
        assert self.sums_N2C is not None
        return mean_std(self.sums_N2C, self.shape.size)

    def digests(self) -> list[str]:
        """Return digests that identify images, labels and the choice of rows."""
        arrays = (np.ascontiguousarray(array, dtype=np.int64) for array in (self.labels, self.rows))
        return [self.digest, *(hashlib.sha256(array.tobytes()).hexdigest() for array in arrays)]

    def relabel(self, label_of: NDArray[Any]) -> Split:
        """Return the split with other labels, sorted by them. label_of: the new label of each old one."""
        renumbered = replace(self, labels=label_of[self.labels])
        return renumbered.take(np.argsort(renumbered.labels_N, kind="stable"))

    def to_image_set(self, classes: Sequence[str], normalisation: MeanStd) -> ImageSet:
        """Return the split as the `ImageSet` that stages read."""
        if isinstance(self.content, Pictures):
            return StreamedImages(
                self.content, self.rows, self.shape, classes, *normalisation, skipped=self.skipped
            )
        is_whole = np.array_equal(self.rows, np.arange(len(self.content)))
        rows = None if is_whole else self.rows
        files = None if self.files is None else (self.files[0], self.files[1][self.rows])
        return ImageSet(
            self.content,
            self.labels_N,
            classes,
            *normalisation,
            rows=rows,
            skipped=self.skipped,
            pictures=files,
        )


def load(settings: config.Data, root: Path | None = None, progress: Progress | None = None) -> DataSet:
    """Load the data set that the settings name.

    root: folder to search; None for the data root of the settings. progress(done, total) is called while
    files are read and restarts at 0 for every pass over a split. Raises UserError: "data" if pictures are
    missing or unreadable, "config" if settings do not fit the images, "disk" if the cache cannot be
    written.
    """
    if settings.name == "digits":
        classes, train, test = load_digits(settings)
        framed = train
    else:
        classes, train, test, framed = _load_from_disk(settings, root, progress)
    order = read_class_order(settings, classes)
    if order != classes:
        label_of = np.array([order.index(name) for name in classes])
        classes, train, framed = order, train.relabel(label_of), framed.relabel(label_of)
        test = None if test is None else test.relabel(label_of)
    if test is None:
        keep, held = split_stratified(train.labels_N, settings.holdout, classes)
        train, test = train.take(keep), framed.take(held)
    normalisation = choose_normalisation(settings, train.shape.channels, train.mean_std)
    identity: list[Any] = [classes, train.digests(), test.digests(), train.shape.size, normalisation]
    framing = [train.shape.resize, test.shape.resize]
    identity += [framing] if any(framing) else []
    fingerprint = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
    train_set = train.to_image_set(classes, normalisation)
    return DataSet(settings.name, train_set, test.to_image_set(classes, normalisation), fingerprint)


def read_class_order(settings: config.Data, classes: tuple[str, ...]) -> tuple[str, ...]:
    """Return the class names in the order of `data.class_order`; as given where that is not set.

    classes: of the data set, sorted. Raises UserError("config") if the names of the order are not those.
    """
    order = settings.class_order
    if order is None:
        return classes
    source = "data.class_order"
    if isinstance(order, str):
        path = expand_home(order)
        source = f"data.class_order ({path})"
        try:
            order = tuple(filter(None, (line.strip() for line in read_text(path).splitlines())))
        except OSError as error:
            hint = "give a text file with one class name a line, or a list of names"
            raise UserError("config", f"{source} cannot be read: {error.strerror}", hint) from error
    missing = sorted(set(classes) - set(order))
    unknown = [name for name in order if name not in classes]
    repeated = [name for name, count in Counter(order).items() if count > 1]
    kinds = (("missing", missing), ("unknown", unknown), ("listed twice", repeated))
    if problems := [f"{kind}: {format_names(names)}" for kind, names in kinds if names]:
        hint = suggest_name(unknown[0], missing, "") if unknown and missing else ""
        hint = hint or f"give each class of the data set once: {format_names(sorted(classes), 20)}"
        raise UserError(
            "config", f"{source} does not list the classes of the data set; {'; '.join(problems)}", hint
        )
    return order


def split_stratified(
    labels_N: NDArray[Any], share: float, classes: tuple[str, ...]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the indices of the remaining and of the held-out images, each ascending.

    Of n images of a class, round(share·n) are held out, but at least 1 and at most n − 1; the same ones in
    every run. Raises UserError("data") if a class has only one image.
    """
    counts = np.bincount(labels_N, minlength=len(classes))
    if (counts < 2).any():
        names = [classes[index] for index in np.flatnonzero(counts < 2)]
        message = f"cannot hold out images of classes with fewer than two: {format_names(names)}"
        raise_data_error(message, "add images to these classes, or give the set a test split")
    held = []
    for label, count in enumerate(counts):
        members = np.flatnonzero(labels_N == label)
        held_count = min(max(round(share * int(count)), 1), int(count) - 1)
        held.append(generator(0, "holdout", label).permutation(members)[:held_count])
    held_N = np.sort(np.concatenate(held))
    return np.setdiff1d(np.arange(len(labels_N)), held_N), held_N


def load_digits(settings: config.Data) -> tuple[tuple[str, ...], Split, Split | None]:
    """Return scikit-learn's digits: classes, training and test split, the latter only if it is wanted.

    They are 1,797 real images that need no download: 8×8 pixels of 17 levels of grey, enlarged bilinearly.
    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, CC BY 4.0.
    """
    with np.load(Path(__file__).with_name("digits.npz")) as digits:
        pixels_NHW, target_N = digits["pixels"], digits["labels"]
    classes = tuple("0123456789")
    order_N = np.argsort(target_N, kind="stable")
    labels_N = target_N[order_N].astype(np.int64)
    x_N1HW = torch.from_numpy(pixels_NHW[order_N]).unsqueeze(1).double() / 16
    size = settings.image_size or KNOWN["digits"].size
    x_N1SS = functional.interpolate(x_N1HW, size, mode="bilinear", align_corners=False)
    pixels = (x_N1SS * 255).round().clamp(0, 255).to(torch.uint8).numpy()
    digest = hashlib.sha256(pixels.tobytes()).hexdigest()
    shape, rows = Shape(1, pixels.shape[2]), np.arange(len(pixels))
    whole = Split(pixels, digest, shape, labels_N, rows, channel_sums(pixels))
    train_N, test_N = split_stratified(labels_N, 0.2, classes)
    return classes, whole.take(train_N), whole.take(test_N) if settings.test == "test" else None


def _load_from_disk(
    settings: config.Data, root: Path | None, progress: Progress | None
) -> tuple[tuple[str, ...], Split, Split | None, Split]:
    """Return the classes, the training split, the test split if there is one, and what may be held out.

    The last is the training split with the framing of test images, or the training split itself.
    """
    source = find_source(settings, root)
    if source.test is None and settings.test == "test" and settings.name != "folder":
        raise_data_error(
            f"{source.path} has no test split", "add it, or hold out training images: data.test=holdout"
        )
    shapes = decide_shapes(settings, source, progress)
    train = _load_split(settings, source, source.train, shapes["train"], progress)
    if source.test is not None:
        test = _load_split(settings, source, source.test, shapes["test"], progress)
        return source.classes, train, test, train
    same = shapes["train"] == shapes["test"]
    framed = train if same else _load_split(settings, source, source.train, shapes["test"], progress)
    return source.classes, train, None, framed


def decide_shapes(
    settings: config.Data, source: DataSetSource, progress: Progress | None
) -> dict[str, Shape]:
    """Return the shape to which the images of each split, `train` and `test`, are converted.

    Raises UserError: "config" if images would be resized to less than that, "data" as `_decide_shape` does.
    """
    shape = _decide_shape(settings, source, progress)
    for name, side in (("resize", settings.resize), ("test_resize", settings.test_resize)):
        if side is not None and side < shape.size:
            raise UserError(
                "config",
                f"data.{name} = {side} is smaller than the images, which have {shape.size} px",
                f"set data.{name} to {shape.size} or more, or to null",
            )
    return {
        "train": replace(shape, resize=settings.resize),
        "test": replace(shape, resize=settings.test_resize),
    }


def _decide_shape(settings: config.Data, source: DataSetSource, progress: Progress | None) -> Shape:
    """Return the channels and side to which the images are converted.

    Named sets have three channels and a fixed default side. For a folder, the training pictures decide:
    one channel if all are grey; the common side if they are equal squares, else the most frequent short
    side. Raises UserError("data") if that side is ambiguous or too small.
    """
    known = KNOWN[settings.name]
    if known.size is not None:
        return Shape(3, settings.image_size or known.size)
    headers = load_or_read_headers(source.train, progress)
    size = settings.image_size or _choose_side(headers["sizes"], source.path)
    return Shape(1 if headers["grey"] else 3, size)


def _choose_side(sizes: list[list[int]], path: Path) -> int:
    if not sizes:
        raise_data_error(
            f"none of the training pictures in {path} can be read", "`cfm data check` names them"
        )
    sides: Counter[int] = Counter()
    for width, height, count in sizes:
        sides[min(width, height)] += count
    size = sides.most_common(1)[0][0]
    advice = "give the side in pixels to resize them to, e.g. --set data.image_size=64"
    if (len(sizes) > 1 or sizes[0][0] != sizes[0][1]) and size > 64:
        raise_data_error(
            f"the pictures in {path} are not equal squares (short sides mostly {size} px)", advice
        )
    if size < 16:  # the smallest side that networks support
        raise_data_error(f"the pictures in {path} have {size} px, fewer than 16", advice.replace("64", "16"))
    return size


def _load_split(
    settings: config.Data, source: DataSetSource, pictures: Pictures, shape: Shape, progress: Progress | None
) -> Split:
    """Load one split: decoded in memory if it is small, otherwise streamed from its files.

    The files of a streamed split are read beforehand only to skip bad ones or to measure mean and std;
    otherwise the header of the first picture of each class is, because pixels of an unfit type seldom come
    alone. Unreadable pictures raise UserError("data") or are skipped, according to the settings.
    """
    streamed = is_streamed(settings.name, len(pictures), shape)
    has_normalisation = KNOWN[settings.name].mean is not None or (
        settings.mean is not None and settings.std is not None
    )
    if streamed and has_normalisation and settings.on_bad_image == "refuse":
        firsts = np.unique(pictures.labels_N, return_index=True)[1].tolist()
        if bad := list_bad_headers(pictures, firsts):
            _raise_bad_images(source.path, len(firsts), bad)
        rows = np.arange(len(pictures))
        return Split(pictures, pictures.contents(), shape, pictures.labels_N, rows)
    entry = load_or_decode(pictures, shape, progress, keep_pixels=not streamed)
    skipped = _collect_skipped(settings, source, pictures, entry)
    if entry.pixels is None:
        digest, labels = pictures.contents(), pictures.labels_N
        return Split(pictures, digest, shape, labels, entry.indices_N, entry.sums_N2C, skipped)
    labels = pictures.labels_N[entry.indices_N]
    differs = set(entry.resolutions) != {(shape.size, shape.size)}
    files = (pictures, entry.indices_N) if differs else None
    rows = np.arange(len(labels))
    return Split(entry.pixels, entry.digest, shape, labels, rows, entry.sums_N2C, skipped, files)


def is_streamed(name: str, images: int, shape: Shape) -> bool:
    """Return whether a split is streamed: always for ImageNet, else if its pixels exceed 4 GiB."""
    return name == "imagenet" or images * shape.channels * shape.size**2 > 4 * 1024**3


def _collect_skipped(
    settings: config.Data, source: DataSetSource, pictures: Pictures, entry: DecodedSplit
) -> tuple[str, ...]:
    """Return the names of unreadable pictures to skip.

    Raises UserError("data") if the settings do not allow that, or if a class would become empty.
    """
    if entry.bad and settings.on_bad_image == "refuse":
        _raise_bad_images(source.path, len(pictures), entry.bad)
    counts = np.bincount(pictures.labels_N[entry.indices_N], minlength=len(source.classes))
    if not counts.all():
        names = [source.classes[index] for index in np.flatnonzero(counts == 0)]
        message = f"no picture in {source.path} can be read for {format_names(names)}"
        raise_data_error(message, "repair or add pictures there")
    return tuple(name for _, name, _ in entry.bad)


def _raise_bad_images(path: Path, total: int, bad: Sequence[tuple[int, str, str]]) -> NoReturn:
    """Raise UserError("data") for unreadable ones of the `total` pictures that were opened.

    bad: (index, name, reason).
    """
    raise_data_error(
        f"{len(bad):,} of {total:,} pictures in {path} cannot be read: "
        + format_names([f"{name} ({reason})" for _, name, reason in bad]),
        "repair or remove them, or skip them with --set data.on_bad_image=skip",
    )


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
            message = f"data.{name} has {len(values)} values, but the images have {channels} channels"
            raise UserError("config", message, f"give {channels} values, or leave data.{name} out")
    if not min(std) > 0:
        raise_data_error("a colour channel is constant over all training images", "set data.std")
    return mean, std
