"""What the keys of shared artefacts depend on."""

from types import SimpleNamespace

import pytest
from stages import small

from engine import artefacts


@pytest.mark.parametrize(("order", "shared"), [("file", True), ("mixed", False)])
def test_statistics_are_shared_between_seeds_unless_the_seed_orders_the_images(teacher, order, shared):
    data = SimpleNamespace(fingerprint="f")
    statistics = {"estimator": "batched", "order": order}
    keys = {
        artefacts.statistics_key(small(seed=seed, statistics=statistics), data, teacher) for seed in (0, 1)
    }
    assert (len(keys) == 1) == shared
