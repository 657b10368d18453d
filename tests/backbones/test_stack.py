"""A stack of networks computes what its members compute, and refuses networks for which it would not."""

import pytest
import torch

from engine import backbones
from engine.config import Config


def build(name, seed, norm="batch"):
    config = Config.model_validate({"backbone": {"name": name, "width": 8, "norm": norm}})
    torch.manual_seed(seed)
    return backbones.build(config.backbone, classes=5, channels=3, image_size=32)


@pytest.mark.parametrize(
    ("name", "norm"),
    [("convnet", "batch"), ("convnet", "instance"), ("resnet18", "batch"), ("wrn_16_2", "batch")],
)
def test_logits_gradients_and_statistics_are_those_of_the_members(name, norm):
    members = [build(name, seed, norm).double() for seed in range(3)]
    x = torch.rand(4, 9, 32, 32, dtype=torch.float64)
    stacked = backbones.stack(members, x[:2, :3])
    logits = stacked(x)
    weights = torch.rand_like(logits)
    (logits * weights).sum().backward()
    for number, member in enumerate(members):
        alone = member.train()(x[:, 3 * number : 3 * number + 3])
        (alone * weights[:, number]).sum().backward()
        torch.testing.assert_close(logits[:, number], alone, rtol=1e-9, atol=1e-9)
        state = stacked.member_state(number)
        assert list(state) == list(member.state_dict())
        for key, value in member.state_dict().items():
            torch.testing.assert_close(state[key], value, rtol=1e-9, atol=1e-9)
        gradients = {
            key: parameter.grad.chunk(3)[number] for key, parameter in stacked.network.named_parameters()
        }
        for key, parameter in member.named_parameters():
            torch.testing.assert_close(gradients[key], parameter.grad, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize(
    "name", ["shufflenet_v2_x0_5", "densenet121", "mobilenet_v2", "efficientnet_b0", "convnext_tiny"]
)
def test_networks_that_mix_channels_or_draw_numbers_are_not_stacked(name):
    members = [build(name, seed).eval() for seed in range(2)]
    assert backbones.stack(members, torch.rand(2, 3, 32, 32)) is None
    assert not any(member.training for member in members)


def test_members_keep_their_mode_and_weights():
    members = [build("convnet", seed) for seed in range(2)]
    members[1].eval()
    before = [backbones.fingerprint(member) for member in members]
    assert backbones.stack(members, torch.rand(2, 3, 32, 32)).training
    assert [member.training for member in members] == [True, False]
    assert [backbones.fingerprint(member) for member in members] == before


def test_a_folded_stack_has_the_same_logits():
    members = [build("resnet18", seed) for seed in range(2)]
    x = torch.rand(3, 3, 32, 32)
    stacked = backbones.stack(members, x)
    stacked(torch.rand(4, 6, 32, 32))  # running statistics that are not those of a new layer
    both = x.repeat(1, 2, 1, 1)
    with torch.no_grad():
        folded = backbones.fold_batchnorm(stacked)(both)
        torch.testing.assert_close(folded, stacked.eval()(both), rtol=1e-4, atol=1e-4)
