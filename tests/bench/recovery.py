"""How fast recovery is beside a straightforward implementation of the same loss, in one run.

    python tests/bench/recovery.py [--backbone convnet|resnet18] [--threads 2] [--alone] [--json]

ours: `engine.stages.recover.RecoveryBatch`, as `cfm run --preset cifar10-10-convnet` drives it.
ours, bfloat16: the same with `recover.precision=bfloat16`; fast where the processor or card knows the type.
plain: the loop as one writes it first; see `Plain`. Both start from the same images, follow the moving
statistics of an earlier batch, and must give the same loss for the same view before they are timed.
network: forward and backward of the plain network and cross-entropy alone, for reference.
folded: the same of the network that ours runs: BatchNorm folded, channels-last, a faster first convolution;
what ours takes beyond it is the cost of views, moments, filters and the update.
ours, dense: ours without the low-rank form of Ψ, where `choose_low_rank` chooses it for a tap.
--alone also times the plain loop with one speed-up at a time.

All contestants take turns within a round; figures are medians over rounds of the median iteration of a
round. Two threads need quiet cores: beside other programs they wait for each other, and the general solve
does so most, which flatters ours. With --threads 1 the figures are processor time, which other programs
disturb little. The teacher is random with BatchNorm statistics of its own, and the images are random and
smooth: neither changes the time.

Legend: M images, C channels, H, W, D features, K classes, N positions.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from engine import backbones
from engine.config import Config, Precision, settings
from engine.config.filters import Ridge
from engine.data import ImageSet, augmentation
from engine.rng import generator, torch_seeded
from engine.spectral import matrix_functions
from engine.spectral.moments import Moments, batch_moments
from engine.spectral.taps import Tapped
from engine.stages import recover
from engine.stages import statistics as real_side

CPU = torch.device("cpu")
CLASSES, BETA, NUMBER = 10, 0.1, 2
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
ALONE = {
    "folded BatchNorm": {"fold": True},
    "channels-last": {"channels_last": True},
    "real side cached": {"cached": True},
    "Cholesky": {"cholesky": True},
    "own covariance gradient": {"gradient": True},
    "views as matrices": {"matrices": True},
    "fused Adam, values stay": {"lean_step": True},
}
View = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Scene:
    """What every contestant is given; tensors are on the device."""

    device: torch.device
    config: Config
    model: nn.Module
    train: ImageSet
    real: list[Moments]
    earlier: list[Moments]
    start_MCHW: Tensor
    labels_M: Tensor


def pull(stage):
    """A stage's artefact, its events ignored."""
    while True:
        try:
            next(stage)
        except StopIteration as stop:
            return stop.value


def smooth_images(count: int, size: int = 32, classes: int = CLASSES) -> ImageSet:
    """Random images with the falling spectrum of photographs."""
    rng = generator(0, "bench", "images")
    scales = [rng.normal(size=(count, 3, side, side)).astype(np.float32) / side for side in (2, 4, 8, 16, 32)]
    x = sum(F.interpolate(torch.from_numpy(s), size, mode="bilinear").mul(8.0) for s in scales)
    pixels = (torch.sigmoid(0.4 * x) * 255).to(torch.uint8)
    labels = np.arange(count) % classes
    return ImageSet.from_arrays(pixels, labels, [str(k) for k in range(classes)], MEAN, STD)


def teacher(config: Config, size: int = 32, classes: int = CLASSES, channels: int = 3) -> nn.Module:
    """A random network whose BatchNorm layers have statistics and weights of their own."""
    with torch_seeded(0, "bench", "teacher"):
        model = backbones.build(config.backbone, classes=classes, channels=channels, image_size=size)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 2.0)
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.1)
    return model.eval()


