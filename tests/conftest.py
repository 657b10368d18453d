"""What several tests need: a small teacher and small sets of real digits."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # workers share the processors; read when torch is loaded
os.environ["CFM_PRESETS"] = os.devnull  # whoever runs the tests may have presets
os.environ["CFM_REPEATS"] = "1"  # presets may repeat an experiment; tests of repeats say so

import pytest
import tiny
import torch

from engine import backbones
from engine.config import Config
from engine.data import DataSet, load
from engine.runs import stacks


@pytest.fixture(scope="session", autouse=True)
def unstacked():
    """Which students are trained together is measured, and changes results by rounding."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stacks.StackTrial, "is_faster", lambda self: False)
        yield


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


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The folder of a run that was computed from its first stage to its last; tests only read or copy it."""
    folder = tmp_path_factory.mktemp("finished")
    tiny.finish(tiny.begun(folder))
    return folder / "run"
