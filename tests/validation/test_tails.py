"""Weights p / (1 - p) of rows that no classifier saw: shares, quantiles, histograms, errors."""

import math

import numpy as np
import pytest
from toy import compare
from toy import draw as sample

from physgen.batch import Batch
from physgen.validation.classifier_score import ClassifierScore, Fold, Pooled
from physgen.validation.curves import scores
from physgen.validation.judging import judge
from physgen.validation.metrics import ClassifierTest
from physgen.validation.tails import Tails, shares


def exact(shift, n, seed):
    """Probabilities of an ideal classifier of N(0, 1) against N(shift, 1); w = exp(s^2/2 - s x)."""
    rng = np.random.default_rng(seed)
    x = np.concatenate([rng.normal(0, 1, n), rng.normal(shift, 1, n)])
    w = np.exp(shift**2 / 2 - shift * x)
    return w / (1 + w), np.repeat([1.0, 0.0], n)


def test_shares_and_quantiles_are_those_of_normal_distributions():
    p, labels = exact(1.0, 200_000, 0)
    tails = Tails.of(p, labels, np.ones(len(p)))
    # Generated rows, N(1, 1), of w < 1/2: x > 1/2 + ln 2; true rows of w > 2: x < 1/2 - ln 2.
    share = 0.5 * math.erfc((math.log(2) - 0.5) / math.sqrt(2))
    assert tails.surplus.value == pytest.approx(share, abs=4 * tails.surplus.error)
    assert tails.missing.value == pytest.approx(share, abs=4 * tails.missing.error)
    assert tails.surplus.error == pytest.approx(math.sqrt(share * (1 - share) / 200_000), rel=0.01)
    # The median of ln w is -1/2 and 1/2; one in a hundred is 2.326 further out.
    assert tails.quantiles["generated"][2] == pytest.approx(math.exp(-0.5), rel=0.02)
    assert tails.quantiles["generated"][1] == pytest.approx(math.exp(-0.5 - 2.326), rel=0.05)
    assert tails.quantiles["true"][1] == pytest.approx(math.exp(0.5 + 2.326), rel=0.05)
    for name, (edges, heights) in tails.histograms.items():
        assert sum(heights) == pytest.approx(1, abs=1e-4)
        middle = np.average((np.array(edges[1:]) + edges[:-1]) / 2, weights=heights)
        sign = -1 if name == "generated" else 1
        assert middle == pytest.approx(sign * 0.5 / math.log(10), abs=0.01)


def test_weights_of_either_sign_count_in_shares_and_units_in_errors():
    p = np.array([0.1, 0.1, 0.5, 0.5, 0.5, 0.9])
    labels = np.array([0, 0, 0, 0, 1, 1])
    weights = np.array([3.0, -1.0, 1.0, 1.0, 1.0, 3.0])
    tails = Tails.of(p, labels, weights, np.array([0, 0, 1, 2, 3, 4]))
    assert tails.surplus.value == pytest.approx(0.5)
    assert tails.missing.value == pytest.approx(0.75)
    assert shares(p, labels, weights) == (tails.surplus.value, tails.missing.value)
    # Units of the generated rows: (3 - 1)/4 * 1/2, and twice 1/4 * -1/2.
    assert tails.surplus.error == pytest.approx(math.sqrt(0.25**2 + 2 * 0.125**2))


def scored(seed, shift, times=1):
    """The ideal classifier between 800 + 800 normal numbers, of which one half calibrates."""
    rng = np.random.default_rng(seed)
    x = np.concatenate([rng.normal(0, 1, 800), rng.normal(shift, 1, 800)])
    x, labels, unit = (np.repeat(a, times) for a in (x, np.repeat([1.0, 0.0], 800), range(1600)))
    part = unit % 2
    fold = Fold(-x, np.flatnonzero(part == 0), np.flatnonzero(part == 1))
    pooled = Pooled(labels, np.ones(len(x)), unit, np.arange(len(x)))
    return ClassifierScore.of([fold], pooled, n_train=1, not_finite=0, seed=seed)


def test_errors_of_tails_and_divergence_know_of_the_calibration():
    """That of the rows that are tested alone is a quarter of the scatter, and .9 of it."""
    found = [scored(seed, 0.5) for seed in range(24)]
    for of in (lambda s: s.tails.surplus, lambda s: s.tails.missing, lambda s: s.jsd):
        values, errors = np.array([(of(one).value, of(one).error) for one in found]).T
        # 1.0 to 1.2 over 400 repeats; the scatter of 24 is known to 15%.
        assert 0.65 < np.sqrt(np.mean(errors**2)) / values.std(ddof=1) < 1.7


def test_rows_of_a_unit_are_drawn_together():
    once, five = scored(1, 2.0), scored(1, 2.0, times=5)
    for of in (lambda s: s.tails.surplus, lambda s: s.jsd):
        assert of(five).value == pytest.approx(of(once).value, abs=0.5 * of(once).error)
        # Of rows drawn one by one it would be 5^(1/2) times less.
        assert of(five).error == pytest.approx(of(once).error, rel=0.3)


def test_rows_and_picture_name_the_classifier_and_the_floor():
    comparison = compare(Batch(sample(2000, 3).x * 1.5))
    card = judge(comparison, [ClassifierTest(model="boosted")])
    surplus = card["generated rows of w < 1/2, boosted classifier, low level"]
    missing = card["true rows of w > 2, boosted classifier, low level"]
    assert surplus.value > 0.1 > surplus.floor + 2 * surplus.floor_error
    assert missing.value < surplus.value, "wide samples have too many rows far out"
    assert surplus.note.startswith("quantiles of w of generated rows: 0.1% ")
    assert set(surplus.curves) == {
        "w of generated rows",
        "w of true rows",
        "floor, w of generated rows",
        "floor, w of true rows",
    }
    assert [title for _, title, _ in scores(card)] == ["Classifiers", "Weights of the classifiers"]
