"""Showers from one layout to another: what comes back, what is lost, and what is refused."""

import json
import math
import tracemalloc

import h5py
import numpy as np
import pytest
import torch

from physgen.batch import Batch
from physgen.cli import main
from physgen.conversion import ShowerOptions, convert
from physgen.errors import FormatError, InputError
from physgen.io.calochallenge import CaloChallengeSource, calochallenge_writer
from physgen.io.layouts import layout_called, open_points
from physgen.io.showerdata import ShowerdataSource
from physgen.systems.calorimeter import Calorimeter
from physgen.systems.geometry import Geometry, Layer, write_geometry
from physgen.systems.pointcloud import PointCloud
from physgen.systems.voxelisation import Cells
from tests.io.test_shower_layouts import calohadronic as write_calohadronic
from tests.io.test_showerdata import write as write_points

LAYERS = (Layer(0, (0.0, 10.0, 30.0), 1), Layer(2, (0.0, 5.0), 4), Layer(7, (0.0, 20.0), 2))


@pytest.fixture
def binning(tmp_path):
    write_geometry(tmp_path / "binning.xml", Geometry(LAYERS, 11, "electron"))
    return tmp_path / "binning.xml"


def write_voxels(path, n=40, n_voxels=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, n_voxels, generator=generator)
    x = 100 * x * (x > 0.5)
    x[3] = 0
    batch = Batch(x, condition=500 * (1 + torch.rand(n, 1, generator=generator)))
    with calochallenge_writer(path) as append:
        append(batch)
    return batch


def test_voxels_become_points_and_the_same_voxels_again(tmp_path, binning):
    batch = write_voxels(tmp_path / "a.hdf5")
    points = convert(
        tmp_path / "a.hdf5", tmp_path / "p.h5", to="showerdata", showers=ShowerOptions(binning)
    )
    assert points["lost"] == []
    assert (points["showers"], points["energy"]) == (40, pytest.approx(1, abs=1e-6))
    back = convert(
        tmp_path / "p.h5", tmp_path / "b.hdf5", to="calochallenge", showers=ShowerOptions(binning)
    )
    assert back["lost"] == [
        "directions of the particles",
        "places of points within their voxels",
    ]
    read = CaloChallengeSource(tmp_path / "b.hdf5", 8).read(0, 40)
    torch.testing.assert_close(read.x, batch.x, rtol=1e-6, atol=0)
    torch.testing.assert_close(read.condition, batch.condition, rtol=1e-6, atol=0)
    with h5py.File(tmp_path / "b.hdf5") as file:
        assert file.attrs["converted_from"] == "p.h5, showerdata HDF5"
        assert len(file.attrs["source_sha256"]) == 64


def test_points_of_voxels_lie_in_their_middle_and_know_particle_and_layer(tmp_path, binning):
    batch = write_voxels(tmp_path / "a.hdf5")
    convert(tmp_path / "a.hdf5", tmp_path / "p.h5", to="showerdata", showers=ShowerOptions(binning))
    source = ShowerdataSource(tmp_path / "p.h5")
    read = source.read(0, 40)
    assert source.pdg == 11
    assert not read.mask[3].any()
    row = int((batch.x[:, 2] > 0).int().argmax())  # The first sector of layer 2.
    x, y, layer, energy = read.x[row, int((batch.x[row, :2] > 0).sum())].tolist()
    assert (x, y, layer) == pytest.approx((2.5 * math.cos(-0.75 * math.pi),) * 2 + (2,))
    assert energy == pytest.approx(batch.x[row, 2].item())
    rings = read.x[read.mask & (read.x[..., 2] == 0)]
    radius = rings[:, :2].norm(dim=1)
    assert sorted(set(radius.round(decimals=3).tolist())) == [5, 20]
    assert (rings[:, :2] / radius[:, None]).mean(0).abs().max() < 0.15, "all at one angle"


