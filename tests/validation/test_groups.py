"""Rows of one group are not independent: errors and p-values know it."""

import numpy as np
import pytest
import torch
from toy import Normal

from physgen.batch import Batch
from physgen.validation.comparison import Comparison
from physgen.validation.metrics import Correlations, Histograms, MaximumMeanDiscrepancy, Means
from physgen.validation.uncertainty import gamma_method

COPIES = 5


def grouped(seed, n_groups=60):
    """Rows that share most of what they are with the others of their group, in any order."""
    generator = np.random.default_rng(seed)
    keys = generator.permutation(np.repeat(np.arange(n_groups), COPIES))
    centres = generator.normal(size=(n_groups, 2))
    rows = centres[keys] + 0.1 * generator.normal(size=(len(keys), 2))
    return Batch(torch.from_numpy(rows)), keys


def comparison(seed):
    (truth, a), (generated, b) = grouped(2 * seed), grouped(2 * seed + 1)
    groups = {"truth": a, "generated": 1000 + b}
    return Comparison(Normal(known=False), generated, truth, groups=groups)


def test_errors_of_means_are_those_of_repetition():
    pulls = [row.pull for seed in range(60) for row in Means().rows(comparison(seed)) if row.pull]
    assert np.std(pulls) == pytest.approx(1, abs=0.25), "without groups it would be above 2"


def test_groups_of_one_change_nothing():
    x = np.random.default_rng(0).normal(size=(100, 1))
    assert gamma_method(x, group=np.arange(100)) == gamma_method(x)


@pytest.mark.parametrize(
    ("metric", "name", "copied"),
    [(Histograms(), "W1 a", 1.8), (Correlations(), "mean |d correlation|", 1.4)],
)
def test_resampling_keeps_groups_whole(metric, name, copied):
    def error(of):
        return next(row.error for row in metric.rows(of) if row.name == name)

    samples = [comparison(seed) for seed in range(3)]
    alone = [Comparison(one.system, one.generated, one.truth) for one in samples]
    assert sum(map(error, samples)) > copied * sum(map(error, alone))


@pytest.mark.parametrize("metric", [Histograms(), MaximumMeanDiscrepancy(n=300)])
def test_p_values_are_those_of_groups(metric):
    def found(grouped):
        rows = []
        for seed in range(5):
            one = comparison(seed)
            alone = Comparison(one.system, one.generated, one.truth)
            rows += metric.rows(one if grouped else alone)
        return np.array([row.p_value for row in rows])

    assert (found(True) < 0.01).mean() < 0.2
    assert (found(False) < 0.01).mean() > 0.3, "copies are not taken for evidence"
