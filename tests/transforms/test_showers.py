import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from physgen.batch import Batch, Schema, Variable
from physgen.errors import DomainError, RecipeError
from physgen.surrogates.copula import ShowerCopula
from physgen.surrogates.flows.shower import ShowerFlow
from physgen.systems.calorimeter import Calorimeter
from physgen.systems.ising import Ising
from physgen.transforms.base import Chain
from physgen.transforms.gaussian_showers import GaussianShowers
from physgen.transforms.quantile_table import QuantileTable
from physgen.transforms.showers import ALL_LEFT, ALL_RIGHT, ShowerTransform, choose

SYSTEM = Calorimeter(energies_mev=(1000.0, 16000.0))


@pytest.fixture(scope="module")
def data():
    return SYSTEM.simulate(4000, 1)


@pytest.fixture(scope="module")
def fitted(data):
    transform = ShowerTransform(SYSTEM.schema, SYSTEM.geometry)
    transform.fit(data)
    return transform


@pytest.fixture(scope="module")
def as_one_vector(data):
    transform = GaussianShowers(SYSTEM.schema, system=SYSTEM)
    transform.fit(data)
    return transform


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    # Drawn within its interval, an atom whose share is one in a million may round out of it.
    ("kind", "lost"),
    [("as they are", 0.0), ("as one vector", 1e-4)],
)
def test_it_inverts(fitted, as_one_vector, data, kind, lost):
    transform, rows = fitted if kind == "as they are" else as_one_vector, data[:500]
    latent, log_det = transform(rows, generator())
    back = transform.inverse(latent)
    assert log_det is None
    assert not transform.exact
    assert latent.x.shape == (500, *transform.latent_shape((368,)))
    assert latent.condition.shape == (500, transform.latent_condition(1))
    close = torch.isclose(back.x, rows.x, rtol=1e-2, atol=1e-2) & ((back.x > 0) == (rows.x > 0))
    assert (~close).double().mean() <= lost
    assert torch.allclose(back.condition, rows.condition, rtol=1e-4)
    assert torch.allclose(
        transform.layer_energies(back.x), transform.layer_energies(rows.x), rtol=1e-4, atol=1e-3
    )


def blocks(latent):
    """Numbers, energies and contrasts of the splits, (B, 363) each."""
    return latent.x[:, 5:].reshape(len(latent), 3, 363).unbind(1)


def test_new_showers_are_gaussian_in_its_space(fitted):
    latent, _ = fitted(SYSTEM.simulate(2000, 2), generator())
    for column in range(5):
        assert stats.kstest(latent.x[:, column].numpy(), "norm").statistic < 0.05, column
    z, energy, _ = blocks(latent)
    inner = (z.abs() < ALL_LEFT / 2) & (energy >= 0)
    assert abs(z[inner].mean()) < 0.05
    assert z[inner].std() == pytest.approx(1, abs=0.1)
    assert set(z[~inner].unique().tolist()) == {ALL_RIGHT, 0.0, ALL_LEFT}
    assert (z[energy < 0] == 0).all()


def test_energies_and_contrasts_are_those_of_the_splits(fitted, data):
    rows = data[:200]
    latent, _ = fitted(rows, generator())
    z, energy, contrast = blocks(latent)
    nodes = fitted.tree.gather(rows.x)
    left, right = fitted.tree.sides(nodes)
    whole = nodes[:, fitted.tree.parent]
    present = whole > 0
    assert torch.equal(energy >= 0, present)
    assert torch.allclose((energy.exp() * fitted.threshold)[present], whole[present], rtol=1e-4)
    layers = nodes[:, fitted.tree.layer].clamp(min=fitted.threshold)
    assert torch.allclose(contrast * fitted.spread, (left - right) / layers, atol=1e-5)
    assert torch.equal(z == ALL_LEFT, present & (right == 0))
    assert torch.equal(z == ALL_RIGHT, present & (left == 0))


def test_the_outcomes_have_the_frequencies_of_the_data(fitted):
    latent, _ = fitted(SYSTEM.simulate(2000, 2), generator())
    z, energy, _ = blocks(latent)
    present = energy >= 0
    odds = fitted.outcomes(energy.exp() * fitted.threshold, slice(None))
    p = torch.stack([*odds, torch.zeros_like(z)]).softmax(0)
    assert p.shape == (3, 2000, 363)
    for outcome, expected in ((z == ALL_RIGHT, p[0]), (z == ALL_LEFT, p[1])):
        off = torch.where(present, outcome.float() - expected, 0.0).mean(0)
        assert abs(off.mean()) < 0.005
        assert off.abs().max() < 0.06


