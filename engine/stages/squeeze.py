"""Squeeze: train the teacher on the real images (Table 8)."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine import backbones
from engine.checkpoint import IntervalTimer, StageState, capture_state
from engine.config import Config
from engine.data import ImageSet, augmentation
from engine.device import autocast, explain_out_of_memory, upload
from engine.events import Event
from engine.rng import generator
from engine.stages.training import EpochLog, Trainer, split_batches


def squeeze(
    config: Config, model: nn.Module, train: ImageSet, device: torch.device, saved: StageState | None = None
) -> Generator[Event, None, nn.Module]:
    """Train the untrained `model` on the training images; returns it in evaluation mode.

    saved: goes on from where another call offered a save point. Raises UserError("numeric") naming the
    epoch whose loss is not finite.
    """
    settings = config.squeeze
    model = backbones.place_on(model, device).train()
    trainer = Trainer(model, settings.optimiser, settings.epochs, settings.precision)
    log = EpochLog("squeeze", config.backbone.name, "teacher", config.seed, settings.epochs)
    pace = IntervalTimer(config.checkpoint_seconds)
    if saved is not None:
        trainer.load_state_dict(saved)

    def loss_of(indices: np.ndarray) -> Tensor:
        x_MCHW = train.batch(indices, device, drawn.take(indices))
        labels_M = upload(train.labels_N[torch.from_numpy(indices)], device)
        with autocast(device, settings.precision):
            logits_MK = model(x_MCHW.contiguous(memory_format=torch.channels_last))
        return F.cross_entropy(logits_MK.float(), labels_M)

    def capture() -> StageState:
        place = {"epoch": trainer.epoch, "batch": trainer.batch}
        return capture_state(trainer.state_dict(), log.where(trainer), log.hint, **place)

    what = f"training the teacher with batches of {settings.batch}"
    while trainer.epoch < settings.epochs:
        epoch = trainer.epoch
        rng = generator(config.seed, "squeeze", epoch)
        batches = split_batches(rng.permutation(len(train)), settings.batch)
        drawn = augmentation.draw(settings.views, train.size, len(train), rng)
        with explain_out_of_memory(device, what, "lower squeeze.batch; it changes the result"):
            for _ in trainer.steps(batches, loss_of, config.seed, "squeeze"):
                if pace.due():
                    yield from log.save_point(capture)
        yield from log.add(epoch, trainer.end_epoch(len(train)))
        if pace.due():
            yield from log.save_point(capture)
    log.require_finite(model)
    return model.eval()
