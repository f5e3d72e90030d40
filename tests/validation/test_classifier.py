"""Classifiers on samples whose AUC is known; the AUC and its error against direct sums."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from toy import Normal, compare, draw

from physgen.batch import Batch
from physgen.errors import InputError, RecipeError
from physgen.validation import classifiers
from physgen.validation.auc import auc, calibrated, chance, jensen_shannon, roc
from physgen.validation.classifier import ClassifierTest
from physgen.validation.classifiers import Task, boosted, neural, standardised
from physgen.validation.comparison import Comparison
from physgen.validation.estimates import pull
from physgen.validation.independence import partition
from physgen.validation.sample import Sample


def pair_sum(scores, labels, weights):
    a, w = scores[labels == 1], weights[labels == 1]
    b, v = scores[labels == 0], weights[labels == 0]
    wins = (a[:, None] > b[None, :]) + 0.5 * (a[:, None] == b[None, :])
    return (w[:, None] * v[None, :] * wins).sum() / (w.sum() * v.sum())


@pytest.mark.parametrize("weighted", [False, True])
def test_few_tested_rows_raise_no_false_alarms(weighted):
    """Ten rows of each class that happen to be apart have no error, but that is no certainty."""
    generator, labels = np.random.default_rng(5), np.repeat([1.0, 0.0], 10)
    found = []
    for _ in range(3000):
        scores = generator.normal(size=20)
        weights = np.exp(0.5 * scores) if weighted else np.ones(20)
        off = auc(scores, labels, weights).value - 0.5
        found.append(pull(off, chance(scores, labels, weights))[1])
    for level in (0.05, 0.0027):
        expected = 3000 * level
        assert np.sum(np.array(found) < level) < expected + 4 * math.sqrt(expected)
    # Where all are apart, the standard deviation is that of Mann & Whitney.
    apart = chance(np.arange(20.0), labels, np.ones(20))
    assert apart == pytest.approx(math.sqrt(21 / 1200), rel=2e-2)


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


@pytest.mark.parametrize("classifier", ["neural", "boosted"])
def test_shifted_gaussians(classifier):
    """The best classifier reaches Phi(d / sqrt 2); these do within a few errors."""
    generator = np.random.default_rng(3)
    truth, other = generator.normal(size=(2, 2500, 3))
    other[:, 0] += 1.0
    found = ClassifierTest(model=classifier, epochs=4).test(Sample(truth), Sample(other), seed=1)
    assert abs(found.auc.value - norm.cdf(1 / math.sqrt(2))) < 0.05
    assert (found.n_train, found.n_test) == (1500, 500)
    same = ClassifierTest(model=classifier, epochs=4).test(
        *map(Sample, generator.normal(size=(2, 1000, 3))), seed=1
    )
    assert abs(same.auc.value - 0.5) < 4 * same.auc.error


def test_weights_undo_a_shift():
    generator = np.random.default_rng(4)
    truth, other = generator.normal(size=(2, 2500, 1))
    other += 0.7
    weight = np.exp(-0.7 * other[:, 0])
    classifier = ClassifierTest(epochs=4)
    assert classifier.test(Sample(truth), Sample(other), seed=1).auc.value > 0.65
    found = classifier.test(Sample(truth), Sample(other, weight), seed=1).auc
    assert abs(found.value - 0.5) < 4 * found.error


def test_cross_validation_tests_every_row_once():
    part = partition(np.arange(103), 4, np.random.default_rng(0))
    assert sorted(np.bincount(part)) == [25, 26, 26, 26]
    truth, other = np.random.default_rng(5).normal(size=(2, 400, 2))
    score = ClassifierTest(model="boosted", folds=4).test(Sample(truth), Sample(other), seed=1)
    assert score.n_test == 400


@settings(max_examples=50, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=60, max_size=90),
    n_parts=st.integers(3, 5),
    seed=st.integers(0, 99),
)
def test_parts_hold_whole_groups_and_are_alike_in_size(sizes, n_parts, seed):
    keys = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    part = partition(keys, n_parts, np.random.default_rng(seed))
    assert len(set(zip(keys, part, strict=True))) == len(sizes)
    assert np.ptp(np.bincount(part, minlength=n_parts)) <= 2 * max(sizes)


def repeated(n_groups, seed, copies=6):
    """Groups of near-identical rows, as of the candidates of one collision, in mixed order."""
    generator = np.random.default_rng(seed)
    keys = generator.permutation(np.repeat(np.arange(n_groups), copies))
    centres = generator.normal(size=(n_groups, 2))
    return centres[keys] + 1e-3 * generator.normal(size=(len(keys), 2)), keys


@pytest.mark.parametrize("folds", [1, 3])
def test_groups_are_not_split_between_the_parts_of_a_classifier(folds):
    """Without keys, classifiers recognise a row by its twins; with them, the floor is a floor."""
    samples = repeated(80, 1), repeated(80, 2)
    system = Normal()
    batches = [Batch(torch.from_numpy(x)) for x, _ in samples]
    groups = {"truth": samples[0][1], "floor": 1000 + samples[1][1]}
    metric = ClassifierTest(model="boosted", folds=folds)
    plain = metric.rows(Comparison(system, batches[1], *batches))[0]
    grouped = metric.rows(Comparison(system, batches[1], *batches, groups=groups))[0]
    assert plain.floor > 0.7
    assert abs(grouped.floor - 0.5) < 3.5 * grouped.floor_error
    assert grouped.floor_error > 1.5 * plain.floor_error


def test_the_error_of_groups_matches_repetition():
    generator = np.random.default_rng(8)
    labels, keys = np.repeat([1.0, 0.0], 200), np.repeat(np.arange(80), 5)
    found = []
    for _ in range(300):
        score = np.repeat(generator.normal(size=80), 5) + 0.8 * labels
        found.append(auc(score, labels, np.ones(400), keys))
    spread = np.std([f.value for f in found])
    assert np.mean([f.error for f in found]) == pytest.approx(spread, rel=0.15)


@pytest.mark.parametrize("classifier", ["neural", "boosted"])
def test_samples_of_one_distribution_have_no_divergence(classifier):
    metric = ClassifierTest(model=classifier, epochs=3, calibrate=True)
    for seed in range(3):
        truth, other = np.random.default_rng(seed).normal(size=(2, 1000, 10))
        found = metric.test(Sample(truth), Sample(other), seed=seed).jsd
        assert abs(found.value) < max(4 * found.error, 0.01)


def test_trees_are_not_fitted_to_the_rows_that_stop_them():
    """Labels without meaning cannot be told where nothing was learned from them."""
    generator = np.random.default_rng(10)
    x, y = generator.normal(size=(900, 20)), generator.integers(0, 2, 900).astype(float)
    train, choose = np.arange(500), np.arange(500, 900)
    scores = boosted(Task(x.__getitem__, y, np.ones(900), train, choose), 0)
    assert np.isnan(scores[train]).all()
    held = auc(scores[choose], y[choose], np.ones(400))
    assert abs(held.value - 0.5) < 4 * held.error


def test_jensen_shannon_of_known_probabilities():
    labels = np.tile([1.0, 0.0], 500)
    assert jensen_shannon(np.full(1000, 0.5), labels, np.ones(1000)).value == pytest.approx(0.0)
    assert jensen_shannon(labels, labels, np.ones(1000)).value == pytest.approx(1.0, abs=1e-8)
    # p = (3/4, 1/4) against q = (1/4, 3/4) on two points.
    x = np.concatenate([np.repeat([1, 0], [750, 250]), np.repeat([1, 0], [250, 750])])
    y = np.repeat([1.0, 0.0], 1000)
    exact = 1 + 0.75 * math.log2(0.75) + 0.25 * math.log2(0.25)
    found = jensen_shannon(np.where(x == 1, 0.75, 0.25), y, np.ones(2000))
    assert found.value == pytest.approx(exact)


def test_jensen_shannon_of_calibrated_scores_is_that_of_two_normals():
    """Four widths apart, .9128 bit by quadrature: beyond what certainties up to 99% can reach."""
    generator, values = np.random.default_rng(1), []
    choose, test = np.arange(4000), np.arange(4000, 8000)
    y = np.tile([1.0, 0.0], 4000)
    for _ in range(20):
        scores = generator.normal(4 * y)
        certain = calibrated(scores, y, np.ones(8000), choose, test)
        values.append(jensen_shannon(certain, y[test], np.ones(4000)).value)
    assert np.mean(values) == pytest.approx(0.9128, abs=0.006)


def test_values_that_are_not_finite_are_counted_and_seen():
    generator = np.random.default_rng(6)
    truth, other = generator.normal(size=(2, 2000, 2))
    other[:400, 1] = np.nan
    other[400:500, 0] = np.inf
    for classifier in ("neural", "boosted"):
        found = ClassifierTest(model=classifier, epochs=3).test(
            Sample(truth), Sample(other), seed=1
        )
        assert found.not_finite == 500
        assert found.auc.value > 0.58
    assert np.isfinite(standardised(np.concatenate([truth, other]), np.arange(4000))).all()


def test_the_classifier_is_seeded_and_leaves_global_randomness_alone():
    generator = np.random.default_rng(7)
    x, y, w = generator.normal(size=(200, 2)), np.tile([1.0, 0.0], 100), np.ones(200)
    before = torch.get_rng_state()
    train, choose = np.arange(120), np.arange(120, 160)
    task = Task(x.__getitem__, y, w, train, choose)
    first = neural(task, 3, 2)
    np.testing.assert_array_equal(first, neural(task, 3, 2))
    assert torch.equal(before, torch.get_rng_state())


def test_faults():
    with pytest.raises(RecipeError, match="at least 3"):
        ClassifierTest(folds=2)
    x, y, w = np.ones((20, 2)), np.tile([1.0, 0.0], 10), np.full(20, np.nan)
    with pytest.raises(InputError, match="not finite"):
        neural(Task(x.__getitem__, y, w, np.arange(10), np.arange(10, 20)), 0, 1)
    with pytest.raises(InputError, match="too few"):
        ClassifierTest().test(Sample(np.ones((5, 2))), Sample(np.ones((9, 2))), seed=0)
    with pytest.raises(InputError, match="3 groups of rows are too few"):
        partition(np.arange(30) % 3, 5, np.random.default_rng(0))


def test_trees_place_their_own_bins_whatever_the_weights(monkeypatch):
    # scikit-learn finds each of 254 weighted quantiles of each column by a sort of its own.
    from sklearn.ensemble._hist_gradient_boosting import binning

    def refuse(*_args, **_options):
        raise AssertionError("a weighted quantile by scikit-learn")

    monkeypatch.setattr(binning, "_weighted_percentile", refuse)
    generator = np.random.default_rng(0)
    y = np.repeat([1.0, 0.0], 8000)
    # What differs are the values of the one row in twenty that are not zero: AUC .82.
    hit = generator.random(16000) < 0.05
    x = np.where(hit, 1 + generator.exponential(size=16000) + y, 0.0)[:, None]
    x = np.concatenate([x, generator.normal(size=(16000, 1))], axis=1)
    part = generator.integers(0, 3, 16000)
    train, choose = np.flatnonzero(part == 0), np.flatnonzero(part == 1)
    task = Task(x.__getitem__, y, generator.uniform(0.5, 2, 16000), train, choose)
    scores = boosted(task, 0)
    test = (part == 2) & hit
    assert auc(scores[test], y[test], np.ones(test.sum())).value > 0.7


def test_the_row_says_how_many_rows_the_trees_learned_from(monkeypatch):
    monkeypatch.setattr(classifiers, "most_rows", lambda n_columns: 1000)
    monkeypatch.setattr("physgen.validation.classifier.most_rows", lambda n_columns: 1000)
    comparison = compare(draw(1500, 3))
    notes = [ClassifierTest(model=j).rows(comparison)[0].note for j in ("boosted", "neural")]
    assert notes[0].startswith("trained on 500 + 500 rows")
    assert notes[1].startswith("trained on 900 + 900 rows")


def test_trees_of_many_columns_learn_from_a_bounded_number_of_values(monkeypatch):
    binned, converted = classifiers._binned, []

    def count(x, edges):
        converted.append(len(x))
        return binned(x, edges)

    monkeypatch.setattr(classifiers, "CELLS", 2**20)
    monkeypatch.setattr(classifiers, "_binned", count)
    generator = np.random.default_rng(0)
    y = np.repeat([1.0, 0.0], 2000)
    x = generator.normal(size=(4000, 1100)).astype(np.float32)
    x[:, 7] += 2 * y
    rows = generator.permutation(4000)
    scores = boosted(Task(x.__getitem__, y, np.ones(4000), rows[:2500], rows[2500:3200]), 0)
    test = rows[3200:]
    assert auc(scores[test], y[test], np.ones(len(test))).value > 0.8
    assert max(converted) <= 1024


def signed(n, rng):
    """Normal numbers with weights of both signs, of which more cancel on one side."""
    x = rng.normal(size=(n, 2))
    return x, np.where(rng.random(n) < np.where(x[:, 0] < 0, 0.95, 0.6), 1.0, -1.0)


@pytest.mark.parametrize("model", ["boosted", "neural"])
def test_negative_weights_are_learned_with_their_sign(model):
    """The density of |w| is not that of w: AUC .659; rows of the latter pass."""
    rng = np.random.default_rng(4)
    n = 4000
    (x, w), spare = signed(n, rng), rng.normal(size=(12 * n, 2))
    right = spare[rng.random(12 * n) < np.where(spare[:, 0] < 0, 0.9, 0.2)][:n]
    wrong = rng.normal(size=(n, 2))
    test = ClassifierTest(model=model, calibrate=True)
    perfect, blind = (test.test(Sample(x, w), Sample(g), seed=1) for g in (right, wrong))
    assert abs(perfect.auc.value - 0.5) < 3 * perfect.auc.error
    assert blind.auc.value - 3 * blind.auc.error > 0.55
    assert perfect.tails.missing.value < 0.05
    assert blind.tails.surplus.value > 0.1


def test_probabilities_of_signed_rows_are_those_of_their_sum():
    """Of true rows .9 have weight 1 and .1 weight -1 where s = 0: .8 of them are left."""
    n = 40_000
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 2, n).astype(float)
    labels = rng.integers(0, 2, n).astype(float)
    negative = (labels == 1) & (scores == 0) & (rng.random(n) < 0.1)
    weights = np.where(negative, -1.0, 1.0)
    rows = np.arange(n)
    found = calibrated(scores, labels, weights, rows, rows)
    for s in (0.0, 1.0):
        here = scores == s
        p, q = (
            weights[here & (labels == k)].sum() / weights[labels == k].sum() for k in (1.0, 0.0)
        )
        assert found[here][0] == pytest.approx(p / (p + q), abs=0.002)
