"""Soft labels of SRe²L (FKD): the files that its relabelling leaves, and the views that they are of.

Layout: ``epoch_E/batch_B.tar``, each what `torch.save` makes of [crop boxes (M, 4), shares of the side (top,
left, height, width); flips (M,); partners (M,) within the batch; λ; CutMix box (first row and column, and
those past the last); logits (M, K)]. Which images a batch holds is not in it: it is the order of torch's
`RandomSampler` under a seed (42) over an ImageFolder.
Legend: M images in a batch, N images in the set, K classes.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import RandomSampler

from engine.backbones import safe_loading
from engine.checkpoint import Checkpoint, IntervalTimer
from engine.config import Config
from engine.data import ImageSet
from engine.data.augmentation import Draw, MixDraw
from engine.data.layout import refuse
from engine.events import Event, Notice, StageProgress
from engine.importers.pt_files import require_there
from engine.stages.relabel import FkdViews, state_after

WORDING = safe_loading.Wording("data", "label file", "make the labels again with the code that made them")
EXPECTED = "expected epoch_0/batch_0.tar and so on, as SRe²L's relabelling writes them"
ERRORS = 5.0  #: standard errors by which labels must agree with their images better than chance


@dataclass(frozen=True)
class Epoch:
    """The views and labels of an epoch, by the number of the image. batches: what is trained on together."""

    views: Draw
    mix: MixDraw
    batches: list[NDArray[np.int64]]
    logits_NK: NDArray[np.float16]


class Labels:
    """A folder of label files for a set in the order of recovery.

    labels_N: the classes of the set's images. epochs: how many are there. Raises UserError("data"): another
    layout, labels of other images, MixUp, which the views here do not know.
    """

    def __init__(self, path: Path, labels_N: NDArray[np.int64], classes: int, size: int, seed: int) -> None:
        self.path, self.classes, self.size = path, classes, size
        self._labels_N = labels_N
        self._as_listed_N = np.argsort(labels_N, kind="stable")  # as an ImageFolder lists them
        generator = torch.Generator()
        generator.manual_seed(seed)
        self._sampler = RandomSampler(range(len(labels_N)), generator=generator)
        self._orders: list[NDArray[np.int64]] = []
        self._latest: tuple[int, Epoch] | None = None
        self.epochs = 0
        while (path / f"epoch_{self.epochs}" / "batch_0.tar").is_file():
            self.epochs += 1
        if not self.epochs:
            refuse(f"{path} holds no labels", EXPECTED)
        self.agreement = self._require_of_these_images()

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the files' names and sizes, and of the first file of each epoch.

        Two teachers' labels of one set have the same names and sizes; all bytes would take too long to read.
        """
        digest = hashlib.sha256()
        for file in sorted(self.path.glob("epoch_*/batch_*.tar")):
            digest.update(f"{file.relative_to(self.path).as_posix()}\0{file.stat().st_size}\n".encode())
            if file.name == "batch_0.tar":
                digest.update(hashlib.sha256(file.read_bytes()).digest())
        return digest.hexdigest()

    def epoch(self, number: int) -> Epoch:
        """An epoch's views and labels. Raises UserError("data")."""
        if self._latest is None or self._latest[0] != number:
            self._latest = (number, self._read(number))
        return self._latest[1]

    def _read(self, number: int) -> Epoch:
        count, start = len(self._labels_N), 0
        boxes_N4, flip_N = np.zeros((count, 4), np.int64), np.zeros(count, bool)
        partner_N, patch_N4 = np.arange(count), np.zeros((count, 4), np.int64)
        logits_NK = np.empty((count, self.classes), np.float16)
        batches: list[NDArray[np.int64]] = []
        order_N = self._as_listed_N[self._order(number)]
        while start < count:
            path = self.path / f"epoch_{number}" / f"batch_{len(batches)}.tar"
            if not path.is_file():
                refuse(f"{path} does not exist: {start} of {count} images have labels", EXPECTED)
            coords_M4, flip_M, index_M, patch, logits_MK = _batch(path, self.classes, self.size)
            own_M = order_N[start : start + len(logits_MK)]
            if len(own_M) != len(logits_MK):
                refuse(f"the labels in {path.parent} are of more images than the set's {count}", EXPECTED)
            boxes_N4[own_M], flip_N[own_M], logits_NK[own_M] = coords_M4, flip_M, logits_MK
            partner_N[own_M], patch_N4[own_M] = own_M[index_M], patch
            batches.append(own_M)
            start += len(own_M)
        views = Draw(boxes_N4, flip_N, np.zeros((count, 2), np.int64), self.size)
        return Epoch(views, MixDraw(partner_N, patch_N4), batches, logits_NK)

    def _order(self, number: int) -> NDArray[np.int64]:
        while len(self._orders) <= number:
            self._orders.append(np.fromiter(self._sampler, np.int64))
        return self._orders[number]

    def _require_of_these_images(self) -> float:
        """The share of labels that say their image's class or its partner's; refused where it is chance."""
        first = self.epoch(0)
        said_N, own_N = first.logits_NK.argmax(axis=1), self._labels_N
        mixed_N = own_N[first.mix.partner_M]
        share = float(((said_N == own_N) | (said_N == mixed_N)).mean())
        chance = float((1 + (own_N != mixed_N)).mean()) / self.classes
        if share - chance < ERRORS * (chance * (1 - chance) / len(own_N)) ** 0.5:
            refuse(
                f"the labels in {self.path} say {100 * share:.0f} % of the images' classes, where chance says"
                f" {100 * chance:.0f} %: they are of other images, or of another order",
                "give the set that was relabelled, and its seed with --set given.label_seed=…",
            )
        return share

    def notices(self, config: Config) -> Generator[Event, None, None]:
        """What a person should know of labels from elsewhere."""
        told = f"{self.epochs} epochs of soft labels are given by {self.path}; {100 * self.agreement:.0f} %"
        yield Notice("info", f"{told} of the first say their image's class, or that of what is pasted in")
        if config.validate_.control:
            told = "the control's come from this run's teacher, under the same views"
            yield Notice("info", f"the files do not say which teacher they are of; {told}")

    def kept(
        self, epochs: int, keep: Callable[[int, Tensor], None], first: int
    ) -> Generator[Event, None, None]:
        """Hand over each epoch's logits, as relabelling would."""
        pace, since = IntervalTimer(math.inf), time.monotonic()
        for number in range(first, epochs):
            keep(number, torch.from_numpy(self.epoch(number).logits_NK))
            done = number + 1
            yield StageProgress("relabel", done, (done - first) / max(time.monotonic() - since, 1e-9))
            if pace.due():
                yield Checkpoint("relabel", partial(state_after, "distilled", done))


