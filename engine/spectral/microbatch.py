"""A batch seen through a backbone: moments of every tap and the cross-entropy, at once or in micro-batches.

Micro-batches need the memory of one part of the batch and give the values and the gradient of the whole, up
to rounding. Moments are not means over images, so their gradient is known only once all parts were seen: a
first pass without gradients finds the moments, and a second one, in backward, carries their gradient to the
views.
Legend: M images, C channels, H, W, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from engine.spectral import matching
from engine.spectral.moments import (
    Moments,
    batch_moments,
    covariance_gradient,
    flc_gradient,
    merge,
    positions_of,
    variance_gradient,
)
from engine.spectral.taps import Tapped


@dataclass(frozen=True)
class Observer:
    """Which moments of a batch are read, and in how many parts the batch passes through the network.

    labels_M: the class of each image. onehot_MK: the same as float. covariance, flc: whether Ψ and Φ are
    read. size: images in a micro-batch; None: all of them at once.
    """

    network: Tapped
    labels_M: Tensor
    onehot_MK: Tensor
    covariance: bool
    flc: bool
    size: int | None = None

    def __call__(self, view_MCHW: Tensor) -> tuple[list[Moments], Tensor]:
        """Return the moments of each tap and the mean cross-entropy; differentiable in the views."""
        if self.size is None or self.size >= len(view_MCHW):
            features, logits_MK = self.network(view_MCHW)
            return self.moments(features, self.onehot_MK), matching.cross_entropy(logits_MK, self.labels_M)
        ce, *values = _MicroBatches.apply(view_MCHW, self)
        return self.unflatten(values), ce

    def moments(self, features: Sequence[Tensor], onehot_MK: Tensor) -> list[Moments]:
        """Return the moments of the features of some images."""
        pairs = zip(self.network.names, features, strict=True)
        return [
            batch_moments(name, x_MDHW, onehot_MK, covariance=self.covariance, labels=self.flc)
            for name, x_MDHW in pairs
        ]

    def parts(self) -> Iterator[tuple[slice, float]]:
        """Yield each micro-batch with its share of the images."""
        images = len(self.labels_M)
        for start in range(0, images, self.size or images):
            part = slice(start, min(start + (self.size or images), images))
            yield part, (part.stop - part.start) / images

    def flatten(self, taps: Sequence[Moments]) -> tuple[Tensor, ...]:
        """Return the tensors that `unflatten` makes moments of; autograd passes no other kind of value."""
        return tuple(value for tap in taps for value in tap.measured().values())

    def unflatten(self, values: Sequence[Tensor]) -> list[Moments]:
        """Return the moments that were flattened."""
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
    """From views to (cross-entropy, moments of every tap, flattened), one micro-batch after another."""

    @staticmethod
    def forward(ctx: Any, view_MCHW: Tensor, observer: Observer) -> tuple[Tensor, ...]:
        ce, found, shares = view_MCHW.new_zeros(()), [], []
        for part, share in observer.parts():
            features, logits_MK = observer.network(view_MCHW[part])
            ce = ce + share * matching.cross_entropy(logits_MK, observer.labels_M[part])
            found.append(observer.moments(features, observer.onehot_MK[part]))
            shares.append(share)
        taps = [merge(parts, shares) for parts in zip(*found, strict=True)]
        ctx.observer = observer
        ctx.save_for_backward(view_MCHW, *(tap.mean_D for tap in taps))
        return (ce, *observer.flatten(taps))

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
            wanted = []
            for x_MDHW, mean_D, tap in zip(features, means, taps, strict=True):
                count = round(positions_of(x_MDHW) / share)
                if observer.covariance:
                    each = covariance_gradient(x_MDHW, mean_D, tap.mean_D, tap.cov_DD, count=count)
                else:
                    each = variance_gradient(x_MDHW, mean_D, tap.mean_D, tap.var_D, count=count)
                if observer.flc:
                    each = each + flc_gradient(x_MDHW, observer.onehot_MK[part], tap.flc_DK, count=count)
                wanted.append(each)
            outputs = [ce, *features]
            (gradient_MCHW[part],) = torch.autograd.grad(outputs, part_MCHW, [ce_gradient, *wanted])
        return gradient_MCHW, None
