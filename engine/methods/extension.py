"""What a method may add to the optimisation of images, beyond its terms, filter and schedule.

Legend: M images of a batch, C channels, H, W, L taps, T terms.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from engine.spectral.moments import Moments
from engine.spectral.taps import Tapped


@dataclass(frozen=True)
class Step:
    """One step of recovery. turn: the number of the network, among those between which steps alternate."""

    batch: int
    iteration: int
    turn: int
    network: Tapped


class Extension:
    """Base class: adds nothing. `recover` calls each method at the point that its docstring names."""

    def prepare(self, view_MCHW: Tensor, labels_M: Tensor, *, starts_round: bool) -> nn.Module | None:
        """Prepare for a batch; return a network to match in place of the teacher, or None.

        view_MCHW: the first views of the batch's initial images, also where the batch is resumed.
        starts_round: whether it is the first batch of a round.
        """
        return None

    def finish(self) -> None:
        """End the batch that was prepared last."""

    def mix(self, step: Step, statistics: list[Moments]) -> list[Moments]:
        """Return the statistics to match in place of those of the batch."""
        return statistics

    def mask(self, values_TL: Tensor) -> Tensor:
        """Return the values of the terms that enter the loss of the step that `mix` was last called for."""
        return values_TL

    def extra_loss(self, view_MCHW: Tensor) -> Tensor | None:
        """Return a weighted term to add to the loss, or None."""
        return None

    def state_dict(self) -> dict[str, Tensor]:
        """Return what a resumed recovery needs; the constructor restores it."""
        return {}
