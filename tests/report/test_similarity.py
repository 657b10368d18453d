"""Similarity of images of a class: against an independent evaluation, and in which features."""

import numpy as np
import pytest
from pages import mean_cosine

from engine.report.similarity import Similarity, penultimate_features


def test_similarity_equals_an_independent_float64_evaluation():
    rng = np.random.default_rng(0)
    features = rng.standard_normal((40, 12)) + 0.5
    features[7] = 0
    labels = rng.integers(0, 4, 40)
    labels[labels == 3] = 2
    labels[11] = 3  # one image alone
    found = Similarity.of_features(features, labels, 5)
    wanted = [mean_cosine(features, labels, label) for label in range(5)]
    np.testing.assert_allclose(found.of_class_K, wanted, rtol=1e-12)
    assert np.isnan(found.of_class_K[3:]).all()
    spread = found.spread()
    assert spread["n"] == 3
    assert spread["mean"] == pytest.approx(np.mean(wanted[:3]))
    assert spread["std"] == pytest.approx(np.std(wanted[:3], ddof=1))
    same = Similarity.of_features(np.ones((3, 2)), np.zeros(3, int), 1)
    assert same.of_class_K[0] == pytest.approx(1.0)
    assert Similarity.of_features(np.full((3, 2), np.nan), np.zeros(3, int), 1).spread() is None


def test_penultimate_features_are_what_the_classifier_reads(teacher, digits, cpu):
    images = digits.test
    found = penultimate_features(teacher, images, cpu)
    assert len(found) == len(images) > 128
    import torch

    with torch.no_grad():
        logits = teacher.classifier(torch.from_numpy(found[:5]))
        torch.testing.assert_close(logits, teacher(images.batch(range(5), cpu)))
