import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from physgen.batch import Batch, Schema, Variable
from physgen.errors import DomainError, RecipeError
from physgen.surrogates.copula import ShowerCopula, choose
from physgen.surrogates.flows.shower import ShowerFlow
from physgen.systems.calorimeter import Calorimeter
from physgen.systems.geometry import Geometry, Layer
from physgen.systems.ising import Ising
from physgen.transforms.copies import symmetric_copies
from physgen.transforms.counted_showers import CountedShowers
from physgen.transforms.gaussian_showers import GaussianShowers
from physgen.transforms.occupancy import Occupancy
from physgen.transforms.quantile_table import QuantileTable
from physgen.transforms.showers import ALL_LEFT, ALL_RIGHT, ShowerTransform

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
    assert (log_det is not None) == transform.exact == (kind == "as they are")
    assert latent.x.shape == (500, *transform.latent_shape((368,)))
    assert latent.condition.shape == (500, transform.latent_condition(1))
    close = torch.isclose(back.x, rows.x, rtol=1e-2, atol=1e-2) & ((back.x > 0) == (rows.x > 0))
    assert (~close).double().mean() <= lost
    assert torch.allclose(back.condition, rows.condition, rtol=1e-4)
    assert torch.allclose(back.x.sum(1), rows.x.sum(1), rtol=1e-3)


def blocks(latent):
    """Numbers, energies and contrasts of the splits, (B, 367) each."""
    return latent.x[:, 1:].reshape(len(latent), 3, 367).unbind(1)


def test_new_showers_are_logistic_in_its_space(fitted):
    latent, _ = fitted(SYSTEM.simulate(2000, 2), generator())
    assert stats.kstest(latent.x[:, 0].numpy(), "logistic").statistic < 0.05
    x, energy, _ = blocks(latent)
    inner = (x.abs() < ALL_LEFT / 2) & (energy >= 0)
    level = torch.sigmoid(x[inner])
    assert abs(level.mean() - 0.5) < 0.01
    assert level.std() == pytest.approx(12**-0.5, abs=0.02)
    assert set(x[~inner].unique().tolist()) == {ALL_RIGHT, 0.0, ALL_LEFT}
    assert (x[energy < 0] == 0).all()


def test_the_volume_is_that_of_the_voxels_with_energy(fitted, data):
    # One voxel a little larger: of the numbers that change, by how much.
    row = data[:1].replace(x=data.x[:1].double(), condition=data.condition[:1].double())
    transform = copy.deepcopy(fitted).double()
    occupied = (row.x[0] > 0).nonzero()[:, 0]

    def numbers(x):
        mapped, log_det = transform.numbers(row.replace(x=x))
        real = mapped.x[0, : 1 + 367]
        return real[(real != 0) & (real.abs() < ALL_LEFT / 2)], log_det

    found, log_det = numbers(row.x)
    assert len(found) == len(occupied)
    moved = row.x[:, occupied].expand(len(occupied), -1) + 1e-7 * torch.diag(row.x[0, occupied])
    columns = []
    for values, voxel in zip(moved, occupied, strict=True):
        x = row.x.clone()
        x[0, occupied] = values
        columns.append((numbers(x)[0] - found) / (x - row.x)[0, voxel])
    expected = torch.linalg.slogdet(torch.stack(columns, 1)).logabsdet
    assert log_det.item() == pytest.approx(expected.item(), abs=0.02 * len(occupied) ** 0.5)


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
    layers = nodes[:, fitted.tree.base].clamp(min=fitted.threshold)
    assert torch.allclose(contrast * fitted.spread, (left - right) / layers, atol=1e-5)
    assert torch.equal(z == ALL_LEFT, present & (right == 0))
    assert torch.equal(z == ALL_RIGHT, present & (left == 0))


def test_the_outcomes_have_the_frequencies_of_the_data(fitted):
    latent, _ = fitted(SYSTEM.simulate(2000, 2), generator())
    x, energy, _ = blocks(latent)
    present = energy >= 0
    p = torch.stack(fitted.outcomes(energy.exp(), fitted.tree.group))
    assert p.shape == (3, 2000, 367)
    torch.testing.assert_close(p.sum(0), torch.ones(2000, 367), rtol=0, atol=1e-5)
    for outcome, expected in ((x == ALL_RIGHT, p[0]), (x == ALL_LEFT, p[1])):
        off = torch.where(present, outcome.float() - expected, 0.0).mean(0)
        assert abs(off.mean()) < 0.005
        assert off.abs().max() < 0.06


