"""Showers as one Gaussian vector: atoms, sums and thresholds come back, and the bound is right."""

import math

import pytest
import torch
from scipy import stats

from physgen.batch import Batch, Schema, Variable
from physgen.errors import DomainError
from physgen.surrogates.flows.shower import ShowerFlow
from physgen.systems.calorimeter import Calorimeter
from physgen.transforms.base import Chain
from physgen.transforms.gaussian_showers import GaussianShowers

SYSTEM = Calorimeter(energies_mev=(1000.0, 16000.0))


@pytest.fixture(scope="module")
def data():
    return SYSTEM.simulate(4000, 1)


@pytest.fixture(scope="module")
def fitted(data):
    transform = GaussianShowers(SYSTEM.schema, system=SYSTEM)
    transform.fit(data)
    return transform


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_it_inverts(fitted, data):
    rows = data[:500]
    latent, log_det = fitted(rows, generator())
    back = fitted.inverse(latent)
    assert log_det is None
    assert not fitted.exact
    assert latent.x.shape == (500, *fitted.latent_shape((368,)))
    assert latent.condition.shape == (500, fitted.latent_condition(1))
    # An atom whose share is one in a million may round to what lies beside it.
    close = torch.isclose(back.x, rows.x, rtol=2e-2, atol=2e-2)
    alike = (back.x > 0) == (rows.x > 0)
    assert (close & alike).double().mean() > 1 - 1e-4
    assert torch.allclose(back.condition, rows.condition, rtol=1e-4)
    assert torch.allclose(
        fitted.layer_energies(back.x), fitted.layer_energies(rows.x), rtol=1e-4, atol=1e-3
    )


def test_new_showers_are_standard_normal(fitted):
    latent, _ = fitted(SYSTEM.simulate(2000, 2), generator())
    distance = [stats.kstest(column.numpy(), "norm").statistic for column in latent.x.T]
    # The table of splits that are alike is one, and knots in energy are not exact.
    assert max(distance) < 0.08
    assert sum(distance) / len(distance) < 0.03


def test_noise_becomes_showers(fitted, data):
    rows = data[:1000]
    noise = torch.randn(1000, 368, generator=generator(3))
    mapped, _ = fitted(rows, generator())
    made = fitted.inverse(mapped.replace(x=noise))
    positive = made.x[made.x > 0]
    assert positive.min() >= 0.999 * fitted.threshold
    wanted = fitted.to_layers(noise[:, :5], rows.condition)
    torch.testing.assert_close(fitted.layer_energies(made.x), wanted, rtol=1e-3, atol=1e-3)
    occupied = [(batch.x > 0).double().mean(1) for batch in (made, rows)]
    sigma = math.hypot(*(float(o.std()) / math.sqrt(1000) for o in occupied))
    assert abs(float(occupied[0].mean() - occupied[1].mean())) < 4 * sigma


def test_its_bound_under_a_normal_law_is_the_density_of_independent_splits(fitted, data):
    flow = ShowerFlow(SYSTEM.schema, Chain([]), system=SYSTEM)
    flow.initialise(data)
    rows = data[:200]
    mapped, volume = fitted.bound(rows, generator())
    found = torch.distributions.Normal(0, 1).log_prob(mapped.x).sum(1) + volume
    again, volume_again = fitted.bound(rows, generator(1))
    repeated = torch.distributions.Normal(0, 1).log_prob(again.x).sum(1) + volume_again
    # Noise within atoms is as the normal law has it there: the bound does not depend on it.
    torch.testing.assert_close(found, repeated, rtol=1e-4, atol=0.1)
    with torch.no_grad():
        exact = flow.elbo(rows, generator=generator())
    assert (found - exact).abs().median() < 0.1


def test_what_it_cannot_map_is_refused(fitted):
    with pytest.raises(DomainError, match="incident energies"):
        fitted(Batch(x=torch.zeros(3, 368)))
    with pytest.raises(DomainError, match="energies they stand for"):
        fitted.inverse(Batch(x=torch.zeros(3, 368)))
    with pytest.raises(DomainError, match="368 voxels"):
        GaussianShowers(Schema((4,), (Variable("showers", "MeV"),)), system=SYSTEM)