def scene(
    backbone: str,
    device: torch.device = CPU,
    classes: int = CLASSES,
    size: int = 32,
    sets: Sequence[str] = (),
) -> Scene:
    """A batch of one image of each of `classes`, `size` pixels wide; sets: further settings."""
    config = settings.resolve(preset="cifar10-10", sets=[f"backbone.name={backbone}", *sets]).config
    model, train = teacher(config, size, classes), smooth_images(2 * classes, size, classes)
    real = [moments.to(device) for moments in pull(real_side.measure(config, model, train, device))]
    network = Tapped(model, config.objective.taps, device)
    with torch.no_grad():
        features, _ = network(train.batch(np.arange(classes, 2 * classes), device))
        onehot_MK = torch.eye(classes, device=device)
        earlier = [
            batch_moments(name, x_MDHW, onehot_MK).detach()
            for name, x_MDHW in zip(network.names, features, strict=True)
        ]
    indices = np.arange(classes)
    labels_M = train.labels_N[indices].to(device)
    start_MCHW = train.batch(indices, device)
    return Scene(device, config, model.to(device), train, real, earlier, start_MCHW, labels_M)


class Ours:
    """One batch as `recover` optimises it."""

    def __init__(
        self,
        scene: Scene,
        precision: Precision = "float32",
        micro_batch: int | None = None,
        low_rank: frozenset[str] | None = None,
    ) -> None:
        changes = scene.config.recover.model_copy(update={"precision": precision, "micro_batch": micro_batch})
        config = scene.config.model_copy(update={"recover": changes})
        network = Tapped(scene.model, config.objective.taps, scene.device, precision)
        indices = np.arange(len(scene.labels_M))
        self.batch = recover.RecoveryBatch(
            config,
            [(network, scene.real)],
            scene.train,
            NUMBER,
            BETA,
            indices,
            indices,
            scene.earlier,
            low_rank=low_rank,
        )
        self.config = config
        self.step = self.batch.step

    def first_loss(self) -> float:
        """The loss of the first iteration, which then has been made."""
        values = self.step()
        terms = values[1 : 1 + len(self.batch.objective.terms) * len(self.batch.network.names)]
        return float(values[0] + 0.1 * terms.sum())

    def first_view(self) -> View:
        """What the first iteration sees, by torchvision."""
        rng = generator(self.config.seed, "recover", NUMBER, 0)
        size = self.batch.train.size
        drawn = augmentation.draw(self.config.recover.views, size, 1, rng, shared=True)

        def view(x_MCHW: Tensor) -> Tensor:
            x_MCHW = tv.resized_crop(x_MCHW, *drawn.boxes_M4[0].tolist(), [size, size])
            x_MCHW = tv.horizontal_flip(x_MCHW) if drawn.flip_M[0] else x_MCHW
            return torch.roll(x_MCHW, drawn.roll_M2[0].tolist(), dims=(2, 3))

        return view