@given(st.floats(1.0, 3.0) | st.floats(1.0, 1e6), st.floats(-40.0, 40.0), st.integers(0, 366))
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
    outcomes = tuple(torch.full((n,), value).log() for value in (0.5, 1.0, 1.0))
    x = choose(u, torch.full((n,), 0.3), outcomes)
    shares = [(x == value).float().mean().item() for value in (ALL_RIGHT, 0.3, ALL_LEFT)]
    assert shares == pytest.approx([0.2, 0.4, 0.4], abs=1e-3)


def test_noise_becomes_responses_like_those_of_the_data(fitted, data):
    incident = data.condition
    total = fitted.draw(torch.randn(len(incident), 1, generator=generator()), incident)
    truth = data.x.sum(1)
    response, wanted = total / incident[:, 0], truth / incident[:, 0]
    assert stats.ks_2samp(response.numpy(), wanted.numpy()).statistic < 0.03
    assert response.std() == pytest.approx(wanted.std().item(), rel=0.03)
    assert ((total == 0) | (total >= fitted.threshold)).all()


def filled(y, s, n_knots, n_bins, weight=None, pieces=1):
    table, group = QuantileTable(1, n_knots, n_bins, prior=1.0), torch.zeros(1, dtype=torch.long)
    table.start(y.min(), y.max())
    weights = [None] * pieces if weight is None else weight.chunk(pieces)
    for part in zip(y.chunk(pieces), s.chunk(pieces), weights, strict=True):
        table.count(part[0], part[1], group, part[2])
    table.finish()
    return table, group


def test_tables_reproduce_atoms_and_distributions():
    n = 20000
    y = torch.rand(n, 1, generator=generator()) * 3
    u = torch.rand(n, 1, generator=generator(1))
    s = u * (1 + y) / 4
    zero = torch.rand(n, 1, generator=generator(2)) < 0.1 * y
    whole = torch.rand(n, 1, generator=generator(3)) < 0.1
    s = torch.where(zero, -torch.inf, torch.where(whole, torch.inf, s))
    table, group = filled(y, s, 8, 512)
    inner = torch.isfinite(s)
    level = table.level(y, s, group)
    # The edge moves with y, and between knots F is linear.
    assert stats.kstest(level[inner].numpy(), "uniform").statistic < 0.03
    back = table.number(y, level, group)
    torch.testing.assert_close(back[inner].float(), s[inner], rtol=0, atol=1e-4)
    p_zero, p_whole = table.probabilities(torch.tensor([[0.5], [2.5]]), group)
    assert p_zero.flatten().tolist() == pytest.approx([0.05, 0.25], abs=0.02)
    assert p_whole.flatten().tolist() == pytest.approx([0.095, 0.075], abs=0.02)
    # dF/ds integrates to 1, wherever y is.
    grid = ((torch.arange(6400) + 0.5) / 6400)[:, None]
    density = table.log_slope(torch.full_like(grid, 1.3), grid, group).exp()
    assert density.mean().item() == pytest.approx(1, abs=1e-4)


def test_tables_counted_in_pieces_are_the_same():
    y, s = torch.rand(999, 1, generator=generator()), torch.rand(999, 1, generator=generator(1))
    whole, parts = filled(y, s, 4, 32)[0], filled(y, s, 4, 32, pieces=7)[0]
    torch.testing.assert_close(whole.below, parts.below)
    torch.testing.assert_close(whole.atoms, parts.atoms)


def test_event_weights_count():
    y = torch.zeros(4000, 1)
    s = torch.rand(4000, 1, generator=generator())
    weight = torch.where(s < 0.5, 1.0, -1.0)
    table, group = filled(y, s, 4, 64, weight)
    assert table.level(y[:1], torch.tensor([[0.25]]), group).item() == pytest.approx(0.5, abs=0.05)


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
    wanted = as_one_vector.draw(noise[:, :1], rows.condition)
    torch.testing.assert_close(made.x.sum(1), wanted, rtol=1e-3, atol=1e-3)
    occupied = [(batch.x > 0).double().mean(1) for batch in (made, rows)]
    sigma = math.hypot(*(float(o.std()) / math.sqrt(1000) for o in occupied))
    assert abs(float(occupied[0].mean() - occupied[1].mean())) < 4 * sigma


