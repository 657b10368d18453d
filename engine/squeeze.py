"""Squeeze: train the teacher on the real images (Table 8)."""

from __future__ import annotations

from collections.abc import Generator

import torch
import torch.nn.functional as F
from torch import nn

from engine import augment, backbones
from engine.config import Config
from engine.data import ImageSet
from engine.events import Event
from engine.rng import generator, torch_seeded
from engine.training import EpochLog, Trainer, batches_of


def squeeze(
    config: Config, model: nn.Module, train: ImageSet, device: torch.device
) -> Generator[Event, None, nn.Module]:
    """Train the untrained `model` on the training images; returns it in evaluation mode."""
    settings = config.squeeze
    model = backbones.placed(model, device)
    trainer = Trainer(model, settings.optimiser, settings.epochs)
    log = EpochLog("squeeze", config.backbone.name, "teacher", config.seed, settings.epochs)
    model.train()
    for epoch in range(settings.epochs):
        trainer.begin(epoch)
        rng = generator(config.seed, "squeeze", epoch)
        order_N = rng.permutation(len(train))
        drawn = augment.draw(settings.views, train.size, len(train), rng)
        total = torch.zeros((), device=device)
        with torch_seeded(config.seed, "squeeze", epoch):
            for indices in batches_of(order_N, settings.batch):
                x_MCHW = train.batch(indices, device, drawn.take(indices))
                labels_M = train.labels_N[torch.from_numpy(indices)].to(device, non_blocking=True)
                logits_MK = model(x_MCHW.contiguous(memory_format=torch.channels_last))
                loss = F.cross_entropy(logits_MK, labels_M)
                trainer.step(loss)
                total += loss.detach() * len(indices)
        yield from log.add(epoch, total / len(train))
    return model.eval()
