"""Networks: shapes at all sizes, names of released checkpoints, folding, and what may be loaded."""

from __future__ import annotations

import argparse
import os
import pickle
import re
from pathlib import Path
from typing import get_args

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from engine import backbones
from engine.config import Backbone, BackboneName
from engine.errors import UserError


def build(
    name: str = "convnet", *, classes: int = 5, channels: int = 3, size: int = 32, **options
) -> nn.Module:
    config = Backbone(**{"name": name, "width": 8, **options})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return backbones.build(config, classes=classes, channels=channels, image_size=size)


def trained_looking(model: nn.Module) -> nn.Module:
    """Give BatchNorms statistics and weights that a wrong fold cannot survive."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            with torch.no_grad():
                module.running_mean.normal_(0, 0.1, generator=generator)
                module.running_var.uniform_(0.5, 2, generator=generator)
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.bias.normal_(0, 0.1, generator=generator)
    return model


def images(channels: int, size: int) -> torch.Tensor:
    return torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("name", backbones.NAMES)
def test_folding_changes_no_output_and_names_are_in_forward_order(name: str) -> None:
    model = trained_looking(build(name)).eval()
    before = backbones.fingerprint(model)
    folded = backbones.fold_batchnorm(model)
    x = images(3, 32)
    order: list[str] = []
    for conv in (tapped := backbones.conv_names(model)):
        folded.get_submodule(conv).register_forward_hook(lambda *_, conv=conv: order.append(conv))
    with torch.no_grad():
        expected, found = model(x), folded(x)
    assert found.shape == (2, 5)
    assert (found - expected).norm() <= 1e-4 * expected.norm()
    assert order == tapped
    assert backbones.fingerprint(model) == before
    assert not any(p.requires_grad for p in folded.parameters())
    assert all(p.requires_grad for p in model.parameters())
    assert not any(module.training for module in folded.modules())


@pytest.mark.parametrize("name", backbones.NAMES)
def test_one_channel_at_the_smallest_size_keeps_a_map_of_more_than_a_pixel(name: str) -> None:
    model = build(name, channels=1, size=16)
    shapes: list[tuple[int, ...]] = []
    last = model.get_submodule(backbones.conv_names(model)[-1])
    last.register_forward_hook(lambda _m, _i, out: shapes.append(tuple(out.shape[2:])))
    loss = (
        model(images(1, 16)).square().sum()
    )  # training mode: a map of one pixel would be normalised to zero
    loss.backward()
    assert torch.isfinite(loss)
    assert shapes[0][0] == shapes[0][1] >= 2


@pytest.mark.parametrize("name", [name for name in backbones.NAMES if name != "convnet"])
def test_parameter_names_are_torchvisions(name: str) -> None:
    theirs = torchvision.models.get_model(name, num_classes=5).state_dict()
    for size in (32, 65):
        ours = build(name, size=size).state_dict()
        changed = [n for n in theirs if ours[n].shape != theirs[n].shape]
        assert list(ours) == list(theirs)
        assert len(changed) <= (1 if size <= 64 else 0)


@pytest.mark.parametrize("size", [17, 48, 64, 65, 97])
def test_any_size(size: int) -> None:
    for name in ("convnet", "resnet18", "shufflenet_v2_x1_0"):
        with torch.no_grad():
            assert build(name, size=size).eval()(images(3, size)).shape == (2, 5)


def test_every_size_between_the_limits_has_a_default_convnet_depth() -> None:
    for size in range(16, 70):
        assert len(backbones.conv_names(build(size=size))) == (3 if size < 64 else 4)


def test_small_resnet_keeps_its_resolution_to_the_first_block() -> None:
    model = build("resnet18")
    shapes = []
    model.get_submodule("layer1").register_forward_hook(lambda _m, i, _o: shapes.append(i[0].shape[-1]))
    model(images(3, 32))
    assert shapes == [32]


def test_taps_leave_out_projections_of_shortcuts_and_gates() -> None:
    resnet = backbones.conv_names(build("resnet18"))
    assert len(resnet) == 17
    assert resnet[:2] == ["conv1", "layer1.0.conv1"]
    for name in ("resnet50", "regnet_y_8gf", "efficientnet_b0"):
        joined = " ".join(backbones.conv_names(build(name)))
        assert all(word not in joined for word in ("downsample", "proj", "fc1", "se."))
    assert len(backbones.batchnorm_names(build("resnet18"))) == 20


def test_instance_norm_normalises_each_image_alone_and_folds_to_itself() -> None:
    model = build(norm="instance")
    x = images(3, 32)
    assert torch.allclose(model(x)[:1], model(x[:1]), atol=1e-5)
    assert backbones.batchnorm_names(model) == []
    folded = backbones.fold_batchnorm(model)
    assert backbones.fingerprint(folded) == backbones.fingerprint(model)
    assert isinstance(model.get_submodule("layers.norm.0"), nn.GroupNorm)


def test_folding_lets_gradients_reach_the_images() -> None:
    model = trained_looking(build()).eval()
    grads = []
    for net in (model, backbones.fold_batchnorm(model)):
        x = images(3, 32).requires_grad_()
        net(x).square().sum().backward()
        assert x.grad is not None
        grads.append(x.grad)
    assert torch.allclose(grads[0], grads[1], rtol=1e-3, atol=1e-6)


def test_the_configuration_knows_the_same_names() -> None:
    assert get_args(BackboneName) == backbones.NAMES


def test_unknown_name_offers_the_nearest_and_the_rest() -> None:
    with pytest.raises(UserError) as caught:
        backbones.build(Backbone(), classes=5, channels=3, image_size=32, name="ResNet-18")
    assert caught.value.kind == "config"
    assert "'resnet18'" in caught.value.hint
    assert all(name in caught.value.hint for name in backbones.NAMES)


def test_a_network_that_pools_to_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="halves an image of 16 px to nothing") as caught:
        build(size=16, depth=5)
    assert "at most 4" in caught.value.hint
    build(size=16, depth=4)
    with pytest.raises(UserError, match="at least 16 px"):
        build("resnet18", size=15)


def test_fingerprint_follows_values_names_and_types_alone() -> None:
    model, same = build(), build()
    assert backbones.fingerprint(model) == backbones.fingerprint(same)
    same.to(memory_format=torch.channels_last)
    assert backbones.fingerprint(model) == backbones.fingerprint(same)
    assert backbones.fingerprint(model) != backbones.fingerprint(build().double())
    with torch.no_grad():
        same.get_parameter("classifier.bias")[0] += 1e-7
    assert backbones.fingerprint(model) != backbones.fingerprint(same)


# ---- loading


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


# ---- torchvision's weights


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
