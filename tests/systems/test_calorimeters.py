"""Observables of ecal and hcal, by hand, and that a validation names them."""

import h5py
import numpy as np
import pytest
import torch

from physgen.against import Against, Criteria
from physgen.io.inspect import inspect
from physgen.systems.pointcloud import PointCloud
from tests.io.test_showerdata import write as write_showerdata

ECAL = [[3, 0, 4, 0.012], [0, 10, 0, 0.058], [0, 12, 10, 0.030]]  # x, layer, y, energy in GeV
HCAL = [[6, 30, 8, 0.005], [0, 35, 0, 0.045], [0, 40, 5, 0.050]]
SHOWERS = [ECAL + HCAL, ECAL, HCAL, [], [[0, 29, 1, 0.2], [0, 30, 1, 0.3]]]


def write(path, showers, energies=None):
    events = np.zeros((len(showers), 4, max(1, *map(len, showers))))
    for event, points in zip(events, showers, strict=True):
        event[:, : len(points)] = np.reshape(points, (-1, 4)).T
    with h5py.File(path, "w") as file:
        file["events"] = events
        file["energy"] = np.full((len(showers), 1), 1.0) if energies is None else energies
    return path


def measured(path):
    system = PointCloud(path=str(path))
    values = system.observables(system.source.read(0, len(system.source)))
    return system, {name: value.tolist() for name, value in values.items()}


def test_observables_are_those_of_showers_by_hand(tmp_path):
    system, values = measured(write(tmp_path / "a.h5", SHOWERS))
    nan = float("nan")
    expected = {
        "E_ecal": [100, 100, 0, 0, 200],
        "E_hcal": [100, 0, 100, 0, 300],
        "fraction_ecal": [0.5, 1, 0, nan, 0.4],
        "points_ecal": [3, 3, 0, 0, 1],
        "points_hcal": [3, 0, 3, 0, 1],
        # More than a tenth of the energy lies in layer 0, and only a twentieth in layer 30.
        "start_layer_ecal": [0, 0, nan, nan, 29],
        "start_layer_hcal": [35, nan, 35, nan, 30],
        "centre_layer_ecal": [9.4, 9.4, nan, nan, 29],
        "centre_layer_hcal": [37.25, nan, 37.25, nan, 30],
        "width_r_ecal": [33**0.5, 33**0.5, nan, nan, 1],
        "width_r_hcal": [17.5**0.5, nan, 17.5**0.5, nan, 1],
    }
    ours = {name: values[name] for name in expected}
    for name, numbers in expected.items():
        assert ours[name] == pytest.approx(numbers, rel=1e-6, nan_ok=True), name
    assert "fraction_hcal" not in values
    for name in ("ecal", "hcal"):
        energies = np.array(values[f"E_{name}"])
        profile = np.array(values[f"radial profile {name}"])
        assert profile[energies > 0].sum(1) == pytest.approx(1)
        assert np.isnan(profile[energies == 0]).all()
    assert (system.units["E_hcal"], system.units["width_r_ecal"]) == ("MeV", "mm")
    assert torch.isfinite(system.features(system.source.read(0, 5), "high")).all()


def test_rings_of_a_calorimeter_have_equal_shares_of_its_energy(tmp_path):
    radii = np.arange(1, 101)
    ecal = [[r, 3, 0, 0.001] for r in radii]
    hcal = [[10 * r, 33, 0, 0.001] for r in radii]
    _, values = measured(write(tmp_path / "a.h5", [ecal + hcal]))
    for name in ("ecal", "hcal"):
        assert values[f"radial profile {name}"][0] == pytest.approx([0.1] * 10)


def test_only_layers_that_a_layout_gives_to_calorimeters_are_theirs(tmp_path):
    layers = write_showerdata(tmp_path / "points.h5", [[[1, 2, 10, 0.5], [1, 2, 40, 0.5]]])
    depths = write(tmp_path / "depths.h5", [[[1, 10.5, 2, 0.5]]])
    for path in (layers, depths):
        _, values = measured(path)
        assert not [name for name in values if "ecal" in name or "hcal" in name]
    _, values = measured(write(tmp_path / "ecal.h5", [ECAL]))
    assert "E_ecal" in values
    assert not [name for name in values if "hcal" in name or name == "fraction_ecal"]
    _, values = measured(write(tmp_path / "beyond.h5", [[*HCAL, [0, 90, 0, 0.1]]]))
    assert (values["E_hcal"][0], values["E_tot"][0]) == pytest.approx((100, 200))


def test_files_read_together_keep_their_calorimeters(tmp_path):
    paths = [str(write(tmp_path / f"{i}.h5", SHOWERS)) for i in range(2)]
    assert [part.name for part in PointCloud(path=tuple(paths)).bins.parts] == ["ecal", "hcal"]
    assert inspect(tmp_path / "0.h5")["showers"]["hcal"] == "layers 30 to 77"


def showers(n, seed, hcal=1.0):
    generator = np.random.default_rng(seed)
    result, energies = [], generator.uniform(40, 60, (n, 1))
    for energy in energies[:, 0]:
        k = generator.integers(20, 30, 2)
        layer = np.concatenate([generator.integers(0, 30, k[0]), generator.integers(30, 78, k[1])])
        x, y = generator.normal(0, 10, (2, k.sum()))
        share = np.repeat([0.4, hcal * 0.4], k) * generator.uniform(0.5, 1.5, k.sum()) / 25
        result.append(np.stack([x, layer, y, share * energy], 1).tolist())
    return result, energies


def test_a_validation_says_which_calorimeter_is_wrong(tmp_path):
    truth = write(tmp_path / "truth.h5", *showers(1000, 1))
    only = {"validation.metrics": [{"kind": "means"}]}
    against = Against(truth, Criteria(overrides=only))
    rows = {}
    for name, scale in (("good", 1.0), ("scaled", 1.15)):
        path = write(tmp_path / f"{name}.h5", *showers(400, 2, scale))
        _, card = against.score(path)
        rows[name] = {row.name: row.verdict for row in card.rows}
    assert "fail" not in rows["good"].values()
    assert rows["good"]["fraction_ecal"] == "pass"
    assert (rows["scaled"]["fraction_ecal"], rows["scaled"]["E_hcal"]) == ("fail", "fail")
    assert (rows["scaled"]["E_ecal"], rows["scaled"]["points_hcal"]) == ("pass", "pass")
