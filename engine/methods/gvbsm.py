"""G-VBSM: matching of several backbones, one per step, layer by layer.

Statistics are moving averages with a straight-through gradient: their value is α times the previous value
plus 1 − α times that of the batch, and their gradient is that of the batch. A density term keeps the images
of a class apart. Each step skips some convolutions. Students are labelled by the mean of all backbones'
logits.
Legend: M images, C channels, S side, L taps, K classes, N images of a class.
Source: G-VBSM (Shao et al. 2024) and its released code. Not here: the taps of all layers (see `taps`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from engine.checkpoint import StageState, add_prefix, clone_to, strip_prefix
from engine.config import Config
from engine.device import upload
from engine.methods.extension import Extension, Step
from engine.rng import generator
from engine.spectral.moments import Moments, pack, unpack
from engine.spectral.taps import KINDS, PATCHES, Tapped

POOLED = 32  #: largest side, in pixels, of the images in the density term


class Ensemble(nn.Module):
    """Several networks combined into one that returns the mean of their logits."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, x_MCHW: Tensor) -> Tensor:
        """Return the mean logits, shape (M, K)."""
        total_MK: Tensor = self.networks[0](x_MCHW)
        for network in self.networks[1:]:
            total_MK = total_MK + network(x_MCHW)
        return total_MK / len(self.networks)


class MovingStatistics:
    """Straight-through moving statistics of every backbone; they start at zero, as in the released code."""

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha
        self._moments: dict[int, list[Moments]] = {}

    def step(self, turn: int, batch: Sequence[Moments], kept_L: NDArray[np.bool_]) -> list[Moments]:
        """Update and return the statistics of backbone `turn` with those of a batch.

        Taps that are not kept retain their values.
        """
        before = self._moments.get(turn) or [
            Moments(tap.name, torch.zeros_like(tap.mean_D), torch.zeros_like(tap.var_D)) for tap in batch
        ]
        updated = [
            self._blend(old, new.detach()) if kept else old
            for old, new, kept in zip(before, batch, kept_L, strict=True)
        ]
        self._moments[turn] = updated
        return [_pass_gradient_through(value, new) for value, new in zip(updated, batch, strict=True)]

    def _blend(self, old: Moments, new: Moments) -> Moments:
        alpha, share = self.alpha, 1.0 - self.alpha
        return Moments(
            new.name, alpha * old.mean_D + share * new.mean_D, alpha * old.var_D + share * new.var_D
        )

    def state_dict(self) -> dict[str, Tensor]:
        """Return the statistics of all backbones, by name."""
        tensors: dict[str, Tensor] = {}
        for turn, moments in self._moments.items():
            tensors |= add_prefix(f"moving.{turn}", pack(moments))
        return tensors

    def load_state_dict(
        self, arrays: Mapping[str, Tensor], networks: Sequence[Tapped], device: torch.device
    ) -> None:
        """Restore the statistics from a `state_dict`."""
        for turn, network in enumerate(networks):
            saved = {
                name: clone_to(value, device)
                for name, value in strip_prefix(f"moving.{turn}", arrays).items()
            }
            if saved:
                self._moments[turn] = unpack(saved, network.names)


def _pass_gradient_through(value: Moments, batch: Moments) -> Moments:
    """Return `value` with the gradient of `batch`."""
    return Moments(
        batch.name,
        value.mean_D + (batch.mean_D - batch.mean_D.detach()),
        value.var_D + (batch.var_D - batch.var_D.detach()),
    )


class LayerSampling(Extension):
    """Moving statistics, skipped convolutions and the density term, each where the settings ask for it.

    networks: those between which steps alternate. saved: restore the moving statistics from this state.
    """

    def __init__(
        self, config: Config, networks: Sequence[Tapped], device: torch.device, saved: StageState | None
    ) -> None:
        self._settings = config.recover
        self._seed = config.seed
        self._moving: MovingStatistics | None = None
        if config.recover.straight_through is not None:
            self._moving = MovingStatistics(config.recover.straight_through)
            self._moving.load_state_dict({} if saved is None else saved.tensors, networks, device)

    def prepare(self, view_MCHW: Tensor, labels_M: Tensor, *, starts_round: bool) -> None:
        """Group the images of the batch by class, for the density term."""
        self._by_class = group_by_class(labels_M.cpu().numpy(), labels_M.device)

    def mix(self, step: Step, statistics: list[Moments]) -> list[Moments]:
        """Draw the taps of the step, and return the moving statistics if there are any."""
        drop = self._settings.drop
        self._kept_L = draw_kept_taps(step.network, drop, self._seed, step.batch, step.iteration)
        if self._moving is None:
            return statistics
        return self._moving.step(step.turn, statistics, self._kept_L)

    def mask(self, values_TL: Tensor) -> Tensor:
        """Return the values of the taps that are kept, and zero for the others."""
        if self._kept_L.all():
            return values_TL
        return values_TL * upload(torch.from_numpy(self._kept_L), values_TL.device)

    def extra_loss(self, view_MCHW: Tensor) -> Tensor | None:
        """Return the weighted density term."""
        density = self._settings.density
        if not density.weight:
            return None
        return density.weight * density_loss(view_MCHW, self._by_class, density.tau)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the moving statistics."""
        return {} if self._moving is None else self._moving.state_dict()


def draw_kept_taps(network: Tapped, share: float, seed: int, batch: int, iteration: int) -> NDArray[np.bool_]:
    """Draw which taps a step uses, shape (L,): each conv is dropped with probability `share`.

    The patches of a dropped conv are dropped, too.
    """
    if not share:
        return np.ones(len(network.names), dtype=bool)
    rng = generator(seed, "drop", batch, iteration)
    dropped = {name: bool(rng.random() < share) for name in network.names if not name.endswith(PATCHES)}
    norm = KINDS.index("batchnorm")
    return np.array(
        [
            kind == norm or not dropped[name.removesuffix(PATCHES)]
            for name, kind in zip(network.names, network.column_L, strict=True)
        ]
    )


def density_loss(x_MCSS: Tensor, by_class: Sequence[Tensor], tau: float) -> Tensor:
    """Return Σ over classes of KL(softmax(λ/τ) ‖ softmax(λ)), a scalar; softmax(λ/τ) is held constant.

    λ: the eigenvalues of the Gram matrix, shape (N, N), of a class's images, pooled to 32×32. by_class: from
    `group_by_class`. PyTorch synchronises with the device in each eigendecomposition, so there is one for all
    classes with the same number of images.
    """
    side = min(POOLED, x_MCSS.shape[-1])
    rows_MD = F.adaptive_avg_pool2d(x_MCSS, side).flatten(1)
    total = rows_MD.new_zeros(())
    for indices_KN in by_class:
        rows_KND = rows_MD[indices_KN]
        eigenvalues_KN = torch.linalg.eigvalsh(rows_KND @ rows_KND.mT)
        target_KN = (eigenvalues_KN / tau).softmax(dim=1).detach()
        total = total + F.kl_div(eigenvalues_KN.log_softmax(dim=1), target_KN, reduction="sum")
    return total


def group_by_class(labels_M: NDArray[np.int64], device: torch.device) -> list[Tensor]:
    """Return the positions of each class's images in a batch: one (K, N) tensor per number of images N."""
    by_count: dict[int, list[NDArray[np.int64]]] = {}
    for label in np.unique(labels_M):
        indices_N = np.flatnonzero(labels_M == label)
        by_count.setdefault(len(indices_N), []).append(indices_N)
    return [torch.from_numpy(np.stack(classes)).to(device) for classes in by_count.values()]
