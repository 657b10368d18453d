"""Every method, and expressions, against float64 NumPy: random features, and digits through a network."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from stages import distil, drive, small

from engine.config import Objective as Goal
from engine.config import settings
from engine.errors import UserError
from engine.spectral import microbatch
from engine.spectral.matching import MatchingLoss, score
from engine.spectral.moments import Moments, batch_moments
from engine.stages import statistics

BETA, P, Q = 0.1, 10, 5


def f(side, response):
    values, vectors = np.linalg.eigh(side.psi)
    return (vectors * response(values)) @ vectors.T


def ridge(side):
    return f(side, lambda x: 1 / (x + BETA))


def series(side, alpha, count):
    return f(side, lambda x: alpha * sum((1 - alpha * x) ** p for p in range(count))) @ side.phi


def mtt(real, ours):
    alpha = 1 / np.linalg.eigvalsh(real.psi)[-1]
    power = f(real, lambda x: (1 - alpha * x) ** P) - f(ours, lambda x: (1 - alpha * x) ** Q)
    return [power, series(real, alpha, P) - series(ours, alpha, Q)]


def diagonals(real, ours):
    """Of BatchNorm matching."""
    return [np.diag(real.psi) - np.diag(ours.psi), real.mean - ours.mean]


METHODS = {  # each as its equation says, signal `mean` where it is chosen
    "dm": lambda r, s: [r.phi - s.phi],
    "dc": lambda r, s: [r.psi - s.psi, r.phi - s.phi],
    "mtt": mtt,
    "frepo": lambda r, s: [ridge(r) @ r.phi - ridge(s) @ s.phi],
    "lfm": lambda r, s: [r.psi - s.psi, r.psi @ r.mean - s.psi @ s.mean],
    "hfm": lambda r, s: [ridge(r) - ridge(s), ridge(r) @ r.mean - ridge(s) @ s.mean],
    "cfm": lambda r, s: [ridge(r) - ridge(s), ridge(r) @ r.mean - ridge(s) @ s.mean],
    **dict.fromkeys(("sre2l", "cda", "dwa", "gvbsm"), diagonals),
    **dict.fromkeys(("random", "rded"), lambda r, s: []),
}
EXPRESSIONS = {
    "1/(lambda+beta)**2": lambda x: 1 / (x + BETA) ** 2,
    "lambda/(lambda+beta)": lambda x: x / (x + BETA),
    "sqrt(lambda+beta)": lambda x: np.sqrt(x + BETA),
    "exp(-lambda/2)": lambda x: np.exp(-x / 2),
}


def side(features, onehot):
    """Ψ, mean and Φ of features (M, D, H, W), in the plainest way."""
    rows = features.transpose(0, 2, 3, 1).reshape(-1, features.shape[1])
    phi = features.mean(axis=(2, 3)).T @ onehot / len(onehot)
    return SimpleNamespace(psi=np.atleast_2d(np.cov(rows.T, bias=True)), mean=rows.mean(0), phi=phi)


@pytest.fixture(scope="module")
def taps(teacher, digits, cpu):
    """Features of two sets at some taps, with labels: random ones, and digits at the convolutions."""
    rng = np.random.default_rng(0)
    random = [[rng.normal(size=(12, 5, 3, 3)) * (1 + n) for n in range(2)] for _ in range(2)]
    labels = np.eye(3)[np.arange(12) % 3]
    network, seen = copy.deepcopy(teacher).double(), []
    hooks = [
        module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].numpy()))
        for module in network.modules()
        if isinstance(module, torch.nn.Conv2d)
    ]
    with torch.no_grad():
        for indices in (range(300), range(300, 320)):
            network(digits.train.batch(indices, cpu).double())
    for hook in hooks:
        hook.remove()
    count = len(hooks)
    own = [np.eye(10)[digits.train.labels_N[indices].numpy()] for indices in (slice(300), slice(300, 320))]
    return {
        "random": [(random[0], labels), (random[1], labels)],
        "real": [(seen[:count], own[0]), (seen[count:], own[1])],
    }


def moments(features, onehot):
    onehot = torch.tensor(onehot)
    return [batch_moments(f"tap{n}", torch.tensor(x), onehot) for n, x in enumerate(features)]


def compare(goal, taps, expected):
    """Hold every term at every tap against NumPy, to 1e-6."""
    (real, labels), (ours, own) = taps
    values_TL = MatchingLoss(goal, moments(real, labels), BETA).values(moments(ours, own)).numpy()
    for tap, (r, s) in enumerate(zip(real, ours, strict=True)):
        wanted = [np.linalg.norm(gap) for gap in expected(side(r, labels), side(s, own))]
        np.testing.assert_allclose(values_TL[:, tap], wanted, rtol=1e-6)


@pytest.mark.parametrize("where", ["random", "real"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_equals_numpy(taps, method, where):
    goal = settings.resolve(sets=[f"objective={method}"]).config.objective
    compare(goal, taps[where], METHODS[method])


def test_every_method_that_ships_is_held():
    assert sorted(METHODS) == settings.method_names()


@pytest.mark.parametrize("where", ["random", "real"])
@pytest.mark.parametrize("text", EXPRESSIONS)
def test_every_expression_equals_numpy(taps, text, where):
    def expected(r, s):
        r_DD, s_DD = (f(each, EXPRESSIONS[text]) for each in (r, s))
        return [r_DD - s_DD, r_DD @ r.phi - s_DD @ s.phi, r_DD @ r.mean - s_DD @ s.mean]

    terms = [{"f": text, "signal": signal} for signal in ("none", "class", "mean")]
    compare(Goal.model_validate({"terms": terms}), taps[where], expected)


# --- α ---------------------------------------------------------------------------------------------


def goal_of(*sets):
    return settings.resolve(sets=["objective=mtt", *sets]).config.objective


def of_spectrum(values, name="tap"):
    values_D = torch.tensor(values, dtype=torch.float64)
    cov_DD = torch.diag(values_D)
    return Moments(name, torch.ones_like(values_D), values_D, cov_DD, torch.ones(len(values), 2).double())


def test_alpha_follows_each_tap_or_is_refused_with_its_bound():
    real = [of_spectrum([0.5, 0.1], "narrow"), of_spectrum([8.0, 1.0], "wide")]
    MatchingLoss(goal_of(), real, BETA)
    MatchingLoss(goal_of("objective.parameters.alpha=0.2499"), real, BETA)
    with pytest.raises(UserError) as caught:
        MatchingLoss(goal_of("objective.parameters.alpha=0.25"), real, BETA)
    for said in ("objective.parameters.alpha = 0.25", "tap wide", "λ_max is 8", "2/λ_max = 0.25"):
        assert said in caught.value.message
    assert caught.value.kind == "config"
    with pytest.raises(UserError, match="tap flat is zero"):
        MatchingLoss(goal_of(), [of_spectrum([0.0, 0.0], "flat")], BETA)


def test_a_synthetic_spectrum_beyond_the_bound_is_found_with_its_tap():
    real = [of_spectrum([0.5, 0.1], "narrow"), of_spectrum([8.0, 1.0], "wide")]
    terms = MatchingLoss(goal_of(), real, BETA)
    assert terms.find_divergence(real) is None
    name, product = terms.find_divergence(
        [of_spectrum([1.75, 0.1], "narrow"), of_spectrum([17.0, 0.0], "wide")]
    )
    assert (name, product) == ("narrow", pytest.approx(3.5))
    fixed = MatchingLoss(goal_of("objective.parameters.alpha=0.2"), real, BETA)
    assert fixed.find_divergence([of_spectrum([1.0, 0.0]), of_spectrum([11.0, 0.0], "wide")])[0] == "wide"
    assert fixed.find_divergence([of_spectrum([float("nan"), 1.0])] * 2) is None


def test_score_names_expressions_and_says_where_they_have_no_value():
    real, ours = of_spectrum([2.0, 1.0]), of_spectrum([1.0, 0.0])
    layer = score(goal_of(), [real], [ours], 0.0)["layers"][0]
    assert [term["filter"] for term in layer["terms"]] == ["power", "series"]
    assert layer["terms"][0]["f"] == ["(1 - alpha*lambda)**P", "(1 - alpha*lambda)**Q"]
    pole = Goal.model_validate({"terms": [{"f": "1/lambda", "signal": "mean"}]})
    with pytest.raises(UserError, match=r"f = 1/lambda has no finite value.*scored images at tap tap"):
        score(pole, [real], [ours], 0.0)
    with pytest.raises(UserError, match="real tap tap"):
        MatchingLoss(pole, [ours], BETA)


# --- in recovery -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(teacher, digits, cpu):
    return drive(statistics.measure(small(), teacher, digits.train, cpu))[1]


def test_images_are_recovered_by_expressions(teacher, real, digits, cpu):
    terms = [{"f": "1/(lambda+beta)**2", "signal": "chosen"}, {"f": "sqrt(lambda+beta)", "name": "root"}]
    events, distilled = distil(small(objective={"terms": terms}), teacher, real, digits.train, cpu)
    assert events[0].terms == ["root/none", "1/(lambda+beta)**2/mean"]
    assert distilled.images_NCHW.isfinite().all()
    chunks = [event for event in events if event.kind == "RecoverProgress"]
    first, last = (np.array(chunk.terms)[at] for chunk, at in ((chunks[0], 0), (chunks[0], -1)))
    assert last.sum() < first.sum()


def test_mtt_recovers(teacher, real, digits, cpu):
    goal = goal_of().model_dump(mode="json")
    _, distilled = distil(small(objective=goal), teacher, real, digits.train, cpu)
    assert distilled.images_NCHW.isfinite().all()


def test_an_expression_without_a_value_names_layer_batch_iteration_and_beta(
    teacher, real, digits, cpu, monkeypatch
):
    def flat(*args, **kwargs):
        found = batch_moments(*args, **kwargs)
        return Moments(found.name, found.mean_D, found.var_D, found.cov_DD * 0)

    monkeypatch.setattr(microbatch, "batch_moments", flat)
    config = small(objective={"terms": [{"f": "lambda**2/lambda", "signal": "mean"}], "beta": 0.25})
    full = [Moments(m.name, m.mean_D, m.var_D, m.cov_DD + torch.eye(len(m.mean_D))) for m in real]
    said = r"f = lambda\*\*2/lambda .* layer layers.conv.0 at batch 1, iteration 0, at β = 0.25"
    with pytest.raises(UserError, match=said):
        distil(config, teacher, full, digits.train, cpu)
    loose = config.model_copy(update={"recover": config.recover.model_copy(update={"clamp": False})})
    with pytest.raises(UserError, match="images diverged, or a filter has no value there"):
        distil(loose, teacher, full, digits.train, cpu)
