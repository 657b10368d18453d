"""Read soft labels of SRe²L (FKD) and replay the augmented views that they were computed on.

Layout: ``epoch_E/batch_B.tar``, each written by `torch.save` from [crop boxes (M, 4) as fractions of the side
(top, left, height, width); flips (M,); partners (M,) within the batch; λ; CutMix box (first row and column,
and one past the last ones); logits (M, K)]. The files do not list the images of a batch: their order is that
of torch's `RandomSampler` over an ImageFolder with a seed, 42 by default.
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
from typing import Any, TypeGuard

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
from engine.errors import raise_data_error
from engine.events import Event, Notice, StageProgress
from engine.importers.pt_files import refuse_expanded_view
from engine.stages.relabel import FkdViews, state_after

_EXPECTED = "expected epoch_0/batch_0.tar and so on, as written by SRe²L's relabelling"


@dataclass(frozen=True)
class Epoch:
    """The views and logits of an epoch, indexed by image. batches: image numbers of each training batch."""

    views: Draw
    mix: MixDraw
    batches: list[NDArray[np.int64]]
    logits_NK: NDArray[np.float16]


class FkdLabels:
    """A folder of label files for a set in the order of recovery.

    labels_N: the classes of the set's images. epochs: number of stored epochs. agreement: share of labels
    that agree with their images. Raises UserError("data"): another layout, labels of other images, or MixUp,
    which is not supported.
    """

    def __init__(self, path: Path, labels_N: NDArray[np.int64], classes: int, size: int, seed: int) -> None:
        self.path, self.classes, self.size = path, classes, size
        self._labels_N = labels_N
        self._folder_order_N = np.argsort(labels_N, kind="stable")  # the order of an ImageFolder
        generator = torch.Generator()
        generator.manual_seed(seed)
        self._sampler = RandomSampler(range(len(labels_N)), generator=generator)
        self._orders: list[NDArray[np.int64]] = []
        self._latest: tuple[int, Epoch] | None = None
        self.epochs = 0
        while (path / f"epoch_{self.epochs}" / "batch_0.tar").is_file():
            self.epochs += 1
        if not self.epochs:
            raise_data_error(f"{path} contains no labels", _EXPECTED)
        self.agreement = self._require_agreement()

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the files' names and sizes, and of the first file of each epoch.

        Labels of one set by two teachers have the same names and sizes; reading all bytes would take too
        long.
        """
        digest = hashlib.sha256()
        for file in sorted(self.path.glob("epoch_*/batch_*.tar")):
            digest.update(f"{file.relative_to(self.path).as_posix()}\0{file.stat().st_size}\n".encode())
            if file.name == "batch_0.tar":
                digest.update(hashlib.sha256(file.read_bytes()).digest())
        return digest.hexdigest()

    def epoch(self, number: int) -> Epoch:
        """Return an epoch's views and labels. Raises UserError("data"): damaged or incompatible files."""
        if self._latest is None or self._latest[0] != number:
            self._latest = (number, self._read(number))
        return self._latest[1]

    def _read(self, number: int) -> Epoch:
        count, start = len(self._labels_N), 0
        boxes_N4, flip_N = np.zeros((count, 4), np.int64), np.zeros(count, bool)
        partner_N, patch_N4 = np.arange(count), np.zeros((count, 4), np.int64)
        logits_NK = np.empty((count, self.classes), np.float16)
        batches: list[NDArray[np.int64]] = []
        while len(self._orders) <= number:
            self._orders.append(np.fromiter(self._sampler, np.int64))
        order_N = self._folder_order_N[self._orders[number]]
        while start < count:
            path = self.path / f"epoch_{number}" / f"batch_{len(batches)}.tar"
            if not path.is_file():
                raise_data_error(f"{path} does not exist: {start} of {count} images have labels", _EXPECTED)
            coords_M4, flip_M, partner_M, patch, logits_MK = _read_batch(path, self.classes, self.size)
            indices_M = order_N[start : start + len(logits_MK)]
            if len(indices_M) != len(logits_MK):
                raise_data_error(
                    f"the labels in {path.parent} are for more images than the set's {count}", _EXPECTED
                )
            boxes_N4[indices_M], flip_N[indices_M], logits_NK[indices_M] = coords_M4, flip_M, logits_MK
            partner_N[indices_M], patch_N4[indices_M] = indices_M[partner_M], patch
            batches.append(indices_M)
            start += len(indices_M)
        views = Draw(boxes_N4, flip_N, np.zeros((count, 2), np.int64), self.size)
        return Epoch(views, MixDraw(partner_N, patch_N4), batches, logits_NK)

    def _require_agreement(self) -> float:
        """Return the share of labels that predict the image's or its partner's class.

        Raises UserError("data") unless it is better than chance by five standard errors.
        """
        first = self.epoch(0)
        predicted_N, label_N = first.logits_NK.argmax(axis=1), self._labels_N
        partner_label_N = label_N[first.mix.partner_M]
        share = float(((predicted_N == label_N) | (predicted_N == partner_label_N)).mean())
        chance = float((1 + (label_N != partner_label_N)).mean()) / self.classes
        if share - chance < 5 * (chance * (1 - chance) / len(label_N)) ** 0.5:
            raise_data_error(
                f"the labels in {self.path} agree with {100 * share:.0f} % of the images' classes, about as"
                f" chance ({100 * chance:.0f} %): they belong to other images or to another order",
                "give the set that was relabelled, and its seed with --set given.label_seed=…",
            )
        return share

    def notices(self, config: Config) -> Generator[Event, None, None]:
        """Yield notices about the labels' source and agreement, and about the control's labels."""
        agreement = f"{100 * self.agreement:.0f} % of the first epoch match their image's or patch's class"
        yield Notice("info", f"using {self.epochs} epochs of soft labels from {self.path}; {agreement}")
        if config.controls:
            control = "the control is labelled by this run's teacher, under the same views"
            yield Notice("info", f"the label files do not record their teacher; {control}")

    def copy_logits(
        self, epochs: int, keep: Callable[[int, Tensor], None], first: int
    ) -> Generator[Event, None, None]:
        """Pass each epoch's logits to `keep`, yielding the same events as relabelling."""
        timer, since = IntervalTimer(math.inf), time.monotonic()
        for number in range(first, epochs):
            keep(number, torch.from_numpy(self.epoch(number).logits_NK))
            done = number + 1
            yield StageProgress("relabel", done, (done - first) / max(time.monotonic() - since, 1e-9))
            if timer.due():
                yield Checkpoint("relabel", partial(state_after, "distilled", done))