def standard(x):
    """The logarithm of the standard logistic density."""
    return torch.nn.functional.logsigmoid(x) + torch.nn.functional.logsigmoid(-x)


def test_its_bound_under_a_normal_law_is_the_density_of_independent_splits(as_one_vector, data):
    rows = data[:200]
    mapped, volume = as_one_vector.bound(rows, generator())
    found = torch.distributions.Normal(0, 1).log_prob(mapped.x).sum(1) + volume
    again, volume_again = as_one_vector.bound(rows, generator(1))
    repeated = torch.distributions.Normal(0, 1).log_prob(again.x).sum(1) + volume_again
    # Noise within atoms is as the normal law has it there: the bound does not depend on it.
    torch.testing.assert_close(found, repeated, rtol=1e-4, atol=0.1)
    latent, log_det = as_one_vector.numbers(rows)
    x, energy, _ = blocks(latent)
    odds = torch.stack(as_one_vector.outcomes(energy.exp(), as_one_vector.tree.group)).log()
    both = (x.abs() < ALL_LEFT / 2) & (energy >= 0)
    which = torch.where(x == ALL_RIGHT, 0, torch.where(x == ALL_LEFT, 1, 2))
    log_p = torch.where(energy >= 0, odds.gather(0, which[None])[0], 0.0)
    first = latent.x[:, 0]
    exact = log_det + (log_p + torch.where(both, standard(x), 0.0)).sum(1) + standard(first)
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
    table, group = filled(y, s, 4, 16)
    drawn = table.number(y, torch.rand(n, 1, generator=noise).double(), group)
    for share in (0.005, 0.02):
        band = 4 * (2 * share / n) ** 0.5
        assert ((drawn < share).double().mean() - share).abs() < band
        assert ((drawn > 1 - share).double().mean() - share).abs() < band
    back = table.number(y, table.level(y, s, group), group)
    torch.testing.assert_close(back.float(), s, rtol=0, atol=1e-4)


def test_the_unit_of_event_weights_does_not_count(data):
    fits = []
    for unit in (None, 1e-4, 1e4):
        transform = ShowerTransform(SYSTEM.schema, SYSTEM.geometry)
        rows = data[:1000]
        transform.fit(rows if unit is None else rows.replace(weight=torch.full((1000,), unit)))
        fits.append(transform.state_dict())
    for other in fits[1:]:
        for name, values in fits[0].items():
            torch.testing.assert_close(other[name], values, msg=name)


def test_event_weights_count_where_energy_does_not_suffice_for_two():
    """Nine tenths of the weight are in the first layer, and all has the energy of one voxel."""
    x = torch.zeros(1000, 368)
    x[:500, 0], x[500:, 367] = 10.0, 10.0
    weight = torch.where(torch.arange(1000) < 500, 0.9, 0.1)
    transform = ShowerTransform(SYSTEM.schema, SYSTEM.geometry)
    transform.fit(Batch(x, torch.full((1000, 1), 1000.0), weight=weight))
    right = float(transform.outcomes(torch.ones(1), torch.zeros(1, dtype=torch.long))[0])
    assert right == pytest.approx(0.1, abs=0.01)


def test_responses_of_faint_showers_do_not_pile_up_at_the_threshold():
    """One voxel has all of the energy, log-uniform from the threshold to 40 times as much."""
    n, transform = 4000, ShowerTransform(SYSTEM.schema, SYSTEM.geometry)
    x = torch.zeros(n, 368)
    x[:, 5] = 10 * 40 ** torch.rand(n, generator=generator(1))
    transform.fit(Batch(x, 1000 + 3000 * torch.rand(n, 1, generator=generator(2))))
    v0, top = float(transform.threshold), float(transform.top)
    incident = torch.full((n, 1), 3000.0)
    total = transform.draw(torch.randn(n, 1, generator=generator(3)), incident)
    assert (total <= v0 * (1 + 1e-6)).double().mean() < 1e-3
    edges = torch.logspace(math.log10(v0), math.log10(top * 3000), n + 1, dtype=torch.double)
    x = torch.zeros(n, 368)
    x[:, 5] = ((edges[1:] + edges[:-1]) / 2).float()
    mapped, log_det = transform.numbers(Batch(x, incident))
    number = mapped.x[:, 0].double()
    log_p = torch.nn.functional.logsigmoid(number) + torch.nn.functional.logsigmoid(-number)
    density = (log_p + log_det).exp()
    assert (density * edges.diff()).sum().item() == pytest.approx(1, abs=2e-3)


