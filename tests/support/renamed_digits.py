"""The embedded digits under other class names, and small teachers trained on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import torch

from engine.config import Config, Data
from engine.data import DataSet, load
from engine.data.image_set import ImageSet
from engine.events import drain
from engine.runs.artefacts import build_network
from engine.stages.squeeze import squeeze

CPU = torch.device("cpu")


@cache
def digits() -> DataSet:
    """The digits as they are, without a cache."""
    return load(Data())


@cache
def teacher(epochs: int = 3, lr: float = 0.1, seed: int = 0, count: int | None = None) -> torch.nn.Module:
    """A small ConvNet trained on the digits. count: how many of them, mixed; None for all."""
    optimiser = {"lr": lr}
    settings = {"epochs": epochs, "batch": 64, "optimiser": optimiser, "views": {"padding": 0}}
    config = Config.model_validate({"seed": seed, "backbone": {"width": 16}, "squeeze": settings})
    train = digits().train
    if count is not None:
        chosen = np.random.default_rng(seed).permutation(len(train))[:count]
        labels_N = train.labels_N[torch.from_numpy(chosen)]
        train = ImageSet.from_arrays(train.pixels(chosen), labels_N, train.classes, train.mean, train.std)
    return drain(squeeze(config, build_network(config, digits()), train, CPU), lambda event: None).eval()


def renamed(names: Sequence[str]) -> DataSet:
    """The digits as a folder set reads them if digit d is in the folder `names[d]`: sorted by name."""
    classes = sorted(names)
    label_of = np.array([classes.index(name) for name in names])

    def rename(images: ImageSet) -> ImageSet:
        labels_N = label_of[images.labels_N.numpy()]
        order_N = np.argsort(labels_N, kind="stable")
        pixels = images.pixels(order_N)
        return ImageSet.from_arrays(pixels, labels_N[order_N], classes, images.mean, images.std)

    data = digits()
    return replace(data, train=rename(data.train), test=rename(data.test), fingerprint="renamed")


def save(model: torch.nn.Module, path) -> str:
    """Save the weights of a network; return the path as text."""
    torch.save(model.state_dict(), path)
    return str(path)
