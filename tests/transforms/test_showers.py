import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from physgen.batch import Batch, Schema, Variable
from physgen.errors import DomainError
from physgen.systems.calorimeter import Calorimeter
from physgen.transforms.quantile_table import QuantileTable
from physgen.transforms.showers import OFF, ShowerTransform, rescale

SYSTEM = Calorimeter(energies_mev=(1000.0, 16000.0))


@pytest.fixture(scope="module")
def data():
    return SYSTEM.simulate(4000, 1)


@pytest.fixture(scope="module")
def fitted(data):
    transform = ShowerTransform(SYSTEM.schema, SYSTEM.geometry)
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
    assert torch.equal(back.x > 0, rows.x > 0)
    assert torch.allclose(back.x, rows.x, rtol=1e-2, atol=1e-2)
    assert torch.allclose(back.condition, rows.condition, rtol=1e-4)
    assert torch.allclose(
        fitted.layer_energies(back.x), fitted.layer_energies(rows.x), rtol=1e-4, atol=1e-3
    )


def test_new_showers_are_gaussian_in_its_space(fitted):
    latent, _ = fitted(SYSTEM.simulate(2000, 2), generator())
    for column in range(5):
        assert stats.kstest(latent.x[:, column].numpy(), "norm").statistic < 0.05, column
    voxels = latent.x[:, 5 : 5 + 368]
    on = voxels > OFF / 2
    assert abs(voxels[on].mean()) < 0.05
    assert voxels[on].std() == pytest.approx(1, abs=0.1)
    assert (voxels[~on] == OFF).all()


def test_shares_are_those_of_the_reference_and_follow_from_the_other_numbers(fitted, data):
    latent, _ = fitted(data[:200], generator())
    shares = latent.x[:, 5 + 368 :]
    references = fitted.log_references(latent.condition)
    for voxel in (0, 8, 200, 340):
        layer = int(fitted.layer[voxel])
        made = fitted.share(latent.x[:, 5 + voxel], references[:, layer], voxel)
        assert torch.allclose(made, shares[:, voxel], rtol=1e-2, atol=1e-3)
        expected = data.x[:200, voxel] / references[:, layer].exp() / fitted.spread[voxel]
        assert torch.allclose(shares[:, voxel], expected, rtol=1e-4, atol=1e-5)


def test_the_log_odds_are_those_of_the_zeros(fitted):
    latent, _ = fitted(SYSTEM.simulate(2000, 2), generator())
    on = (latent.x[:, 5 : 5 + 368] > OFF / 2).float()
    present = (latent.condition[:, 1:] > latent.condition[:, 1:].amin(0))[:, fitted.layer]
    expected = torch.where(present, torch.sigmoid(fitted.log_odds(latent.condition)), 0.0)
    assert on.mean().item() == pytest.approx(expected.mean().item(), rel=0.03)
    by_layer = [part.mean() for part in torch.split(on - expected, fitted.sizes, 1)]
    assert max(abs(value) for value in by_layer) < 0.02


def test_gaussian_noise_becomes_layers_with_the_right_zeros(fitted, data):
    incident = data.condition
    energies = fitted.to_layers(torch.randn(len(incident), 5, generator=generator()), incident)
    truth = fitted.layer_energies(data.x)
    assert torch.allclose((energies == 0).float().mean(0), (truth == 0).float().mean(0), atol=0.03)
    assert ((energies == 0) | (energies >= fitted.threshold)).all()
    assert torch.allclose(energies.sum(1) / incident[:, 0], torch.tensor(1.0), atol=0.6)


@given(
    st.lists(st.just(0.0) | st.floats(1.0, 1e4), min_size=1, max_size=12),
    st.just(0.0) | st.floats(1.0, 1e5),
)
@settings(max_examples=200)
def test_layer_energies_are_exact_after_the_cut(voxels, energy):
    v = torch.tensor([voxels])
    out = rescale(
        v, torch.arange(float(len(voxels)))[None], torch.tensor([energy]), torch.tensor(1.0)
    )
    assert out.double().sum().item() == pytest.approx(energy, rel=1e-5)
    assert ((out == 0) | (out >= 1 - 1e-6)).all()
    if (v > 0).any():
        assert not ((out > 0) & (v == 0)).any()
    if int((v > 0).sum()) <= energy:
        assert torch.equal(out > 0, v > 0) or not (v > 0).any()


def test_without_survivors_the_likeliest_voxel_takes_the_energy():
    out = rescale(
        torch.zeros(1, 3), torch.tensor([[0.1, 0.9, 0.2]]), torch.tensor([7.0]), torch.tensor(1.0)
    )
    assert out.tolist() == [[0.0, 7.0, 0.0]]


def test_the_smallest_are_dropped_where_the_energy_does_not_suffice():
    v = torch.tensor([[1.5, 9.0, 3.0]])
    out = rescale(v, v, torch.tensor([2.5]), torch.tensor(1.0))
    assert out[0, 0] == 0
    assert out[0, 1] > out[0, 2] >= 1


def test_tables_reproduce_atoms_and_distributions():
    n = 20000
    y = torch.rand(n, 1, generator=generator()) * 3
    u = torch.rand(n, 1, generator=generator(1))
    s = u * (1 + y)
    zero = torch.rand(n, 1, generator=generator(2)) < 0.1 * y
    whole = torch.rand(n, 1, generator=generator(3)) < 0.1
    s = torch.where(zero, -torch.inf, torch.where(whole, torch.inf, s))
    table, group = QuantileTable(1, 8, 64), torch.zeros(1, dtype=torch.long)
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
    table = QuantileTable(1, 4, 64)
    table.fit(y, s, group, weight=(s[:, 0] < 0.5).float())
    assert table.gaussian(y[:1], torch.tensor([[0.25]]), group).item() == pytest.approx(0, abs=0.1)


def test_what_it_cannot_map_is_refused(fitted):
    with pytest.raises(DomainError, match="empty"):
        fitted.fit(Batch(x=torch.zeros(3, 368), condition=torch.ones(3, 1)))
    with pytest.raises(DomainError, match="incident energies"):
        fitted(Batch(x=torch.zeros(3, 368)))
    with pytest.raises(DomainError, match="368 voxels"):
        ShowerTransform(Schema((4,), (Variable("showers", "MeV"),)), SYSTEM.geometry)
