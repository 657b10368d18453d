"""Statistics of a tap: mean, FFC Ψ and FLC Φ (Eq. 16–18); real side streamed, synthetic differentiable.

Ψ is the covariance over all positions of all images, biased (1/N): around the mean of them all (`set`), or
around each image's own mean (`image`), as Eq. 16–17 read literally. Φ is the mean over images of
(spatial mean ⊗ one-hot label).
Legend: M images, D features, H, W positions, K classes, N = M·H·W positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.config import Centre
from engine.errors import UserError

FIELDS = ("mean_D", "var_D", "cov_DD", "flc_DK")
PART = 1 << 16  #: values that a CPU thread converts to float64 at a time: few enough to fit in its cache


@dataclass(frozen=True)
class LowRank:
    """Ψ = share·E + AᵀA as its two terms, without forming the sum.

    rows_ND: A, shape (N, D): the centred features of a batch, times √(1/N); with moving statistics also times
    √(1/count), the square root of the batch's weight. earlier_DD: E, shape (D, D), the constant Ψ of the
    earlier batches; None: zero. share: the weight of E, 1 − 1/count.
    """

    rows_ND: Tensor
    earlier_DD: Tensor | None = None
    share: float = 0.0

    def detach(self) -> LowRank:
        """Return the same values without their gradient."""
        return LowRank(self.rows_ND.detach(), self.earlier_DD, self.share)

    def form_covariance(self) -> Tensor:
        """Return Ψ, shape (D, D)."""
        cov_DD = self.rows_ND.T @ self.rows_ND
        return cov_DD if self.earlier_DD is None else cov_DD + self.share * self.earlier_DD


@dataclass(frozen=True)
class Moments:
    """The statistics of one tap; fields that a method does not need are None.

    name: the tap's module. mean_D: mean over positions and images. var_D: diag(Ψ). cov_DD: Ψ.
    flc_DK: Φ. low_rank: Ψ in place of cov_DD, within a step of recovery.
    """

    name: str
    mean_D: Tensor
    var_D: Tensor
    cov_DD: Tensor | None = None
    flc_DK: Tensor | None = None
    low_rank: LowRank | None = None

    @cached_property
    def largest_eigenvalue(self) -> float:
        """λ_max of Ψ, computed in float64 on the CPU, once."""
        assert self.cov_DD is not None
        return float(torch.linalg.eigvalsh(self.cov_DD.detach().cpu().double())[-1])

    def to(self, device: torch.device, dtype: torch.dtype = torch.float32) -> Moments:
        """Return a copy on another device, in another type."""

        def convert(x: Tensor) -> Tensor:
            return x.cpu().to(dtype).to(device)  # via the CPU: not every device supports float64

        cov_DD = None if self.cov_DD is None else convert(self.cov_DD)
        flc_DK = None if self.flc_DK is None else convert(self.flc_DK)
        return Moments(self.name, convert(self.mean_D), convert(self.var_D), cov_DD, flc_DK)

    def detach(self) -> Moments:
        """Return the same values without their gradient."""
        cov_DD = None if self.cov_DD is None else self.cov_DD.detach()
        flc_DK = None if self.flc_DK is None else self.flc_DK.detach()
        low_rank = None if self.low_rank is None else self.low_rank.detach()
        return Moments(self.name, self.mean_D.detach(), self.var_D.detach(), cov_DD, flc_DK, low_rank)

    def densify(self) -> Moments:
        """Return the same values with Ψ formed where it is in low-rank form."""
        if self.low_rank is None:
            return self
        cov_DD = self.low_rank.form_covariance()
        return Moments(self.name, self.mean_D, cov_DD.diagonal(), cov_DD, self.flc_DK)

    def tensors(self) -> dict[str, Tensor]:
        """Return the fields that are not None, by name."""
        return {name: getattr(self, name) for name in FIELDS if getattr(self, name) is not None}

    def independent_tensors(self) -> dict[str, Tensor]:
        """Return the fields that determine all others, by name: var_D is omitted beside cov_DD."""
        return {name: x for name, x in self.tensors().items() if name != "var_D" or self.cov_DD is None}


def pack(taps: Sequence[Moments]) -> dict[str, Tensor]:
    """Return the moments of several taps as tensors named ``TAP_NUMBER.FIELD``."""
    return {
        f"{tap}.{name}": value
        for tap, moments in enumerate(taps)
        for name, value in moments.tensors().items()
    }


def unpack(arrays: Mapping[str, Tensor], names: Sequence[str]) -> list[Moments]:
    """Restore the moments of taps with these names from the tensors that `pack` returned."""
    return [
        Moments(name, *(arrays.get(f"{tap}.{field}") for field in FIELDS))  # type: ignore[arg-type]
        for tap, name in enumerate(names)
    ]


def require_finite(taps: Sequence[Moments], what: str, hint: str) -> None:
    """Raise UserError("numeric") naming the first tap that has a value which is not finite."""
    for moments in taps:
        if not all(bool(value.isfinite().all()) for value in moments.tensors().values()):
            raise UserError("numeric", f"{what} of layer {moments.name} are not finite", hint)


def flatten_positions(x_MDHW: Tensor) -> Tensor:
    """Return features as rows, shape (N, D) (Eq. 16); a view where the memory format is channels-last."""
    return x_MDHW.permute(0, 2, 3, 1).reshape(-1, x_MDHW.shape[1])


def _centre_rows(x_MDHW: Tensor, mean_D: Tensor, centre: Centre) -> Tensor:
    """Return wide features as rows, shape (N, D), minus `mean_D` or minus the mean of the row's image."""
    if centre == "set":
        return flatten_positions(x_MDHW) - mean_D
    return flatten_positions(x_MDHW - x_MDHW.mean(dim=(2, 3), keepdim=True))


