"""How fast students learn beside a loop as one writes it first, labels online, in one run.

    python tests/bench/students.py [--backbone convnet|resnet18] [--images 100] [--threads 2]
    python tests/bench/students.py --students 6 [--preset digits] [--set KEY=VALUE]

ours: `engine.stages.validate.Student`, as `cfm run --preset cifar10-10` drives it.
plain: a DataLoader whose transforms crop and flip image by image on the CPU, CutMix over the batch, the
teacher's logits for the mixed images, KL without T², AdamW as it comes, the loss written down at every step.
Both train the same network at the same batch size with the same random teacher; they take turns.
With --students, that many students of the engine are trained one after another and as a stack, in turns.

Legend: M images in a batch, C channels, H, W, K classes.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from recovery import CPU, read_clock, smooth_images, teacher
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from engine import backbones
from engine.backbones.labeller import Labeller
from engine.config import Config, settings
from engine.data import ImageSet, load, normalise
from engine.spectral.recovery_batches import control_set
from engine.stages import validate
from engine.stages.relabel import FkdViews
from engine.stages.training import Trainer


def configuration(backbone: str, sets: tuple[str, ...] = ()) -> Config:
    return settings.resolve(preset="cifar10-10", sets=[f"backbone.name={backbone}", *sets]).config


class Ours:
    """Students of the engine that are trained together, epoch by epoch."""

    def __init__(
        self,
        config: Config,
        model: nn.Module,
        images: ImageSet,
        device: torch.device,
        seeds: Sequence[int] = (0,),
    ) -> None:
        members = [validate.Member(seed, "distilled", images) for seed in seeds]
        self.students = validate.Students(config, config.backbone.name, members, device)
        optimiser, epochs, precision = (
            config.validate_.optimiser,
            config.validate_.epochs,
            config.validate_.precision,
        )
        self.trainer = Trainer(self.students.model, optimiser, epochs, precision)
        self.views = [FkdViews(config, images, device, seed + 1) for seed in seeds]
        self.label = Labeller(model, device, precision)
        self.images = images

    def epoch(self) -> None:
        for _ in self.students.epoch(self.trainer, self.views, self.label):
            pass
        self.trainer.end_epoch(len(self.images))


class _Views(Dataset):
    """Normalised images through random crops and flips, one at a time."""

    def __init__(self, config: Config, images: ImageSet) -> None:
        scale = config.validate_.views.crop_scale
        self.x_NCHW = normalise(images.pixels(range(len(images))).float() / 255, images.mean, images.std)
        self.transform = v2.Compose([v2.RandomResizedCrop(images.size, scale), v2.RandomHorizontalFlip()])

    def __len__(self) -> int:
        return len(self.x_NCHW)

    def __getitem__(self, index: int) -> Tensor:
        return self.transform(self.x_NCHW[index])


class Plain:
    """The loop as one writes it first."""

    def __init__(self, config: Config, model: nn.Module, images: ImageSet, device: torch.device) -> None:
        self.device = device
        self.teacher = model.to(device)
        self.temperature = config.validate_.temperature
        classes = len(images.classes)
        built = backbones.build(config.backbone, classes=classes, channels=3, image_size=images.size)
        self.network = built.to(device).train()
        self.loader = DataLoader(_Views(config, images), config.validate_.batch, shuffle=True)
        given = config.validate_.optimiser
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), given.lr, weight_decay=given.weight_decay
        )
        self.log: list[float] = []

    def epoch(self) -> None:
        for x_MCHW in self.loader:
            x_MCHW = self._cutmix(x_MCHW.to(self.device))
            with torch.no_grad():
                target_MK = F.log_softmax(self.teacher(x_MCHW) / self.temperature, dim=1)
            logits_MK = F.log_softmax(self.network(x_MCHW) / self.temperature, dim=1)
            loss = F.kl_div(logits_MK, target_MK, reduction="batchmean", log_target=True)
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()
            self.log.append(loss.item())

    def _cutmix(self, x_MCHW: Tensor) -> Tensor:
        size = x_MCHW.shape[-1]
        half = int(size * np.sqrt(1 - np.random.beta(1.0, 1.0))) // 2
        y, x = np.random.randint(0, size, 2)
        rows, columns = (slice(max(0, at - half), min(size, at + half)) for at in (y, x))
        mixed_MCHW = x_MCHW.clone()
        mixed_MCHW[:, :, rows, columns] = x_MCHW[torch.randperm(len(x_MCHW))][:, :, rows, columns]
        return mixed_MCHW


def contestants(config: Config, images: ImageSet, device: torch.device) -> dict[str, Ours | Plain]:
    """Both loops over the same images, ready to train."""
    model = teacher(config, images.size, len(images.classes)).to(device)
    return {"ours": Ours(config, model, images, device), "plain": Plain(config, model, images, device)}


class OneAfterAnother:
    """Students of the engine that take turns, epoch by epoch."""

    def __init__(self, students: Sequence[Ours]) -> None:
        self.students = students

    def epoch(self) -> None:
        for student in self.students:
            student.epoch()


def stacked_contestants(
    config: Config, images: ImageSet, device: torch.device, students: int
) -> dict[str, Ours | OneAfterAnother]:
    """The same students one after another and together, ready to train."""
    model = teacher(config, images.size, len(images.classes), images.channels).to(device)
    alone = [Ours(config, model, images, device, [seed]) for seed in range(students)]
    together = Ours(config, model, images, device, range(students))
    return {"together": together, "one after another": OneAfterAnother(alone)}


def seconds(contestant: Ours | Plain | OneAfterAnother, epochs: int, device: torch.device) -> float:
    """Return the mean seconds of an epoch by `read_clock`."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    since = read_clock(device)
    for _ in range(epochs):
        contestant.epoch()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (read_clock(device) - since) / epochs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", choices=["convnet", "resnet18"], default="convnet")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--students", type=int, default=1)
    parser.add_argument("--preset", default="cifar10-10")
    parser.add_argument("--set", action="append", default=[], dest="sets")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    both: dict[str, Ours | Plain | OneAfterAnother] = {}
    if given.students == 1:
        config = configuration(given.backbone, tuple(given.sets))
        both |= contestants(config, smooth_images(given.images), CPU)
    else:
        config = settings.resolve(preset=given.preset, sets=given.sets).config
        images = smooth_images(given.images)
        if config.data.name == "digits":
            images = control_set(config, load(config.data).train, "random")
        both |= stacked_contestants(config, images, CPU, given.students)
    for contestant in both.values():
        contestant.epoch()
    rounds = [{name: seconds(each, 1, CPU) for name, each in both.items()} for _ in range(given.rounds)]
    for name in both:
        print(f"{name:18} {statistics.median(each[name] for each in rounds):.4f} s an epoch")
    fast, slow = both
    ratio = statistics.median(each[slow] / each[fast] for each in rounds)
    print(f"{slow} takes {ratio:.2f} times as long as {fast}, median of {given.rounds} rounds")


if __name__ == "__main__":
    main()
