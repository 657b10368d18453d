"""Teachers: files in every form, what may be loaded, and the names that other codes publish."""

from __future__ import annotations

import argparse
import os
import pickle
import re
from pathlib import Path

import pytest
import torch
import torchvision
from networks import build, trained_looking
from safetensors.torch import save_file
from torch import nn

from engine import backbones
from engine.config import Backbone
from engine.errors import UserError


def test_fingerprint_follows_values_names_and_types_alone() -> None:
    model, same = build(), build()
    assert backbones.fingerprint(model) == backbones.fingerprint(same)
    same.to(memory_format=torch.channels_last)
    assert backbones.fingerprint(model) == backbones.fingerprint(same)
    assert backbones.fingerprint(model) != backbones.fingerprint(build().double())
    with torch.no_grad():
        same.get_parameter("classifier.bias")[0] += 1e-7
    assert backbones.fingerprint(model) != backbones.fingerprint(same)


WRAPPINGS = {
    "raw": lambda d: d,
    "model": lambda d: {"model": d, "epoch": 3},
    "state_dict": lambda d: {"epoch": 3, "state_dict": d},
    "net": lambda d: {"net": d, "acc": 95.4},
    "module": lambda d: {"module." + name: value for name, value in d.items()},
    "model of module": lambda d: {"model": {"module." + name: value for name, value in d.items()}},
    "no counters": lambda d: {name: v for name, v in d.items() if not name.endswith("num_batches_tracked")},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_wrapped_and_prefixed_checkpoints_load(tmp_path: Path, wrapping: str) -> None:
    teacher, model = trained_looking(build()), build()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    path = tmp_path / "teacher.pth"
    torch.save(WRAPPINGS[wrapping](teacher.state_dict()), path)
    backbones.load_teacher(model, str(path))
    assert backbones.fingerprint(model) == backbones.fingerprint(teacher)


PREFIXES = ("model.", "module.", "backbone.", "net.", "encoder.", "student.model.", "model._orig_mod.")


@pytest.mark.parametrize("prefix", PREFIXES)
def test_any_common_prefix_is_found(tmp_path: Path, prefix: str) -> None:
    teacher, model = trained_looking(build("resnet18")), build("resnet18")
    weights = {prefix + name: value for name, value in teacher.state_dict().items()}
    extra = {"criterion.weight": torch.ones(5), "train_acc.correct": torch.zeros(())}
    torch.save({"state_dict": weights | extra, "epoch": 3}, tmp_path / "lightning.ckpt")
    backbones.load_teacher(model, str(tmp_path / "lightning.ckpt"))
    assert backbones.fingerprint(model) == backbones.fingerprint(teacher)


def test_a_classifier_beside_the_prefix_belongs_to_the_network(tmp_path: Path) -> None:
    teacher, model = trained_looking(build("resnet18")), build("resnet18")
    weights = {
        name if name.startswith("fc.") else f"backbone.{name}": value
        for name, value in teacher.state_dict().items()
    }
    torch.save(weights, tmp_path / "probe.pth")
    backbones.load_teacher(model, str(tmp_path / "probe.pth"))
    assert backbones.fingerprint(model) == backbones.fingerprint(teacher)


def test_a_prefix_before_the_names_of_another_code(tmp_path: Path) -> None:
    theirs = shaken(sequence(3, "batch"))
    weights = {f"model.{name}": value for name, value in theirs.state_dict().items()}
    assert same(theirs, loaded({"state_dict": weights}, tmp_path / "t.ckpt", depth=3))


SEVERAL = {
    "timm": lambda raw, ema: {"state_dict": raw, "state_dict_ema": ema, "optimizer": {"state": {}}},
    "model": lambda raw, ema: {"model": raw, "model_ema": ema, "epoch": 3},
    "lightning": lambda raw, ema: {
        "state_dict": {f"model.{name}": x for name, x in raw.items()}
        | {f"model_ema.module.{name}": x for name, x in ema.items()}
    },
}


@pytest.mark.parametrize(
    ("kind", "first", "second", "names"),
    [
        ("timm", "state_dict", "state_dict_ema", "state_dict, state_dict_ema"),
        ("model", "model", "model_ema", "model, model_ema"),
        ("lightning", "model", "model_ema", "state_dict.model, state_dict.model_ema"),
    ],
)
def test_of_several_sets_of_weights_the_named_one_is_taken(
    tmp_path: Path, kind: str, first: str, second: str, names: str
) -> None:
    raw, ema, model = build(), trained_looking(build()), build()
    path = tmp_path / "several.pth"
    torch.save(SEVERAL[kind](raw.state_dict(), ema.state_dict()), path)
    error = refused(model, path)
    assert f"several sets of weights: {names}" in error.message
    assert f"{path}#{names.split(', ')[1]}" in error.hint
    for name, expected in ((second, ema), (first, raw), (names.split(", ")[1], ema)):
        others = backbones.load_teacher(model, f"{path}#{name}").others
        assert backbones.fingerprint(model) == backbones.fingerprint(expected)
        assert len(others) == 1
    with pytest.raises(UserError, match=f"no weights named 'swa'; it holds: {names}"):
        backbones.load_teacher(model, f"{path}#swa")


def test_one_set_that_fits_beside_others_needs_no_name(tmp_path: Path) -> None:
    teacher, model = trained_looking(build()), build()
    content = {"model": teacher.state_dict(), "head": {"weight": torch.ones(3, 3)}}
    torch.save(content, tmp_path / "t.pth")
    assert backbones.load_teacher(model, str(tmp_path / "t.pth")).others == {}
    assert backbones.fingerprint(model) == backbones.fingerprint(teacher)
    with pytest.raises(UserError, match="does not fit"):
        backbones.load_teacher(model, f"{tmp_path / 't.pth'}#head")


def test_a_file_with_the_mark_in_its_name_is_a_file(tmp_path: Path) -> None:
    teacher, model = trained_looking(build()), build()
    torch.save(teacher.state_dict(), tmp_path / "run#3.pth")
    backbones.load_teacher(model, str(tmp_path / "run#3.pth"))
    assert backbones.fingerprint(model) == backbones.fingerprint(teacher)


@pytest.mark.parametrize(
    ("record", "read"),
    [
        ({"classes": ["b", "a", "c"]}, ("b", "a", "c")),
        ({"class_to_idx": {"a": 1, "b": 0, "c": 2}}, ("b", "a", "c")),
        ({"class_to_idx": {"a": 1, "b": 1}}, None),
        ({"classes": 5}, None),
        ({}, None),
    ],
)
def test_recorded_class_names_are_read(tmp_path: Path, record: dict, read: tuple | None) -> None:
    torch.save({"model": build().state_dict(), **record}, tmp_path / "t.pth")
    assert backbones.load_teacher(build(), str(tmp_path / "t.pth")).classes == read


def test_names_that_fit_nowhere_are_shown_beside_those_of_the_network(tmp_path: Path) -> None:
    torch.save({f"blocks.{n}.weight": torch.ones(2) for n in range(9)}, tmp_path / "vit.pth")
    hint = refused(build("resnet18"), tmp_path / "vit.pth").hint
    assert "begin with blocks.0.weight, blocks.1.weight" in hint
    assert "those of the network with conv1.weight, bn1.weight" in hint
    assert "backbone.name" not in hint


def test_safetensors_load(tmp_path: Path) -> None:
    teacher, model = trained_looking(build()), build()
    save_file(teacher.state_dict(), tmp_path / "teacher.safetensors")
    backbones.load_teacher(model, str(tmp_path / "teacher.safetensors"))
    assert backbones.fingerprint(model) == backbones.fingerprint(teacher)


def refused(model: nn.Module, path: Path) -> UserError:
    """The error of loading `path`, which must leave the model as it was."""
    before = backbones.fingerprint(model)
    with pytest.raises(UserError) as caught:
        backbones.load_teacher(model, str(path))
    assert caught.value.kind == "teacher"
    assert path.name in caught.value.message
    assert caught.value.hint
    assert backbones.fingerprint(model) == before
    return caught.value


class RunsCode:
    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.witness),)


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_a_file_that_would_run_code_is_refused_and_does_not(tmp_path: Path, form: str) -> None:
    path, witness = tmp_path / "evil.pth", tmp_path / "witness"
    content = {"model": build().state_dict(), "extra": RunsCode(witness)}
    if form == "pickle":
        path.write_bytes(pickle.dumps(RunsCode(witness)))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    assert "could run code" in refused(build(), path).message
    assert not witness.exists()


