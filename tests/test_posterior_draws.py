"""Draws of posteriors in closed form, exact and wrong, are told from each other."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from physgen.batch import Batch
from physgen.posterior_draws import posterior_draws
from physgen.validation.calibration import Calibration
from physgen.validation.ranks import calibrations


class Normal:
    """Posteriors of theta ~ N(0, 1), x ~ N(theta, noise^2), scaled and moved; without density."""

    device, dtype = torch.device("cpu"), torch.float64

    def __init__(self, noise, width=1.0, shrink=1.0):
        self.conditions = SimpleNamespace(extrapolate=False)
        self.mean = shrink / (1 + noise**2)
        self.width = width * noise / (1 + noise**2) ** 0.5

    def sample(self, n, condition, *, generator):
        noise = torch.randn(condition.shape, generator=generator, dtype=torch.float64)
        return Batch(self.mean * condition + self.width * noise)


def tarp(noise, seed, n=600, **wrong):
    generator = torch.Generator().manual_seed(seed)
    theta = torch.randn(n, 1, generator=generator, dtype=torch.float64)
    data = theta + noise * torch.randn(n, 1, generator=generator, dtype=torch.float64)
    metrics = [Calibration(n=n, draws=60)]
    found = posterior_draws(Normal(noise, **wrong), Batch(theta, data), metrics, seed)
    assert not (found.reference == found.theta).any()
    return kstest(calibrations(found, ("theta",), seed)["TARP coverage"], "uniform").pvalue


@pytest.mark.parametrize("noise", [1.0, 0.05, 0.002])
def test_exact_posteriors_pass_tarp_however_narrow_they_are(noise):
    values = [tarp(noise, seed) for seed in range(40)]
    assert kstest(values, "uniform").pvalue > 1e-3


def test_wrong_posteriors_fail_tarp():
    assert tarp(0.05, 1, width=1.6) < 1e-3
    assert tarp(0.05, 1, width=0.6) < 1e-3
    prior = (1 + 1.0) ** 0.5  # of the width of the posterior at noise 1
    assert np.max([tarp(1.0, seed, width=prior, shrink=0.0) for seed in range(3)]) < 1e-3