class ReplayedViews(FkdViews):
    """The views that given labels were computed on, in their original batches."""

    def __init__(self, config: Config, images: ImageSet, device: torch.device, labels: FkdLabels) -> None:
        super().__init__(config, images, device)
        self._labels = labels

    def batches(self, epoch: int) -> list[np.ndarray]:
        """Return the image numbers of each batch; a last batch of one image is merged into the one before."""
        batches = list(self._labels.epoch(epoch).batches)
        if len(batches) > 1 and len(batches[-1]) == 1:
            batches[-2:] = [np.concatenate(batches[-2:])]
        return batches

    def draw(self, epoch: int) -> tuple[Draw, MixDraw | None]:
        """Return the stored crops, flips and CutMix patches of an epoch."""
        stored = self._labels.epoch(epoch)
        return stored.views, stored.mix


def read(config: Config, labels_N: NDArray[np.int64] | None, train: ImageSet) -> FkdLabels | None:
    """Open the labels that the settings name; return None if the run's teacher creates them.

    Raises UserError("data"): no given images, or labels of another layout, other images, or with MixUp.
    """
    if config.given.labels is None:
        return None
    if labels_N is None:
        raise_data_error("given.labels needs given images", "give the labelled set with `cfm validate SET`")
    path = Path(config.given.labels)
    return FkdLabels(path, labels_N, len(train.classes), train.size, config.given.label_seed)


def _read_batch(path: Path, classes: int, size: int) -> tuple[Any, Any, Any, list[int], Any]:
    """Read crop boxes (M, 4) in pixels, flips, partners, patch (top, bottom, left, right), logits (M, K)."""
    hint = "create the labels again with the code that wrote them"
    content = safe_loading.read(path, safe_loading.Wording("data", "label file", hint))
    if not isinstance(content, list | tuple) or len(content) != 6:
        raise_data_error(f"{path} is not a label file", _EXPECTED)
    coords, flip, index, lam, box, logits = content
    for tensor in (coords, flip, index, logits):
        if safe_loading.is_plain(tensor):
            refuse_expanded_view(path, tensor)
    count = len(logits) if safe_loading.is_plain(logits) and logits.ndim == 2 else 0
    if not count or logits.shape[1] != classes or not bool(logits.isfinite().all()):
        raise_data_error(f"{path} contains no finite logits of {classes} classes", _EXPECTED)
    if not _is_tensor(coords, (count, 4)) or not _is_tensor(flip, (count,)):
        raise_data_error(f"{path} has no crop box and flip for each of its {count} images", _EXPECTED)
    pixels_M4 = coords.double() * size
    boxes_M4 = pixels_M4.round()
    start_M2, extent_M2 = boxes_M4[:, :2], boxes_M4[:, 2:]
    is_inside_M2 = (start_M2 >= 0) & (extent_M2 >= 1) & (start_M2 + extent_M2 <= size)
    if not bool((pixels_M4 - boxes_M4).abs().max() < 1e-2) or not bool(is_inside_M2.all()):
        message = f"the crop boxes in {path} are not whole pixels of {size} px images"
        raise_data_error(message, "give images of the size that was labelled")
    partners, patch = _read_mix(path, index, box, lam, count, size)
    return boxes_M4.long().numpy(), flip.bool().numpy(), partners, patch, logits.half().numpy()


def _read_mix(
    path: Path, index: object, box: Any, lam: object, count: int, size: int
) -> tuple[Any, list[int]]:
    """Return the partners within the batch, and the patch (top, bottom, left, right) pasted from them."""
    if index is None and lam is None:
        return np.arange(count), [0, 0, 0, 0]
    if box is None:
        message = f"the labels in {path} are for images that were mixed by MixUp"
        raise_data_error(message, "give labels that were made with CutMix or without mixing")
    is_box = isinstance(box, list | tuple) and len(box) == 4 and all(type(edge) is int for edge in box)
    if not is_box or not _is_tensor(index, (count,)):
        raise_data_error(f"{path} has no CutMix box and partners", _EXPECTED)
    top, left, bottom, right = box
    partners = index.long()
    if not (0 <= top <= bottom <= size and 0 <= left <= right <= size) or not bool(
        ((partners >= 0) & (partners < count)).all()
    ):
        raise_data_error(
            f"the CutMix box or partners in {path} lie outside the images or the batch", _EXPECTED
        )
    return partners.numpy(), [top, bottom, left, right]


def _is_tensor(value: object, shape: tuple[int, ...]) -> TypeGuard[Tensor]:
    return safe_loading.is_plain(value) and tuple(value.shape) == shape