def test_objects_beside_the_weights_are_named(tmp_path: Path) -> None:
    path = tmp_path / "args.pth"
    torch.save({"model": build().state_dict(), "args": argparse.Namespace(lr=0.1)}, path)
    assert "argparse.Namespace" in refused(build(), path).message


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.98])
@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_truncated_files_are_refused(tmp_path: Path, form: str, share: float) -> None:
    path = tmp_path / ("cut.safetensors" if form == "safetensors" else "cut.pth")
    state = build().state_dict()
    if form == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "zip")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    assert "cut short" in refused(build(), path).message


def test_a_page_of_text_a_folder_and_nothing_are_refused(tmp_path: Path) -> None:
    page = tmp_path / "page.pth"
    page.write_text("<!DOCTYPE html><html>404</html>")
    assert "not a checkpoint" in refused(build(), page).message
    assert "is a folder" in refused(build(), tmp_path).message
    assert "does not exist" in refused(build(), tmp_path / "none.pth").message


@pytest.mark.parametrize(
    "text", ["root:x:0:0:root:/root:/bin/bash\n", "12\n", "0", "(lp0\n.", "}q.", "\n", "c"]
)
def test_text_that_happens_to_mean_something_to_a_reader_of_pickles_is_refused(
    tmp_path: Path, text: str
) -> None:
    page = tmp_path / "page.pth"
    page.write_text(text)
    assert refused(build(), page).kind == "teacher"


