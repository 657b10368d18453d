"""What several tests need: a small teacher and small sets of real digits."""

from __future__ import annotations

import pytest
import torch

from engine import backbones
from engine.config import Config
from engine.data import DataSet, load


def drive(stage):
    """Pull a stage to its end: its events and its artefact."""
    events = []
    while True:
        try:
            events.append(next(stage))
        except StopIteration as stop:
            return events, stop.value


@pytest.fixture(scope="session")
def cpu() -> torch.device:
    return torch.device("cpu")


@pytest.fixture(scope="session")
def digits(tmp_path_factory) -> DataSet:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CFM_CACHE", str(tmp_path_factory.mktemp("cache")))
        return load(Config().data)


@pytest.fixture(scope="session")
def teacher() -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = backbones.build(
            Config.model_validate({"backbone": {"width": 16}}).backbone, classes=10, channels=1, image_size=16
        )
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_var.uniform_(0.5, 2.0)
                module.running_mean.normal_()
    return model.eval()


def small(**changes) -> Config:
    """A configuration that runs in well under a second a stage."""
    base = {
        "ipc": 2,
        "backbone": {"width": 16},
        "squeeze": {"epochs": 1},
        "recover": {"iterations": 6, "lr": 0.1, "views": {"crop_scale": [0.5, 1.0], "roll": 2}},
        "validate": {"epochs": 3, "seeds": 2, "batch": 8, "evaluate_from": 1.0},
    }
    for key, value in changes.items():
        base[key] = {**base[key], **value} if isinstance(value, dict) and key in base else value
    return Config.model_validate(base)
