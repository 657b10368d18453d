"""Whether students of one architecture are trained faster in one pass, as a stack.

A stack makes the calls of a step once for all students, and its arithmetic is not faster than theirs. So it
is tried where a student's step is short.
Legend: S students, M images in a batch, C channels, H, W, K classes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import psutil
import torch
from torch import Tensor, nn

from engine import backbones
from engine.config import BackboneName, Config
from engine.data import ImageSet
from engine.device import autocast, conv_precision, synchronize
from engine.rng import torch_seeded
from engine.stages.training import Trainer
from engine.stages.validate import build_student

ROUNDS = 5  #: steps that are timed of each kind, in turns
SECONDS = 2.0  #: after which no further round begins
LONG = 0.25  #: seconds of one student's step from which on stacks are not tried
MEMORY_SHARE = 0.25  #: largest share of the free memory that the features of a stack may take
FASTER = 1.1  #: how many times as fast a stack has to be


class StackTrial:
    """Compares the steps of students that are trained one after another and together.

    Random states stay as they are.
    """

    def __init__(
        self, config: Config, architecture: BackboneName, students: int, train: ImageSet, device: torch.device
    ) -> None:
        self.architecture = architecture
        self._config = config
        self._device = device
        images = min(config.validate_.batch, config.ipc * len(train.classes))
        self._networks = [
            backbones.place_on(build_student(config, architecture, seed, train), device)
            for seed in range(students)
        ]
        with torch_seeded(config.seed, "stacks"):
            x_MCHW = torch.randn(images, train.channels, train.size, train.size)
        self._x_MCHW = x_MCHW.to(device=device, memory_format=torch.channels_last)

    def can_stack(self) -> bool:
        """Return whether the architecture can be stacked, and its stack fits into memory."""
        free = psutil.virtual_memory().available
        if self._device.type == "cuda":
            free = torch.cuda.mem_get_info(self._device)[0]
        if self._count_bytes() * len(self._networks) > MEMORY_SHARE * free:
            return False
        return backbones.stack(self._networks[:2], self._x_MCHW[:2]) is not None

    def is_faster(self) -> bool:
        """Return whether the stack's step takes less time than the steps of its members."""
        alone = [self._step(network) for network in self._networks]
        began = self._now()
        alone[0]()
        alone[0]()  # the first one allocates memory
        if (self._now() - began) / 2 >= LONG:
            return False
        together = self._step(backbones.place_on(backbones.Stack(self._networks), self._device))
        together()
        ratios: list[float] = []
        began = self._now()
        while len(ratios) < ROUNDS and (not ratios or self._now() - began < SECONDS):
            start = self._now()
            for step in alone:
                step()
            middle = self._now()
            together()
            ratios.append((middle - start) / (self._now() - middle))
        return median(ratios) >= FASTER

    def _step(self, network: nn.Module) -> Callable[[], None]:
        """Return a function that does one step of a network's training."""
        settings = self._config.validate_
        trainer = Trainer(network.train(), settings.optimiser, 1, settings.precision)
        x_MCHW = self._x_MCHW
        if isinstance(network, backbones.Stack):
            x_MCHW = x_MCHW.repeat(1, network.size, 1, 1).contiguous(memory_format=torch.channels_last)

        def step() -> None:
            with conv_precision(settings.precision), autocast(self._device, settings.precision):
                logits: Tensor = network(x_MCHW)
            trainer.optimiser.zero_grad()
            logits.float().square().mean().backward()  # type: ignore[no-untyped-call]
            trainer.optimiser.step()

        return step

    def _now(self) -> float:
        synchronize(self._device)
        return time.perf_counter()

    def _count_bytes(self) -> int:
        """Return the bytes of all layers' outputs in one member's forward pass."""
        total = 0

        def count(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            nonlocal total
            total += output.numel() * output.element_size()

        layers = [m for m in self._networks[0].modules() if not any(True for _ in m.children())]
        handles = [layer.register_forward_hook(count) for layer in layers]
        with torch.no_grad():
            self._networks[0].eval()(self._x_MCHW[:1])
        self._networks[0].train()
        for handle in handles:
            handle.remove()
        return total * len(self._x_MCHW)