def test_smoothing_loses_no_numbers_at_the_ends():
    """Half of the numbers lie within the first bin, or the last, the other half anywhere."""
    noise, n = torch.Generator().manual_seed(0), 40_000
    s = torch.rand(n, 1, generator=noise)
    s = torch.where(torch.rand(n, 1, generator=noise) < 0.5, s / 128, s)
    y = torch.rand(n, 1, generator=noise)
    for numbers, level in ((s, 0.5 + 0.5 * 0.25), (1 - s, 0.5 * 0.75)):
        table, group = filled(y, numbers, 2, 128)
        at = torch.full((1, 1), 0.25 if level > 0.5 else 0.75)
        assert table.level(y[:1], at, group).item() == pytest.approx(level, abs=0.015)


def test_copies_are_the_symmetries_of_a_square():
    copies = symmetric_copies(SYSTEM.geometry)
    assert copies.shape == (8, 368)
    assert copies.unique(dim=0).shape == (8, 368)
    for order in copies:
        assert torch.equal(order.sort().values, torch.arange(368))
    geometry = SYSTEM.geometry
    eta, phi, r = (torch.as_tensor(geometry.coordinate(name)) for name in ("eta", "phi", "r"))
    sectors = torch.as_tensor((geometry.layer == 1) | (geometry.layer == 2))
    assert torch.allclose(r[copies], r.expand(8, -1))
    # Centres go to (+-eta, +-phi) or (+-phi, +-eta).
    found = torch.stack([eta[copies], phi[copies]])[..., sectors]
    kinds = set()
    for x, y in found.unbind(1):
        for i, a in enumerate((eta, phi)):
            for sign in (1, -1):
                for other in (1, -1):
                    b = (phi, eta)[i]
                    if torch.allclose(x, sign * a[sectors]) and torch.allclose(
                        y, other * b[sectors]
                    ):
                        kinds.add((i, sign, other))
    assert len(kinds) == 8


def test_sectors_that_cannot_be_turned_by_quarters_are_refused():
    with pytest.raises(RecipeError, match="6 sectors"):
        symmetric_copies(Geometry((Layer(3, (0.0, 1.0), 6),)))


# --- with numbers of occupied voxels --------------------------------------------------------------


@pytest.fixture(scope="module")
def counted(data):
    transform = CountedShowers(SYSTEM.schema, SYSTEM.geometry)
    transform.fit(data)
    return transform


