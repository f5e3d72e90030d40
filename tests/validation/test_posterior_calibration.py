import numpy as np
import pytest
import torch

from physgen.batch import Batch
from physgen.systems.posterior import Posterior
from physgen.validation.calibration import Calibration
from physgen.validation.comparison import Comparison
from physgen.validation.ranks import PosteriorDraws

N, DRAWS = 1500, 100


def rows_of(shift=0.0, width=1.0, ignores=False):
    """Rows of the posterior of gaussian-linear: N(x / 2, 0.05), or one that is wrong."""
    system = Posterior(simulator="gaussian-linear")
    pairs = system.simulate(N, seed=3)
    theta, x = pairs.x.double().numpy(), pairs.condition.double().numpy()
    centre, deviation = x / 2 + shift, np.sqrt(0.05) * width
    if ignores:  # The prior, which ranks and coverage cannot tell from the posterior.
        centre, deviation = np.zeros_like(x), np.sqrt(0.1)
    noise = np.random.default_rng(4).normal(size=(N, DRAWS, 10))
    draws = centre[:, None] + deviation * noise
    every = np.concatenate([theta[:, None], draws], 1)
    log_prob = -(((every - centre[:, None]) / deviation) ** 2).sum(2) / 2
    posterior = PosteriorDraws(theta, draws, x, log_prob)
    empty = Batch(torch.zeros(N, 10))
    comparison = Comparison(system, empty, pairs, posterior=posterior)
    return {row.name: row for row in Calibration(maximum=0.06).rows(comparison)}


def test_the_exact_posterior_is_calibrated():
    rows = rows_of()
    assert len(rows) == 12
    assert min(row.p_value for row in rows.values()) > 1e-3
    assert {row.verdict for row in rows.values()} == {"pass"}


@pytest.mark.parametrize(
    ("wrong", "seen"),
    [
        ({"shift": 0.1}, ("SBC ranks of theta0", "TARP coverage", "expected coverage")),
        ({"width": 1.6}, ("SBC ranks of theta3", "TARP coverage", "expected coverage")),
        ({"width": 0.6}, ("SBC ranks of theta9", "TARP coverage", "expected coverage")),
        ({"ignores": True}, ("TARP coverage",)),
    ],
)
def test_a_wrong_posterior_is_not(wrong, seen):
    rows = rows_of(**wrong)
    for name in seen:
        assert rows[name].verdict == "fail"
        assert rows[name].p_value < 1e-6


def test_ranks_do_not_see_a_posterior_that_ignores_the_data():
    rows = rows_of(ignores=True)
    assert rows["SBC ranks of theta0"].verdict == rows["expected coverage"].verdict == "pass"