def test_what_is_measured_of_voxels_and_of_their_points_is_the_same(tmp_path, binning):
    write_voxels(tmp_path / "a.hdf5")
    convert(tmp_path / "a.hdf5", tmp_path / "p.h5", to="showerdata", showers=ShowerOptions(binning))
    voxels = Calorimeter(binning=binning, energies_mev=(1.0, 1e4))
    points = PointCloud(path=str(tmp_path / "p.h5"))
    ours = points.observables(points.source.read(0, 40))
    theirs = voxels.observables(voxels.open(tmp_path / "a.hdf5").read(0, 40))
    for name in ("E_tot/E_inc", "E_layer_0", "E_layer_2", "E_layer_7"):
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-5)
    assert ours["E_layer_5"].abs().max() == 0
    hit = voxels.open(tmp_path / "a.hdf5").read(0, 40).x > 0
    assert torch.equal(ours["points_layer_2"], hit[:, 2:6].sum(1).double())


def test_what_no_voxel_takes_is_said_in_shares_of_the_energy(tmp_path, binning):
    rows = [
        [[1, 1, 0, 2.0, 9], [-3, 2, 0, 1.0, 9], [0, 29.9, 0, 1.0, 9]],
        [[0, 31, 0, 1.0, 9], [1, 0, 1, 2.0, 9], [1, 0, 5, 1.0, 9]],
    ]
    write_points(tmp_path / "p.h5", rows)
    report = convert(
        tmp_path / "p.h5", tmp_path / "v.h5", to="calochallenge", showers=ShowerOptions(binning)
    )
    json.dumps(report)
    assert report["energy"] == 0.5
    assert report["lost"] == [
        "energy: 12.5% beyond the outermost voxels and 37.5% in layers without voxels (1, 5)",
        "points: 3 of 6 lie in no voxel, 1 were added to others of their voxel",
        "directions of the particles",
        "places of points within their voxels",
        "times",
    ]
    read = CaloChallengeSource(tmp_path / "v.h5").read(0, 2)
    assert read.x.tolist() == [[3000, 1000, 0, 0, 0, 0, 0, 0], [0] * 8]
    assert read.condition.tolist() == [[1000], [2000]]


def test_sectors_and_rings_begin_where_they_are_said_to(tmp_path, binning):
    """Sector 0 of 4 begins at -pi, which is pi too; a ring holds its inner edge."""
    places = [(-1, -1e-6), (-1, 0), (0, -1), (1, 0), (0, 1), (0, 0), (5, 0)]
    write_points(tmp_path / "p.h5", [[[x, y, 2, 0.001]] for x, y in places])
    convert(
        tmp_path / "p.h5", tmp_path / "v.h5", to="calochallenge", showers=ShowerOptions(binning)
    )
    x = CaloChallengeSource(tmp_path / "v.h5").read(0, 7).x
    sectors = [row.nonzero().flatten().tolist() for row in x[:, 2:6]]
    assert sectors == [[0], [0], [1], [2], [3], [2], []]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"does not tell the layout; say --to, one of showerdata, lemurs, ddml"),
        ({"to": "showerdta"}, "is called 'showerdta'; did you mean 'showerdata'"),
        ({"to": "showerdata"}, r"holds voxels, and showerdata points: .*with --binning"),
        (
            {"to": "showerdata", "showers": ShowerOptions("calo-368.xml")},
            "8 voxels, but the binning has 368",
        ),
        ({"to": "showerdata", "showers": ShowerOptions("no.xml")}, "no binning file .*no.xml"),
    ],
)
def test_what_is_missing_is_said_and_nothing_is_written(tmp_path, options, message):
    write_voxels(tmp_path / "a.hdf5")
    with pytest.raises(InputError, match=message):
        convert(tmp_path / "a.hdf5", tmp_path / "b.h5", **options)
    assert [file.name for file in tmp_path.iterdir()] == ["a.hdf5"]


def test_lengths_are_no_layers(tmp_path, binning):
    write_points(tmp_path / "p.h5", [[[1, 1, 0.5, 2.0]]])
    with pytest.raises(InputError, match="depths of its points are lengths"):
        convert(
            tmp_path / "p.h5", tmp_path / "v.h5", to="calochallenge", showers=ShowerOptions(binning)
        )


