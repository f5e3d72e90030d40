"""Judges on samples whose AUC is known; the AUC and its error against direct sums."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

from physgen.errors import InputError, RecipeError
from physgen.validation.classifier import (
    ClassifierTest,
    _split,
    auc,
    jensen_shannon,
    roc,
)
from physgen.validation.judges import neural, standardised


def pair_sum(scores, labels, weights):
    a, w = scores[labels == 1], weights[labels == 1]
    b, v = scores[labels == 0], weights[labels == 0]
    wins = (a[:, None] > b[None, :]) + 0.5 * (a[:, None] == b[None, :])
    return (w[:, None] * v[None, :] * wins).sum() / (w.sum() * v.sum())


def test_auc_is_the_weighted_pair_sum():
    generator = np.random.default_rng(0)
    scores = np.round(generator.normal(size=300), 1)  # with ties
    labels = generator.integers(0, 2, 300).astype(float)
    weights = generator.uniform(-0.2, 1, 300)
    assert auc(scores, labels, weights).value == pytest.approx(pair_sum(scores, labels, weights))


def test_auc_error_matches_repetition():
    generator = np.random.default_rng(1)
    labels = np.repeat([1.0, 0.0], 200)
    found = []
    for _ in range(300):
        weights = generator.exponential(size=400)
        found.append(auc(generator.normal(size=400) + 0.8 * labels, labels, weights))
    values = [f.value for f in found]
    assert np.mean(values) == pytest.approx(norm.cdf(0.8 / math.sqrt(2)), abs=0.01)
    assert np.mean([f.error for f in found]) == pytest.approx(np.std(values), rel=0.15)


def test_roc_integrates_to_the_auc():
    generator = np.random.default_rng(2)
    labels = np.repeat([1.0, 0.0], 3000)
    scores, weights = generator.normal(size=6000) + labels, np.ones(6000)
    x, y = roc(scores, labels, weights)
    assert (x[0], y[0], x[-1], y[-1]) == (0.0, 0.0, 1.0, 1.0)
    assert np.trapezoid(y, x) == pytest.approx(auc(scores, labels, weights).value, abs=2e-3)


@pytest.mark.parametrize("judge", ["neural", "boosted"])
def test_shifted_gaussians(judge):
    """The best judge reaches Phi(d / sqrt 2); these do within a few errors."""
    generator = np.random.default_rng(3)
    truth, other = generator.normal(size=(2, 2500, 3))
    other[:, 0] += 1.0
    found = ClassifierTest(judge=judge, epochs=4).test(truth, other, seed=1)
    assert abs(found.auc.value - norm.cdf(1 / math.sqrt(2))) < 0.05
    assert (found.n_train, found.n_test) == (1500, 500)
    same = ClassifierTest(judge=judge, epochs=4).test(*generator.normal(size=(2, 1000, 3)), seed=1)
    assert abs(same.auc.value - 0.5) < 4 * same.auc.error


def test_weights_undo_a_shift():
    generator = np.random.default_rng(4)
    truth, other = generator.normal(size=(2, 2500, 1))
    other += 0.7
    weight = np.exp(-0.7 * other[:, 0])
    judge = ClassifierTest(epochs=4)
    assert judge.test(truth, other, seed=1).auc.value > 0.65
    found = judge.test(truth, other, None, weight, seed=1).auc
    assert abs(found.value - 0.5) < 4 * found.error


def test_cross_validation_tests_every_row_once():
    rows = [_split(103, fold, 4) for fold in range(4)]
    tested = np.concatenate([test for _, _, test in rows])
    for train, choose, test in rows:
        assert not set(train) & set(test)
        assert not set(choose) & set(test)
        assert not set(choose) & set(train)
    assert len(set(tested)) >= 4 * 2 * (103 // 4)
    truth, other = np.random.default_rng(5).normal(size=(2, 400, 2))
    assert ClassifierTest(judge="boosted", folds=4).test(truth, other, seed=1).n_test == 400


def test_jensen_shannon_of_known_probabilities():
    labels = np.tile([1.0, 0.0], 500)
    assert jensen_shannon(np.full(1000, 0.5), labels, np.ones(1000)).value == pytest.approx(0.0)
    assert jensen_shannon(labels, labels, np.ones(1000)).value == pytest.approx(1.0, abs=0.02)
    # p = (3/4, 1/4) against q = (1/4, 3/4) on two points.
    x = np.concatenate([np.repeat([1, 0], [750, 250]), np.repeat([1, 0], [250, 750])])
    y = np.repeat([1.0, 0.0], 1000)
    exact = 1 + 0.75 * math.log2(0.75) + 0.25 * math.log2(0.25)
    found = jensen_shannon(np.where(x == 1, 0.75, 0.25), y, np.ones(2000))
    assert found.value == pytest.approx(exact)


def test_values_that_are_not_finite_are_counted_and_seen():
    generator = np.random.default_rng(6)
    truth, other = generator.normal(size=(2, 2000, 2))
    other[:400, 1] = np.nan
    other[400:500, 0] = np.inf
    for judge in ("neural", "boosted"):
        found = ClassifierTest(judge=judge, epochs=3).test(truth, other, seed=1)
        assert found.not_finite == 500
        assert found.auc.value > 0.58
    assert np.isfinite(standardised(np.concatenate([truth, other]), np.arange(4000))).all()


def test_the_judge_is_seeded_and_leaves_global_randomness_alone():
    generator = np.random.default_rng(7)
    x, y, w = generator.normal(size=(200, 2)), np.tile([1.0, 0.0], 100), np.ones(200)
    before = torch.get_rng_state()
    train, choose, _ = _split(100, 0, 5)
    first = neural(x, y, w, train, choose, 3, 2)
    np.testing.assert_array_equal(first, neural(x, y, w, train, choose, 3, 2))
    assert torch.equal(before, torch.get_rng_state())


def test_faults():
    with pytest.raises(RecipeError, match="at least 3"):
        ClassifierTest(folds=2)
    x, y, w = np.ones((20, 2)), np.tile([1.0, 0.0], 10), np.full(20, np.nan)
    with pytest.raises(InputError, match="not finite"):
        neural(x, y, w, np.arange(10), np.arange(10, 20), 0, 1)
    with pytest.raises(InputError, match="too few"):
        ClassifierTest().test(np.ones((5, 2)), np.ones((9, 2)), seed=0)
