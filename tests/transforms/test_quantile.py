"""Gaussianisation: normal columns, exact return of everything discrete, honest densities."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from physgen.batch import Batch, Schema, Variable
from physgen.errors import DomainError, RecipeError
from physgen.transforms.quantile import Gaussianise


def table(*variables):
    return Schema((len(variables),), variables)


def fitted(schema, x, weight=None, **options):
    transform = Gaussianise(schema, **options).to(x.dtype)
    transform.fit(Batch(x, weight=weight))
    return transform


def mapped(transform, x, seed=0):
    batch, log_det = transform(Batch(x), torch.Generator().manual_seed(seed))
    return batch.x, log_det


def moments_are_normal(z):
    n = len(z)
    assert z.mean().abs() < 5 / n**0.5
    assert (z.square().mean() - 1).abs() < 5 * (2 / n) ** 0.5
    assert (z.pow(4).mean() - 3).abs() < 5 * (96 / n) ** 0.5


def events(n, seed=0):
    """A counter, a momentum, and a second one that exists for counts of two and more."""
    rng = torch.Generator().manual_seed(seed)
    count = torch.multinomial(torch.tensor([0.0, 0.5, 0.3, 0.2]), n, True, generator=rng).float()
    first = 25 + 40 * torch.empty(n).exponential_(generator=rng)
    second = torch.where(count >= 2, 25 + 10 * torch.empty(n).exponential_(generator=rng), 0.0)
    spiky = torch.randn(n, generator=rng)
    spiky = torch.where(torch.rand(n, generator=rng) < 0.3, torch.tensor(-999.9), spiky)
    return torch.stack([count, first, second, spiky], -1)


EVENTS = table(
    Variable("count", domain="integer", dtype="int32"),
    Variable("first", "GeV", low=25.0),
    Variable("second", "GeV", low=25.0, present="count >= 2"),
    Variable("spiky"),
)


def test_every_column_becomes_normal_and_comes_back():
    x = events(20_000)
    transform = fitted(EVENTS, x)
    z, log_det = mapped(transform, x)
    assert log_det is None
    for column in z.T:
        moments_are_normal(column)
    back = transform.inverse(Batch(z)).x
    absent = x[:, 0] < 2
    spike = x[:, 3] == np.float32(-999.9)
    assert torch.equal(back[:, 0], x[:, 0])
    assert torch.equal(back[absent, 2], x[absent, 2])
    assert torch.equal(back[spike, 3], x[spike, 3])
    torch.testing.assert_close(back, x, rtol=1e-4, atol=1e-4)


def test_normal_noise_gives_the_marginals_and_no_value_that_cannot_be():
    x = events(20_000)
    transform = fitted(EVENTS, x)
    generator = torch.Generator().manual_seed(3)
    y = transform.inverse(Batch(torch.randn(20_000, 4, generator=generator))).x
    assert set(y[:, 0].tolist()) == {1.0, 2.0, 3.0}
    assert y[:, 1].min() >= 25
    assert torch.equal(y[:, 2] == 0, y[:, 0] < 2)
    assert y[y[:, 0] >= 2, 2].min() >= 25
    assert ((y[:, 3] == np.float32(-999.9)).float().mean() - 0.3).abs() < 0.02
    assert ((y[:, 3] > -999) | (y[:, 3] == np.float32(-999.9))).all()
    assert (y[:, 1].mean() - x[:, 1].mean()).abs() < 2


def test_a_column_absent_as_nan_returns_as_nan():
    x = events(2000)
    x[:, 2] = torch.where(x[:, 0] >= 2, x[:, 2], torch.nan)
    transform = fitted(EVENTS, x)
    z, _ = mapped(transform, x)
    assert z.isfinite().all()
    assert torch.equal(transform.inverse(Batch(z)).x[:, 2].isnan(), x[:, 0] < 2)


def test_weights_set_the_target():
    x = torch.randn(20_000, 1, generator=torch.Generator().manual_seed(1))
    weight = torch.where(x[:, 0] > 0, 3.0, 1.0)
    transform = fitted(table(Variable("x")), x, weight)
    z, _ = mapped(transform, x)
    mean = (weight * z[:, 0]).sum() / weight.sum()
    assert mean.abs() < 0.02
    assert (transform.inverse(Batch(torch.zeros(1, 1))).x - 0.430727).abs() < 0.03


@pytest.mark.parametrize("bounds", [(None, None), (-4.5, 4.5), (-4.5, None)])
def test_exact_density_against_autograd_and_the_normal(bounds):
    schema = table(Variable("x", low=bounds[0], high=bounds[1]))
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(4000, 1, generator=generator, dtype=torch.float64)
    transform = fitted(schema, x, atoms=0)
    assert transform.exact
    y = torch.linspace(-4.4, 4.4, 101, dtype=torch.float64)[:, None].requires_grad_()
    z, log_det = mapped(transform, y)
    (slope,) = torch.autograd.grad(z.sum(), y)
    torch.testing.assert_close(slope[:, 0].log(), log_det)
    torch.testing.assert_close(transform.inverse(Batch(z)).x, y)
    assert (z.diff(dim=0) > 0).all()


def test_tails_stay_within_the_bounds_and_go_beyond_the_data_without_them():
    x = torch.rand(1000, 2, generator=torch.Generator().manual_seed(0))
    transform = fitted(table(Variable("a", low=0.0, high=1.0), Variable("b")), x)
    y = transform.inverse(Batch(torch.tensor([[-6.0, -6.0], [6.0, 6.0]]))).x
    assert 0 <= y[0, 0] < x[:, 0].min()
    assert x[:, 0].max() < y[1, 0] <= 1
    assert y[0, 1] < x[:, 1].min()
    assert y[1, 1] > x[:, 1].max()


def test_bound_of_a_discrete_column_is_its_log_mass():
    """A normal latent is the exact answer here, so the bound on log P(x) must be tight."""
    x = events(20_000)[:, :1]
    transform = fitted(table(EVENTS.variables[0]), x)
    batch, volume = transform.bound(Batch(x), torch.Generator().manual_seed(0))
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(batch.x).sum(-1)
    for value in (1.0, 2.0, 3.0):
        rows = x[:, 0] == value
        expected = rows.float().mean().log()
        torch.testing.assert_close((normal + volume)[rows].mean(), expected, atol=2e-3, rtol=0)


def test_more_integers_than_knots_still_come_back():
    x = torch.randint(0, 500, (5000, 1), generator=torch.Generator().manual_seed(0)).float()
    transform = fitted(table(Variable("n", domain="integer")), x)
    z, _ = mapped(transform, x)
    moments_are_normal(z[:, 0])
    assert torch.equal(transform.inverse(Batch(z)).x, x)


def test_a_constant_column_comes_back():
    x = torch.full((100, 1), 7.25)
    transform = fitted(table(Variable("year")), x)
    z, _ = mapped(transform, x)
    assert z.isfinite().all()
    assert torch.equal(transform.inverse(Batch(10 * z)).x, x)


@settings(max_examples=60, deadline=None)
@given(
    arrays(np.int64, st.integers(30, 200), elements=st.integers(-6, 6)),
    st.integers(0, 2**31),
)
def test_integers_always_come_back_exactly(values, seed):
    x = torch.tensor(values, dtype=torch.float32)[:, None]
    transform = fitted(table(Variable("n", domain="integer")), x)
    z, _ = mapped(transform, x, seed)
    assert z.isfinite().all()
    assert torch.equal(transform.inverse(Batch(z)).x, x)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=4, unique=True),
    st.integers(0, 2**31),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_spikes_always_come_back_exactly_beside_a_continuum(spikes, seed, dtype):
    generator = torch.Generator().manual_seed(seed)
    smooth = 100 * torch.randn(400, generator=generator)
    x = torch.cat([smooth, *(torch.full((40,), spike) for spike in spikes)])[:, None].to(dtype)
    transform = fitted(table(Variable("x")), x)
    z, _ = mapped(transform, x, seed)
    back = transform.inverse(Batch(z)).x
    assert torch.equal(back[400:], x[400:])
    torch.testing.assert_close(back, x, rtol=1e-3, atol=1e-2)


def test_numbers_of_one_kind_are_mapped_each_by_its_own_distribution():
    rng = torch.Generator().manual_seed(0)
    x = torch.empty(4000, 3).exponential_(generator=rng) * torch.tensor([1.0, 10.0, 100.0])
    x = torch.where(torch.rand(4000, 3, generator=rng) < 0.4, 0.0, x)
    transform = fitted(Schema((3,), (Variable("voxel", "MeV", low=0.0),)), x)
    z, _ = mapped(transform, x)
    for column in z.T:
        moments_are_normal(column)
    back = transform.inverse(Batch(z)).x
    assert torch.equal(back == 0, x == 0)
    torch.testing.assert_close(back, x, rtol=1e-3, atol=1e-3)


def test_state_survives_saving():
    x = events(2000)
    transform = fitted(EVENTS, x)
    fresh = Gaussianise(EVENTS)
    fresh.load_state_dict(transform.state_dict())
    z = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(fresh.inverse(Batch(z)).x, transform.inverse(Batch(z)).x)


def test_faults_say_what_is_wrong():
    x = events(500)
    with pytest.raises(RecipeError, match="did you mean 'count'"):
        Gaussianise(table(Variable("count"), Variable("b", present="cont >= 2")))
    with pytest.raises(RecipeError, match="not of the form"):
        Gaussianise(table(Variable("count"), Variable("b", present="count")))
    with pytest.raises(RecipeError, match="works on vectors and tables"):
        Gaussianise(Schema((4, 4), (Variable("phi"),)))
    wrong = table(*EVENTS.variables[:2], Variable("second", present="count >= 3"), Variable("s"))
    with pytest.raises(DomainError, match="second should be absent unless count >= 3"):
        fitted(wrong, x)
    x[3, 1] = torch.nan
    with pytest.raises(DomainError, match="first holds NaN"):
        fitted(EVENTS, x)
    with pytest.raises(DomainError, match="constant"):
        fitted(table(Variable("x")), torch.ones(50, 1), atoms=0)
