"""Classifier two-sample tests of posteriors, and the exact posteriors of the tasks."""

import numpy as np
import pytest
import torch
from toy import Normal

from physgen.batch import Batch
from physgen.errors import InputError, NotMeasurable, RecipeError
from physgen.systems.inference_tasks import TASKS
from physgen.validation.comparison import Comparison
from physgen.validation.posterior_test import PosteriorTest, accuracy


def compared(posteriors):
    return Comparison(Normal(), Batch(torch.zeros(8, 2)), posteriors=posteriors)


def test_what_is_exact_is_not_told_apart_and_what_is_shifted_is():
    """Of normal numbers d apart the best classifier has the accuracy Phi(d / 2)."""
    a, b, c, d = np.random.default_rng(1).normal(size=(4, 600, 1))
    (row,) = PosteriorTest(draws=600).rows(compared([(a, b, c), (b + 2, c, d)]))
    assert row.value == pytest.approx((0.5 + 0.841) / 2, abs=0.03)
    assert row.floor == pytest.approx(0.5, abs=0.03)
    (limited,) = PosteriorTest(draws=600, maximum=0.55).rows(compared([(b + 2, c, d)] * 2))
    assert limited.verdict == "fail"


def test_what_has_no_exact_posterior_is_said():
    with pytest.raises(InputError, match="needs a run of the system posterior"):
        PosteriorTest().rows(compared(None))
    with pytest.raises(NotMeasurable, match="is not known"):
        PosteriorTest().rows(compared([]))
    with pytest.raises(RecipeError, match="at least 2"):
        PosteriorTest(observations=1)


def test_the_exact_posterior_of_two_moons_is_calibrated():
    """By the ranks of true parameters among draws, uniform for the exact posterior."""
    task = TASKS["two-moons"]
    n, n_draws = 400, 19
    generator = np.random.default_rng(5)
    theta = np.stack([prior.draw(n, generator) for prior in task.parameters], 1)
    x = task.simulate(theta, seed=6)
    ranks = np.array(
        [
            (task.exact_posterior(row, n_draws, seed=i) < truth).sum(0)
            for i, (row, truth) in enumerate(zip(x, theta, strict=True))
        ]
    )
    for column in ranks.T:
        counts = np.bincount(column // 5, minlength=4)
        assert ((counts - 100) ** 2 / 100).sum() < 16.3  # 0.1% of chi^2, 3 degrees of freedom.


def test_particles_of_sir_have_the_moments_of_a_grid():
    """Prior times likelihood, summed where the posterior is."""
    task = TASKS["sir"]
    x = task.simulate(np.array([[0.6, 0.15]]), seed=3)[0]
    draws = task.exact_posterior(x, 1000, seed=1)
    middle, width = draws.mean(0), draws.std(0)
    axes = middle + width * np.linspace(-6, 6, 61)[:, None]
    grid = np.stack(np.meshgrid(*axes.T, indexing="ij"), -1)
    log = task.log_likelihood(grid, x)
    log = log + sum(q.log_prob(grid[..., k]) for k, q in enumerate(task.parameters))
    p = np.exp(log - log.max())
    p /= p.sum()
    exact = np.array([(p * grid[..., k]).sum() for k in (0, 1)])
    deviation = np.sqrt([(p * (grid[..., k] - exact[k]) ** 2).sum() for k in (0, 1)])
    assert np.abs((middle - exact) / deviation).max() < 0.2
    assert np.abs(width / deviation - 1).max() < 0.15


def test_the_posterior_of_slcp_knows_no_signs():
    task = TASKS["slcp"]
    theta = np.array([[0.7, -2.9, -1.0, -0.9, 0.6]])
    draws = task.exact_posterior(task.simulate(theta, seed=2)[0], 300, seed=1)
    assert np.abs(draws[:, 2:4].mean(0) / draws[:, 2:4].std(0)).max() < 0.3
    assert np.median(np.abs(draws[:, 0] - 0.7)) < 1.5
    assert accuracy(np.abs(draws[::2, 2:4]), np.abs(draws[1::2, 2:4])) < 0.65