def test_with_numbers_of_voxels_it_inverts(counted, data):
    rows = data[:500]
    latent, log_det = counted(rows, generator())
    back = counted.inverse(latent)
    assert torch.isfinite(log_det).all()
    assert latent.x.shape == (500, *counted.latent_shape((368,)))
    assert latent.condition.shape == (500, counted.latent_condition(1))
    assert torch.equal(back.x > 0, rows.x > 0)
    torch.testing.assert_close(back.x, rows.x, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(back.x.sum(1), rows.x.sum(1), rtol=1e-3, atol=1e-3)


def test_numbers_of_voxels_are_those_of_the_splits(counted, data):
    rows = data[:100]
    latent, _ = counted(rows, generator())
    x, log_whole, _, number, k = latent.x[:, 1:].unflatten(1, (5, 367)).unbind(1)
    nodes = counted.tree.gather((rows.x > 0).float())
    left, right = (side.clone() for side in counted.tree.sides(nodes))
    # Of layers, k is 0, 1 or 2 as all goes right, to both sides, or left; but 0 or 1 of little.
    energies = torch.stack(counted.tree.sides(counted.tree.gather(rows.x)))[:, :, :4]
    one, other = energies > 0
    enough = torch.where(energies.sum(0) >= 2 * counted.threshold, 2.0, 1.0)
    left[:, :4] = torch.where(one & other, 1.0, enough * one)
    right[:, :4] = torch.where(one & other, 1.0, enough * other)
    assert (one & other).any(0).all()
    assert (~one & other).any()
    assert torch.equal(k, left)
    assert torch.equal(number, left + right)
    assert torch.equal(log_whole >= 0, number > 0)
    assert torch.equal(x == ALL_LEFT, (left > 0) & (right == 0))
    assert torch.equal(x == ALL_RIGHT, (left == 0) & (right > 0))
    logs = latent.condition * counted.scale + counted.centre
    layers = nodes[:, counted.tree.layers]
    torch.testing.assert_close(logs[:, 7:], layers.clamp(min=0.5).log(), rtol=1e-4, atol=1e-4)
    assert torch.equal(counted.occupied(latent.condition), layers)


def test_new_showers_are_logistic_in_its_space_with_numbers_of_voxels(counted):
    rows = SYSTEM.simulate(2000, 2)
    latent, _ = counted(rows, generator())
    x, log_whole, _, number, k = latent.x[:, 1:].unflatten(1, (5, 367)).unbind(1)
    level = torch.sigmoid(x[(k > 0) & (k < number)])
    assert abs(level.mean() - 0.5) < 0.01
    assert level.std() == pytest.approx(12**-0.5, abs=0.02)
    # A division of N lies anywhere between what is below it and what is not above it.
    row, split = (number > 0).nonzero(as_tuple=True)
    n, left = number[row, split], k[row, split]
    least, size = counted.choices(n, split)
    assert ((left >= least) & (left < least + size)).all()
    whole = log_whole[row, split].exp()
    low, high = (counted.count_level(n, whole, left + i, split) for i in (0, 1))
    assert (high > low).all()
    u = low + (high - low) * torch.rand(len(low), generator=generator(1))
    assert stats.kstest(u[size > 1].numpy(), "uniform").statistic < 0.02
    # And the numbers of voxels of layers lie about their means.
    voxels = counted.occupied(latent.condition)
    energies = latent.condition[:, :7]
    about = counted.occupancy.distances(counted.occupancy.means(energies), voxels)
    for i in (1, 2):
        free = (voxels[:, i] > 0) & (counted.most(counted.in_mev(energies)[:, 2:])[:, i] > 1)
        assert abs(about[free, i].mean()) < 0.15
        assert about[free, i].std() == pytest.approx(math.pi / 3**0.5, rel=0.1)


def test_outcomes_of_splits_of_layers_have_the_shares_that_were_seen(counted, data):
    latent, _ = counted(data[(data.x > 0).any(1)], generator())
    _, log_whole, _, number, k = latent.x[:, 1:].unflatten(1, (5, 367)).unbind(1)
    rarest = 1.0
    for split in range(4):
        middle = log_whole[number[:, split] == 2, split].median()
        for faint in (True, False):
            rows = (number[:, split] == 2) & ((log_whole[:, split] < middle) == faint)
            n, whole = number[rows, split], log_whole[rows, split].exp()
            at = torch.full_like(n, split).long()
            ends = [counted.count_level(n, whole, torch.full_like(n, j), at) for j in range(4)]
            ends[0], ends[3] = torch.zeros_like(ends[0]), torch.ones_like(ends[0])
            for j in range(3):
                share = (k[rows, split] == j).double().mean().item()
                found = (ends[j + 1] - ends[j]).mean().item()
                assert found == pytest.approx(share, abs=0.5 * share + 3e-4)
                rarest = min(rarest, share)
    assert rarest == 0.0


def test_event_weights_count_in_all_tables_of_numbers_and_energies(data):
    rows = data[:500]
    # The same energies in other voxels: threshold and ranges stay as they are.
    other = rows.replace(x=rows.x.flip(1))
    both = Batch(torch.cat([rows.x, other.x]), rows.condition.repeat(2, 1))
    fits = [CountedShowers(SYSTEM.schema, SYSTEM.geometry) for _ in range(3)]
    fits[0].fit(rows)
    fits[1].fit(both.replace(weight=torch.cat([torch.ones(500), torch.zeros(500)])))
    fits[2].fit(both)
    for name in ("power", "splits.below", "counts.below"):
        alone, weighted, mixed = (fit.state_dict()[name] for fit in fits)
        torch.testing.assert_close(weighted, alone, msg=name)
        assert (mixed - alone).abs().max() > 0.1


def test_a_stray_voxel_and_energies_in_steps_are_noticed(data):
    transform = CountedShowers(SYSTEM.schema, SYSTEM.geometry)
    rows = data[:500].replace(x=data.x[:500].clone())
    rows.x[7, 3] = 1e-4
    with pytest.warns(UserWarning, match=r"voxel 3 of training shower 7 has 0.0001 MeV"):
        transform.fit(rows)
    step = float(data.x[data.x > 0].min())
    with pytest.warns(UserWarning, match="multiples of a step"):
        transform.fit(data[:500].replace(x=(data.x[:500] / step).floor() * step))


def test_showers_of_one_voxel_at_the_threshold_have_finite_tables():
    transform, x = CountedShowers(SYSTEM.schema, SYSTEM.geometry), torch.zeros(100, 368)
    x[:, 5] = 2.0
    rows = Batch(x, torch.full((100, 1), 10.0))
    transform.fit(rows)
    assert transform.splits.ends[1] > 0
    assert torch.isfinite(transform.numbers(rows)[0].x).all()


def test_the_volume_with_numbers_of_voxels_is_that_of_the_voxels_with_energy(counted, data):
    row = data[:1].replace(x=data.x[:1].double(), condition=data.condition[:1].double())
    transform = copy.deepcopy(counted).double()
    occupied = (row.x[0] > 0).nonzero()[:, 0]

    def numbers(x):
        mapped, log_det = transform.numbers(row.replace(x=x))
        real = mapped.x[0, : 1 + 367]
        return real[(real != 0) & (real.abs() < ALL_LEFT / 2)], log_det

    found, log_det = numbers(row.x)
    assert len(found) == len(occupied)
    columns = []
    for voxel in occupied:
        x = row.x.clone()
        x[0, voxel] *= 1 + 1e-7
        columns.append((numbers(x)[0] - found) / (x - row.x)[0, voxel])
    expected = torch.linalg.slogdet(torch.stack(columns, 1)).logabsdet
    assert log_det.item() == pytest.approx(expected.item(), abs=0.02 * len(occupied) ** 0.5)


@given(
    st.floats(1.0, 1.01) | st.floats(1.0, 1e4),
    st.floats(-40.0, 40.0),
    st.integers(0, 40),
    st.integers(0, 40),
)
@settings(max_examples=200)
def test_whatever_is_drawn_each_side_keeps_a_threshold_a_voxel(counted, above, x, k, m):
    v0, group = counted.threshold, torch.zeros(1, dtype=torch.long)
    whole, counts = (k + m) * above * v0[None], (torch.tensor([float(i)]) for i in (k, m))
    left, right = counted.part_counted(whole, torch.tensor([x]), tuple(counts), group)
    assert (left + right).item() == pytest.approx(whole.item(), rel=1e-5)
    for side, n in ((left, k), (right, m)):
        assert side >= n * v0
        assert (side == 0) == (n == 0)


@pytest.mark.parametrize("kind", [ShowerTransform, CountedShowers])
def test_what_was_alike_in_all_showers_has_its_natural_unit(kind, data):
    last = torch.as_tensor(SYSTEM.geometry.layer == 4)
    transform = kind(SYSTEM.schema, SYSTEM.geometry)
    transform.fit(data.replace(x=torch.where(last, 0.0, data.x)))
    latent, _ = transform.numbers(data)
    # ln E_i over the threshold; before, it was in units of 0.001, and contrasts in ones of 1e-6.
    assert transform.scale[6] == 1
    assert latent.condition[:, 6].abs().max() < 20
    n = transform.n_splits
    assert latent.x[:, 1 + 2 * n : 1 + 3 * n].abs().max() < 1000


def test_one_shower_is_enough_to_fit(data):
    transform = CountedShowers(SYSTEM.schema, SYSTEM.geometry)
    row = data[(data.x > 0).any(1).nonzero()[:1, 0]]
    transform.fit(row)
    assert all(torch.isfinite(value).all() for value in transform.state_dict().values())
    assert torch.isfinite(transform.numbers(row)[0].x).all()


def test_the_spread_of_numbers_that_are_nearly_all_alike_is_not_less_than_their_steps_are():
    occupancy, n = Occupancy(torch.tensor([2, 100])), 1000
    voxels = torch.tensor([[2.0, 100.0]]).repeat(n, 1)
    voxels[0] = torch.tensor([1.0, 99.0])
    energies = torch.zeros(n, 4)
    occupancy.fit(energies, voxels, torch.ones(n, 2) > 0)
    distances = occupancy.distances(occupancy.means(energies), voxels)
    assert distances[0].abs().max() < 12
