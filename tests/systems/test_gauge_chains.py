"""Configurations of gauge theories by Monte Carlo: tabulated values, and what the log says."""

import math

import numpy as np
import pytest
import torch

from physgen.systems import gauge_chains
from physgen.systems.gauge import Gauge
from physgen.systems.kernels.gauge import su3
from physgen.systems.kernels.gauge.heatbath import Chains
from physgen.validation.uncertainty import gamma_method


def test_a_frozen_charge_is_said(caplog):
    batch = Gauge(shape=(4, 4), beta=20.0).simulate(20, 1)
    assert "topological charge is frozen at beta = 20" in caplog.text
    assert len(batch) == 20


def test_short_chains_of_few_charges_are_not_called_frozen(caplog):
    Gauge(shape=(8, 8), beta=4.0).simulate(128, 1)
    assert not caplog.records


def test_nothing_is_said_of_chains_that_mix(caplog):
    batch = Gauge(shape=(8, 8), beta=2.0).simulate(1280, 1)
    assert not caplog.records
    again = Gauge(shape=(8, 8), beta=2.0).simulate(1280, 1)
    assert torch.equal(again.x, batch.x)
    assert not torch.equal(Gauge(shape=(8, 8), beta=2.0).simulate(1280, 2).x, batch.x)


def test_chains_that_stay_where_they_began_are_said(caplog):
    links = np.zeros((64, 2, 4, 4))

    def slow(x):
        return {"one": np.arange(64) % 2 + 0.01 * x[:, 0, 0, 0]}

    gauge_chains.simulate(links, 2.0, 20, 1, slow)
    assert "the chains do not mix in one" in caplog.text


@pytest.mark.parametrize(("n", "n_links", "n_chains"), [(5, 128, 8), (17, 128, 24), (10**4, 9, 64)])
def test_the_number_of_chains(n, n_links, n_chains):
    assert gauge_chains.n_chains(n, n_links) == n_chains
    assert gauge_chains.n_chains(n, 10**6) == 8


@pytest.mark.slow
@pytest.mark.parametrize(
    ("beta", "shape", "value", "error"),
    [
        (1.0, (4, 4, 4, 4), 1 / 18 + 1 / 216, 3e-5),  # the next orders: 4 u^5 and beta^4 5/93312
        (5.7, (8, 8, 8, 8), 0.5500, 0.0005),
        (6.0, (8, 8, 8, 8), 0.59405, 0.00019),
    ],
)
def test_plaquettes_of_su3_in_four_dimensions(beta, shape, value, error):
    start = Gauge(group="SU(3)", shape=shape).arbitrary(8, torch.Generator().manual_seed(1))
    chains = Chains(start.numpy(), beta, seed=1)
    chains.sweep(60, 2)
    planes, values = np.empty((6, 8)), []
    for _ in range(100):
        chains.sweep(1, 2)
        su3.plaquettes(chains.packed[0], chains._table, planes)
        values.append(planes.mean(0))
    found = gamma_method(np.array(values).T.ravel(), chain=np.repeat(np.arange(8), 100))
    assert abs(found.value - value) < 4 * math.hypot(found.error, error)
    assert found.error < 1e-3
