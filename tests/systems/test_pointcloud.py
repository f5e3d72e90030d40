"""Showers of points: observables by hand, features, files of one geometry, and judging."""

import numpy as np
import pytest
import torch

import physgen
from physgen.against import Against, Criteria
from physgen.batch import Batch
from physgen.components import surrogate_of
from physgen.conversion import ShowerOptions, convert
from physgen.errors import DomainError, FormatError, RecipeError
from physgen.recipe import read
from physgen.simulation import simulate
from physgen.systems.base import (
    HasFeatures,
    HasFiles,
    HasPlausible,
    HasUnits,
    System,
    open_files,
)
from physgen.systems.pointcloud import PointCloud
from tests.io.test_showerdata import write


def sample(n, seed, *, scale=1.0, n_layers=6):
    generator = np.random.default_rng(seed)
    rows, energies = [], generator.uniform(10, 100, n)
    for energy in energies:
        k = generator.integers(5, 40)
        share = generator.dirichlet(np.ones(k)) * scale * generator.normal(1, 0.05)
        layer = generator.integers(0, n_layers, k)
        x, y = generator.normal(0, 10, (2, k))
        rows.append(np.stack([x, y, layer, share * energy + 1e-6], 1).tolist())
    return rows, {"energies": energies[:, None]}


def test_observables_are_those_of_a_shower_by_hand(tmp_path):
    rows = [[[3, 4, 0, 0.06], [0, 1, 2, 0.02]], [], [[0, 2, 1, 0.01]]]
    path = write(tmp_path / "a.h5", rows, energies=np.full((3, 1), 0.1))
    system = PointCloud(path=str(path))
    assert all(
        isinstance(system, p) for p in (System, HasFiles, HasFeatures, HasUnits, HasPlausible)
    )
    values = system.observables(system.source.read(0, 3))
    first = {name: value[0].item() for name, value in values.items() if value.ndim == 1}
    expected = {
        "E_tot": 80,
        "E_tot/E_inc": 0.8,
        "(E_tot/E_inc)^2": 0.64,
        "number of points": 2,
        "centre_x": 2.25,
        "centre_y": 3.25,
        "centre_layer": 0.5,
        "width_r": (0.75 * 25 + 0.25) ** 0.5,
        "width_layer": 0.75**0.5,
        "E_layer_0": 60,
        "E_layer_1": 0,
        "E_layer_2": 20,
        "points_layer_0": 1,
        "points_layer_1": 0,
        "points_layer_2": 1,
    }
    assert first == pytest.approx(expected, rel=1e-6)
    assert values["radial profile"].nansum(1).tolist() == pytest.approx([1, 0, 1])
    assert values["spectrum"].nansum(1).tolist() == pytest.approx([1, 0, 1])
    empty = {name: value[1].item() for name, value in values.items() if value.ndim == 1}
    assert (empty["E_tot"], empty["number of points"]) == (0, 0)
    assert np.isnan(empty["centre_x"])
    assert set(system.units) >= {"E_tot", "E_layer_2", "centre_x", "width_layer"}
    assert system.units["centre_layer"] == "1"


def test_depths_in_mm_are_cut_into_slices_of_equal_energy(tmp_path):
    generator = np.random.default_rng(0)
    rows = [[[0, 0, z, 0.01]] for z in generator.uniform(0.1, 9.9, 1000)]
    system = PointCloud(path=str(write(tmp_path / "a.h5", rows)))
    values = system.observables(system.source.read(0, 1000))
    counts = [values[f"points_slice_{i}"].sum().item() for i in range(10)]
    assert counts == pytest.approx([100] * 10, abs=1)
    assert "E_slice_10" not in values
    assert system.units["centre_z"] == "mm"


def test_times_are_averaged_by_energy(tmp_path):
    rows = [[[0, 0, 1, 3.0, 2.0], [0, 0, 1, 1.0, 6.0]]]
    system = PointCloud(path=str(write(tmp_path / "a.h5", rows)))
    assert system.observables(system.source.read(0, 1))["mean_time"].item() == 3.0


