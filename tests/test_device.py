"""Which device a name gives."""

import pytest
import torch

from engine import device
from engine.errors import UserError


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:1", "cuda:200", "cuda:99999999999999999999", "mps"])
def test_an_absent_device_is_told(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UserError, match=f"{name} is not there") as caught:
        device.choose(name)
    assert "--device cpu" in caught.value.hint


@pytest.mark.parametrize("name", ["cuda:2", "cuda:200", "cuda:99999999999999999999"])
def test_a_number_beyond_the_last_device_is_told(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match="is not there"):
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