class ReplayedViews(FkdViews):
    """The views that given labels are of, in the batches in which they were made."""

    def __init__(self, config: Config, images: ImageSet, device: torch.device, labels: Labels) -> None:
        super().__init__(config, images, device)
        self._labels = labels

    def batches(self, epoch: int) -> list[np.ndarray]:
        """The numbers of the images of each batch; a last one of one image joins its neighbour."""
        found = list(self._labels.epoch(epoch).batches)
        if len(found) > 1 and len(found[-1]) == 1:
            found[-2:] = [np.concatenate(found[-2:])]
        return found

    def drawn(self, epoch: int) -> tuple[Draw, MixDraw | None]:
        """What the files say of an epoch."""
        known = self._labels.epoch(epoch)
        return known.views, known.mix


def read(config: Config, labels_N: NDArray[np.int64] | None, train: ImageSet) -> Labels | None:
    """The labels that the settings name; None where the teacher makes them. Raises UserError("data")."""
    if config.given.labels is None:
        return None
    if labels_N is None:
        refuse("given.labels belong to images that are given, too", "give the set with `cfm validate SET`")
    path = Path(config.given.labels)
    return Labels(path, labels_N, len(train.classes), train.size, config.given.label_seed)


def _batch(path: Path, classes: int, size: int) -> tuple[Any, Any, Any, list[int], Any]:
    """Crop boxes (M, 4) in pixels, flips, partners, patch (top, bottom, left, right), logits (M, K)."""
    content = safe_loading.read(path, WORDING)
    if not isinstance(content, list | tuple) or len(content) != 6:
        refuse(f"{path} is no file of labels", EXPECTED)
    coords, flip, index, lam, box, logits = content
    for value in (coords, flip, index, logits):
        if isinstance(value, Tensor) and safe_loading.is_plain(value):
            require_there(path, value)
    count = len(logits) if safe_loading.is_plain(logits) and logits.ndim == 2 else 0
    if not count or logits.shape[1] != classes or not bool(logits.isfinite().all()):
        refuse(f"{path} holds no finite logits of {classes} classes", EXPECTED)
    if not _is(coords, (count, 4)) or not _is(flip, (count,)):
        refuse(f"{path} has no crop box and flip for each of its {count} images", EXPECTED)
    pixels_M4 = coords.double() * size
    boxes_M4 = pixels_M4.round()
    if not bool((pixels_M4 - boxes_M4).abs().max() < 1e-2) or not _inside(boxes_M4, size):
        refuse(
            f"the crop boxes in {path} are not of whole pixels of {size}", "give images of the labels' size"
        )
    partners, patch = _mixed(path, index, box, lam, count, size)
    return boxes_M4.long().numpy(), flip.bool().numpy(), partners, patch, logits.half().numpy()


def _mixed(
    path: Path, index: object, box: object, lam: object, count: int, size: int
) -> tuple[Any, list[int]]:
    """Partners within the batch, and the patch that is pasted from them."""
    if index is None and lam is None:
        return np.arange(count), [0, 0, 0, 0]
    if box is None:
        refuse(
            f"the labels in {path} are of images that were mixed by MixUp", "the views here know CutMix alone"
        )
    whole = isinstance(box, list | tuple) and len(box) == 4 and all(type(edge) is int for edge in box)
    if not whole or not _is(index, (count,)) or not isinstance(index, Tensor):
        refuse(f"{path} has no CutMix box and partners", EXPECTED)
    assert isinstance(box, list | tuple)
    top, left, bottom, right = box
    partners = index.long()
    if not (0 <= top <= bottom <= size and 0 <= left <= right <= size) or not bool(
        ((partners >= 0) & (partners < count)).all()
    ):
        refuse(f"the CutMix box or partners in {path} lie outside the images or the batch", EXPECTED)
    return partners.numpy(), [top, bottom, left, right]


def _is(value: object, shape: tuple[int, ...]) -> bool:
    return safe_loading.is_plain(value) and isinstance(value, Tensor) and tuple(value.shape) == shape


def _inside(boxes_M4: Tensor, size: int) -> bool:
    start_M2, extent_M2 = boxes_M4[:, :2], boxes_M4[:, 2:]
    return bool(((start_M2 >= 0) & (extent_M2 >= 1) & (start_M2 + extent_M2 <= size)).all())
