"""Errors of chains of which measurements are missing."""

import numpy as np
import pytest

from physgen.validation.comparison import Measured
from physgen.validation.gaps import with_gaps
from physgen.validation.uncertainty import gamma_method


def chains(n_chains, length, rho, seed):
    """Return (n_chains, length) values of an AR(1) process of mean 0 and variance 1."""
    generator = np.random.default_rng(seed)
    noise = generator.normal(size=(n_chains, length)) * np.sqrt(1 - rho**2)
    x = np.empty((n_chains, length))
    x[:, 0] = generator.normal(size=n_chains)
    for t in range(1, length):
        x[:, t] = rho * x[:, t - 1] + noise[:, t]
    return x


KEPT = {
    "at random": lambda t, generator: generator.random(len(t)) < 0.5,
    "bursts": lambda t, generator: t % 40 < 20,
    "thinned from the middle on": lambda t, generator: (t < 2000) | (t % 20 == 0),
}


@pytest.mark.parametrize("kept", KEPT)
def test_the_error_is_that_of_the_mean_of_what_is_there(kept):
    x = chains(60, 4000, 0.8, 1)
    there = KEPT[kept](np.arange(4000), np.random.default_rng(2))
    there[0] = True
    times, errors = np.flatnonzero(there), []
    for one in x:
        found = with_gaps(Measured({"E": one[there]}, None, None), times)
        errors.append(gamma_method(found.values["E"], chain=found.chain).error)
    exact = np.sqrt((0.8 ** abs(times[:, None] - times)).mean())
    assert np.mean(errors) == pytest.approx(exact, rel=0.06)


def test_several_chains_keep_their_places():
    values = {"E": np.arange(5.0), "profile": np.arange(10.0).reshape(5, 2)}
    chain = np.array([7, 7, 3, 3, 3])
    found = with_gaps(Measured(values, None, chain), np.array([0, 2, 0, 1, 3]))
    nan = np.nan
    np.testing.assert_array_equal(found.values["E"], [2, 3, nan, 4, 0, nan, 1])
    assert found.chain.tolist() == [3, 3, 3, 3, 7, 7, 7]
    assert np.isnan(found.values["profile"][[2, 5]]).all()


def test_without_gaps_nothing_changes():
    x = chains(2, 500, 0.5, 3)
    chain = np.repeat([0, 1], 500)
    found = with_gaps(Measured({"E": x.ravel()}, None, chain), np.tile(np.arange(500), 2))
    assert gamma_method(found.values["E"], chain=found.chain) == gamma_method(
        x.ravel(), chain=chain
    )