class _Covariance(torch.autograd.Function):
    """Biased mean and covariance over all positions; its gradient needs one matrix product, not two.

    The features are saved for backward as the network returned them, and centred there again: saving the
    centred rows would copy every tap's features.
    """

    @staticmethod
    def forward(ctx: Any, x_MDHW: Tensor, centre: Centre) -> tuple[Tensor, Tensor]:
        wide_MDHW = widen(x_MDHW)
        mean_D = flatten_positions(wide_MDHW).mean(dim=0)
        ctx.centre = centre
        ctx.save_for_backward(x_MDHW, mean_D)
        centred_ND = _centre_rows(wide_MDHW, mean_D, centre)
        return mean_D, centred_ND.T @ centred_ND / len(centred_ND)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        x_MDHW, mean_D = ctx.saved_tensors
        count = count_positions(x_MDHW)
        return covariance_gradient(x_MDHW, mean_D, *gradients, count=count, centre=ctx.centre), None


class _ScaledRows(torch.autograd.Function):
    """Mean over all positions, and A, the centred features as rows divided by √N: Ψ = AᵀA."""

    @staticmethod
    def forward(ctx: Any, x_MDHW: Tensor) -> tuple[Tensor, Tensor]:
        ctx.like, ctx.count = torch.empty_like(x_MDHW, device="meta"), count_positions(x_MDHW)
        rows_ND = flatten_positions(widen(x_MDHW))
        mean_D = rows_ND.mean(dim=0)
        return mean_D, (rows_ND - mean_D).mul_(ctx.count**-0.5)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Tensor:
        mean_gradient_D, rows_gradient_ND = gradients
        constant_D = mean_gradient_D / ctx.count - rows_gradient_ND.mean(dim=0) * ctx.count**-0.5
        gradient_ND = torch.add(constant_D, rows_gradient_ND, alpha=ctx.count**-0.5)
        return _unflatten_positions(gradient_ND, ctx.like)


class _Variance(torch.autograd.Function):
    """Biased mean and variance over all positions; on a CPU several times as fast as `torch.var_mean`.

    It saves the same tensors for backward as `_Covariance`.
    """

    @staticmethod
    def forward(ctx: Any, x_MDHW: Tensor) -> tuple[Tensor, Tensor]:
        rows_ND = flatten_positions(widen(x_MDHW))
        mean_D = rows_ND.mean(dim=0)
        ctx.save_for_backward(x_MDHW, mean_D)
        return mean_D, (rows_ND - mean_D).square_().mean(dim=0)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Tensor:
        x_MDHW, mean_D = ctx.saved_tensors
        return variance_gradient(x_MDHW, mean_D, *gradients, count=count_positions(x_MDHW))


def covariance_gradient(
    x_MDHW: Tensor,
    mean_D: Tensor,
    mean_gradient_D: Tensor,
    cov_gradient_DD: Tensor,
    *,
    count: int,
    centre: Centre = "set",
) -> Tensor:
    """Return the gradient with respect to the features, given those of their mean and covariance.

    x_MDHW: the features of all or some images. mean_D: the mean over all `count` positions. Returns the
    shape and type of x_MDHW.
    """
    centred_ND = _centre_rows(widen(x_MDHW), mean_D, centre)
    symmetric_DD = (cov_gradient_DD + cov_gradient_DD.T) / count
    return _unflatten_positions(torch.addmm(mean_gradient_D / count, centred_ND, symmetric_DD), x_MDHW)


def variance_gradient(
    x_MDHW: Tensor, mean_D: Tensor, mean_gradient_D: Tensor, var_gradient_D: Tensor, *, count: int
) -> Tensor:
    """Return the gradient with respect to the features, given those of their mean and variance."""
    centred_ND = flatten_positions(widen(x_MDHW)) - mean_D
    return _unflatten_positions(
        torch.addcmul(mean_gradient_D / count, centred_ND, 2 * (var_gradient_D / count)), x_MDHW
    )


