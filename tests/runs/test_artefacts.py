"""What the keys of shared artefacts depend on."""

from types import SimpleNamespace

import pytest
from stages import small

from engine.runs import artefacts


@pytest.mark.parametrize(
    ("estimator", "order", "shared"),
    [
        ("batched", "file", True),
        ("batched", "mixed", False),
        ("pooled", "file", True),
        ("pooled", "mixed", True),
    ],
)
def test_statistics_are_shared_between_seeds_unless_the_seed_orders_the_images(
    teacher, estimator, order, shared
):
    data = SimpleNamespace(fingerprint="f")
    statistics = {"estimator": estimator, "order": order}
    keys = {
        artefacts.statistics_key(small(seed=seed, statistics=statistics), data, teacher) for seed in (0, 1)
    }
    assert (len(keys) == 1) == shared
