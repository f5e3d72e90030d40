"""Rows of one group are not independent: errors know it, and nothing permutes them."""

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
    [(Histograms(permutations=2), "W1 a", 1.8), (Correlations(), "mean |d correlation|", 1.4)],
)
def test_resampling_keeps_groups_whole(metric, name, copied):
    found = comparison(3)
    alone = Comparison(found.system, found.generated, found.truth)

    def error(of):
        return next(row.error for row in metric.rows(of) if row.name == name)

    assert error(found) > copied * error(alone)


@pytest.mark.parametrize("metric", [Histograms(permutations=5), MaximumMeanDiscrepancy(n=100)])
def test_rows_of_groups_have_no_permutation_p_value(metric):
    found = comparison(1)
    assert all(row.p_value is None for row in metric.rows(found))
    alone = Comparison(found.system, found.generated, found.truth)
    assert any(row.p_value is not None for row in metric.rows(alone))
