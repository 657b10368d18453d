"""FKD relabelling: the teacher's logits for replayable views of the distilled images.

Views are a function of the seed, the epoch and the index of the image, so labels do not depend on the order
in which they are computed; nor on the students' batch size, unless one mix is drawn per batch.
Legend: E stored epochs, N images, M images in a batch, C channels, H, W, K classes.
Source: FKD (Shen and Xing 2022) as used by SRe²L; pruned stores as in LPLD.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from engine.backbones.labeller import Labeller
from engine.checkpoint import Checkpoint, IntervalTimer, Rate, StageState, work_clock
from engine.config import Config
from engine.data import ImageSet, augmentation
from engine.device import explain_out_of_memory
from engine.errors import UserError
from engine.events import Event, StageProgress
from engine.rng import generator
from engine.stages.training import split_batches

RELABEL_BATCH = 256


class FkdViews:
    """The augmented images of every epoch: crop, flip and mixing, replayable.

    stream: index of an independent sequence of random draws; stored labels use 0.
    """

    def __init__(self, config: Config, images: ImageSet, device: torch.device, stream: int = 0) -> None:
        self.config = config
        self.images = images
        self.device = device
        self.stream = stream
        self._epoch = -1

    def batches(self, epoch: int) -> list[np.ndarray]:
        """Return the image indices of each of a student's batches, shuffled."""
        order_N = generator(self.config.seed, "order", self.stream, epoch).permutation(len(self.images))
        return split_batches(order_N, self.config.validate_.batch)

    def batch(self, epoch: int, indices_M: np.ndarray) -> Tensor:
        """Return views (M, C, H, W) of the images with these indices, normalised, channels-last."""
        if epoch != self._epoch:
            self._views, self._mix = self.draw(epoch)
            self._epoch = epoch
        x_MCHW = self._load_views(indices_M)
        if self._mix is not None:
            mix = self._mix.take(indices_M)
            x_MCHW = augmentation.mix(mix, x_MCHW, self._load_views(mix.partner_M))
        return x_MCHW.contiguous(memory_format=torch.channels_last)

    def draw(self, epoch: int) -> tuple[augmentation.Draw, augmentation.MixDraw | None]:
        """Draw the crops and flips of all images in an epoch, and how they are mixed, if they are."""
        settings, size = self.config.validate_, self.images.size
        rng = generator(self.config.seed, "fkd", self.stream, epoch)
        views = augmentation.draw(settings.views, size, len(self.images), rng)
        if settings.mixup:
            return views, augmentation.draw_mixup(self.batches(epoch), rng, settings.mixup)
        if settings.cutmix == "none":
            return views, None
        shared = settings.cutmix == "batch"
        return views, augmentation.draw_cutmix(size, self.batches(epoch), rng, shared=shared)

    def _load_views(self, indices_M: np.ndarray) -> Tensor:
        return self.images.batch(indices_M, self.device, self._views.take(indices_M))


@dataclass(frozen=True)
class StoredLabels:
    """Stored logits for `epochs` epochs of views, read one epoch at a time; later epochs reuse them in turn.

    read: returns the float16 logits (N, K) of a stored epoch, counted from 0. views: returns the views of a
    set of images, on a device, that the logits belong to; None: `FkdViews` of stream 0.
    """

    epochs: int
    read: Callable[[int], NDArray[np.float16]]
    views: Callable[[ImageSet, torch.device], FkdViews] | None = None

    def epoch(self, epoch: int) -> int:
        """Return the stored epoch that a student's 0-based epoch replays."""
        return epoch % self.epochs

    def logits(self, epoch: int) -> Tensor:
        """Return the logits (N, K) of a stored epoch, counted from 0."""
        return torch.from_numpy(np.require(self.read(epoch), requirements="W"))


def relabel(
    config: Config,
    teacher: nn.Module,
    images: ImageSet,
    device: torch.device,
    keep: Callable[[int, Tensor], None],
    source: str,
    first: int = 0,
    views: FkdViews | None = None,
) -> Generator[Event, None, None]:
    """Label every view of `relabel.stored_epochs` epochs (all of them if None) once.

    keep: called with each epoch's number from 0 and its float16 logits (N, K) on the CPU. source: the name
    of the set of images. first: the first epoch that is not stored yet; an interrupted epoch is relabelled.
    views: overrides `FkdViews` of stream 0.
    Raises UserError("numeric") naming an image whose logits are not finite.
    """
    epochs = config.relabel.stored_epochs or config.validate_.epochs
    settings = config.validate_
    labeller = Labeller(teacher, device, settings.precision, settings.teacher_batchnorm)
    views = views or FkdViews(config, images, device)
    timer, rate = IntervalTimer(config.checkpoint_seconds), Rate()
    for epoch in range(first, epochs):
        started = work_clock()
        logits_NK = torch.empty((len(images), len(images.classes)), dtype=torch.float16)
        if settings.teacher_batchnorm == "batch":  # each label depends on the student's whole batch
            batches = views.batches(epoch)
        else:
            batches = np.split(np.arange(len(images)), range(RELABEL_BATCH, len(images), RELABEL_BATCH))
        done = 0
        for indices in batches:
            done += len(indices)
            what = f"relabelling images {done - len(indices) + 1} to {done} of the {source} set"
            with explain_out_of_memory(device, what, "set validate.precision=bfloat16"):
                logits_NK[torch.from_numpy(indices)] = labeller(views.batch(epoch, indices)).half().cpu()
            if done < len(images) and timer.due():
                yield Checkpoint("relabel", partial(state_after, source, epoch))
        _require_finite(logits_NK, source, epoch)
        keep(epoch, logits_NK)
        done = epoch + 1
        yield StageProgress("relabel", done, rate.add(1, work_clock() - started))
        if timer.due():
            yield Checkpoint("relabel", partial(state_after, source, done))


def state_after(source: str, epochs: int) -> StageState:
    """Return the state of relabelling after `epochs` epochs of a source are stored."""
    return StageState(metadata={"source": source, "epochs": epochs})


def _require_finite(logits_NK: Tensor, source: str, epoch: int) -> None:
    bad_N = ~logits_NK.isfinite().all(dim=1)
    if bool(bad_N.any()):
        image = int(bad_N.nonzero()[0])
        raise UserError(
            "numeric",
            f"the teacher's logits for {source} image {image} in epoch {epoch + 1} are not finite in float16",
            "use another teacher, or set relabel.mode=online",
        )