def test_a_file_that_may_not_be_read_is_told_from_a_damaged_one(tmp_path: Path, monkeypatch) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = tmp_path / "private.pth"
    path.touch()
    monkeypatch.setattr(torch, "load", forbidden)
    assert "permission denied" in refused(build(), path).message


def test_another_number_of_classes_or_channels_is_said_in_words(tmp_path: Path) -> None:
    path = tmp_path / "hundred.pth"
    torch.save(build(classes=100).state_dict(), path)
    error = refused(build(), path)
    assert "the teacher has 100 classes, the data set has 5" in error.message
    assert "trained on this data set" in error.hint
    torch.save(build(channels=1).state_dict(), path)
    assert "the teacher reads 1 channels, the images have 3" in refused(build(), path).message
    torch.save(build("resnet18", classes=100).state_dict(), path)
    assert "the teacher has 100 classes, the data set has 5" in refused(build("resnet18"), path).message


def test_differences_are_counted_named_and_bounded(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save(build("resnet18").state_dict(), path)
    message = refused(build("resnet50"), path).message
    assert "missing: " in message
    assert "more" in message
    assert len(message) < 1500
    torch.save(build(depth=4, width=16, norm="instance").state_dict(), path)
    error = refused(build(depth=3), path)
    assert "layers.norm.0.running_mean" in error.message
    assert "layers.conv.0.weight (16, 3, 3, 3) instead of (8, 3, 3, 3)" in error.message
    assert "depth=4, backbone.width=16, backbone.norm=instance" in error.hint


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    teacher = build()
    with torch.no_grad():
        teacher.get_parameter("classifier.bias")[0] = float("nan")
    torch.save(teacher.state_dict(), tmp_path / "nan.pth")
    assert "classifier.bias" in refused(build(), tmp_path / "nan.pth").message


def test_a_file_without_weights_says_what_it_holds(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "loss": 0.5}, tmp_path / "log.pth")
    assert "epoch, loss" in refused(build(), tmp_path / "log.pth").message
    torch.save([1, 2], tmp_path / "list.pth")
    assert "list" in refused(build(), tmp_path / "list.pth").message


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "hub" / "checkpoints"


def test_without_a_network_the_address_and_the_folder_are_said(hub: Path, monkeypatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    with pytest.raises(UserError) as caught:
        backbones.load_teacher(
            build("shufflenet_v2_x1_0", classes=1000, size=65), "torchvision:IMAGENET1K_V1"
        )
    assert caught.value.kind == "network"
    assert "https://" in caught.value.message
    assert str(hub) in caught.value.hint


def test_weights_put_in_the_folder_by_hand_are_used(hub: Path) -> None:
    teacher = trained_looking(build("shufflenet_v2_x1_0", classes=1000, size=224))
    url = torchvision.models.get_model_weights("shufflenet_v2_x1_0")["IMAGENET1K_V1"].url
    hub.mkdir(parents=True)
    torch.save(teacher.state_dict(), hub / url.rsplit("/", 1)[1])
    model = build("shufflenet_v2_x1_0", classes=1000, size=224)
    backbones.load_teacher(model, "torchvision:IMAGENET1K_V1")
    assert backbones.fingerprint(model) == backbones.fingerprint(teacher)


@pytest.mark.parametrize(
    ("model", "tag", "said"),
    [
        ({"name": "convnet"}, "IMAGENET1K_V1", "no ConvNet"),
        ({"name": "resnet18", "classes": 1000, "size": 224}, "IMAGENET", "no weights 'IMAGENET'"),
        ({"name": "resnet18", "classes": 1000, "size": 64}, "IMAGENET1K_V1", "64 px"),
        ({"name": "resnet18", "classes": 10, "size": 224}, "IMAGENET1K_V1", "10 classes"),
        ({"name": "resnet18", "classes": 1000, "channels": 1, "size": 224}, "IMAGENET1K_V1", "1 channels"),
    ],
)
def test_published_weights_that_cannot_fit_are_not_fetched(
    hub: Path, model: dict, tag: str, said: str
) -> None:
    with pytest.raises(UserError, match=said) as caught:
        backbones.load_teacher(build(**model), f"torchvision:{tag}")
    assert caught.value.kind == "teacher"
    assert not hub.exists()


def test_old_names_of_densenet_are_understood(tmp_path: Path) -> None:
    teacher, model = trained_looking(build("densenet121")), build("densenet121")
    old = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", n): v
        for n, v in teacher.state_dict().items()
    }
    assert "features.denseblock1.denselayer2.norm.1.weight" in old
    torch.save(old, tmp_path / "old.pth")
    backbones.load_teacher(model, str(tmp_path / "old.pth"))
    assert backbones.fingerprint(model) == backbones.fingerprint(teacher)


# ---- networks of other codes


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
