"""Held-out likelihoods of models whose values are known in closed form."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Normal

from physgen.batch import Batch, Schema, Variable
from physgen.errors import DomainError
from physgen.held_out import held_out
from physgen.sampling.annealing import Bracket
from physgen.sampling.reweighting import Estimate
from physgen.surrogates.base import Surrogate
from physgen.transforms.base import Chain
from physgen.transforms.images import Dequantise, Rescale

LEVELS = 4
GREYS = Schema((4, 4), (Variable("intensity", low=0, high=1),))
REAL = Schema((3,), (Variable("x"),))


class Gaussian(Surrogate):
    """Independent normal numbers with a density."""

    def __init__(self, schema, transform=None, width=2.0):
        super().__init__(schema, transform)
        self.width = nn.Parameter(torch.tensor(width, dtype=torch.float64))

    def log_prob(self, batch):
        assert batch.x.dtype == torch.float64
        return Normal(0.0, self.width).log_prob(batch.x).flatten(1).sum(1)

    def sample_with_log_prob(self, n, condition=None, *, generator):
        raise NotImplementedError


class Dequantised(Surrogate):
    """A normal density of dequantised greys, in (0, 1), with a bound on their probabilities."""

    centre, width = 0.4, 0.2

    def __init__(self):
        super().__init__(GREYS, Chain([Dequantise(GREYS, levels=LEVELS)]))
        self.unused = nn.Parameter(torch.zeros(()))

    def elbo(self, batch, *, generator):
        mapped, volume = self.transform.bound(batch, generator)
        return Normal(self.centre, self.width).log_prob(mapped.x).flatten(1).sum(1) + volume

    def importance_bound(self, batch, *, draws, generator):
        values = [self.elbo(batch, generator=generator) for _ in range(draws)]
        return torch.stack(values).logsumexp(0) - math.log(draws)


class Estimated(Surrogate):
    """Knows its density up to a constant that has an error."""

    def __init__(self):
        super().__init__(Schema((3,), (Variable("s", domain="spin"),)))
        self.field = nn.Parameter(torch.tensor(0.5))

    def log_likelihood(self, batch, *, generator):
        return (self.field * batch.x).sum(1) - 3.0, torch.tensor(0.25)


def greys(n, seed):
    levels = np.random.default_rng(seed).integers(0, LEVELS, (n, 4, 4))
    return levels, Batch(torch.from_numpy(levels / (LEVELS - 1)).float())


def test_exact_density_of_a_normal_model():
    truth = Batch(torch.randn(700, 3, generator=torch.Generator().manual_seed(0)))
    found = held_out(Gaussian(REAL), truth, truth[:50], n=400, draws=1, seed=0)
    assert set(found) == {"exact"}
    values = found["exact"]
    assert (len(values.truth), len(values.floor)) == (400, 50)
    assert (values.exact, values.discrete) == (True, False)
    rows = np.linspace(0, 699, 400).astype(int)
    x = truth.x.double().numpy()[rows]
    expected = -0.5 * (x / 2) ** 2 - math.log(2) - 0.5 * math.log(2 * math.pi)
    np.testing.assert_allclose(values.truth, expected.sum(1), rtol=1e-12)


def test_bound_on_probabilities_of_greys():
    levels, batch = greys(3000, 1)
    model = Dequantised()
    found = held_out(model, batch, None, n=3000, draws=8, seed=3)
    assert set(found) == {"bound", "bound of 8 draws"}
    bound = found["bound"]
    assert (bound.floor, bound.exact, bound.discrete) == (None, False, True)
    # The mean of (y - m)^2 over an interval of width 1/K around its middle.
    middle = (levels + 0.5) / LEVELS - model.centre
    square = middle**2 + 1 / (12 * LEVELS**2)
    log_q = -0.5 * square / model.width**2 - math.log(model.width) - 0.5 * math.log(2 * math.pi)
    expected = (log_q - math.log(LEVELS)).sum((1, 2))
    difference = bound.truth - expected
    assert abs(difference.mean()) < 4 * difference.std() / math.sqrt(3000)
    # The exact probabilities are integrals of the density over the levels' intervals.
    edges = torch.linspace(0, 1, LEVELS + 1, dtype=torch.float64)
    mass = Normal(model.centre, model.width).cdf(edges).diff().log().numpy()
    exact = mass[levels].sum((1, 2))
    assert exact.mean() > found["bound of 8 draws"].truth.mean() > bound.truth.mean()


def test_a_uniform_density_needs_log2_of_the_levels():
    class Uniform(Dequantised):
        def elbo(self, batch, *, generator):
            return self.transform.bound(batch, generator)[1]

    values = held_out(Uniform(), greys(20, 2)[1], None, n=20, draws=1, seed=0)["bound"].truth
    np.testing.assert_allclose(-values / (16 * math.log(2)), 2.0, rtol=1e-6)


def test_seed_decides_bounds_and_blocks_do_not_lose_rows(monkeypatch):
    batch = greys(100, 3)[1]
    first = held_out(Dequantised(), batch, batch, n=100, draws=2, seed=1)["bound"]
    again = held_out(Dequantised(), batch, batch, n=100, draws=2, seed=1)["bound"]
    other = held_out(Dequantised(), batch, batch, n=100, draws=2, seed=2)["bound"]
    np.testing.assert_array_equal(first.truth, again.truth)
    assert (first.truth != other.truth).all()
    monkeypatch.setattr("physgen.held_out.BLOCK", 7)
    truth = Batch(torch.randn(100, 3, generator=torch.Generator().manual_seed(0)))
    pieces = held_out(Gaussian(REAL), truth, None, n=100, draws=1, seed=0)["exact"].truth
    assert len(pieces) == 100


def test_an_estimated_constant_passes_its_error_on():
    spins = torch.ones(10, 3, dtype=torch.int8)
    found = held_out(Estimated(), Batch(spins), Batch(-spins[:4]), n=10, draws=1, seed=0)
    values = found["estimated"]
    assert (values.error, values.exact, values.discrete) == (0.25, True, True)
    np.testing.assert_allclose(values.truth, -1.5)
    np.testing.assert_allclose(values.floor, -4.5)


def test_a_constant_that_annealing_cannot_find_is_a_warning():
    class Inverted(Estimated):
        def log_likelihood(self, batch, *, generator):
            return Bracket(Estimate(3.0, 0.1), Estimate(1.0, 0.1), 100).middle

    spins = torch.ones(10, 3, dtype=torch.int8)
    values = held_out(Inverted(), Batch(spins), None, n=10, draws=1, seed=0)["estimated"]
    assert np.isnan(values.truth).all()
    assert "inverted: 3.00 +- 0.10 from below" in values.warning


def test_nothing_is_known_of_a_model_without_likelihood():
    class Implicit(Surrogate):
        def __init__(self):
            super().__init__(REAL)
            self.weight = nn.Parameter(torch.zeros(()))

    assert held_out(Implicit(), Batch(torch.zeros(5, 3)), None, n=5, draws=1, seed=0) == {}


def test_a_transform_that_rounds_leaves_no_bound_and_other_faults_are_raised():
    class Rounded(Dequantised):
        def __init__(self):
            super().__init__()
            self.transform = Chain([Rescale(Schema((4, 4), (Variable("s", domain="spin"),)))])

    assert held_out(Rounded(), Batch(torch.ones(5, 4, 4)), None, n=5, draws=2, seed=0) == {}

    class Refusing(Dequantised):
        def elbo(self, batch, *, generator):
            raise DomainError("a condition that was never seen")

    with pytest.raises(DomainError, match="never seen"):
        held_out(Refusing(), greys(5, 0)[1], None, n=5, draws=2, seed=0)


@pytest.mark.parametrize("n", [1, 5, 50])
def test_rows_are_at_most_as_many_as_there_are(n):
    truth = Batch(torch.zeros(5, 3))
    found = held_out(Gaussian(REAL), truth, None, n=n, draws=1, seed=0)
    assert len(found["exact"].truth) == min(n, 5)
