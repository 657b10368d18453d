"""Devices: which one a name gives, copies to it, TF32, and running out of its memory."""

import copy
import re
from pathlib import Path

import pytest
import torch
from stages import drive, small

from engine import device
from engine.errors import UserError
from engine.spectral import microbatch
from engine.spectral.recovery_batches import control_set
from engine.stages import recover, relabel, squeeze, statistics, training, validate


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:1", "cuda:200", "cuda:99999999999999999999", "mps"])
def test_an_absent_device_is_told(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UserError, match=f"{name} is not available") as caught:
        device.choose(name)
    assert "--device cpu" in caught.value.hint


@pytest.mark.parametrize("name", ["cuda:2", "cuda:200", "cuda:99999999999999999999"])
def test_a_number_beyond_the_last_device_is_told(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match="is not available"):
        device.choose(name)
    assert device.choose("auto") == device.choose("cuda") == torch.device("cuda")
    assert device.choose("cuda:01") == torch.device("cuda:1")


def test_convolutions_are_summed_in_a_fixed_order(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    device.choose("cpu")
    assert torch.backends.cudnn.deterministic


def test_float32_is_not_rounded_to_tf32():
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    device.choose("cpu")
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


def test_every_copy_to_a_device_goes_through_one_function():
    """A `non_blocking` copy from pageable memory may wait for the device; `upload` pins it first."""
    root = Path(device.__file__).parent
    places = [path.name for path in root.rglob("*.py") if "non_blocking=" in path.read_text(encoding="utf-8")]
    assert places == ["device.py"]


@pytest.mark.parametrize("name", ["cuda", "mps", "cpu"])
def test_only_devices_that_compute_beside_the_host_are_waited_for(monkeypatch, name):
    waits = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda each: waits.append(each.type))
    monkeypatch.setattr(torch.mps, "synchronize", lambda: waits.append("mps"))
    device.synchronize(torch.device(name))
    assert waits == ([] if name == "cpu" else [name])


class Pageable:
    """A CPU tensor on its way to CUDA, as `upload` sees it."""

    def __init__(self, *, pinned=False):
        self.device, self.pinned = torch.device("cpu"), pinned

    def pin_memory(self):
        return Pageable(pinned=True)

    def to(self, where, *, non_blocking):
        return self.pinned, where, non_blocking


def test_what_is_copied_to_cuda_is_pinned_first():
    cuda = torch.device("cuda")
    assert device.upload(Pageable(), cuda) == (True, cuda, True)
    x = torch.arange(3)
    assert device.upload(x, torch.device("cpu")) is x


def test_tf32_is_allowed_in_convolutions_within_the_block_alone():
    device.choose("cpu")
    for precision, allowed in (("float32", False), ("tf32", True), ("bfloat16", False)):
        with device.conv_precision(precision):
            assert torch.backends.cudnn.allow_tf32 is allowed
            assert not torch.backends.cuda.matmul.allow_tf32
        assert not torch.backends.cudnn.allow_tf32
    with pytest.raises(ZeroDivisionError), device.conv_precision("tf32"):
        _ = 1 / 0
    assert not torch.backends.cudnn.allow_tf32


def flags(monkeypatch, where, name):
    """Whether TF32 was allowed at each call of a function."""
    seen, real = [], getattr(where, name)

    def listen(*args, **kwargs):
        seen.append(torch.backends.cudnn.allow_tf32)
        return real(*args, **kwargs)

    monkeypatch.setattr(where, name, listen)
    return seen


@pytest.mark.parametrize("precision", ["float32", "tf32"])
def test_a_stage_of_precision_tf32_allows_it_in_forward_and_backward(
    monkeypatch, teacher, digits, cpu, precision
):
    """Expected: allowed while the convolutions of networks compute, not in statistics and accuracies."""
    device.choose("cpu")
    sections = ("squeeze", "recover", "validate")
    config = small(**{section: {"precision": precision} for section in sections})
    _, real = drive(statistics.measure(config, teacher, digits.train, cpu))
    backward = flags(monkeypatch, torch.Tensor, "backward")
    losses = flags(monkeypatch, microbatch.matching, "cross_entropy")
    distances = flags(monkeypatch, validate, "student_loss")
    measured = flags(monkeypatch, training.backbones, "fold_batchnorm")
    drive(recover.recover(config, teacher, real, digits.train, cpu))
    control = control_set(config, digits.train)
    drive(validate.validate(config, teacher, {"random": control}, control, cpu))
    drive(squeeze.squeeze(config, copy.deepcopy(teacher), control, cpu))
    for seen in (backward, losses, distances):
        assert set(seen) == {precision == "tf32"}
    assert set(measured) == {False}


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    MemoryError(),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=str)
@pytest.mark.parametrize(
    ("stage", "batch", "setting"),
    [
        ("squeeze", "batches of 128", "squeeze.batch"),
        ("statistics", "images 1 to 128", "statistics.batch"),
        ("recover", "batch 1 (10 images of 16 px)", "recover.micro_batch=5"),
        ("relabel", "images 1 to 20", "validate.precision"),
        ("validate", "batches of 8", "validate.batch"),
    ],
)
def test_running_out_of_memory_names_the_stage_the_batch_and_a_setting(
    monkeypatch, teacher, digits, cpu, error, stage, batch, setting
):
    config, train = small(), digits.train
    _, real = drive(statistics.measure(config, teacher, train, cpu))
    control = control_set(config, train)
    works = {
        "squeeze": lambda: squeeze.squeeze(config, copy.deepcopy(teacher), train, cpu),
        "statistics": lambda: statistics.measure(config, teacher, train, cpu),
        "recover": lambda: recover.recover(config, teacher, real, train, cpu),
        "relabel": lambda: relabel.relabel(config, teacher, control, cpu, lambda *_: None, "random"),
        "validate": lambda: validate.validate(config, teacher, {"random": control}, control, cpu),
    }
    words = {
        "squeeze": "training the teacher",
        "recover": "recovery",
        "relabel": "relabelling",
        "validate": "training convnet",
    }

    def fail(*_):
        raise error

    monkeypatch.setattr(torch.nn.Conv2d, "forward", fail)
    with pytest.raises(UserError, match=f"{words.get(stage, stage)}.*{re.escape(batch)}.* cpu ") as caught:
        drive(works[stage]())
    assert caught.value.kind == "memory"
    assert setting in caught.value.hint


def test_another_failure_is_not_taken_for_too_little_memory():
    with (
        pytest.raises(RuntimeError, match="shapes") as caught,
        device.explain_out_of_memory(torch.device("cpu"), "a step", "nothing helps"),
    ):
        raise RuntimeError("shapes do not fit")
    assert not isinstance(caught.value, UserError)
