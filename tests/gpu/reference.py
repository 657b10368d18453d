"""One recovery step in float64 on the CPU, written down from the equations.

Statistics, filters, objective and views are stated here anew; of the engine only names of taps, settings and
random draws are used. What a device computes is compared with this.
Legend: M images, D features, N positions, K classes. Source: UniDD Eq. 1-4, 16-21, Table 1; DWA; G-VBSM.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as tv

PATCHES = "/patches"
Masks = Mapping[str, Sequence[Tensor]]  #: by ReLU, where each of its calls let its input pass


@dataclass(frozen=True)
class Tap:
    """Float64 statistics of one tap: mean (D,), Ψ (D, D), Φ (D, K)."""

    mean: Tensor
    cov: Tensor
    flc: Tensor

    def mixed(self, earlier: Tap | None, number: int) -> Tap:
        """Moving statistics of batch `number`: weight 1/number for the newest (Eq. 18)."""
        if earlier is None:
            return self
        new = 1 / number
        pairs = zip((self.mean, self.cov, self.flc), (earlier.mean, earlier.cov, earlier.flc), strict=True)
        return Tap(*(new * own + (1 - new) * old for own, old in pairs))


def view(x_MCSS: Tensor, drawn) -> Tensor:
    """Apply a `Draw` by padding, torchvision's crop and flip, and a roll; one draw, or one per image."""
    size, views = x_MCSS.shape[-1], []
    for index, x_CSS in enumerate(x_MCSS):
        which = index % len(drawn.boxes_M4)
        if drawn.source_M2S is not None:
            rows, columns = (torch.from_numpy(each) for each in drawn.source_M2S[which])
            x_CSS = x_CSS[:, rows][:, :, columns]
        top, left, height, width = (int(value) for value in drawn.boxes_M4[which])
        x_CSS = F.pad(x_CSS, (size, size, size, size))[
            :, size + top : size + top + height, size + left : size + left + width
        ]
        if (height, width) != (size, size):
            x_CSS = F.interpolate(x_CSS[None], (size, size), mode="bilinear", align_corners=False)[0]
        if drawn.flip_M[which]:
            x_CSS = tv.horizontal_flip(x_CSS)
        views.append(torch.roll(x_CSS, tuple(drawn.roll_M2[which].tolist()), dims=(1, 2)))
    return torch.stack(views)


def read(
    model: nn.Module, names: Sequence[str], x_MCHW: Tensor, patch: int = 0
) -> tuple[list[Tensor], Tensor]:
    """Return the inputs of the modules with these names, and the logits, of a float64 network."""
    inputs: dict[str, Tensor] = {}
    handles = [
        module.register_forward_pre_hook(lambda _, given, name=name: inputs.__setitem__(name, given[0]))
        for name, module in model.named_modules()
        if name in names
    ]
    logits_MK = model(x_MCHW)
    for handle in handles:
        handle.remove()
    return [_tap_features(inputs, name, patch) for name in names], logits_MK