def test_a_bad_row_leaves_nothing_behind_and_old_files_stay(tmp_path, binning):
    write_points(tmp_path / "p.h5", energies=np.array([[1], [1], [0], [1]]))
    with pytest.raises(FormatError, match="'energies' row 2"):
        convert(
            tmp_path / "p.h5", tmp_path / "v.h5", to="calochallenge", showers=ShowerOptions(binning)
        )
    assert {file.name for file in tmp_path.iterdir()} == {"p.h5", "binning.xml"}
    (tmp_path / "v.h5").write_text("mine")
    with pytest.raises(InputError, match="exists"):
        convert(
            tmp_path / "p.h5", tmp_path / "v.h5", to="calochallenge", showers=ShowerOptions(binning)
        )
    assert (tmp_path / "v.h5").read_text() == "mine"
    with pytest.raises(InputError, match="is the file to convert"):
        convert(tmp_path / "p.h5", tmp_path / "p.h5", to="showerdata", overwrite=True)


def test_a_file_that_holds_no_showers_is_refused(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = np.ones((3, 3))
    with pytest.raises(FormatError, match="holds no showers in a layout that is known"):
        convert(tmp_path / "a.h5", tmp_path / "b.h5", to="showerdata")


def test_a_regular_grid_with_axes_is_converted_by_its_binning(tmp_path):
    layers = tuple(Layer(i, (0.0, 5.0, 10.0), 3) for i in range(2))
    write_geometry(tmp_path / "grid.xml", Geometry(layers))
    x = np.arange(12.0).reshape(1, 2, 3, 2)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["incident_energies"], file["showers"] = np.full((1, 1), 99.0), x
    binning = tmp_path / "grid.xml"
    convert(tmp_path / "a.h5", tmp_path / "p.h5", to="showerdata", showers=ShowerOptions(binning))
    convert(
        tmp_path / "p.h5", tmp_path / "b.h5", to="calochallenge", showers=ShowerOptions(binning)
    )
    back = CaloChallengeSource(tmp_path / "b.h5").read(0, 1).x[0]
    torch.testing.assert_close(back, torch.arange(12.0))


def test_files_of_a_pattern_follow_one_another_and_must_be_alike(tmp_path, binning):
    first, second = (write_voxels(tmp_path / f"part_{i}.hdf5", n=9, seed=i) for i in (0, 1))
    report = convert(
        tmp_path / "part_*.hdf5", tmp_path / "p.h5", to="showerdata", showers=ShowerOptions(binning)
    )
    assert report["showers"] == 18
    convert(
        tmp_path / "p.h5", tmp_path / "b.hdf5", to="calochallenge", showers=ShowerOptions(binning)
    )
    read = CaloChallengeSource(tmp_path / "b.hdf5").read(0, 18)
    torch.testing.assert_close(read.x, torch.cat([first.x, second.x]), rtol=1e-6, atol=0)
    with h5py.File(tmp_path / "p.h5") as file:
        assert file.attrs["converted_from"] == "part_0.hdf5, part_1.hdf5, CaloChallenge HDF5"
        assert file["shower_ids"][-1] == 17
    write_voxels(tmp_path / "part_2.hdf5", n_voxels=9)
    with pytest.raises(FormatError, match=r"part_2.hdf5.*different"):
        convert(tmp_path / "part_*.hdf5", tmp_path / "c.hdf5", to="calochallenge")
    files = [str(tmp_path / name) for name in ("part_0.hdf5", "p.h5")]
    with pytest.raises(FormatError, match=r"p.h5 is showerdata HDF5, and .*CaloChallenge HDF5"):
        convert(files, tmp_path / "c.hdf5", to="calochallenge")


def test_weights_and_particles_that_have_no_place_are_said(tmp_path, binning):
    batch = write_voxels(tmp_path / "a.hdf5").replace(weight=torch.ones(40))
    with calochallenge_writer(tmp_path / "w.hdf5") as append:
        append(batch)
    for to, suffix, lost in (("showerdata", "h5", []), ("npz", "npz", ["the dataset 'weight'"])):
        report = convert(
            tmp_path / "w.hdf5", tmp_path / f"p.{suffix}", to=to, showers=ShowerOptions(binning)
        )
        assert report["lost"] == lost
    assert ShowerdataSource(tmp_path / "p.h5").read(0, 2).weight.tolist() == [1, 1]
    kept = convert(tmp_path / "w.hdf5", tmp_path / "v.hdf5", to="calochallenge")
    assert kept["lost"] == []
    assert CaloChallengeSource(tmp_path / "v.hdf5").read(0, 2).weight.tolist() == [1, 1]
    write_points(tmp_path / "q.h5", pdg=np.array([22, 11, 22, 11]))
    several = convert(tmp_path / "q.h5", tmp_path / "r.h5", to="showerdata")
    assert several["lost"] == ["codes of the particles, of which there are several"]


def test_the_verb_says_what_is_lost_and_ends_with_2_where_it_cannot(tmp_path, capsys, monkeypatch):
    write_points(tmp_path / "p.h5", [[[1, 1, 0, 0.75], [1, 1, 5, 0.25]]])

    def call(*words):
        monkeypatch.setattr("sys.argv", ["physgen", "convert", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code, capsys.readouterr()

    words = (tmp_path / "p.h5", tmp_path / "c.h5", "--to", "ddml", "--cells")
    code, said = call(*words, "2,30,49", "--json")
    assert code in (0, None)
    assert json.loads(said.out)["lost"][0] == "energy: 25% in layers without voxels (5)"
    code, said = call(*words, "2,4", "--overwrite")
    assert (code, "three numbers are wanted" in said.err) == (2, True)
    code, said = call(tmp_path / "p.h5", tmp_path / "x.h5", "--to", "calochallenge")
    assert (code, "say by which geometry" in said.err) == (2, True)


def test_memory_does_not_grow_with_the_file(tmp_path):
    """Blocks of 4 MiB are read and written, there and back."""
    peaks = []
    for n in (5_000, 12_000):
        sparse = torch.rand(n, 368, generator=torch.Generator().manual_seed(0)).sub(0.98).clamp(0)
        path, points = tmp_path / f"{n}.hdf5", tmp_path / f"{n}.h5"
        with calochallenge_writer(path) as append:
            append(Batch(100 * sparse, condition=torch.full((n, 1), 500.0)))
        tracemalloc.start()
        convert(path, points, to="showerdata", showers=ShowerOptions("calo-368.xml"))
        convert(
            points,
            tmp_path / "b.hdf5",
            to="calochallenge",
            showers=ShowerOptions("calo-368.xml"),
            overwrite=True,
        )
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[0] < 60 * 2**20
    assert peaks[1] < 1.1 * peaks[0]


def test_an_ending_that_does_not_fit_the_layout_is_refused(tmp_path):
    write_voxels(tmp_path / "a.hdf5")
    for name, to, fits in (
        ("c.h5", "npz", r"name the file c\.npz"),
        ("c.npz", "lemurs", r"name the file c\.h5 or c\.hdf5"),
    ):
        with pytest.raises(InputError, match=fits):
            convert(tmp_path / "a.hdf5", tmp_path / name, to=to)
        assert not (tmp_path / name).exists()


def test_layouts_are_called_by_their_dataset_too():
    assert layout_called("layers") is layout_called("ddml")


def test_which_layers_are_whose_goes_with_the_points(tmp_path, binning):
    path = write_calohadronic(tmp_path / "a.h5")
    points = ShowerOptions(cells=Cells(layers=42, rows=20, columns=31, mm=10.0))
    for name, to, options in (("p.h5", "showerdata", ShowerOptions()), ("c.h5", "ddml", points)):
        convert(path, tmp_path / name, to=to, showers=options)
        source = open_points(tmp_path / name)
        assert source.calorimeters == {"ecal": range(30), "hcal": range(30, 78)}
    report = convert(path, tmp_path / "v.h5", to="calochallenge", showers=ShowerOptions(binning))
    assert "which layers are those of ecal, hcal" in report["lost"]
    with h5py.File(tmp_path / "p.h5", "a") as file:
        file.attrs["calorimeters"] = '{"ecal": [29, 0]}'
    with pytest.raises(FormatError, match=r"p\.h5: the attribute 'calorimeters'"):
        open_points(tmp_path / "p.h5")