def flc_gradient(x_MDHW: Tensor, onehot_MK: Tensor, gradient_DK: Tensor, *, count: int) -> Tensor:
    """Return the gradient with respect to the features, given that of Φ over `count` positions."""
    gradient_MD = onehot_MK.to(gradient_DK.dtype) @ gradient_DK.T / count
    return gradient_MD[:, :, None, None].to(x_MDHW.dtype)


def _unflatten_positions(rows_ND: Tensor, x_MDHW: Tensor) -> Tensor:
    """Return rows from `flatten_positions` in the shape and type of the features x_MDHW."""
    images, depth, height, width = x_MDHW.shape
    return rows_ND.reshape(images, height, width, depth).permute(0, 3, 1, 2).to(x_MDHW.dtype)


def widen(x: Tensor) -> Tensor:
    """Return the values in float32, or unchanged where they are float64."""
    return x if x.dtype == torch.float64 else x.float()


def count_positions(x_MDHW: Tensor) -> int:
    """Return N, the number of positions of all images."""
    return x_MDHW.numel() // x_MDHW.shape[1]


def batch_moments(
    name: str,
    x_MDHW: Tensor,
    onehot_MK: Tensor,
    *,
    covariance: bool = True,
    labels: bool = True,
    centre: Centre = "set",
    low_rank: bool = False,
) -> Moments:
    """Return the moments of one batch, differentiable in the features, in float32 or float64.

    covariance, labels: whether to compute Ψ and Φ; the diagonal of Ψ is always computed. centre: of Ψ;
    variances without Ψ are always around the mean of the batch. low_rank: leave Ψ, around the mean of the
    batch, in low-rank form.
    """
    cov_DD: Tensor | None = None
    unformed: LowRank | None = None
    if low_rank:
        mean_D, rows_ND = _ScaledRows.apply(x_MDHW)
        unformed, var_D = LowRank(rows_ND), rows_ND.square().sum(dim=0)
    elif covariance:
        mean_D, cov_DD = _Covariance.apply(x_MDHW, centre)
        var_D = cov_DD.diagonal()
    else:
        mean_D, var_D = _Variance.apply(x_MDHW)
    flc_DK = None
    if labels:
        means_MD = x_MDHW.mean(dim=(2, 3), dtype=mean_D.dtype)
        flc_DK = means_MD.T @ onehot_MK.to(mean_D.dtype) / len(onehot_MK)
    return Moments(name, mean_D, var_D, cov_DD, flc_DK, unformed)


def merge(parts: Sequence[Moments], shares: Sequence[float], centre: Centre = "set") -> Moments:
    """Return the moments of a whole from those of its parts.

    shares: each part's share of the images; they add up to 1. centre: of Ψ.
    """
    mean_D = sum(share * part.mean_D for part, share in zip(parts, shares, strict=True))
    assert isinstance(mean_D, Tensor)
    var_D, cov_DD, flc_DK = torch.zeros_like(mean_D), None, None
    for part, share in zip(parts, shares, strict=True):
        gap_D = part.mean_D - mean_D if centre == "set" else torch.zeros_like(mean_D)
        if part.cov_DD is None:
            var_D = var_D + share * (part.var_D + gap_D.square())
        else:
            part_DD = share * (part.cov_DD + torch.outer(gap_D, gap_D))
            cov_DD = part_DD if cov_DD is None else cov_DD + part_DD
        if part.flc_DK is not None:
            flc_DK = share * part.flc_DK if flc_DK is None else flc_DK + share * part.flc_DK
    return Moments(parts[0].name, mean_D, var_D if cov_DD is None else cov_DD.diagonal(), cov_DD, flc_DK)


def cumulative_mean(batch: Moments, earlier: Moments | None, count: int) -> Moments:
    """Return the moving statistics of batch `count` (1-based): weight 1/count for the newest (Eq. 18).

    `earlier` is not detached here; pass constants, so that the gradient flows through `batch` alone.
    """
    if earlier is None or count == 1:
        return batch
    new, old = 1.0 / count, 1.0 - 1.0 / count
    return Moments(
        batch.name,
        new * batch.mean_D + old * earlier.mean_D,
        new * batch.var_D + old * earlier.var_D,
        None if batch.cov_DD is None or earlier.cov_DD is None else new * batch.cov_DD + old * earlier.cov_DD,
        None if batch.flc_DK is None or earlier.flc_DK is None else new * batch.flc_DK + old * earlier.flc_DK,
        None if batch.low_rank is None else LowRank(new**0.5 * batch.low_rank.rows_ND, earlier.cov_DD, old),
    )


