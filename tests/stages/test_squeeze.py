"""A trained teacher held against chance."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from renamed_digits import CPU, digits, teacher
from stages import drive, small

from engine.data.image_set import ImageSet
from engine.errors import UserError
from engine.events import Notice
from engine.runs import artefacts
from engine.runs.artefacts import ComputeContext
from engine.stages.squeeze import describe_failure
from engine.store import Cache


def test_a_teacher_that_learned_nothing_is_refused_with_what_helps() -> None:
    for model in (teacher(epochs=1, lr=1e-6), teacher(epochs=1, lr=1e-7, seed=1)):
        with pytest.raises(UserError, match=r"chance is 10 % and 2\.30: it learned nothing") as refused:
            describe_failure(model, digits(), CPU)
        assert refused.value.kind == "teacher"
        for key in ("squeeze.epochs", "squeeze.optimiser.lr", "squeeze.batch", "squeeze.views.crop_scale"):
            assert key in refused.value.hint


class Guesses(torch.nn.Module):
    """Knows the label, which the first pixel holds, for a share of the images, and else answers 0."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = torch.nn.Parameter(torch.tensor(share))

    def forward(self, x_MCHW: torch.Tensor) -> torch.Tensor:
        label_M = (255 * x_MCHW[:, 0, 0, 0]).round().long()
        is_known_M = x_MCHW[:, 0, 0, 1] < self.share
        return torch.nn.functional.one_hot(label_M * is_known_M, 10).float()


@pytest.mark.parametrize(
    ("share", "outcome"), [(0.0, "refused"), (0.01, "refused"), (0.06, "warned"), (0.3, ""), (1.0, "")]
)
def test_what_certainly_learned_little_is_told_from_what_learned_nothing(share: float, outcome: str) -> None:
    rng, labels_N = np.random.default_rng(0), np.arange(10).repeat(200)
    pixels = np.zeros((2000, 1, 16, 16), np.uint8)
    pixels[:, 0, 0, 0], pixels[:, 0, 0, 1] = labels_N, rng.integers(0, 256, 2000)
    images = ImageSet.from_arrays(pixels, labels_N, "0123456789", (0.0,), (1.0,))
    data = replace(digits(), train=images, test=images)
    if outcome == "refused":
        with pytest.raises(UserError, match="learned nothing"):
            describe_failure(Guesses(share), data, CPU)
    else:
        assert ("learned little" in describe_failure(Guesses(share), data, CPU)) == bool(outcome)


def test_few_images_prove_nothing() -> None:
    rng, labels_N = np.random.default_rng(0), np.arange(3).repeat(8)
    images = ImageSet.from_arrays(
        rng.integers(0, 256, (24, 1, 16, 16), np.uint8), labels_N, "abc", (0.5,), (0.25,)
    )
    config = small()
    data = replace(digits(), train=images, test=images)
    model = artefacts.build_network(config, data).eval()
    assert describe_failure(model, data, CPU) == ""


def test_it_is_said_when_squeeze_ends_and_nothing_is_cached(tmp_path) -> None:
    config = small(squeeze={"epochs": 1, "optimiser": {"lr": 1e-6}})
    context = ComputeContext(CPU, Cache(tmp_path))
    with pytest.raises(UserError, match="learned nothing"):
        drive(artefacts.load_or_train_teacher(config, digits(), context))
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_warning_is_repeated_where_the_teacher_comes_from_the_cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(artefacts, "describe_failure", lambda *_: "it learned little")
    context = ComputeContext(CPU, Cache(tmp_path))
    for is_cached in (False, True):
        events, (_, reused) = drive(artefacts.load_or_train_teacher(small(), digits(), context))
        assert reused == is_cached
        assert Notice("warning", "it learned little") in events
    (entry,) = (tmp_path / "teachers").iterdir()
    assert context.cache.load("teachers", entry.stem).info["classes"] == list("0123456789")