def _tap_features(inputs: Mapping[str, Tensor], name: str, patch: int) -> Tensor:
    x_MDHW = inputs[name.removesuffix(PATCHES)]
    if not name.endswith(PATCHES):
        return x_MDHW
    side = -(-x_MDHW.shape[-1] // patch) * patch
    if side != x_MDHW.shape[-1]:
        x_MDHW = F.interpolate(x_MDHW, (side, side), mode="bilinear")
    cut = x_MDHW.unfold(2, patch, patch).unfold(3, patch, patch)  # M, D, rows, columns, patch, patch
    return cut.permute(0, 2, 3, 1, 4, 5).flatten(4).flatten(1, 2)


def measure(x_MDHW: Tensor, onehot_MK: Tensor) -> Tap:
    """Biased mean and covariance over all positions, and Φ (Eq. 16-17)."""
    rows_ND = x_MDHW.permute(0, 2, 3, 1).flatten(0, 2)
    mean_D = rows_ND.mean(0)
    centred_ND = rows_ND - mean_D
    flc_DK = x_MDHW.mean((2, 3)).T @ onehot_MK / len(onehot_MK)
    return Tap(mean_D, centred_ND.T @ centred_ND / len(rows_ND), flc_DK)


def to_float64(model: nn.Module, masks: Masks | None = None) -> nn.Module:
    """Return a float64 copy on the CPU, in evaluation mode.

    masks: replaces ReLUs. Rounding may put an input that is nearly 0 on the other side, where the gradient is
    another; with the masks of the device both gradients are those of the same linear piece.
    """
    network = copy.deepcopy(model).cpu().double().eval().requires_grad_(False)
    for name, calls in (masks or {}).items():
        network.set_submodule(name, _Masked(calls))
    return network


class _Masked(nn.Module):
    def __init__(self, calls: Sequence[Tensor]) -> None:
        super().__init__()
        self.calls = iter(calls)

    def forward(self, x: Tensor) -> Tensor:
        return x * next(self.calls)


@contextmanager
def record_masks(network: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
    """Record the masks of all ReLUs while the network computes."""
    masks: dict[str, list[Tensor]] = {}

    def listen(name: str, output: Tensor) -> None:
        masks.setdefault(name, []).append((output.detach() > 0).cpu())

    handles = [
        module.register_forward_hook(lambda _, __, output, name=name: listen(name, output))
        for name, module in network.named_modules()
        if isinstance(module, nn.ReLU)
    ]
    try:
        yield masks
    finally:
        for handle in handles:
            handle.remove()


def perturbed(model: nn.Module, x_MCHW: Tensor, labels_M: Tensor, steps: int, rho: float) -> nn.Module:
    """Take `steps` ascent steps of length ρ/steps on the cross-entropy, over all weights together (DWA)."""
    climber = copy.deepcopy(model).requires_grad_(True)
    weights = list(climber.parameters())
    for _ in range(steps):
        gradients = torch.autograd.grad(F.cross_entropy(climber(x_MCHW), labels_M), weights)
        norm = sum(g.square().sum() for g in gradients).sqrt()
        with torch.no_grad():
            for weight, g in zip(weights, gradients, strict=True):
                weight += rho / steps * g / (norm + 1e-12)
    return climber.requires_grad_(False)


def ridge_terms(real: Tap, own: Tap, beta: float) -> Tensor:
    """CFM with the mean signal: ‖(Ψ+βI)⁻¹ − (Ψ_s+βI)⁻¹‖ + ‖the same times the means‖ (Eq. 20)."""
    identity = torch.eye(len(real.cov), dtype=torch.float64)
    one, other = (torch.linalg.inv(tap.cov + beta * identity) for tap in (real, own))
    return (one - other).norm() + (one @ real.mean - other @ own.mean).norm()


def trajectory_terms(real: Tap, own: Tap, p: int, q: int) -> Tensor:
    """MTT's filter view with α = 1/λ_max of the real Ψ: power term and series term (Table 1)."""
    identity = torch.eye(len(real.cov), dtype=torch.float64)
    alpha = 1 / torch.linalg.eigvalsh(real.cov)[-1]
    one, other = (identity - alpha * tap.cov for tap in (real, own))
    power = (torch.linalg.matrix_power(one, p) - torch.linalg.matrix_power(other, q)).norm()
    series = [
        alpha * sum(torch.linalg.matrix_power(base, each) for each in range(count)) @ tap.flc
        for base, count, tap in ((one, p, real), (other, q, own))
    ]
    return power + (series[0] - series[1]).norm()


def variance_terms(real: Tap, own: Tap, variance_weight: float, mean_weight: float) -> Tensor:
    """SRe²L, DWA and G-VBSM: weighted distances of the variances and of the means (Eq. 4)."""
    spread = (real.cov.diagonal() - own.cov.diagonal()).norm()
    return variance_weight * spread + mean_weight * (real.mean - own.mean).norm()


def straight_through(own: Tap, before: Tap, alpha: float) -> Tap:
    """Values α·before + (1 − α)·own with the gradient of own (G-VBSM)."""
    pairs = zip((own.mean, own.cov, own.flc), (before.mean, before.cov, before.flc), strict=True)
    return Tap(*((alpha * old + (1 - alpha) * new - new).detach() + new for new, old in pairs))


def density(x_MCSS: Tensor, labels_M: Tensor, tau: float) -> Tensor:
    """Σ over classes of KL(softmax(λ/τ) ‖ softmax(λ)) of the Gram matrices of pooled images (G-VBSM)."""
    rows = F.adaptive_avg_pool2d(x_MCSS, min(32, x_MCSS.shape[-1])).flatten(1)
    total = torch.zeros((), dtype=torch.float64)
    for label in labels_M.unique():
        eigenvalues = torch.linalg.eigvalsh(rows[labels_M == label] @ rows[labels_M == label].T)
        wanted = (eigenvalues / tau).softmax(0).detach()
        total = total + (wanted * (wanted.log() - eigenvalues.log_softmax(0))).sum()
    return total
