"""A batch seen through a backbone: moments of every tap and the cross-entropy, at once or in micro-batches.

Micro-batches need the memory of one part of the batch and give the values and the gradient of the whole, up
to rounding. The loss depends on the moments of the whole batch, so gradients need two passes: the first
computes the moments without gradients, the second, in backward, propagates their gradient to the views one
part at a time.
Legend: M images, C channels, H, W, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from engine.config import Centre
from engine.spectral import matching
from engine.spectral.moments import (
    Moments,
    batch_moments,
    count_positions,
    covariance_gradient,
    flc_gradient,
    merge,
    variance_gradient,
)
from engine.spectral.step_parts import time_part
from engine.spectral.taps import Tapped


@dataclass(frozen=True)
class Observer:
    """Computes the moments of a batch and its cross-entropy, at once or in micro-batches.

    labels_M: the class of each image. onehot_MK: the same as float. covariance, flc: whether Ψ and Φ are
    computed. size: images in a micro-batch; None: the whole batch at once. centre: of Ψ. low_rank: the taps
    whose Ψ is left in low-rank form; none with micro-batches.
    """

    network: Tapped
    labels_M: Tensor
    onehot_MK: Tensor
    covariance: bool
    flc: bool
    size: int | None
    centre: Centre
    low_rank: Collection[str] = ()

    def __call__(self, view_MCHW: Tensor) -> tuple[list[Moments], Tensor]:
        """Return the moments of each tap and the mean cross-entropy; differentiable in the views."""
        if self.size is None or self.size >= len(view_MCHW):
            with time_part("forward"):
                features, logits_MK = self.network(view_MCHW)
            with time_part("statistics"):
                moments = self.moments(features, self.onehot_MK)
            return moments, matching.cross_entropy(logits_MK, self.labels_M)
        ce, *values = _MicroBatches.apply(view_MCHW, self)
        return self.unflatten(values), ce

    def moments(self, features: Sequence[Tensor], onehot_MK: Tensor) -> list[Moments]:
        """Return the moments of the features of some images."""
        pairs = zip(self.network.names, features, strict=True)
        return [
            batch_moments(
                name,
                x_MDHW,
                onehot_MK,
                covariance=self.covariance,
                labels=self.flc,
                centre=self.centre,
                low_rank=name in self.low_rank,
            )
            for name, x_MDHW in pairs
        ]

    def parts(self) -> Iterator[tuple[slice, float]]:
        """Yield each micro-batch with its share of the images."""
        images = len(self.labels_M)
        size = self.size or images
        for start in range(0, images, size):
            part = slice(start, min(start + size, images))
            yield part, (part.stop - part.start) / images

    def unflatten(self, values: Sequence[Tensor]) -> list[Moments]:
        """Return the moments whose `independent_tensors` are given, tap after tap."""
        per_tap = 2 + self.flc
        taps = []
        for index, name in enumerate(self.network.names):
            mean_D, second, *rest = values[index * per_tap : (index + 1) * per_tap]
            flc_DK = rest[0] if rest else None
            if self.covariance:
                taps.append(Moments(name, mean_D, second.diagonal(), second, flc_DK))
            else:
                taps.append(Moments(name, mean_D, second, None, flc_DK))
        return taps


class _MicroBatches(torch.autograd.Function):
    """Map views to (cross-entropy, flattened moments of every tap), one micro-batch at a time."""

    @staticmethod
    def forward(ctx: Any, view_MCHW: Tensor, observer: Observer) -> tuple[Tensor, ...]:
        ce, taps, share_so_far = view_MCHW.new_zeros(()), list[Moments](), 0.0
        for part, share in observer.parts():
            with time_part("forward"):
                features, logits_MK = observer.network(view_MCHW[part])
            ce = ce + share * matching.cross_entropy(logits_MK, observer.labels_M[part])
            with time_part("statistics"):
                part_taps = observer.moments(features, observer.onehot_MK[part])
            share_so_far += share
            if taps:  # merged at once: one Ψ per tap and part would take more memory than the features
                pairs = zip(taps, part_taps, strict=True)
                shares = (1.0 - share / share_so_far, share / share_so_far)
                part_taps = [merge(pair, shares, observer.centre) for pair in pairs]
            taps = part_taps
        ctx.observer = observer
        ctx.save_for_backward(view_MCHW, *(tap.mean_D for tap in taps))
        return (ce, *(value for tap in taps for value in tap.independent_tensors().values()))

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        observer, (view_MCHW, *means) = ctx.observer, ctx.saved_tensors
        ce_gradient, taps = gradients[0], observer.unflatten(gradients[1:])
        gradient_MCHW = torch.empty_like(view_MCHW)
        for part, share in observer.parts():
            part_MCHW = view_MCHW[part].detach().requires_grad_()
            with torch.enable_grad():
                features, logits_MK = observer.network(part_MCHW)
                ce = share * matching.cross_entropy(logits_MK, observer.labels_M[part])
            feature_gradients = []
            for x_MDHW, mean_D, tap in zip(features, means, taps, strict=True):
                count = round(count_positions(x_MDHW) / share)
                if observer.covariance:
                    gradient_MDHW = covariance_gradient(
                        x_MDHW, mean_D, tap.mean_D, tap.cov_DD, count=count, centre=observer.centre
                    )
                else:
                    gradient_MDHW = variance_gradient(x_MDHW, mean_D, tap.mean_D, tap.var_D, count=count)
                if observer.flc:
                    gradient_MDHW = gradient_MDHW + flc_gradient(
                        x_MDHW, observer.onehot_MK[part], tap.flc_DK, count=count
                    )
                feature_gradients.append(gradient_MDHW)
            outputs = [ce, *features]
            (gradient_MCHW[part],) = torch.autograd.grad(
                outputs, part_MCHW, [ce_gradient, *feature_gradients]
            )
        return gradient_MCHW, None
