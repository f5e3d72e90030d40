"""Features of the reference evaluation, against its formulas written out shower by shower."""

import numpy as np
import pytest
import torch

from physgen.batch import Batch
from physgen.errors import NotMeasurable
from physgen.systems.calorimeter import Calorimeter


@pytest.fixture(scope="module")
def showers():
    generator = np.random.default_rng(0)
    x = generator.exponential(20.0, (50, 368)) * (generator.random((50, 368)) < 0.3)
    x[0] = 0.0
    x[1, 300:] = 0.0
    x[2, 0] = 0.5  # Below the threshold.
    energy = generator.uniform(1e3, 1e5, (50, 1))
    return Batch(torch.from_numpy(x).float(), condition=torch.from_numpy(energy))


def test_high_level_features_are_those_of_the_reference_in_order(showers):
    system = Calorimeter()
    found = system.reference_features(showers, "high").numpy()
    assert found.shape == (50, 30)
    for row, x, energy in zip(
        found, showers.x.double().numpy(), showers.condition[:, 0].tolist(), strict=True
    ):
        np.testing.assert_allclose(row, _features(x, energy, system), atol=1e-9)


def test_voxels_below_the_threshold_count_for_nothing(showers):
    low = Calorimeter().reference_features(showers, "low")
    assert low[2, 1] == 0
    assert Calorimeter(cut_mev=0.1).reference_features(showers, "low")[2, 1] > 0
    assert Calorimeter().reference_features(showers, "voxels")[2, 0] == -1


def test_low_level_features(showers):
    system = Calorimeter()
    x, energy = torch.where(showers.x < 1, 0, showers.x).double(), showers.condition
    low = system.reference_features(showers, "low")
    torch.testing.assert_close(low[:, 1:], x / energy)
    normalised = system.reference_features(showers, "normalised")
    layer = slice(*system.geometry.offsets[1:3])
    share = x[3, layer] / (x[3, layer].sum() + 1e-16)
    torch.testing.assert_close(normalised[3, 1:369][layer], share)
    assert normalised[0, 369:].tolist() == pytest.approx([-8.0] * 5)


def test_cells_without_places_have_neither_centres_nor_widths():
    system = Calorimeter(binning="layers:3x4")
    batch = Batch(torch.full((2, 12), 5.0), condition=torch.full((2, 1), 100.0))
    assert system.reference_features(batch, "high").shape == (2, 1 + 3 + 1 + 3)
    names = system.reference_quantities(batch, "zero")
    assert not [name for name in names if name.startswith(("centre", "width"))]
    with pytest.raises(NotMeasurable, match="not known where these voxels lie"):
        _ = system.voxel_grid


def _features(x, energy, system):
    """Written from the description of the reference, one shower and layer at a time."""
    x = np.where(x < system.cut_mev, 0, x)
    layers = np.split(x, system.geometry.offsets[1:-1])
    eta, phi, r = ([], []), ([], []), ([], [])
    for v, layer in zip(layers, system.geometry.layers, strict=True):
        edges = np.array(layer.r_edges)
        radius = np.tile((edges[1:] + edges[:-1]) / 2, layer.n_alpha)
        turn = 2 * np.pi / layer.n_alpha
        alpha = np.repeat(-np.pi + (np.arange(layer.n_alpha) + 0.5) * turn, layer.n_r)
        for into, where in (
            (eta, radius * np.cos(alpha)),
            (phi, radius * np.sin(alpha)),
            (r, radius),
        ):
            if into is r or layer.n_alpha > 1:
                centre = (v * where).sum() / (v.sum() + 1e-16)
                square = (v * where**2).sum() / (v.sum() + 1e-16)
                into[0].append(centre / 100)
                into[1].append(np.sqrt(max(square - centre**2, 0)) / 100)
    energies = [np.log10(v.sum() + 1e-8) for v in layers]
    sparsity = [1 - (v > 0).mean() for v in layers]
    moments = [*eta[0], *phi[0], *eta[1], *phi[1], *r[0], *r[1]]
    return [np.log10(energy), *energies, *moments, np.log10(x.sum() + 1e-8), *sparsity]
