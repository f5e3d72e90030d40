"""Gaussianisation: normal columns, exact return of everything discrete, honest densities."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from physgen.batch import Batch, Schema, Variable
from physgen.errors import DomainError, RecipeError
from physgen.transforms.base import Chain
from physgen.transforms.quantile import Gaussianise


def table(*variables):
    return Schema((len(variables),), variables)


def fitted(schema, x, weight=None, **options):
    transform = Chain([Gaussianise(schema, **options)], schema).to(x.dtype)
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
    assert torch.equal(back[:, 0].float(), x[:, 0])
    assert torch.equal(back[absent, 2].float(), x[absent, 2])
    assert torch.equal(back[spike, 3].float(), x[spike, 3])
    assert back.dtype == torch.float64  # What int32 needs.
    torch.testing.assert_close(back, x.double(), rtol=1e-4, atol=1e-4)


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


def gen(seed):
    return np.random.default_rng(seed)


def shares(values, of):
    return np.array([(of == value).mean() for value in values])


def drawn(transform, n, size, seed=5):
    noise = torch.randn(n, size, generator=torch.Generator().manual_seed(seed))
    return transform.inverse(Batch(noise)).x.double().numpy()


def alike(found, true, n, sigmas=4):
    """Shares agree within the binomial error of a sample of n, and of as many data."""
    assert (np.abs(found - true) <= sigmas * np.sqrt(2 * true * (1 - true) / n) + 1e-12).all()


N = 20_000


@pytest.mark.parametrize(
    ("kind", "values", "dtype"),
    [
        ("codes", gen(0).choice(np.arange(-9999, 9999), 115, replace=False), "int32"),
        ("ions", 1_000_010_020 + 10 * np.arange(50), "int32"),
        ("beam", 2.0 ** np.arange(8, 20), "float32"),
    ],
)
def test_repeated_values_are_kept_with_their_shares(kind, values, dtype):
    rng = gen(1)
    p = rng.dirichlet(np.full(len(values), 0.7))
    x = np.stack([rng.choice(values, N, p=p).astype(float), rng.normal(size=N)], 1)
    domain = "integer" if dtype == "int32" else "real"
    schema = table(Variable(kind, domain=domain, dtype=dtype), Variable("b"))
    transform = fitted(schema, torch.from_numpy(x))
    y = drawn(transform.float(), N, 2)[:, 0]
    assert np.isin(y, values).all()
    true = shares(values, x[:, 0])
    alike(shares(values, y), true, N)
    n = len(np.unique(x[:, 0]))
    assert transform.describe()[kind] == f"{n} values, each with its share"


def test_sentinels_counts_with_many_zeros_and_narrow_peaks():
    rng = gen(2)
    d0 = np.where(rng.random(N) < 0.0015, -999.0, rng.normal(50, 5, N))
    count = np.where(rng.random(N) < 0.5, 0, rng.negative_binomial(2, 0.002, N) + 1)
    mass = np.where(rng.random(N) < 0.01, rng.normal(91, 0.02, N), rng.exponential(40, N))
    schema = table(Variable("d0"), Variable("count", domain="integer"), Variable("mass"))
    x = torch.from_numpy(np.stack([d0, count, mass], 1))
    transform = fitted(schema, x)
    y = drawn(transform.float(), N, 3)
    alike((y[:, 0] == -999).mean(), (d0 == -999).mean(), N)
    assert y[y[:, 0] != -999, 0].min() > 0
    few = np.arange(4)
    assert len(np.unique(count)) > 2000
    alike(shares(few, y[:, 1]), shares(few, count), N)
    alike((y[:, 1] > 1500).mean(), (count > 1500).mean(), N)
    assert np.array_equal(y[:, 1], y[:, 1].round())
    peak = [((v > 90.9) & (v < 91.1)).mean() for v in (y[:, 2], mass)]
    alike(*peak, N)
    said = transform.describe()
    assert said["d0"].startswith("real, and 1 repeated values with their shares")
    assert "commonest values have their shares" in said["count"]


def test_codes_that_are_too_many_are_refused():
    x = torch.from_numpy(gen(3).integers(0, 2000, (N, 1)) * 1000.0)
    schema = table(Variable("id", domain="integer", dtype="int32"))
    with pytest.raises(DomainError, match=r"id holds 2000 .*set `atoms` .* to 968 or more"):
        fitted(schema, x)
    y = drawn(fitted(schema, x, atoms=968), 1000, 1)
    assert np.isin(y, x.numpy()).all()


FLOATS = {
    "adc": (lambda rng: np.round(rng.normal(1000, 200, N)), "integers"),
    "tracks": (lambda rng: np.where(rng.random(N) < 0.5, 0, rng.poisson(5000, N)), "integers"),
    "tenths": (lambda rng: np.round(rng.normal(0, 40, N), 1), "multiples of 0.1"),
    "centres": (lambda rng: np.floor(rng.normal(0, 300, N)) + 0.5, "0.5 plus multiples of 1"),
    "missing": (
        lambda rng: np.where(rng.random(N) < 0.1, -999.9, np.round(rng.normal(200, 150, N))),
        "integers",
    ),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", FLOATS)
def test_floats_on_a_grid_come_back_on_it(kind, dtype):
    make, said = FLOATS[kind]
    column = make(gen(6)).astype(dtype)
    x = torch.from_numpy(np.stack([column, gen(7).normal(size=N).astype(dtype)], 1))
    transform = fitted(table(Variable(kind, dtype=dtype), Variable("b", dtype=dtype)), x).float()
    assert transform.describe()[kind].startswith(f"{said}, of which the 1")
    assert transform.describe()["b"] == "real"
    z, _ = mapped(transform, x)
    moments_are_normal(z[:, 0])
    # Single precision of z takes a few that were spread to the edge of their interval beyond it.
    assert (transform.inverse(Batch(z)).x[:, 0].to(x) == x[:, 0]).double().mean() > 0.999
    y = drawn(transform, N, 2)[:, 0].astype(dtype)
    pitch = 0.1 if kind == "tenths" else 1.0
    inner = y[y != np.float64(-999.9).astype(dtype)]
    first = np.unique(column)[5]
    off = (inner.astype(float) - first) / pitch
    assert np.abs(off - off.round()).max() < 1e-3
    # Of another sample of the truth, as many values were never seen.
    unseen = ~np.isin(make(gen(8)).astype(dtype), column)
    assert np.isin(y, column).mean() >= 1 - unseen.mean() - 4 * np.sqrt(unseen.mean() / N) - 1e-3
    alike((y == column[0]).mean(), (column == column[0]).mean(), N)
    quantiles = np.quantile(y, [0.2, 0.5, 0.8]) - np.quantile(column, [0.2, 0.5, 0.8])
    assert (np.abs(quantiles) < 0.05 * column[column > -999].std()).all()


def test_many_codes_stored_as_floats_are_refused_as_integers_are():
    x = torch.from_numpy(gen(3).choice(gen(4).integers(-(10**6), 10**6, 400), (N, 1)).astype("f8"))
    schema = table(Variable("code", dtype="float64"))
    with pytest.raises(DomainError, match=r"code holds 400 .*set `atoms` .* to 168 or more"):
        fitted(schema, x)
    y = drawn(fitted(schema, x, atoms=168), 1000, 1)
    assert np.isin(y, x.numpy()).all()


def test_the_bounds_of_a_grid_are_points_of_it():
    x = torch.from_numpy(np.round(gen(9).uniform(0.3, 70.7, (N, 1)), 1))
    schema = table(Variable("x", low=0.3, high=70.7, dtype="float64"))
    y = fitted(schema, x).inverse(Batch(torch.linspace(-9, 9, 1001)[:, None].double())).x
    assert y.min() == 0.3
    assert y.max() == 70.7
    assert torch.isin(y, x).all()


def test_a_density_that_is_exact_is_that_of_real_numbers():
    x = torch.from_numpy(np.round(gen(9).normal(0, 40, (N, 1)), 1))
    transform = fitted(table(Variable("x", dtype="float64")), x, atoms=0)
    assert transform.exact
    assert transform.describe()["x"] == "real"


def test_columns_stay_within_their_types_and_where_data_end_abruptly():
    rng = gen(4)
    adc = np.clip(np.round(rng.normal(220, 40, N)), 0, 255)
    hits = np.floor(rng.exponential(3000, N))
    positive = rng.gamma(2.0, 1.0, N)
    angle = rng.uniform(-np.pi, np.pi, N)
    cut = 25 + rng.exponential(10, N)
    schema = table(
        Variable("adc", domain="integer", dtype="uint8"),
        Variable("hits", domain="integer", dtype="uint16"),
        Variable("positive"),
        Variable("angle"),
        Variable("cut"),
        Variable("tails"),
    )
    columns = [adc, hits, positive, angle, cut, rng.normal(size=N)]
    transform = fitted(schema, torch.from_numpy(np.stack(columns, 1)))
    y = transform.inverse(Batch(torch.linspace(-9, 9, 10_001)[:, None].expand(-1, 6))).x.numpy()
    assert (y.min(0)[:2] >= 0).all()
    assert y[:, 0].max() == 255
    assert y[:, 1].max() <= 65535
    assert y[:, 2].min() > 0
    assert -np.pi < y[:, 3].min() < -3.14
    assert 3.14 < y[:, 3].max() < np.pi
    assert y[:, 4].min() > 25
    # Tails are not cut off.
    assert y[:, 5].min() < -5
    assert y[:, 4].max() > cut.max() + 10


def test_times_and_codes_that_single_precision_does_not_hold():
    rng = gen(5)
    codes = np.array([22, 11, 2212, 1_000_010_020, 1_000_020_030, 1_000_020_040])
    time = 1.7e9 + rng.normal(0, 5, N)
    schema = table(Variable("time", "s", dtype="float64"), Variable("pdg", "1", "integer", "int32"))
    x = torch.from_numpy(np.stack([time, rng.choice(codes, N)], 1))
    transform = fitted(schema, x).float()
    z, _ = mapped(transform, x)
    assert z.dtype == torch.float32
    assert torch.equal(transform.inverse(Batch(z)).x[:, 1], x[:, 1])
    y = drawn(transform, N, 2)
    assert abs(y[:, 0].std() - 5) < 0.1
    assert set(y[:, 1]) == set(codes)


COLUMNS = {
    "integer": (st.integers(-(2**31), 2**31 - 1), "int32"),
    "byte": (st.integers(0, 255), "uint8"),
    "real": (st.floats(-1e12, 1e12), "float64"),
    "single": (st.floats(-1e6, 1e6, width=32), "float32"),
}


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(list(COLUMNS)), st.integers(0, 2**31))
def test_values_come_back_whatever_their_type_and_range(data, kind, seed):
    elements, dtype = COLUMNS[kind]
    few = data.draw(st.lists(elements, min_size=1, max_size=8, unique=True))
    x = torch.tensor(gen(seed).choice(few, 300).astype(float))[:, None]
    domain = "integer" if "int" in dtype else "real"
    transform = fitted(table(Variable("a", domain=domain, dtype=dtype)), x).float()
    z, _ = mapped(transform, x, seed)
    back = transform.inverse(Batch(z)).x
    if len(few) * 5 <= 300:
        assert torch.equal(back.double(), x)
    noise = transform.inverse(Batch(torch.linspace(-7, 7, 500)[:, None])).x
    assert torch.isin(noise.double(), x).all()


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


def test_what_lies_beyond_an_atom_at_the_end_is_improbable():
    """A column of exact zeros and a continuum above .2: nothing is below 0."""
    generator = torch.Generator().manual_seed(1)
    x = 0.2 + torch.rand(2000, 1, generator=generator)
    x[:600] = 0
    table = Gaussianise(Schema((1,), (Variable("E"),)))
    table.fit(Batch(x))
    places = torch.tensor([[0.0], [-1e-3], [-1.0]])
    log_slope = table.bound(Batch(places), torch.Generator().manual_seed(2))[1]
    assert log_slope[0] > -5
    assert (log_slope[1:] < -60).all()


def test_multiples_at_the_end_of_a_column_are_as_probable_as_they_are():
    """Their noise reaches beyond the end, and they do not."""
    generator = torch.Generator().manual_seed(3)
    x = (torch.rand(4000, 1, generator=generator, dtype=torch.float64) * 1000).round() / 10
    table = Gaussianise(Schema((1,), (Variable("E", dtype="float64", low=0.0, high=100.0),)))
    table.fit(Batch(x))
    ends = torch.stack([x.amin(0), x.amax(0)]).repeat(200, 1)
    log_slope = table.bound(Batch(ends), torch.Generator().manual_seed(4))[1]
    assert (log_slope > -20).all()
    seen = table.bound(Batch(x), torch.Generator().manual_seed(5))[1]
    assert (seen > -20).all()
