"""How many threads a run computes with on a CPU, and whether the machine has become too busy for it.

With more threads than processors are free, each operation waits for its slowest part, so that on a busy
machine one thread can be several times as fast as two.
Legend: M images in a batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
import psutil
import torch
import torch.nn.functional as F
from torch import Tensor

from engine import backbones
from engine.config import Config
from engine.data import ImageSet
from engine.device import cpus
from engine.events import EpochFinished, Event, Notice, RecoverProgress, StageProgress, StageStarted
from engine.rng import torch_seeded

DEFAULT = torch.get_num_threads()  #: when the program began: of OMP_NUM_THREADS, or of the processors
MOST_IMAGES = 32  #: of a batch whose steps are timed
ROUNDS = 3  #: steps that are timed with each number of threads, in turns
SECONDS = 2.0  #: after which no further round begins
SLOW = 0.5  #: the part of its earlier rate below which a stage is called slow
SLOW_SECONDS = 60.0  #: how long it must be slow
ADAPT_SECONDS = 30.0  #: the shortest time between two measurements for `threads = adaptive`
ADAPT_SHARE = 0.01  #: the largest share of a run's time that they take


def list_thread_counts(most: int) -> list[int]:
    """Return the numbers of threads that are tried: the powers of two below `most`, its half, and `most`."""
    powers = {2**power for power in range(most.bit_length()) if 2**power < most}
    return sorted({*powers, max(1, most // 2), most})


def measure_threads(config: Config, train: ImageSet, most: int) -> int:
    """Return the number of threads, at most `most`, with which steps of recovery and students are fastest.

    Times forward and backward of the backbone on a batch of each size, at most `MOST_IMAGES`; takes a
    fraction of a second for small networks. The number in force and all random states stay as they are.
    """
    before, counts = torch.get_num_threads(), list_thread_counts(most)
    if len(counts) == 1:
        return counts[0]
    try:
        step = _build_step(config, train)
        seconds: dict[int, list[float]] = {count: [] for count in counts}
        began = time.perf_counter()
        for number in range(1 + ROUNDS):
            for count in counts:
                torch.set_num_threads(count)
                since = time.perf_counter()
                step()
                if number > 0:  # the first round allocates memory and starts threads
                    seconds[count].append(time.perf_counter() - since)
            if number > 0 and time.perf_counter() - began > SECONDS:
                break
        return min(counts, key=lambda count: float(np.median(seconds[count])))
    finally:
        torch.set_num_threads(before)


class ThreadAdapter:
    """Measures the best number of threads again and again, for `threads = adaptive`.

    Called between recovery batches and between epochs, where it does nothing until the share of time that
    measuring takes is small.
    """

    def __init__(self, config: Config, train: ImageSet) -> None:
        self._config = config
        self._train = train
        self._most = min(cpus(), DEFAULT)
        self._next = time.monotonic() + ADAPT_SECONDS

    def adapt(self) -> None:
        """Measure if it is time, and set torch's number of threads."""
        began = time.monotonic()
        if began < self._next:
            return
        torch.set_num_threads(measure_threads(self._config, self._train, self._most))
        ended = time.monotonic()
        self._next = ended + max(ADAPT_SECONDS, (ended - began) / ADAPT_SHARE)


def _build_step(config: Config, train: ImageSet) -> Callable[[], None]:
    """Return a function that does what one step of recovery and one of a student do, at the same sizes."""
    with torch_seeded(config.seed, "threads"):
        network = backbones.build(
            config.backbone, classes=len(train.classes), channels=train.channels, image_size=train.size
        )
    network = backbones.place_on(network, torch.device("cpu")).train()
    sizes = (min(len(train.classes), config.recover.classes_per_batch), config.validate_.batch)
    batches = [
        torch.zeros(max(2, min(size, MOST_IMAGES)), train.channels, train.size, train.size) for size in sizes
    ]

    def step() -> None:
        for x_MCHW in batches:
            labels_M = torch.zeros(len(x_MCHW), dtype=torch.int64)
            loss: Tensor = F.cross_entropy(network(x_MCHW), labels_M)
            loss.backward()  # type: ignore[no-untyped-call]

    return step


class SlowdownWatch:
    """Notices a stage that runs at less than half of its earlier rate for a minute, and says what would help.

    Rates are smoothed, and the reference is the highest one of the same network. Each stage is reported once.
    """

    def __init__(self) -> None:
        self._network: tuple[str, ...] = ()
        self._unit = ""
        self._reported = False
        self._pending: float | None = None  # the rate of epochs of which none was measured so far
        self._forget()

    def _forget(self) -> None:
        self._smoothed = self._highest = 0.0
        self._slow_since: float | None = None

    def watch(self, event: Event, now: float) -> Iterator[Notice]:
        """Take the next event; yield a warning if the stage has become slow. now: in seconds."""
        if isinstance(event, StageStarted):
            self._network, self._unit, self._reported = (), event.unit, False
            self._forget()
        elif isinstance(event, EpochFinished):
            network = (event.architecture, "teacher" if event.source == "teacher" else "student")
            if network != self._network:
                self._network, self._pending = network, None
                self._forget()
            if event.accuracy is not None:  # the time of measuring it is part of this rate
                self._pending = None
                return
            if self._pending is not None and self._pending != event.rate:
                yield from self._add(self._pending, now)
            self._pending = event.rate
        elif isinstance(event, StageProgress) and event.rate == 0.0:  # another network begins
            self._forget()
        elif isinstance(event, RecoverProgress | StageProgress):
            yield from self._add(event.rate, now)

    def _add(self, rate: float, now: float) -> Iterator[Notice]:
        if rate <= 0:
            return
        self._smoothed = 0.7 * self._smoothed + 0.3 * rate if self._smoothed else rate
        self._highest = max(self._highest, self._smoothed)
        if self._smoothed >= SLOW * self._highest:
            self._slow_since = None
        elif self._slow_since is None:
            self._slow_since = now
        elif now - self._slow_since >= SLOW_SECONDS and not self._reported:
            self._reported = True
            yield Notice("warning", self._describe())

    def _describe(self) -> str:
        load, processors, threads = psutil.getloadavg()[0], cpus(), torch.get_num_threads()
        advice = "stop other programs"
        if threads > 1:
            advice += ", or stop the run and resume it with --set threads=1 or --set threads=adaptive"
        return (
            f"the run has slowed down from {self._highest:.3g} to {self._smoothed:.3g} {self._unit} a second,"
            f" with {threads} threads on {processors} processors, whose load is {load:.1f}: {advice}"
        )