def _measure_batch(name: str, x_MDHW: Tensor, onehot_MK: Tensor, covariance: bool, centre: Centre) -> Moments:
    """Return the moments of one batch in float64 (on MPS float32), converting the features part by part.

    Φ is computed only together with Ψ. P = H·W.
    """
    wide = torch.float32 if x_MDHW.device.type == "mps" else torch.float64
    images, depth, height, width = x_MDHW.shape
    rows_MPD = x_MDHW.permute(0, 2, 3, 1).reshape(images, height * width, depth)
    part = PART * torch.get_num_threads() if x_MDHW.device.type == "cpu" else rows_MPD.numel()
    sums = []
    for some_MPD in torch.split(rows_MPD, max(1, part // (height * width * depth))):
        parts = torch.split(some_MPD, max(1, part // depth), dim=1)
        sums.append(torch.stack([each.to(wide).sum(dim=1) for each in parts]).sum(dim=0))
    sums_MD = torch.cat(sums)
    mean_D = sums_MD.sum(dim=0) / (images * height * width)
    # A part has at least as many rows as features: with fewer, accumulation dominates the matrix product.
    second = x_MDHW.new_zeros((depth, depth) if covariance else (depth,), dtype=wide)
    min_rows = depth if covariance else 1
    for rows_ND in torch.split(rows_MPD.flatten(0, 1), max(min_rows, part // depth)):
        centred_ND = rows_ND.to(wide, copy=True).sub_(mean_D)
        if covariance:
            second.addmm_(centred_ND.T, centred_ND)
        else:
            second += centred_ND.square_().sum(dim=0)
    second /= images * height * width
    if covariance and centre == "image":  # remove the covariance of the images' means
        gap_MD = sums_MD / (height * width) - mean_D
        second -= gap_MD.T @ gap_MD / images
    if not covariance:
        return Moments(name, mean_D, second)
    flc_DK = sums_MD.T @ onehot_MK.to(wide) / (images * height * width)
    return Moments(name, mean_D, second.diagonal(), second, flc_DK)


class Accumulator:
    """Computes the moments of a whole set, one batch at a time, in float64, in constant memory.

    pooled: exact over the set, whatever the batch size and order (Chan's merge).
    batched: mean of the within-batch means and covariances, weighted by the batches' images; biased: it omits
    the variance between batches.
    covariance: whether Ψ and Φ are computed, too; Ψ is most of the work where features are many.
    centre: of Ψ.
    """

    def __init__(
        self,
        name: str,
        classes: int,
        estimator: Literal["pooled", "batched"],
        *,
        covariance: bool = True,
        centre: Centre = "set",
    ) -> None:
        self.name = name
        self.classes = classes
        self.covariance = covariance
        self.centre: Centre = centre
        self.between = estimator == "pooled" and centre == "set"
        self.images = 0
        self._moments: Moments | None = None

    @torch.no_grad()
    def update(self, x_MDHW: Tensor, labels_M: Tensor) -> None:
        """Add the features and labels of M images."""
        onehot_MK = F.one_hot(labels_M, self.classes)
        batch = _measure_batch(self.name, x_MDHW, onehot_MK, self.covariance, self.centre)
        images = len(labels_M)
        self._moments = batch if self._moments is None else self._merge(self._moments, batch, images)
        self.images += images

    def _merge(self, old: Moments, batch: Moments, images: int) -> Moments:
        share = images / (self.images + images)
        between = share * (1.0 - share) if self.between else 0.0
        gap_D = batch.mean_D - old.mean_D
        mean_D = old.mean_D + share * gap_D
        if old.cov_DD is None or batch.cov_DD is None or old.flc_DK is None or batch.flc_DK is None:
            var_D = old.var_D + share * (batch.var_D - old.var_D) + between * gap_D.square()
            return Moments(self.name, mean_D, var_D)
        cov_DD = old.cov_DD + share * (batch.cov_DD - old.cov_DD)
        if between:
            cov_DD = cov_DD + between * torch.outer(gap_D, gap_D)
        flc_DK = old.flc_DK + share * (batch.flc_DK - old.flc_DK)
        return Moments(self.name, mean_D, cov_DD.diagonal(), cov_DD, flc_DK)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the moments so far as tensors; `load_state_dict` also needs `images`."""
        return self.result().independent_tensors()

    def load_state_dict(self, tensors: Mapping[str, Tensor], images: int) -> None:
        """Restore the accumulator from its `state_dict` and number of images."""
        cov_DD = tensors.get("cov_DD")
        var_D = tensors["var_D"] if cov_DD is None else cov_DD.diagonal()
        self._moments = Moments(self.name, tensors["mean_D"], var_D, cov_DD, tensors.get("flc_DK"))
        self.images = images

    def result(self) -> Moments:
        """Return the moments so far; `update` must have been called at least once."""
        assert self._moments is not None, "no batch was added"
        return self._moments
