"""How much memory the long stages need: their peak is reached early and then stays.

Each stage runs in a process of its own, as nothing else tells what PyTorch holds on the CPU: this file run
as a program (``python test_memory.py STAGE``) prints the growth of the peak after the first few batches.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from engine import backbones
from engine.config import settings
from engine.rng import torch_seeded
from engine.spectral.microbatch import Observer
from engine.spectral.taps import Tapped

HERE = Path(__file__).resolve()
STATUS = Path("/proc/self/status")
ALLOWED = {"statistics": 40.0, "recover": 8.0}  # MB; all features: 150, all images: 25
IMAGES = 5_000


def peak() -> float:
    """The most memory that this process has held so far, in MB."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def growth(events, settled) -> float:
    """By how much the peak rises after the first event that is `settled`."""
    first = None
    for event in events:
        if first is None and settled(event):
            first = peak()
    return peak() - first


def scene(size, width):
    """A small network and many small images: much more than what either stage works on at a time."""
    import numpy as np
    import torch
    from stages import small

    from engine import backbones
    from engine.data import ImageSet

    torch.set_num_threads(1)
    changes = {"ipc": 200, "recover": {"iterations": 1}, "statistics": {"batch": 100}}
    config = small(backbone={"width": width}, **changes)
    store = np.random.default_rng(0).integers(0, 256, (IMAGES, 3, size, size), dtype=np.uint8)
    classes = [str(k) for k in range(10)]
    train = ImageSet.from_arrays(store, np.arange(IMAGES) % 10, classes, (0.5,) * 3, (0.25,) * 3)
    model = backbones.build(config.backbone, classes=10, channels=3, image_size=size).eval()
    return config, model, train, torch.device("cpu")


def statistics() -> float:
    from engine.stages import statistics

    config, model, train, cpu = scene(size=16, width=128)
    return growth(
        statistics.measure(config, model, train, cpu), lambda event: getattr(event, "done", 0) >= 1000
    )


def recover() -> float:
    import torch

    from engine.events import BatchRecovered
    from engine.spectral.moments import batch_moments
    from engine.spectral.taps import Tapped
    from engine.stages import recover

    config, model, train, cpu = scene(size=32, width=16)
    network = Tapped(model, "conv-input", cpu)
    with torch.no_grad():
        features, _ = network(train.batch(range(10), cpu))
    real = [batch_moments(name, x, torch.eye(10)) for name, x in zip(network.names, features, strict=True)]
    stage = recover.recover(config, model, real, train, cpu)
    return growth(stage, lambda event: isinstance(event, BatchRecovered) and event.batch == 5)


@pytest.mark.parametrize(("protocol", "most"), [("reference", 12.5), ("paper", 22.5)])
def test_backward_keeps_no_copy_of_the_features(protocol, most):
    """Bytes that autograd keeps for each further image of 224 px, ResNet-18, in MB.

    With centred copies of every tap they are 19.6 and 31.4.
    """
    config = settings.resolve(preset="imagenet10", sets=[f"protocol={protocol}"]).config
    with torch_seeded(0, "memory"):
        model = backbones.build(config.backbone, classes=10, channels=3, image_size=224).eval()
    network = Tapped(model, config.objective.taps, torch.device("cpu"))
    one, two = (kept_for_backward(network, images, config.objective.signal) for images in (1, 2))
    assert (two - one) / 1e6 < most


def kept_for_backward(network, images, signal):
    """Bytes of all storages that autograd saves in a pass of so many images."""
    kept = []
    onehot_MK = torch.eye(10)[:images]
    observe = Observer(network, torch.arange(images), onehot_MK, True, signal == "class", None, "set")
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        observe(torch.randn(images, 3, 224, 224, requires_grad=True))
    return sum({x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in kept}.values())


@pytest.mark.skipif(not STATUS.exists(), reason="the peak is read from /proc")
@pytest.mark.parametrize("stage", ["statistics", "recover"])
def test_peak_does_not_grow_with(stage):
    done = subprocess.run(
        [sys.executable, HERE, stage],
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join(map(str, (HERE.parents[2], HERE.parents[1] / "support")))},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < ALLOWED[stage]


if __name__ == "__main__":
    print({"statistics": statistics, "recover": recover}[sys.argv[1]]())
