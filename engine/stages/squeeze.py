"""Squeeze: train the teacher on the real images (UniDD Table 8)."""

from __future__ import annotations

import math
from collections.abc import Generator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine import backbones
from engine.backbones.teacher_check import TeacherTrial
from engine.checkpoint import IntervalTimer, StageState, capture_state
from engine.config import Config
from engine.data import DataSet, ImageSet, augmentation
from engine.device import autocast, explain_out_of_memory, upload
from engine.errors import UserError
from engine.events import Event
from engine.rng import generator
from engine.stages.training import EpochLog, SubsetEvaluator, Trainer, split_batches


def squeeze(
    config: Config,
    model: nn.Module,
    train: ImageSet,
    device: torch.device,
    saved: StageState | None = None,
    evaluator: SubsetEvaluator | None = None,
) -> Generator[Event, None, nn.Module]:
    """Train the untrained `model` on the training images and return it in evaluation mode.

    saved: resume from this state. evaluator: shows the accuracy on some test images. Raises
    UserError("numeric") naming the epoch whose loss is not finite.
    """
    settings = config.squeeze
    model = backbones.place_on(model, device).train()
    trainer = Trainer(model, settings.optimiser, settings.epochs, settings.precision)
    log = EpochLog("squeeze", config.backbone.name, [("teacher", config.seed)], settings.epochs)
    timer = IntervalTimer(config.checkpoint_seconds)
    evaluator = evaluator or SubsetEvaluator(train, 0, device)
    if saved is not None:
        trainer.load_state_dict(saved)

    def compute_loss(indices: np.ndarray) -> Tensor:
        x_MCHW = train.batch(indices, device, views.take(indices))
        labels_M = upload(train.labels_N[torch.from_numpy(indices)], device)
        with autocast(device, settings.precision):
            logits_MK = model(x_MCHW.contiguous(memory_format=torch.channels_last))
        return F.cross_entropy(logits_MK.float(), labels_M).unsqueeze(0)

    def capture() -> StageState:
        position = {"epoch": trainer.epoch, "batch": trainer.batch}
        return capture_state(trainer.state_dict(), log.describe_position(trainer), log.hint, **position)

    what = f"training the teacher with batches of {settings.batch}"
    while trainer.epoch < settings.epochs:
        epoch = trainer.epoch
        rng = generator(config.seed, "squeeze", epoch)
        batches = split_batches(rng.permutation(len(train)), settings.batch)
        views = augmentation.draw(settings.views, train.size, len(train), rng)
        with explain_out_of_memory(device, what, "lower squeeze.batch; this changes the result"):
            steps = trainer.steps(batches, compute_loss, config.seed, "squeeze")
            for _ in evaluator.watch(steps):
                if timer.due():
                    yield from log.checkpoint(capture)
        yield from log.add(epoch, trainer.end_epoch(len(train)), subset=evaluator.evaluate(model))
        if timer.due():
            yield from log.checkpoint(capture)
    log.require_finite(model)
    return model.eval()


def count_sample_images(classes: int) -> int:
    """Return on how many images of each split a trained teacher is examined."""
    return max(2000, 50 * classes)


def describe_failure(model: nn.Module, data: DataSet, device: torch.device) -> str:
    """Return a warning about a teacher that learned little; empty if it learned enough.

    The teacher is compared with chance, 1/K and ln K, on `count_sample_images` images. It learned little if
    its accuracy on training images is certainly (three standard errors) within the lowest tenth of what is
    above chance.
    Raises UserError("teacher") if that accuracy cannot even be told from chance.
    """
    classes = len(data.train.classes)
    count, chance = count_sample_images(classes), 1 / classes
    train = TeacherTrial(model, data.train, device).answer(count)
    images, share = len(train.labels_N), max(train.accuracy / 100, chance)
    if share + 3 * math.sqrt(share * (1 - share) / images) > chance + 0.1 * (1 - chance):
        return ""
    test = TeacherTrial(model, data.test, device).answer(count)
    message = (
        f"after squeeze, the teacher gets {train.accuracy:.2f} % of {images:,} training images and"
        f" {test.accuracy:.2f} % of {len(test.labels_N):,} test images right, at a loss of {train.loss:.2f};"
        f" chance is {100 * chance:.3g} % and {math.log(classes):.2f}"
    )
    hint = (
        "train it longer (squeeze.epochs), with another learning rate (squeeze.optimiser.lr), a smaller"
        " squeeze.batch, or larger crops (squeeze.views.crop_scale)"
    )
    if share - chance < 3 * math.sqrt(chance * (1 - chance) / images):
        raise UserError("teacher", f"{message}: it learned nothing", hint)
    return f"{message}: it learned little; {hint}"
