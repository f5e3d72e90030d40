"""ln Z by integration in the coupling, against the transfer matrix."""

import math

import pytest

from physgen.errors import InputError
from physgen.sampling.integration import log_partition_difference
from physgen.sampling.reweighting import Estimate
from physgen.systems.scalar import Phi4


def ring(lam):
    return Phi4(shape=(6,), m2=-1.0, lam=lam)


def test_integration_of_simulations_gives_the_difference_of_exact_values():
    def mean(lam):
        quartic = ring(lam).simulate(16_000, seed=3).x.pow(4).sum(1).reshape(16, -1).mean(1)
        return Estimate(float(quartic.mean()), float(quartic.std()) / 4)

    found = log_partition_difference(mean, 1.0, 4.0, points=5)
    exact = ring(4.0).exact()["ln Z"] - ring(1.0).exact()["ln Z"]
    assert abs(found.value - exact) < 4 * found.error
    assert 0 < found.error < 0.02
    assert abs(exact) > 50 * found.error


def test_values_and_errors_of_a_polynomial_are_exact():
    def mean(g):
        return Estimate(3 * g**2, 0.1)

    found = log_partition_difference(mean, 2.0, 1.0, points=2)
    assert found.value == pytest.approx(7.0)
    assert found.error == pytest.approx(0.5 * math.hypot(0.1, 0.1))
    with pytest.raises(InputError, match="points = 0"):
        log_partition_difference(mean, 0.0, 1.0, points=0)