@given(st.floats(1.0, 3.0) | st.floats(1.0, 1e6), st.floats(-40.0, 40.0), st.integers(0, 362))
@settings(max_examples=200)
def test_whatever_is_drawn_a_split_keeps_the_sum_and_the_threshold(fitted, energy, z, split):
    v0 = fitted.threshold
    whole, number = torch.tensor([[energy]]) * v0, torch.tensor([[z]])
    left, right = fitted.divide(whole, number, slice(split, split + 1))
    assert (left + right).item() == pytest.approx(whole.item(), rel=1e-5)
    for side in (left, right):
        assert side == 0 or side >= v0
    if z > ALL_LEFT / 2:
        assert right == 0
    if z < ALL_RIGHT / 2:
        assert left == 0
    if whole < 2 * v0:
        assert left == 0 or right == 0
    elif abs(z) < 4:
        assert left > 0
        assert right > 0
    nothing, void = fitted.divide(0 * whole, number, slice(split, split + 1))
    assert nothing == void == 0


def test_outcomes_are_chosen_with_their_probabilities():
    n = 20000
    u = (torch.arange(n) + 0.5) / n
    odds = (torch.full((n,), value).log() for value in (0.5, 1.0))
    z = choose(u, torch.full((n,), 0.3), *odds)
    shares = [(z == value).float().mean().item() for value in (ALL_RIGHT, 0.3, ALL_LEFT)]
    assert shares == pytest.approx([0.2, 0.4, 0.4], abs=1e-3)


def test_gaussian_noise_becomes_layers_with_the_right_zeros(fitted, data):
    incident = data.condition
    energies = fitted.to_layers(torch.randn(len(incident), 5, generator=generator()), incident)
    truth = fitted.layer_energies(data.x)
    assert torch.allclose((energies == 0).float().mean(0), (truth == 0).float().mean(0), atol=0.03)
    assert ((energies == 0) | (energies >= fitted.threshold)).all()
    assert torch.allclose(energies.sum(1) / incident[:, 0], torch.tensor(1.0), atol=0.6)


def test_tables_reproduce_atoms_and_distributions():
    n = 20000
    y = torch.rand(n, 1, generator=generator()) * 3
    u = torch.rand(n, 1, generator=generator(1))
    s = u * (1 + y)
    zero = torch.rand(n, 1, generator=generator(2)) < 0.1 * y
    whole = torch.rand(n, 1, generator=generator(3)) < 0.1
    s = torch.where(zero, -torch.inf, torch.where(whole, torch.inf, s))
    table, group = QuantileTable(1, 8, 64, bounded=False), torch.zeros(1, dtype=torch.long)
    table.fit(y, s, group)
    z = table.with_atoms(y, s, group, generator(4))
    assert stats.kstest(z.flatten().numpy(), "norm").statistic < 0.02
    back = table.without_atoms(y, z, group)
    inner = torch.isfinite(s)
    assert torch.equal(back[~inner], s[~inner])
    assert torch.allclose(back[inner], s[inner], atol=2e-3)
    p_zero, p_whole = table.probabilities(torch.tensor([[0.5], [2.5]]), group)
    assert p_zero.flatten().tolist() == pytest.approx([0.05, 0.25], abs=0.02)
    assert p_whole.flatten().tolist() == pytest.approx([0.095, 0.075], abs=0.02)


def test_event_weights_count():
    y, group = torch.zeros(4000, 1), torch.zeros(1, dtype=torch.long)
    s = torch.rand(4000, 1, generator=generator())
    table = QuantileTable(1, 4, 64, bounded=False)
    table.fit(y, s, group, weight=(s[:, 0] < 0.5).float())
    assert table.gaussian(y[:1], torch.tensor([[0.25]]), group).item() == pytest.approx(0, abs=0.1)


