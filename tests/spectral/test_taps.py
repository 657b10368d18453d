"""The tapped network against the network as it is."""

import pytest
import torch
from torch import nn

from engine import backbones
from engine.config import Backbone
from engine.spectral import taps
from engine.spectral.taps import Tapped, tap_names


@pytest.mark.parametrize("where", ["conv-input", "conv-output", "batchnorm"])
def test_logits_features_and_gradients_are_those_of_the_network_itself(where, teacher, digits, cpu):
    x = digits.train.batch(range(6), cpu).requires_grad_()
    plain = {}

    def listen(name):
        def hook(module, inputs, output):
            plain[name] = (output if where == "conv-output" else inputs[0]).clone()

        return hook

    wanted = tap_names(teacher, where)
    hooks = [teacher.get_submodule(name).register_forward_hook(listen(name)) for name in wanted]
    logits = teacher(x)
    for hook in hooks:
        hook.remove()
    expected = [plain[name] for name in wanted]
    features, ours = Tapped(teacher, where, cpu)(x)

    def loss(logits, features):
        return logits.square().sum() + sum(f.sin().sum() for f in features)

    torch.testing.assert_close(ours, logits, rtol=1e-4, atol=1e-4)
    for f, e in zip(features, expected, strict=True):
        torch.testing.assert_close(f, e, rtol=1e-4, atol=1e-4)
    (gradient,) = torch.autograd.grad(loss(ours, features), x)
    (theirs,) = torch.autograd.grad(loss(logits, expected), x)
    torch.testing.assert_close(gradient, theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max()))


@pytest.mark.parametrize(
    "options",
    [{"padding": 1}, {"padding": 1, "stride": 2}, {"dilation": 2}, {"padding": (0, 2), "bias": False}],
    ids=str,
)
def test_gradient_of_the_first_conv_is_that_of_any_conv(options):
    conv = nn.Conv2d(3, 32, 3, **options).double().requires_grad_(False)
    network = nn.Sequential(conv)
    taps._speed_up_first_conv(network)
    assert network[0] is not conv
    x = torch.randn(2, 3, 9, 8, dtype=torch.float64, requires_grad=True)
    weights = torch.randn_like(conv(x))
    (gradient,) = torch.autograd.grad((network(x) * weights).sum(), x)
    (expected,) = torch.autograd.grad((conv(x) * weights).sum(), x)
    torch.testing.assert_close(network(x), conv(x))
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize(
    "conv", [nn.Conv2d(3, 64, 7), nn.Conv2d(32, 64, 3), nn.Conv2d(4, 64, 3, groups=2)], ids=str
)
def test_a_first_conv_of_large_patches_or_groups_stays(conv):
    network = nn.Sequential(conv)
    taps._speed_up_first_conv(network)
    assert network[0] is conv


@pytest.mark.parametrize("taps", ["conv-input", "conv-output", "batchnorm"])
def test_a_rounded_network_has_nearly_the_same_features_and_gradients(teacher, digits, cpu, taps):
    x = digits.train.batch(range(8), cpu)
    found = {}
    for precision in ("float32", "bfloat16"):
        images = x.clone().requires_grad_()
        features, logits = Tapped(teacher, taps, cpu, precision)(images)
        logits.float().square().sum().backward()
        found[precision] = [*(part.detach().float() for part in features), logits.float(), images.grad]
    *exact, exact_gradient = found["float32"]
    *rounded, rounded_gradient = found["bfloat16"]
    for one, other in zip(exact, rounded, strict=True):
        assert (other - one).norm() < 0.02 * one.norm()
    assert not torch.equal(exact[-1], rounded[-1])
    assert (rounded_gradient - exact_gradient).norm() < 0.15 * exact_gradient.norm()


def test_all_outputs_of_a_resnet_include_its_shortcuts(digits, cpu):
    model = backbones.build(Backbone(name="resnet18"), classes=10, channels=1, image_size=16).eval()
    names = tap_names(model, "all-conv-output")
    convs = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    assert sorted(names) == sorted(convs)
    assert len(names) == 20
    assert len(tap_names(model, "conv-output")) == 17
    features, logits = Tapped(model, "all-conv-output", cpu)(digits.train.batch(range(3), cpu))
    outputs = {}
    for name in names:
        hook = lambda module, inputs, output, name=name: outputs.__setitem__(name, output.clone())  # noqa: E731
        model.get_submodule(name).register_forward_hook(hook)
    torch.testing.assert_close(logits, model(digits.train.batch(range(3), cpu)), rtol=1e-4, atol=1e-4)
    for name, x_MDHW in zip(names, features, strict=True):
        torch.testing.assert_close(x_MDHW, outputs[name], rtol=1e-4, atol=1e-4)
