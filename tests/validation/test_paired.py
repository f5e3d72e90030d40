"""Samples drawn at the conditions of the truth: what both owe to the condition cancels."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from physgen.batch import Batch, Schema, Variable
from physgen.systems.base import Derived
from physgen.validation.classifier_score import ClassifierScore
from physgen.validation.comparison import Comparison
from physgen.validation.metrics import (
    ClassifierTest,
    Correlations,
    Histograms,
    MaximumMeanDiscrepancy,
    Means,
    NearestNeighbour,
)
from physgen.validation.resampling import resample
from physgen.validation.sample import Sample
from physgen.validation.tails import Tails
from physgen.validation.uncertainty import Estimate

PAIRED = frozenset({"generated", "floor"})


@dataclass(frozen=True)
class Response:
    """Two measurements of an energy whose spread is ten times their resolution."""

    @property
    def schema(self):
        return Schema((2,), (Variable("a"), Variable("b")), (Variable("energy"),))

    @property
    def derived(self):
        return {"variance": Derived(("a^2", "a"), lambda m: float(m[0] - m[1] ** 2))}

    def observables(self, batch):
        a, b = batch.x[:, 0], batch.x[:, 1]
        return {"a": a, "b": b, "a^2": a**2, "both": batch.x}

    def features(self, batch, level):
        return batch.x


def compared(seed, n=400, shift=0.0, paired=PAIRED):
    generator = torch.Generator().manual_seed(seed)
    energy = torch.randn(n, 1, generator=generator, dtype=torch.float64)
    truth, floor, made = (
        Batch(
            energy + 0.1 * torch.randn(n, 2, generator=generator, dtype=torch.float64),
            condition=energy,
        )
        for _ in range(3)
    )
    made = made.replace(x=made.x + shift)
    return Comparison(Response(), made, truth, floor, paired=paired, seed=seed)


def rows(metric, comparison):
    return {row.name.split(",")[0]: row for row in metric.rows(comparison)}


def weighted(comparison, seed):
    """The same with weights of the generated sample that depend on nothing."""
    noise = np.random.default_rng(seed).uniform(0.5, 1.5, len(comparison.generated))
    made = comparison.generated.replace(weight=torch.from_numpy(noise))
    return replace(comparison, generated=made)


@pytest.mark.parametrize("weigh", [lambda comparison, seed: comparison, weighted])
def test_pulls_of_truth_against_truth_have_a_spread_of_one(weigh):
    found = [rows(Means(), weigh(compared(seed), seed)) for seed in range(150)]
    for name in ("a", "b", "variance"):
        pulls = [card[name].pull for card in found]
        assert np.std(pulls) == pytest.approx(1.0, abs=4 / np.sqrt(2 * 150)), name
        floors = [card[name].floor / card[name].floor_error for card in found]
        assert np.sqrt(np.mean(np.square(floors))) == pytest.approx(1.0, abs=0.25)
    # The larger of two correlated pulls.
    assert 0.5 < np.mean([abs(card["both"].pull) for card in found]) < 1.5


def test_a_shift_below_the_spread_of_conditions_is_found():
    shift = 0.05  # .05 / sqrt(2 * .01 / 400) = 7 sigma; of independent rows .7
    card = rows(Means(), compared(0, shift=shift))
    assert card["a"].pull > 5
    assert card["both"].pull > 5
    assert "paired" in card["a"].note
    assert rows(Means(), compared(0, shift=shift, paired=frozenset()))["a"].pull < 2


def test_p_values_of_pairs_see_more():
    def p_value(seed, shift=0.0):
        found = compared(seed, n=200, shift=shift)
        a, b = found.truth.x[:, 0].numpy(), found.generated.x[:, 0].numpy()
        keys = np.arange(200)
        return resample(Sample(a, unit=keys), Sample(b, unit=keys), seed=seed).p_value.wasserstein

    p = [p_value(seed) for seed in range(24)]
    assert 0.3 < np.mean(p) < 0.7  # of independent rows they would crowd at 1
    assert min(p) < 0.3
    assert p_value(0, shift=0.07) < 2e-3
    card = rows(Histograms(), compared(0, n=200, shift=0.07))
    assert card["W1 a"].p_value < 2e-3


def test_the_exchange_of_pairs_is_that_of_all_sign_patterns():
    """Of 8 pairs all 256 exchanges are counted."""
    generator = np.random.default_rng(1)
    x = generator.normal(size=8)
    y = x + generator.normal(0.3, 0.5, size=8)
    signs = np.array(np.meshgrid(*[[0, 1]] * 8)).reshape(8, -1).T.astype(bool)
    largest = [
        max(
            abs(np.mean(np.where(s, y, x) <= t) - np.mean(np.where(s, x, y) <= t))
            for t in np.concatenate([x, y])
        )
        for s in signs
    ]
    exact = np.mean(np.array(largest) >= largest[0] - 1e-9)
    keys = np.arange(8)
    found = resample(Sample(x, unit=keys), Sample(y, unit=keys), seed=1)
    assert found.exact
    p = found.p_value.kolmogorov_smirnov
    assert p == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 100))


@pytest.mark.parametrize(
    ("metric", "name", "neutral"),
    [
        (ClassifierTest(model="neural", epochs=2), "AUC", 0.5),
        (NearestNeighbour(), "1-NN accuracy", 0.5),
        (MaximumMeanDiscrepancy(), "MMD^2 high level", 0.0),
    ],
)
def test_scores_of_pairs_are_neutral_within_their_errors(metric, name, neutral):
    found = [rows(metric, compared(seed, n=200))[name] for seed in range(8)]
    pulls = [(row.value - neutral) / row.error for row in found]
    assert abs(np.mean(pulls)) < 4 / np.sqrt(8)
    assert np.std(pulls) < 1.9


def test_errors_of_pairs_are_smaller():
    for metric in (Histograms(), Correlations()):
        whole = metric.rows(compared(0, paired=frozenset()))
        pairs = metric.rows(compared(0))
        assert pairs[0].error < whole[0].error


@pytest.mark.slow
def test_p_values_of_pairs_are_calibrated():
    """Over 200 repeats shares below .05 within the binomial band at four sigma."""
    cards = [
        rows(Histograms(), compared(seed)) | rows(MaximumMeanDiscrepancy(n=400), compared(seed))
        for seed in range(200)
    ]
    for name in ("W1 a", "KS a", "separation a", "MMD^2 high level"):
        share = np.mean([card[name].p_value < 0.05 for card in cards])
        assert share < 0.05 + 4 * np.sqrt(0.05 * 0.95 / 200), name


def test_samples_cannot_be_told_from_themselves(monkeypatch):
    same = compared(1)
    labels, nothing = np.array([0, 0, 1, 1]), np.zeros(4)
    rounding = ClassifierScore(
        auc=Estimate(0.5 + 1e-16, 3e-18),
        chance=3e-18,
        balanced_accuracy=Estimate(0.5, 0.0),
        calibrated_auc=Estimate(0.5, 0.0),
        jsd=Estimate(0.0, 0.0),
        roc=((0.0,), (0.0,)),
        tails=Tails.of(nothing + 0.5, labels, nothing + 1),
        n_train=500,
        n_test=500,
        not_finite=0,
        scores=nothing,
        labels=labels,
        weights=nothing + 1,
        unit=np.arange(4),
        rows=np.arange(4),
    )
    monkeypatch.setattr(ClassifierTest, "_score", lambda *args, **kwargs: rounding)
    row = ClassifierTest(model="boosted").rows(replace(same, generated=same.truth))[0]
    assert row.p_value == 1
