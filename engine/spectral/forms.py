"""The form of the synthetic Ψ in recovery, at each tap: dense, or low-rank where a batch has few positions.

Dense: Ψ_s is formed and inverted. Low-rank: the inverse follows from one of a constant per batch and a system
of the size of the positions (see `matrix_functions.LowRankInverse`), which is faster where a batch has much
fewer positions than features.
Legend: C channels, D features, H, W positions, N positions of all images of a batch.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from engine.config import Config
from engine.config.filters import Identity, Ridge
from engine.spectral import matrix_functions
from engine.spectral.moments import Moments, count_positions
from engine.spectral.taps import Tapped

MIN_FEATURES = 128  #: D below which the low-rank form gains little
MAX_SHARE = 0.5  #: N / D above which it gains little
#: (λ_max + β)/β, times the type's epsilon, up to which the low-rank form in float32 is within 1e-4 of float64
MAX_ROUNDING = 1e-3


def choose_low_rank(config: Config, network: Tapped, view_1CHW: Tensor, images: int) -> frozenset[str]:
    """Return the names of the taps whose synthetic Ψ is left in low-rank form.

    The choice depends on settings and sizes alone. view_1CHW: any image; one forward pass of it gives the
    sizes of the feature maps, and may raise torch.OutOfMemoryError. images: of the largest batch.
    """
    if not supports_low_rank(config, images):
        return frozenset()
    with torch.no_grad():
        features, _ = network(view_1CHW)
    chosen = set()
    for name, x_1DHW in zip(network.names, features, strict=True):
        depth, positions = x_1DHW.shape[1], images * count_positions(x_1DHW)
        if depth >= MIN_FEATURES and positions <= MAX_SHARE * depth:
            chosen.add(name)
    return frozenset(chosen)


def supports_low_rank(config: Config, images: int) -> bool:
    """Return whether Ψ_s may stay unformed in recovery with batches of so many images.

    All filters must be ridges or the identity. Micro-batches and straight-through statistics merge statistics
    of several parts or steps, and a Ψ around the mean of each image is not merged with the mean of the batch.
    """
    settings = config.recover
    filters = {term.filter_class for term in config.objective.resolve_terms()}
    return (
        Ridge in filters
        and filters <= {Ridge, Identity}
        and config.statistics.centre == "set"
        and (settings.micro_batch is None or settings.micro_batch >= images)
        and settings.straight_through is None
        and not config.backbone.also
    )


def invert_constants(
    low_rank: Collection[str],
    real: Sequence[Moments],
    earlier: Sequence[Moments] | None,
    count: int,
    beta: float,
) -> dict[str, Tensor]:
    """Return C of `LowRankInverse` for every tap whose Ψ_s is not formed during batch `count` (1-based).

    These are the taps in `low_rank` at which the form is accurate (see `is_accurate`). real: the real
    moments. earlier: the moving statistics of the batches before; None: none.
    """
    share = 0.0 if earlier is None else 1.0 - 1.0 / count
    constants = {}
    for tap, before in zip(real, earlier or real, strict=True):
        if tap.name in low_rank and is_accurate(tap, beta):
            assert before.cov_DD is not None
            constants[tap.name] = matrix_functions.invert_constant(before.cov_DD, share, beta)
    return constants


def is_accurate(real: Moments, beta: float) -> bool:
    """Return whether the low-rank form of a tap is accurate enough at this β. real: the tap's real moments.

    Its error grows with (λ_max + β)/β where Ψ of the earlier batches alone has a lower rank than Ψ_s. λ_max
    of Ψ_s is taken to be that of the real Ψ, so that the form does not depend on the images.
    """
    assert real.cov_DD is not None
    return (real.largest_eigenvalue + beta) * torch.finfo(real.cov_DD.dtype).eps <= MAX_ROUNDING * beta
