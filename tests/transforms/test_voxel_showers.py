"""Showers as normal numbers of voxels, given the energies of the layers."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from physgen.batch import Batch, Schema, Variable
from physgen.errors import DomainError
from physgen.systems.calorimeter import Calorimeter
from physgen.transforms.voxel_showers import VoxelShowers

SYSTEM = Calorimeter(energies_mev=(1000.0, 16000.0))
LAYERS = SYSTEM.geometry.layers


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def data():
    return SYSTEM.simulate(4000, 1)


@pytest.fixture(scope="module")
def fitted(data):
    transform = VoxelShowers(SYSTEM.schema, SYSTEM.geometry)
    transform.fit(data)
    return transform


@pytest.fixture(scope="module")
def new():
    return SYSTEM.simulate(2000, 2)


def off(back, x):
    """The share of voxels that did not come back."""
    close = torch.isclose(back, x, rtol=1e-3, atol=1e-3) & ((back > 0) == (x > 0))
    return (~close).double().mean()


@pytest.mark.parametrize("rows", ["those it was fitted to", "new ones"])
def test_it_inverts(fitted, data, new, rows):
    showers, share = (data[:1000], 0) if rows == "those it was fitted to" else (new, 1e-3)
    mapped, log_det = fitted(showers, generator())
    assert log_det is None
    assert mapped.x.shape == (len(showers), 368)
    assert mapped.condition.shape == (len(showers), 1 + 2 * 5)
    back = fitted.inverse(mapped)
    # A voxel may be emptier or fuller than any of its ring at the energy was before.
    assert off(back.x, showers.x) <= share
    assert torch.allclose(back.condition, showers.condition, rtol=1e-4)
    energies = fitted.layer_energies(showers.x)
    exact = fitted.showers(mapped.x, energies)
    assert off(exact, showers.x) <= share
    torch.testing.assert_close(fitted.layer_energies(exact), energies, rtol=1e-5, atol=1e-4)


def test_layers_are_mapped_as_they_are_drawn(fitted, new):
    mapped, _ = fitted(new, generator())
    energies = fitted.layer_energies(new.x)
    for first, layer in zip(SYSTEM.geometry.offsets, range(5), strict=False):
        part = new.x[:, first : first + LAYERS[layer].n_voxels].sum(1)
        torch.testing.assert_close(energies[:, layer], part)
    both = torch.cat([new.condition, energies], 1)
    torch.testing.assert_close(mapped.condition[:, :6], fitted.map_condition(both))
    drawn = fitted.drawn_layers(mapped.condition[:, 6:], new.condition)
    close = torch.isclose(drawn, energies, rtol=1e-2, atol=1e-2)
    assert (~close).double().mean() < 1e-3
    noise = torch.randn(2000, 5, generator=generator(1))
    empty = (fitted.drawn_layers(noise, new.condition) == 0).double().mean(0)
    torch.testing.assert_close(empty, (energies == 0).double().mean(0), rtol=0, atol=0.05)


def test_numbers_of_new_showers_are_standard_normal(fitted, new):
    mapped, _ = fitted(new, generator())
    sample = mapped.x.flatten()[::37]
    assert stats.kstest(sample.numpy(), "norm").statistic < 0.01
    for ring in (0, 8 + 3, 8 + 12 + 5):
        voxels = fitted.ring == ring
        assert mapped.x[:, voxels].mean().abs() < 0.1
        assert abs(mapped.x[:, voxels].std() - 1) < 0.1


def test_noise_has_the_occupancy_of_the_data(fitted, new):
    energies = fitted.layer_energies(new.x)
    made = fitted.showers(torch.randn(2000, 368, generator=generator(3)), energies)
    for first, last in zip(SYSTEM.geometry.offsets[:-1], SYSTEM.geometry.offsets[1:], strict=True):
        share, wanted = ((x[:, first:last] > 0).double().mean() for x in (made, new.x))
        assert abs(share - wanted) < 0.02
    a, b = (x.mean(0) for x in (made, new.x))
    error = math.sqrt(float((new.x.var(0) / 2000).mean()))
    assert (a - b).abs().mean() < 4 * error


@given(st.lists(st.floats(1.0, 40.0) | st.floats(40.0, 1e5) | st.just(0.0), min_size=5, max_size=5))
@settings(max_examples=60)
def test_whatever_is_drawn_layers_have_their_energy_and_voxels_the_threshold(fitted, energies):
    layers = torch.tensor([energies]) * fitted.threshold
    for z in (
        torch.zeros(1, 368),
        *(s * torch.randn(1, 368, generator=generator()) for s in (1, 9)),
    ):
        x = fitted.showers(z, layers)
        torch.testing.assert_close(fitted.layer_energies(x), layers, rtol=1e-5, atol=1e-5)
        assert x.min() == 0
        assert x[x > 0].numel() == 0 or x[x > 0].min() >= fitted.threshold
        assert torch.equal(fitted.layer_energies(x) > 0, layers > 0)


def test_a_layer_with_energy_for_one_voxel_gives_it_to_the_likeliest(fitted):
    """Of rings that are hit p_i of the time, the voxel is in one p_i/sum p of the time."""
    n = 20_000
    layers = torch.zeros(n, 5)
    layers[:, 1] = 1.5 * fitted.threshold
    x = fitted.showers(torch.randn(n, 368, generator=generator()), layers)
    assert ((x > 0).sum(1) == 1).all()
    zero, _ = fitted._atoms(torch.full((1, 368), 1.5))
    p = (1 - zero[0, 8:152]).reshape(12, 12).sum(0)
    found = (x[:, 8:152] > 0).double().mean(0).reshape(12, 12).sum(0)
    # Approximately: none of the others is hit, where the chance of two is small.
    torch.testing.assert_close(found, p / p.sum(), rtol=0.15, atol=0.02)


def test_it_turns_with_the_shower(fitted, new):
    """All of the sectors of a ring share a table: noise that is turned is a shower that is."""

    def turned(x):
        parts = []
        for layer, first in zip(LAYERS, SYSTEM.geometry.offsets, strict=False):
            part = x[:, first : first + layer.n_voxels].unflatten(1, (layer.n_alpha, layer.n_r))
            parts.append(part.roll(5 if layer.n_alpha > 1 else 0, 1).flatten(1))
        return torch.cat(parts, 1)

    z, energies = torch.randn(2000, 368, generator=generator()), fitted.layer_energies(new.x)
    x = fitted.showers(z, energies)
    torch.testing.assert_close(fitted.showers(turned(z), energies), turned(x))
    assert not torch.equal(turned(x), x)


def test_what_has_no_energies_or_another_shape_is_refused(fitted):
    with pytest.raises(DomainError, match="incident energies"):
        fitted(Batch(torch.zeros(3, 368)))
    with pytest.raises(DomainError, match="energies they stand for"):
        fitted.inverse(Batch(torch.zeros(3, 368)))
    with pytest.raises(DomainError, match=r"shape \(4,\), but the binning has 368 voxels"):
        VoxelShowers(Schema((4,), (Variable("showers", "MeV"),)), SYSTEM.geometry)
    empty = Batch(torch.zeros(3, 368), torch.full((3, 1), 1000.0))
    with pytest.raises(DomainError, match="all showers are empty"):
        VoxelShowers(SYSTEM.schema, SYSTEM.geometry).fit(empty)