def test_what_it_cannot_map_is_refused(fitted):
    with pytest.raises(DomainError, match="empty"):
        fitted.fit(Batch(x=torch.zeros(3, 368), condition=torch.ones(3, 1)))
    with pytest.raises(DomainError, match="incident energies"):
        fitted(Batch(x=torch.zeros(3, 368)))
    with pytest.raises(DomainError, match="368 voxels"):
        ShowerTransform(Schema((4,), (Variable("showers", "MeV"),)), SYSTEM.geometry)


# --- as one Gaussian vector -----------------------------------------------------------------------


def test_new_showers_are_standard_normal(as_one_vector):
    latent, _ = as_one_vector(SYSTEM.simulate(2000, 2), generator())
    distance = [stats.kstest(column.numpy(), "norm").statistic for column in latent.x.T]
    # The table of splits that are alike is one, and knots in energy are not exact.
    assert max(distance) < 0.08
    assert sum(distance) / len(distance) < 0.03


def test_noise_becomes_showers(as_one_vector, data):
    rows = data[:1000]
    noise = torch.randn(1000, 368, generator=generator(3))
    mapped, _ = as_one_vector(rows, generator())
    made = as_one_vector.inverse(mapped.replace(x=noise))
    positive = made.x[made.x > 0]
    assert positive.min() >= 0.999 * as_one_vector.threshold
    wanted = as_one_vector.to_layers(noise[:, :5], rows.condition)
    torch.testing.assert_close(as_one_vector.layer_energies(made.x), wanted, rtol=1e-3, atol=1e-3)
    occupied = [(batch.x > 0).double().mean(1) for batch in (made, rows)]
    sigma = math.hypot(*(float(o.std()) / math.sqrt(1000) for o in occupied))
    assert abs(float(occupied[0].mean() - occupied[1].mean())) < 4 * sigma


def test_its_bound_under_a_normal_law_is_the_density_of_independent_splits(as_one_vector, data):
    flow = ShowerFlow(SYSTEM.schema, Chain([]), system=SYSTEM)
    flow.initialise(data)
    rows = data[:200]
    mapped, volume = as_one_vector.bound(rows, generator())
    found = torch.distributions.Normal(0, 1).log_prob(mapped.x).sum(1) + volume
    again, volume_again = as_one_vector.bound(rows, generator(1))
    repeated = torch.distributions.Normal(0, 1).log_prob(again.x).sum(1) + volume_again
    # Noise within atoms is as the normal law has it there: the bound does not depend on it.
    torch.testing.assert_close(found, repeated, rtol=1e-4, atol=0.1)
    with torch.no_grad():
        exact = flow.elbo(rows, generator=generator())
    assert (found - exact).abs().median() < 0.1


def test_what_has_no_energies_or_geometry_is_refused(as_one_vector):
    with pytest.raises(DomainError, match="incident energies"):
        as_one_vector(Batch(x=torch.zeros(3, 368)))
    with pytest.raises(DomainError, match="energies they stand for"):
        as_one_vector.inverse(Batch(x=torch.zeros(3, 368)))
    with pytest.raises(DomainError, match="368 voxels"):
        GaussianShowers(Schema((4,), (Variable("showers", "MeV"),)), system=SYSTEM)


@pytest.mark.parametrize("build", [GaussianShowers, ShowerFlow, ShowerCopula])
def test_other_systems_have_no_showers(build):
    with pytest.raises(RecipeError, match=r"is for showers: .* not a system of Ising"):
        build(SYSTEM.schema, system=Ising(shape=(4, 4), temperature=2.0))


def test_nothing_piles_up_at_a_sharp_edge():
    noise, n = torch.Generator().manual_seed(0), 40_000
    s, y = torch.rand(n, 1, generator=noise), torch.rand(n, 1, generator=noise)
    table, group = QuantileTable(1, 4, 16, bounded=True), torch.zeros(1, dtype=torch.long)
    table.fit(y, s, group)
    drawn = table.number(y, torch.randn(n, 1, generator=noise), group)
    for share in (0.005, 0.02):
        band = 4 * (2 * share / n) ** 0.5
        assert ((drawn < share).double().mean() - share).abs() < band
        assert ((drawn > 1 - share).double().mean() - share).abs() < band
    z = table.gaussian(y, s, group)
    torch.testing.assert_close(table.number(y, z, group), s, rtol=1e-4, atol=1e-4)