def test_features_do_not_depend_on_the_order_or_the_padding_of_points(tmp_path):
    rows, given = sample(50, 1)
    system = PointCloud(path=str(write(tmp_path / "a.h5", rows, **given)))
    batch = system.source.read(0, 50)
    order = torch.randperm(batch.x.shape[1], generator=torch.Generator().manual_seed(0))
    shuffled = batch.replace(x=batch.x[:, order], mask=batch.mask[:, order])
    wider = batch.replace(
        x=torch.cat([batch.x, torch.full((50, 70, 4), 9.0)], 1),
        mask=torch.cat([batch.mask, torch.zeros(50, 70, dtype=torch.bool)], 1),
    )
    for level in ("low", "high"):
        features = system.features(batch, level)
        assert torch.isfinite(features).all()
        for other in (shuffled, wider):
            torch.testing.assert_close(system.features(other, level), features)
    assert system.features(batch, "low").shape == (50, 4 + 1 + 64 * 4)


def test_files_of_another_geometry_are_refused(tmp_path):
    layers = write(tmp_path / "layers.h5", [[[1, 2, 1, 0.5]]])
    depths = write(tmp_path / "depths.h5", [[[1, 2, 1.5, 0.5]]])
    no_direction = write(tmp_path / "no.h5", [[[1, 2, 1, 0.5]]], directions=None)
    system = PointCloud(path=str(layers))
    with pytest.raises(FormatError, match=r"depths.h5 holds points of x, y, z, energy, and"):
        system.open(depths)
    with pytest.raises(FormatError, match=r"no.h5 holds showers at incident_energies, and "):
        system.open(no_direction)
    deeper = write(tmp_path / "deeper.h5", [[[1, 2, 0, 0.9], [1, 2, 7, 0.1]]])
    with pytest.raises(FormatError, match=r"deeper.h5: 0.1 of the energy lies in layers beyond"):
        system.open(deeper)
    chance = write(tmp_path / "chance.h5", [[[1, 2, 0, 0.995], [1, 2, 7, 0.005]]])
    assert len(system.open(chance)) == 1


def test_a_system_without_a_file_or_places_says_so(tmp_path):
    with pytest.raises(RecipeError, match=r"data\.path"):
        _ = PointCloud().schema
    path = write(tmp_path / "a.h5")
    with pytest.raises(RecipeError, match=r"set system\.n_points=3"):
        _ = PointCloud(path=str(path), n_points=2).schema
    assert PointCloud(path=str(path), n_points=7).schema.shape == (7, 4)
    with pytest.raises(DomainError, match="need their mask"):
        PointCloud(path=str(path)).observables(Batch(torch.zeros(1, 3, 4)))


def test_several_files_are_one_of_the_widest(tmp_path):
    write(tmp_path / "a.h5", [[[1, 2, 1, 0.5]]])
    write(tmp_path / "b.h5", [[[1, 2, 1, 0.5]] * 5])
    system = PointCloud(path=(str(tmp_path / "a.h5"), str(tmp_path / "b.h5")))
    assert (len(system.source), system.schema.shape) == (2, (5, 4))
    batch = system.source.read(0, 2)
    assert batch.mask.sum(1).tolist() == [1, 5]
    assert batch.x[0].tolist() == [[1, 2, 1, 500], *[[0] * 4] * 4]
    write(tmp_path / "c.h5", [[[1, 2, 1, 0.5]] * 7])
    generated = open_files(system, [str(tmp_path / "a.h5"), str(tmp_path / "c.h5")])
    assert generated.read(0, 2).x.shape == (2, 7, 4)


def test_what_is_written_is_read_by_the_same_system(tmp_path):
    system = PointCloud(path=str(write(tmp_path / "a.h5")))
    batch = system.source.read(0, 4)
    with system.writer(tmp_path / "b.h5", 4) as append:
        append(batch)
    assert torch.equal(system.open(tmp_path / "b.h5").read(0, 4).x, batch.x)


def test_two_files_of_points_are_judged_and_a_scale_is_seen(tmp_path):
    """Of different numbers of events, and of points at most."""
    for name, n, seed, scale in (
        ("truth", 1200, 1, 1),
        ("good", 500, 2, 1),
        ("scaled", 500, 3, 1.1),
    ):
        rows, given = sample(n, seed, scale=scale)
        write(tmp_path / f"{name}.h5", rows, **given)
    only = {"validation.metrics": [{"kind": "means"}]}
    cards = {
        name: Against(tmp_path / "truth.h5", Criteria(overrides=only)).score(
            tmp_path / f"{name}.h5"
        )[1]
        for name in ("good", "scaled")
    }
    assert cards["good"].verdict == "pass"
    failed = [row.name for row in cards["scaled"].rows if row.verdict == "fail"]
    assert "E_tot/E_inc" in failed


