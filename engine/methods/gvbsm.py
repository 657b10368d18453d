"""G-VBSM: what recovery needs besides terms to match several backbones, one a step, layer by layer.

Statistics move from step to step, straight through: their value is α times what was and 1 − α times the
batch's own, their gradient that of the batch's own. A density term keeps the images of a class apart. A step
leaves out some convolutions. Students are labelled by the mean of all backbones' logits.
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
from engine.rng import generator
from engine.spectral.moments import Moments, pack, unpack
from engine.spectral.taps import KINDS, PATCHES, Tapped

POOLED = 32  #: pixels a side, at most, that the density term sees


class Ensemble(nn.Module):
    """Several networks as one: the mean of their logits."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, x_MCHW: Tensor) -> Tensor:
        """Logits, shape (M, K)."""
        total_MK: Tensor = self.networks[0](x_MCHW)
        for network in self.networks[1:]:
            total_MK = total_MK + network(x_MCHW)
        return total_MK / len(self.networks)


class MovingStatistics:
    """Straight-through moving statistics of every backbone; they begin at zero, as in the released code."""

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha
        self._was: dict[int, list[Moments]] = {}

    def step(self, turn: int, batch: Sequence[Moments], kept_L: NDArray[np.bool_]) -> list[Moments]:
        """The statistics of backbone `turn` with those of a batch taken in; taps that are not kept stay."""
        before = self._was.get(turn) or [
            Moments(own.name, torch.zeros_like(own.mean_D), torch.zeros_like(own.var_D)) for own in batch
        ]
        now = [
            self._mixed(was, new.detach()) if kept else was
            for was, new, kept in zip(before, batch, kept_L, strict=True)
        ]
        self._was[turn] = now
        return [_straight(value, new) for value, new in zip(now, batch, strict=True)]

    def _mixed(self, was: Moments, new: Moments) -> Moments:
        old, share = self.alpha, 1.0 - self.alpha
        return Moments(new.name, old * was.mean_D + share * new.mean_D, old * was.var_D + share * new.var_D)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the statistics of all backbones, by name."""
        found: dict[str, Tensor] = {}
        for turn, moments in self._was.items():
            found |= add_prefix(f"moving.{turn}", pack(moments))
        return found

    def load_state_dict(
        self, arrays: Mapping[str, Tensor], networks: Sequence[Tapped], device: torch.device
    ) -> None:
        """Restore the statistics from a `state_dict`."""
        for turn, network in enumerate(networks):
            kept = {
                name: clone_to(value, device)
                for name, value in strip_prefix(f"moving.{turn}", arrays).items()
            }
            if kept:
                self._was[turn] = unpack(kept, network.names)


def _straight(value: Moments, batch: Moments) -> Moments:
    """`value`, with the gradient of `batch`."""
    return Moments(
        batch.name,
        value.mean_D + (batch.mean_D - batch.mean_D.detach()),
        value.var_D + (batch.var_D - batch.var_D.detach()),
    )


def build_moving_statistics(
    config: Config, networks: Sequence[Tapped], device: torch.device, saved: StageState | None
) -> MovingStatistics | None:
    """The statistics that move from step to step, if any, as they stood when `saved` was."""
    if config.recover.straight_through is None:
        return None
    moves = MovingStatistics(config.recover.straight_through)
    moves.load_state_dict({} if saved is None else saved.tensors, networks, device)
    return moves


def draw_kept_taps(network: Tapped, share: float, seed: int, batch: int, iteration: int) -> NDArray[np.bool_]:
    """Which taps a step reads, shape (L,): with probability `share` not a conv, nor its patches."""
    if not share:
        return np.ones(len(network.names), dtype=bool)
    rng = generator(seed, "drop", batch, iteration)
    out = {name: bool(rng.random() < share) for name in network.names if not name.endswith(PATCHES)}
    norm = KINDS.index("batchnorm")
    return np.array(
        [
            kind == norm or not out[name.removesuffix(PATCHES)]
            for name, kind in zip(network.names, network.column_L, strict=True)
        ]
    )


def mask_dropped_taps(values_TL: Tensor, kept_L: NDArray[np.bool_]) -> Tensor:
    """The values of the taps that are kept, zero for the others."""
    if kept_L.all():
        return values_TL
    return values_TL * upload(torch.from_numpy(kept_L), values_TL.device)


def density(x_MCSS: Tensor, by_class: Sequence[Tensor], tau: float) -> Tensor:
    """Σ over classes of KL(softmax(λ/τ) ‖ softmax(λ)), a scalar; the gradient is that of the second one.

    λ: the eigenvalues of the Gram matrix, shape (N, N), of a class's images, pooled to 32×32. by_class: see
    there. PyTorch waits for the device in an eigendecomposition: once for all classes of as many images.
    """
    side = min(POOLED, x_MCSS.shape[-1])
    rows_MD = F.adaptive_avg_pool2d(x_MCSS, side).flatten(1)
    total = rows_MD.new_zeros(())
    for where_KN in by_class:
        rows_KND = rows_MD[where_KN]
        eigenvalues_KN = torch.linalg.eigvalsh(rows_KND @ rows_KND.mT)
        wanted_KN = (eigenvalues_KN / tau).softmax(dim=1).detach()
        total = total + F.kl_div(eigenvalues_KN.log_softmax(dim=1), wanted_KN, reduction="sum")
    return total


def group_by_class(labels_M: NDArray[np.int64], device: torch.device) -> list[Tensor]:
    """Where the images of each class of a batch stand in it, (K, N) for all classes of as many images."""
    found: dict[int, list[NDArray[np.int64]]] = {}
    for label in np.unique(labels_M):
        where_N = np.flatnonzero(labels_M == label)
        found.setdefault(len(where_N), []).append(where_N)
    return [torch.from_numpy(np.stack(each)).to(device) for each in found.values()]
