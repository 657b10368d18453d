"""A whole experiment on CIFAR-10 at a reduced budget: seconds of every stage, accuracy beside the control."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from harness import Options, Row

from engine import data
from engine.checkpoint import Checkpoint
from engine.config import settings
from engine.events import StageFinished
from engine.runs import artefacts, launch
from engine.stages import squeeze

ITERATIONS = {"convnet": 250, "resnet18": 100}
EPOCHS = 100
SQUEEZE_SECONDS = 60.0
BUDGET = [
    f"validate.epochs={EPOCHS}",
    "validate.seeds=1",
    f"validate.evaluate_every={EPOCHS}",
]


def whole(options: Options) -> Iterator[Row]:
    """Distil CIFAR-10 through the given ConvNet-128, then through a ResNet-18 that is squeezed first."""
    if options.data_root is None or options.teacher is None:
        yield {"job": "left out: give --data-root and --teacher", "seconds": None}
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CFM_CACHE"] = str(Path(folder, "cache"))
        root = [f"data.root={options.data_root.resolve()}", f"device={options.device}"]
        convnet = [*root, *BUDGET, "backbone.name=convnet", f"backbone.teacher={options.teacher.resolve()}"]
        yield from _job("convnet", "given teacher", convnet, Path(folder, "convnet"))
        resnet = [*root, *BUDGET, "backbone.name=resnet18"]
        epochs = _affordable_epochs(resnet, options)
        how = f"teacher squeezed for {epochs} epochs"
        yield from _job("resnet18", how, [*resnet, f"squeeze.epochs={epochs}"], Path(folder, "resnet18"))


def _job(backbone: str, how: str, sets: list[str], folder: Path) -> Iterator[Row]:
    iterations = ITERATIONS[backbone]
    name = f"{backbone}, {how}; IPC 10, {iterations} iterations, {EPOCHS} epochs, 1 student"
    sets = [*sets, f"recover.iterations={iterations}"]
    began = time.perf_counter()
    work = launch.run_experiment(settings.resolve(preset="cifar10-10", sets=sets), folder, "job")
    while True:
        try:
            event = next(work)
        except StopIteration as stop:
            results = stop.value
            break
        if isinstance(event, StageFinished) and not event.reused:
            yield {"job": name, "what": f"{event.stage}, s", "value": event.seconds}
    yield {"job": name, "what": "all, with reading the images, s", "value": time.perf_counter() - began}
    yield {"job": name, "what": "teacher, %", "value": results["teacher"]["accuracy"]}
    for student in results["students"]:
        yield {"job": name, "what": f"{student['source']}, %, last epoch", "value": student["last"]}


def _affordable_epochs(sets: list[str], options: Options) -> int:
    """How many epochs of squeeze fit into its share of the time, by the pace of its first steps."""
    config = settings.resolve(preset="cifar10-10", sets=[*sets, "checkpoint_seconds=0"]).config
    images = data.load(config.data)
    work = squeeze.squeeze(config, artefacts.build_network(config, images), images.train, options.device)
    points = (event for event in work if isinstance(event, Checkpoint))
    for _ in range(10):
        next(points)
    options.synchronize()
    since, steps = time.perf_counter(), 30
    for _ in range(steps):
        next(points)
    options.synchronize()
    epoch = (time.perf_counter() - since) / steps * len(images.train) / config.squeeze.batch
    work.close()
    return max(1, int(SQUEEZE_SECONDS / epoch))
