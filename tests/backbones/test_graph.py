"""The order of layers, and BatchNorms that are folded into convs."""

import pytest
import torch
from networks import build, images, trained_looking

from engine import backbones


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


def test_taps_leave_out_projections_of_shortcuts_and_gates() -> None:
    resnet = backbones.conv_names(build("resnet18"))
    assert len(resnet) == 17
    assert resnet[:2] == ["conv1", "layer1.0.conv1"]
    for name in ("resnet50", "regnet_y_8gf", "efficientnet_b0"):
        joined = " ".join(backbones.conv_names(build(name)))
        assert all(word not in joined for word in ("downsample", "proj", "fc1", "se."))
    assert len(backbones.batchnorm_names(build("resnet18"))) == 20


def test_folding_lets_gradients_reach_the_images() -> None:
    model = trained_looking(build()).eval()
    grads = []
    for net in (model, backbones.fold_batchnorm(model)):
        x = images(3, 32).requires_grad_()
        net(x).square().sum().backward()
        assert x.grad is not None
        grads.append(x.grad)
    assert torch.allclose(grads[0], grads[1], rtol=1e-3, atol=1e-6)