class Plain:
    """The loop as one writes it first.

    Hooks on the frozen evaluation-mode teacher as it is (frozen to be fair: gradients of weights that
    nobody reads would make it slower), contiguous tensors, `torch.cov` and its gradient, a general
    solve on the real and on the synthetic side in every iteration, torchvision's crop and flip, Adam as it
    comes, and the loss written down in every iteration. Keywords switch on one speed-up each.
    """

    def __init__(
        self,
        scene: Scene,
        *,
        fold: bool = False,
        channels_last: bool = False,
        cached: bool = False,
        cholesky: bool = False,
        gradient: bool = False,
        matrices: bool = False,
        lean_step: bool = False,
    ) -> None:
        self.scene = scene
        model = scene.model
        self.network = backbones.fold_batchnorm(model) if fold else copy.deepcopy(model).requires_grad_(False)
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self.network.to(memory_format=self.format)
        self.features: dict[str, Tensor] = {}
        for name in backbones.conv_names(model):
            self.network.get_submodule(name).register_forward_pre_hook(partial(self._keep, name))
        self.inverse = partial(matrix_functions.apply, Ridge(BETA)) if cholesky else self._general_inverse
        self.moments = self._moments_by_engine if gradient else self._moments
        self.cached = [self._side(m.mean_D, m.cov_DD) for m in scene.real] if cached else None
        self.random_view = self._view_by_matrices if matrices else self._view_by_torchvision
        self.crop = v2.RandomResizedCrop(scene.train.size, scale=scene.config.recover.views.crop_scale)
        self.flip = v2.RandomHorizontalFlip()
        self.images_MCHW = scene.start_MCHW.clone().requires_grad_()
        lr, betas = scene.config.recover.lr, scene.config.recover.betas
        self.adam = torch.optim.Adam([self.images_MCHW], lr=lr, betas=betas, fused=lean_step or None)
        self.lean_step = lean_step
        self.decay = torch.optim.lr_scheduler.CosineAnnealingLR(self.adam, scene.config.recover.iterations)
        mean_C11, std_C11 = (torch.tensor(v, device=scene.device).view(3, 1, 1) for v in (MEAN, STD))
        self.lowest, self.highest = (0 - mean_C11) / std_C11, (1 - mean_C11) / std_C11
        self.log: list[float] = []
        self.count = 0

    def _keep(self, name: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.features[name] = inputs[0]

    def _general_inverse(self, cov_DD: Tensor) -> Tensor:
        identity_DD = torch.eye(len(cov_DD), device=cov_DD.device)
        return torch.linalg.solve(cov_DD + BETA * identity_DD, identity_DD)

    def _moments(self, x_MDHW: Tensor) -> tuple[Tensor, Tensor]:
        x_DN = x_MDHW.transpose(0, 1).reshape(x_MDHW.shape[1], -1)
        return x_MDHW.mean(dim=(0, 2, 3)), torch.cov(x_DN, correction=0)

    def _moments_by_engine(self, x_MDHW: Tensor) -> tuple[Tensor, Tensor]:
        found = batch_moments("tap", x_MDHW, torch.empty(0), labels=False)
        return found.mean_D, found.cov_DD

    def _side(self, mean_D: Tensor, cov_DD: Tensor) -> tuple[Tensor, Tensor]:
        inverse_DD = self.inverse(cov_DD)
        return inverse_DD, inverse_DD @ mean_D

    def _view_by_torchvision(self, x_MCHW: Tensor) -> Tensor:
        shifts = tuple(np.random.randint(0, 5, 2).tolist())
        return torch.roll(self.flip(self.crop(x_MCHW)), shifts, dims=(2, 3))

    def _view_by_matrices(self, x_MCHW: Tensor) -> Tensor:
        rng = generator(0, "bench", self.count)
        views = self.scene.config.recover.views
        return augmentation.apply(augmentation.draw(views, self.scene.train.size, 1, rng), x_MCHW)

    def loss(self, view: View) -> Tensor:
        logits_MK = self.network(view(self.images_MCHW).contiguous(memory_format=self.format))
        loss, new = F.cross_entropy(logits_MK, self.scene.labels_M), 1.0 / NUMBER
        for index, (real, earlier) in enumerate(zip(self.scene.real, self.scene.earlier, strict=True)):
            mean_D, cov_DD = self.moments(self.features[real.name])
            mean_D = new * mean_D + (1 - new) * earlier.mean_D
            cov_DD = new * cov_DD + (1 - new) * earlier.cov_DD
            theirs = self.cached[index] if self.cached else self._side(real.mean_D, real.cov_DD)
            for ours, wanted in zip(self._side(mean_D, cov_DD), theirs, strict=True):
                loss = loss + 0.1 * torch.norm(ours - wanted)
        return loss

    def step(self) -> None:
        self.count += 1
        loss = self.loss(self.random_view)
        self.adam.zero_grad()
        loss.backward()
        self.adam.step()
        self.decay.step()
        with torch.no_grad():
            self.images_MCHW.clamp_(self.lowest, self.highest)
        if not self.lean_step:
            self.log.append(loss.item())


class Network:
    """Forward and backward of the plain network alone, down to the images."""

    def __init__(self, scene: Scene) -> None:
        self.network = copy.deepcopy(scene.model).requires_grad_(False)
        self.images_MCHW = scene.start_MCHW.clone().requires_grad_()
        self.labels_M = scene.labels_M

    def step(self) -> None:
        self.images_MCHW.grad = None
        F.cross_entropy(self.network(self.images_MCHW), self.labels_M).backward()


class Folded:
    """Forward and backward of the network that ours runs, without its taps, down to the images."""

    def __init__(self, scene: Scene) -> None:
        self.network = Tapped(scene.model, scene.config.objective.taps, scene.device)
        self.images_MCHW = scene.start_MCHW.clone().requires_grad_()
        self.labels_M = scene.labels_M

    def step(self) -> None:
        self.images_MCHW.grad = None
        _, logits_MK = self.network(self.images_MCHW)
        F.cross_entropy(logits_MK, self.labels_M).backward()


def same_loss(scene: Scene) -> tuple[float, float]:
    """The loss of ours and of plain, for the same images and view; AssertionError where they differ."""
    ours = Ours(scene)
    with torch.no_grad():
        loss = Plain(scene).loss(ours.first_view())
    pair = ours.first_loss(), float(loss)
    assert abs(pair[0] - pair[1]) <= 1e-3 * abs(pair[1]), f"not the same loss: {pair}"
    return pair


def read_clock(device: torch.device = CPU) -> float:
    """Seconds: processor time with one CPU thread, which other programs disturb little; else wall time."""
    is_alone = device.type == "cpu" and torch.get_num_threads() == 1
    return time.process_time() if is_alone else time.perf_counter()


def timed(step: Callable[[], object], iterations: int) -> float:
    """Median milliseconds of an iteration by `read_clock`."""
    found = []
    for _ in range(iterations):
        since = read_clock()
        step()
        found.append((read_clock() - since) * 1e3)
    return statistics.median(found)


def measure(scene: Scene, rounds: int, iterations: int, alone: bool) -> dict[str, list[float]]:
    """Milliseconds an iteration of each contestant in each round."""
    ours = Ours(scene)
    contestants = {
        "ours": ours,
        "ours, bfloat16": Ours(scene, "bfloat16"),
        "plain": Plain(scene),
        "network": Network(scene),
        "folded": Folded(scene),
    }
    if ours.batch.low_rank:
        contestants["ours, dense"] = Ours(scene, low_rank=frozenset())
    if alone:
        contestants |= {f"plain + {name}": Plain(scene, **switch) for name, switch in ALONE.items()}
    for contestant in contestants.values():
        timed(contestant.step, 3)
    found: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, contestant in contestants.items():
            found[name].append(timed(contestant.step, iterations))
    return found


def summary(found: dict[str, list[float]], loss: tuple[float, float]) -> dict[str, object]:
    ratios = [plain / ours for plain, ours in zip(found["plain"], found["ours"], strict=True)]
    return {
        "loss": {"ours": loss[0], "plain": loss[1]},
        "milliseconds": {name: statistics.median(values) for name, values in found.items()},
        "speed_up": statistics.median(ratios),
        "speed_up_by_round": ratios,
        "over_folded": statistics.median(
            ours / bare for ours, bare in zip(found["ours"], found["folded"], strict=True)
        ),
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", choices=["convnet", "resnet18"], default="convnet")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--iterations", type=int, help="of each contestant in a round (40; resnet18: 6)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--alone", action="store_true", help="also plain with one speed-up at a time")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    stage = scene(given.backbone)
    loss = same_loss(stage)
    iterations = given.iterations or (40 if given.backbone == "convnet" else 6)
    result = summary(measure(stage, given.rounds, iterations, given.alone), loss)
    if given.json:
        print(json.dumps({"backbone": given.backbone, "threads": given.threads, **result}, indent=2))
        return
    print(f"{given.backbone}, {CLASSES} images of 3×32×32, {given.threads} threads")
    print(f"loss for the same images and view: ours {loss[0]:.6g}, plain {loss[1]:.6g}")
    plain = result["milliseconds"]["plain"]
    for name, value in result["milliseconds"].items():
        print(f"{name:32} {value:8.1f} ms   plain takes {plain / value:.2f} times as long")
    each = ", ".join(f"{ratio:.2f}" for ratio in result["speed_up_by_round"])
    print(f"plain / ours by round: {each}; median {result['speed_up']:.2f}")
    print(f"ours / folded, median over rounds: {result['over_folded']:.2f}")


if __name__ == "__main__":
    main()
