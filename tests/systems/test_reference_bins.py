"""Bins of the reference evaluation, against the limits that its plots state, set by set."""

import numpy as np
import pytest

from physgen.systems.geometry import Geometry, Layer
from physgen.systems.shower_reference import bins

PHOTON, PION, ELECTRON = (
    Geometry(tuple(Layer(i, (0.0, 5.0), 4) for i in (0, 12, 13, 14)), pid, name)
    for pid, name in ((22, "photon"), (211, "pion"), (11, "electron"))
)


def edges(name, geometry):
    return bins(name, geometry, 1.0, np.array([1.0, 50.0])).edges


@pytest.mark.parametrize("geometry", [PHOTON, PION])
@pytest.mark.parametrize(
    ("moment", "near", "far", "number_of_far_layers"),
    [
        ("centre_eta", (-100, 100), (-500, 500), 2),
        ("centre_phi", (-100, 100), (-500, 500), 2),
        ("width_eta", (0, 100), (0, 400), 2),
        ("width_phi", (0, 100), (0, 400), 2),
        ("centre_r", (0, 500), (0, 1500), 3),
        ("width_r", (0, 500), (0, 1500), 3),
    ],
)
def test_moments_of_set_1_reach_further_in_the_deep_layers(
    geometry, moment, near, far, number_of_far_layers
):
    deep = (12, 13, 14)[:number_of_far_layers]
    for layer in (0, 1, 2, 3, 12, 13, 14):
        expected = np.linspace(*(far if layer in deep else near), 101)
        np.testing.assert_array_equal(edges(f"{moment}_{layer}", geometry), expected)


@pytest.mark.parametrize(
    ("moment", "limits"),
    [
        ("centre_eta", (-30, 30)),
        ("centre_phi", (-30, 30)),
        ("width_eta", (0, 30)),
        ("width_phi", (0, 30)),
        ("centre_r", (0, 42)),
        ("width_r", (0, 20)),
    ],
)
def test_moments_of_sets_2_and_3_have_the_same_bins_in_all_layers(moment, limits):
    for layer in (0, 12, 13, 14, 44):
        found = edges(f"{moment}_{layer}", ELECTRON)
        np.testing.assert_array_equal(found, np.linspace(*limits, 101))


@pytest.mark.parametrize(
    ("geometry", "energy", "limits"),
    [
        (PHOTON, 256, (0.4, 1.4)),
        (PHOTON, 2048, (0.4, 1.4)),
        (PHOTON, 4096, (0.9, 1.1)),
        (PHOTON, 8192, (0.9, 1.1)),
        (PHOTON, 4194304, (0.9, 1.1)),
        (PION, 2048, (0.4, 1.4)),
        (PION, 4096, (0.4, 1.4)),
    ],
)
def test_the_response_of_photons_at_one_energy_is_narrow_from_the_fifth_on(
    geometry, energy, limits
):
    found = edges(f"E_tot/E_inc at {energy:g} MeV", geometry)
    np.testing.assert_array_equal(found, np.linspace(*limits, 21))


@pytest.mark.parametrize("geometry", [PHOTON, ELECTRON])
def test_other_histograms(geometry):
    response, sparsity = (edges(name, geometry) for name in ("E_tot/E_inc", "sparsity_3"))
    np.testing.assert_array_equal(response, np.linspace(0.5, 1.5, 101))
    np.testing.assert_array_equal(sparsity, np.linspace(0, 1, 21))
    np.testing.assert_allclose(edges("E_layer_0", geometry), np.geomspace(1, 50, 40))
    np.testing.assert_allclose(edges("voxels", geometry), np.geomspace(1, 50, 50))
    near = edges("voxels near the threshold, layer 0", geometry)
    np.testing.assert_allclose(near, np.geomspace(1, 10, 21))