def test_energies_a_thousand_times_too_large_are_an_alarm(tmp_path):
    rows, given = sample(200, 1)
    write(tmp_path / "truth.h5", rows, **given)
    write(
        tmp_path / "mev.h5",
        *sample(200, 2, scale=1000.0)[:1],
        energies=sample(200, 2)[1]["energies"],
    )
    only = {"validation.metrics": [{"kind": "means"}]}
    _, card = Against(tmp_path / "truth.h5", Criteria(overrides=only)).score(tmp_path / "mev.h5")
    (warning,) = [row.warning for row in card.rows if "times" in row.warning]
    assert "about 1e+03 times those of the truth" in warning
    assert "(E_tot/E_inc)^2: about 1e+06 times" in warning
    assert "the median of E_tot/E_inc is" in warning
    assert not any("different units" in row.warning for row in card.rows)


def test_rings_and_slices_end_between_cells_not_on_them(tmp_path):
    """So that rounding of places moves no energy from one to the next."""
    generator = np.random.default_rng(0)
    places = generator.choice([1.0, 2.0, 3.5, 5.0, 8.0], (400, 9))
    rows = [[[r, 0, r + 0.5, 0.1] for r in row] for row in places]
    system = PointCloud(path=str(write(tmp_path / "a.h5", rows)))
    batch = system.source.read(0, 400)
    exact = system.observables(batch)
    for factor in (1 + 1e-6, 1 - 1e-6):
        moved = batch.replace(x=batch.x * torch.tensor([factor, 1, factor, 1]))
        other = system.observables(moved)
        for name in ("radial profile", "E_slice_0", "E_slice_2", "points_slice_1"):
            torch.testing.assert_close(other[name], exact[name])


def test_points_are_learned_and_generated_in_the_layout_they_came_in(tmp_path):
    generator = np.random.default_rng(0)
    rows = [generator.uniform(0.1, 1, (k, 4)).tolist() for k in generator.integers(1, 6, 100)]
    path = write(tmp_path / "a.h5", rows, energies=generator.uniform(1, 3, (100, 1)))
    changes = {
        "data.path": str(path),
        "surrogate.first": {"weighted_by": "energy"},
        "engine.steps": 3,
        "engine.batch_size": 16,
        "sampling.sampler.steps": 2,
    }
    run = physgen.train("calo-points-flow", changes, runs=tmp_path, score=False, track=False)
    physgen.load(run.path).write(tmp_path / "b.h5", 20, seed=1)
    source = PointCloud(path=str(path)).open(tmp_path / "b.h5")
    batch = source.read(0, 20)
    assert (len(batch), source.pdg) == (20, 22)
    assert (batch.x[batch.mask][:, 3] > 0).all()
    assert ((batch.condition[:, 0] >= 1000) & (batch.condition[:, 0] <= 3000)).all()


def test_voxels_converted_to_points_are_learned(tmp_path):
    """Their depths are numbers of layers, integers, which are drawn as groups."""
    voxels, points = tmp_path / "voxels.h5", tmp_path / "points.h5"
    simulate(read("calo-flow", {}), voxels, 150, 1)
    convert(voxels, points, to="showerdata", showers=ShowerOptions("calo-368.xml"))
    changes = {
        "data.path": str(points),
        "surrogate.network": {"kind": "epic", "hidden": 8, "n_global": 4, "depth": 1},
        "engine.steps": 3,
        "engine.batch_size": 32,
        "sampling.sampler.steps": 2,
    }
    run = physgen.train("calo-points-flow", changes, runs=tmp_path, score=False, track=False)
    made = physgen.load(run.path).sample(20, seed=1)
    layers = made.x[made.mask][:, 2]
    assert set(layers.tolist()) <= {0, 1, 2, 3, 12}
    for transform, said in (
        ("bounded", r"layer is integer.* surrogate point-diffusion"),
        ("gaussianise", "a column of integers take the surrogate point-diffusion"),
    ):
        other = {"surrogate": {"kind": "independent-items"}, "transform": [{"kind": transform}]}
        recipe = read("calo-points-flow", other | {"data.path": str(points)})
        with pytest.raises(RecipeError, match=said):
            surrogate_of(recipe.transform, recipe.surrogate, run.system.schema, run.system)
