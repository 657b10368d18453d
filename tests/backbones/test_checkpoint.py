"""Teachers under the names that other codes publish compute here what they compute there."""

import pytest
import torch
from torch import nn

from engine import backbones
from engine.config import Backbone
from engine.errors import UserError

SIZE, CLASSES, WIDTH = 32, 5, 8


def sequence(depth: int, norm: str, channels: int = 3) -> nn.Module:
    """A ConvNet as DC, MTT and DD-Ranking name its parts: `features` and `classifier`."""
    layers: list[nn.Module] = []
    for block in range(depth):
        inputs = channels if block == 0 else WIDTH
        padding = 3 if inputs == 1 else 1
        layers += [nn.Conv2d(inputs, WIDTH, 3, padding=padding)]
        layers += [nn.BatchNorm2d(WIDTH) if norm == "batch" else nn.GroupNorm(WIDTH, WIDTH)]
        layers += [nn.ReLU(), nn.AvgPool2d(2)]
    side = SIZE >> depth
    made = nn.Sequential()
    made.add_module("features", nn.Sequential(*layers))
    made.add_module("flat", nn.Flatten())
    made.add_module("classifier", nn.Linear(WIDTH * side * side, CLASSES))
    return made


class Block(nn.Module):
    """A block of a ResNet whose parts are named as in DC and SRe²L's CIFAR code."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + self.shortcut(x))


class ResNet(nn.Module):
    """ResNet-18 for 32 px. last: what its classifier is called."""

    def __init__(self, last: str) -> None:
        super().__init__()
        self.conv1, self.bn1, self.last = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), last
        inputs = 64
        for number, (outputs, stride) in enumerate([(64, 1), (128, 2), (256, 2), (512, 2)], start=1):
            layer = nn.Sequential(Block(inputs, outputs, stride), Block(outputs, outputs, 1))
            self.add_module(f"layer{number}", layer)
            inputs = outputs
        self.add_module(last, nn.Linear(512, CLASSES))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        for number in range(1, 5):
            x = self.get_submodule(f"layer{number}")(x)
        return self.get_submodule(self.last)(nn.functional.avg_pool2d(x, 4).flatten(1))


def shaken(model: nn.Module) -> nn.Module:
    """The same with statistics that matter, in evaluation mode."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 2.0)
            module.running_mean.normal_()
            module.weight.data.uniform_(0.5, 2.0)
    return model.eval()


def loaded(weights: object, path, **config) -> nn.Module:
    torch.save(weights, path)
    model = backbones.build(Backbone(width=WIDTH, **config), classes=CLASSES, channels=3, image_size=SIZE)
    backbones.load_teacher(model, str(path))
    return model.eval()


def same(one: nn.Module, other: nn.Module) -> bool:
    x = torch.randn(4, 3, SIZE, SIZE)
    with torch.no_grad():
        return torch.allclose(one(x), other(x), atol=1e-5)


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize("depth", [1, 3, 4])
def test_a_convnet_of_dc_mtt_and_dd_ranking(tmp_path, depth, norm):
    theirs = shaken(sequence(depth, norm))
    assert same(theirs, loaded(theirs.state_dict(), tmp_path / "t.pt", depth=depth, norm=norm))
    wrapped = {f"module.{name}": value for name, value in theirs.state_dict().items()}
    assert same(theirs, loaded({"model": wrapped}, tmp_path / "w.pt", depth=depth, norm=norm))


@pytest.mark.parametrize("last", ["classifier", "linear"])
def test_a_resnet_of_dc_and_of_cifar_codes(tmp_path, last):
    theirs = shaken(ResNet(last))
    assert same(theirs, loaded(theirs.state_dict(), tmp_path / "t.pt", name="resnet18"))


def test_a_convnet_of_rded_has_these_names(tmp_path):
    ours = backbones.build(Backbone(width=WIDTH), classes=CLASSES, channels=3, image_size=SIZE)
    shaken(ours)
    assert same(ours, loaded({"model": ours.state_dict()}, tmp_path / "cifar10_conv3.pth"))


def test_the_right_settings_are_named_where_another_convnet_was_meant(tmp_path):
    with pytest.raises(UserError) as caught:
        loaded(sequence(4, "instance").state_dict(), tmp_path / "t.pt", depth=3)
    assert "backbone.depth=4, backbone.width=8, backbone.norm=instance" in caught.value.hint


def test_a_network_that_would_fit_and_compute_something_else_is_refused(tmp_path):
    theirs = sequence(3, "batch", channels=1)
    torch.save(theirs.state_dict(), tmp_path / "t.pt")
    model = backbones.build(Backbone(width=WIDTH), classes=CLASSES, channels=1, image_size=SIZE)
    with pytest.raises(UserError, match="pads one-channel images"):
        backbones.load_teacher(model, str(tmp_path / "t.pt"))


def test_names_that_are_no_network_are_refused(tmp_path):
    odd = {
        "features.0.weight": torch.zeros(3),
        "features.1.bias": torch.zeros(3),
        "features.x": torch.zeros(1),
    }
    with pytest.raises(UserError, match="does not fit"):
        loaded(odd, tmp_path / "t.pt")
