"""Layouts of showers, written by hand as their descriptions say: what is read, and refused."""

import json
import math

import h5py
import numpy as np
import pytest
import torch

from physgen.conversion import ShowerOptions, convert
from physgen.errors import FormatError, InputError
from physgen.io.inspect import inspect
from physgen.io.layouts import known_layout, layout_of, open_points, open_voxels
from physgen.systems.geometry import Geometry, Layer, write_geometry
from physgen.systems.voxelisation import Cells
from tests.io.test_showerdata import write as write_points


def hdf5(path, **datasets):
    with h5py.File(path, "w") as file:
        for name, value in datasets.items():
            if name == "attributes":
                file.attrs.update(value)
            elif value is not None:
                file[name] = value
    return path


def lemurs(path, table=False, **changes):
    """Two showers of 3 rings, 4 sectors, 2 layers."""
    showers = np.zeros((2, 3, 4, 2), "f4")
    showers[0, 2, 1, 1], showers[1, 0, 3, 0] = 30, 50
    values = {
        "showers": showers,
        "incident_energy": np.array([40.0, 60.0]),
        "incident_theta": np.array([0.0, math.pi / 2]),
        "incident_phi": np.array([0.3, math.pi]),
    } | changes
    if not table:
        return hdf5(path, **values)
    kinds = [(name, value.dtype, value.shape[1:]) for name, value in values.items()]
    records = np.zeros(2, kinds)
    for name, value in values.items():
        records[name] = value
    return hdf5(path, events=records)


def hgcal(path, **changes):
    showers = np.zeros((2, 3, 5), "f4")
    showers[0, 1, 2], showers[1, 2, 4] = 0.5, 0.25
    given = np.array([[10, 2.0, 0.0, 7], [20, 1.5, math.pi / 2, 7]])
    return hdf5(path, **{"showers": showers, "gen_info": given} | changes)


def calohadronic(path, across=True, **changes):
    events = np.zeros((2, 6, 4))
    events[0, 4:] = [[-10, 3, 20, 0.5], [30, 41, -40, 1.5]]  # x, layer, z, energy; padded before.
    events[1, 5] = [1, 2, 3, 4]
    values = {
        "events": events.transpose(0, 2, 1) if across else events,
        "energy": np.array([[5.0], [6.0]]),
        "n_points": np.array([2, 1]),
    }
    return hdf5(path, **values | changes)


def ddml(path, **changes):
    layers = np.zeros((2, 3, 4, 2), "f4")
    layers[0, 1, 0, 1], layers[0, 2, 3, 0], layers[1, 0, 2, 1] = 5, 7, 9
    values = {
        "layers": layers,
        "incident_energies": np.array([[20.0], [10.0]]),
        "attributes": {"cell_mm": 10.0},
    }
    return hdf5(path, **values | changes)


def triple(path, **changes):
    showers = np.zeros((2, 2, 3), "f4")
    showers[0] = [[1, 2, 3], [0, 0, 4]]
    arrays = {"E": np.array([20.0, 30.0]), "layers": np.array([[6.0, 4], [0, 0]])}
    np.savez(path, **arrays | {"showers": showers} | changes)
    return path


MAKERS = {
    "LEMURS HDF5": (lemurs, "a.h5"),
    "HGCal HDF5": (hgcal, "a.h5"),
    "CaloHadronic HDF5": (calohadronic, "a.h5"),
    "DDML HDF5": (ddml, "a.h5"),
    "npz of E, layers, showers": (triple, "a.npz"),
}


@pytest.mark.parametrize("name", MAKERS)
def test_a_layout_is_recognised_and_described(tmp_path, name):
    make, file = MAKERS[name]
    path = make(tmp_path / file)
    assert known_layout(path).name == name
    report = inspect(path)
    json.dumps(report, allow_nan=False)
    assert (report["format"], report["reader"], report["problem"]) == (name, "yes", None)
    assert report["showers"]["showers"] == 2
    assert 0 < report["showers"]["median of E_tot/E_inc"] < 1
    (hint,) = [hint for hint in report["hints"] if "physgen validate" in hint]
    assert ("--binning" in hint) == (name.partition(" ")[0] in ("LEMURS", "npz"))


@pytest.mark.parametrize("table", [False, True])
def test_lemurs_is_read_ring_fastest_then_sector_then_layer(tmp_path, table):
    path = lemurs(tmp_path / "a.h5", table)
    source = layout_of(path).open(path, 1)
    batch = source.read(0, 9)
    assert source.schema.shape == (24,)
    assert batch.x[0].nonzero().tolist() == [[1 * 12 + 1 * 3 + 2]]
    assert batch.x[1].nonzero().tolist() == [[0 * 12 + 3 * 3 + 0]]
    assert (batch.x[0].sum(), batch.x[1].sum()) == (30, 50)
    assert batch.condition[:, 0].tolist() == [40, 60]
    expected = torch.tensor([[0.0, 0, 1], [-1, 0, 0]])
    torch.testing.assert_close(batch.condition[:, 1:], expected, atol=1e-6, rtol=0)
    assert open_voxels(path, 24).read(0, 2).condition.tolist() == [[40], [60]]
    with pytest.raises(FormatError, match="24 voxels, but the binning has 6480"):
        open_voxels(path, 6480)
    if table:
        assert inspect(path)["reader"] == "yes"


def test_hgcal_is_read_in_mev_layer_by_layer_with_the_direction_of_eta_and_phi(tmp_path):
    path = hgcal(tmp_path / "a.h5")
    batch = layout_of(path).open(path, 1).read(0, 2)
    assert batch.x[0].nonzero().tolist() == [[7]]
    assert (batch.x[0, 7], batch.condition[0, 0]) == (500, 10_000)
    assert batch.condition[0, 3].item() == pytest.approx(math.tanh(2.0), abs=1e-6)
    assert batch.condition[1, 2].item() == pytest.approx(1 / math.cosh(1.5), abs=1e-6)
    without = hgcal(tmp_path / "b.h5", gen_info=np.array([10.0, 20.0]))
    assert layout_of(without).open(without, 1).read(0, 2).condition.tolist() == [[1e4], [2e4]]


@pytest.mark.parametrize("across", [False, True])
def test_calohadronic_is_read_in_mev_with_its_second_axis_as_the_layer(tmp_path, across):
    source = open_points(calohadronic(tmp_path / "a.h5", across))
    assert source.schema.names == ("x", "y", "layer", "energy")
    batch = source.read(0, 2)
    assert batch.mask.tolist() == [[True, True], [True, False]]
    assert batch.x[0].tolist() == [[-10, 20, 3, 500], [30, -40, 41, 1500]]
    assert batch.x[1, 0].tolist() == [1, 3, 2, 4000]
    assert batch.condition.tolist() == [[5000], [6000]]
    assert len(open_points(calohadronic(tmp_path / "b.h5", n_points=None))) == 2


def played_back(layers, size):
    """Points that RegularGridTwoAngleBIBAEModel makes of one shower, at a right angle of incidence.

    It goes through the numbers as they come, layer by layer and row by row. Its own grid begins at
    -77 mm across the rows and -237 mm across the columns, and the particle enters at 0 and -100 mm:
    so many cells of 5.088333 mm before the point of incidence, half a cell less to a cell's middle.
    """
    n_layers, n_rows, n_columns = layers.shape
    numbers = iter(layers.ravel())
    found = []
    for layer in range(n_layers):
        for row in range(n_rows):
            for column in range(n_columns):
                energy = float(next(numbers))
                y = (row - (0 - -77) / 5.088333 + 0.5) * size
                x = (column - (-100 - -237) / 5.088333 + 0.5) * size
                if energy > 0:
                    found.append((x, y, layer, energy))
    return np.array(found)


def test_ddml_is_read_as_the_points_that_are_played_back(tmp_path):
    path = ddml(tmp_path / "a.h5")
    batch = open_points(path).read(0, 2)
    with h5py.File(path) as file:
        for x, mask, layers in zip(batch.x, batch.mask, file["layers"], strict=True):
            np.testing.assert_allclose(x[mask], played_back(layers, 10.0), rtol=1e-5)
    assert batch.condition.tolist() == [[20], [10]]


@pytest.mark.parametrize("size", [5.088333, 4.0])
def test_a_point_is_played_back_where_it_was(tmp_path, size):
    points = [[40.3, 3.1, 5, 0.25], [-60.2, -20.9, 29, 0.5], [0.1, 45.7, 0, 1.0], [1.9, -0.2, 1, 2]]
    write_points(tmp_path / "p.h5", [points])
    grid = ShowerOptions(cells=Cells(30, 30, 49, size))
    report = convert(tmp_path / "p.h5", tmp_path / "c.h5", to="ddml", showers=grid)
    assert report["energy"] == 1
    with h5py.File(tmp_path / "c.h5") as file:
        assert file["layers"].shape == (1, 30, 30, 49)
        assert file.attrs["ddml_model"] == "RegularGridTwoAngleBIBAEModel"
        found = played_back(file["layers"][0], size)
    expected = np.array(sorted(points, key=lambda point: point[2]))
    assert np.abs(found[:, :2] - expected[:, :2]).max() <= size / 2
    np.testing.assert_allclose(found[:, 2:], expected[:, 2:] * [1, 1000])
    read = open_points(tmp_path / "c.h5").read(0, 1)
    np.testing.assert_allclose(read.x[0], found, rtol=1e-5, atol=1e-5)


def test_ddml_files_written_before_keep_their_places(tmp_path):
    before = {"cell_mm": 10.0, "physgen_version": "0.1.0"}
    batch = open_points(ddml(tmp_path / "a.h5", attributes=before)).read(0, 2)
    assert batch.x[0].tolist() == [[-15, 5, 1, 5], [15, -5, 2, 7]]
    assert batch.x[1].tolist() == [[5, 5, 0, 9], [0, 0, 0, 0]]


def test_a_triple_is_read_as_it_is_or_layer_by_layer(tmp_path):
    plain = open_voxels(triple(tmp_path / "a.npz")).read(0, 2)
    assert plain.x.tolist() == [[1, 2, 3, 0, 0, 4], [0] * 6]
    shares = np.array([[[1, 2, 3], [0, 0, 6]], [[0] * 3, [0] * 3]]) / 6
    normalised = open_voxels(triple(tmp_path / "b.npz", showers=shares)).read(0, 2)
    torch.testing.assert_close(normalised.x, plain.x)
    flat = triple(tmp_path / "c.npz", showers=plain.x.numpy())
    assert torch.equal(open_voxels(flat).read(0, 2).x, plain.x)
    with pytest.raises(FormatError, match=r"add up to 1 in each of 2 layers.*an axis of layers"):
        open_voxels(triple(tmp_path / "d.npz", showers=shares.reshape(2, 6)))


NAN, EMPTY = np.full((2, 3, 4, 2), np.nan), np.zeros((0, 3, 4, 2))


@pytest.mark.parametrize(
    ("make", "changes", "message"),
    [
        (lemurs, {"showers": NAN}, r"'showers': row 0 holds nan"),
        (lemurs, {"showers": np.full((2, 3, 4, 2), -1.0)}, "'showers' row 0, column 0 is -1"),
        (lemurs, {"incident_energy": np.array([1.0, 0])}, "'incident_energy' row 1 is 0"),
        (lemurs, {"incident_phi": np.zeros(3)}, "'incident_phi' has 3"),
        (lemurs, {"showers": np.ones((2, 24))}, r"shape \(24,\); expected \(rings, sectors"),
        (hgcal, {"gen_info": np.zeros((2, 3))}, "'gen_info' row 0 is 0"),
        (hgcal, {"gen_info": np.ones((3, 3))}, "'showers' has 2, 'gen_info' has 3 rows"),
        (hgcal, {"showers": np.full((2, 3, 5), np.inf)}, "'showers': row 0 holds inf"),
        (calohadronic, {"n_points": np.array([2, 3])}, "row 1 has 1 points with energy, and.*3"),
        (calohadronic, {"events": np.full((2, 4, 6), -1.0)}, "'events' row 0, column 0 is -1"),
        (calohadronic, {"events": np.ones((2, 5, 6))}, r"expected \(N, 4, points\)"),
        (ddml, {"attributes": {}}, r"attrs\['cell_mm'\] = 5.0"),
        (
            ddml,
            {"attributes": {"cell_mm": 5.0, "ddml_model": "RegularGridGANModel"}},
            "'ddml_model' is 'RegularGridGANModel'.* for RegularGridTwoAngleBIBAEModel only",
        ),
        (ddml, {"incident_energies": None}, "does not say at which energies"),
        (ddml, {"layers": np.ones((2, 3, 4))}, "3 dimension"),
        (triple, {"E": np.ones(3)}, "'layers' has 2 rows, and 'E' 3"),
        (triple, {"layers": np.ones((2, 2))}, "row 0 of 'showers' adds up to 10, and.*to 2"),
        (triple, {"E": np.array([1.0, -1])}, "'E' row 1, column 0 is -1"),
    ],
)
def test_bad_files_are_refused_by_dataset_and_row(tmp_path, make, changes, message):
    path = make(tmp_path / ("a.npz" if make is triple else "a.h5"), **changes)
    with pytest.raises(FormatError, match=message):
        layout_of(path).open(path, 1).read(0, 2)
    assert inspect(path)["problem"]


def test_a_table_of_other_records_is_no_shower(tmp_path):
    path = hdf5(tmp_path / "a.h5", events=np.zeros(3, [("pt", "f4"), ("eta", "f4")]))
    assert known_layout(path) is None
    assert "a table of records (pt, eta), for which there is no reader" in inspect(path)["problem"]


@pytest.fixture
def binning(tmp_path):
    layers = tuple(Layer(i, (0.0, 5.0, 10.0, 20.0), 4) for i in range(2))
    write_geometry(tmp_path / "grid.xml", Geometry(layers, 22, "photon"))
    return tmp_path / "grid.xml"


@pytest.mark.parametrize("to", ["calochallenge", "npz", "showerdata", "lemurs"])
def test_lemurs_comes_back_from_another_layout(tmp_path, binning, to):
    path, other = lemurs(tmp_path / "a.h5"), tmp_path / f"b.{'npz' if to == 'npz' else 'h5'}"
    convert(path, other, to=to, showers=ShowerOptions(binning))
    report = convert(other, tmp_path / "c.h5", to="lemurs", showers=ShowerOptions(binning))
    assert report["energy"] == pytest.approx(1, abs=1e-6)
    ours, theirs = (layout_of(p).open(p, 1).read(0, 2) for p in (tmp_path / "c.h5", path))
    torch.testing.assert_close(ours.x, theirs.x)
    columns = 4 if to in ("showerdata", "lemurs") else 1
    given = [batch.condition[:, :columns] for batch in (ours, theirs)]
    torch.testing.assert_close(*given, atol=1e-6, rtol=1e-6)
    with h5py.File(tmp_path / "c.h5") as file:
        assert file["showers"].shape == (2, 3, 4, 2)


def test_points_fill_cells_and_come_back_from_their_middle(tmp_path, binning):
    path = calohadronic(tmp_path / "a.h5")
    grid = Cells(layers=42, rows=18, columns=31, mm=10.0)
    report = convert(path, tmp_path / "cells.h5", to="ddml", showers=ShowerOptions(cells=grid))
    assert (report["energy"], report["lost"]) == (1.0, ["places of points within their cells"])
    with h5py.File(tmp_path / "cells.h5") as file:
        layers = file["layers"]
        assert (layers.shape, layers.dtype, layers.attrs["unit"]) == ((2, 42, 18, 31), "f4", "MeV")
        assert layers[0, 3, 17, 25] == 500  # y of 20 mm, x of -10 mm
        assert layers[0, 41, 11, 29] == 1500
    batch = open_points(tmp_path / "cells.h5").read(0, 2)
    expected = torch.tensor([[-14.243, 23.673, 3, 500], [25.757, -36.327, 41, 1500]])
    torch.testing.assert_close(batch.x[0], expected, atol=1e-3, rtol=0)
    small = convert(
        path, tmp_path / "small.h5", to="ddml", showers=ShowerOptions(cells=Cells(10, 30, 49, 10.0))
    )
    assert small["lost"][0] == "energy: 25% in layers without voxels (41)"
    with pytest.raises(InputError, match="say the grid, as in --cells"):
        convert(path, tmp_path / "none.h5", to="ddml")


def test_voxels_fill_cells_by_way_of_points(tmp_path, binning):
    path = lemurs(tmp_path / "a.h5")
    report = convert(
        path,
        tmp_path / "c.h5",
        to="ddml",
        showers=ShowerOptions(binning, cells=Cells(2, 18, 28, 5.0)),
    )
    assert report["lost"] == [
        "energy: 37.5% beyond the outermost voxels",
        "points: 1 of 2 lie in no voxel, 0 were added to others of their voxel",
        "angles of incidence: 1 of 2 showers came at an angle, and are placed as if at a right one",
    ]
    batch = open_points(tmp_path / "c.h5").read(0, 2)
    # The first ring, middle at 2.5 mm, and the last sector, middle at 3 pi / 4: -1.77, 1.77.
    expected = torch.tensor([-2.1217, 1.8366, 0, 50])
    torch.testing.assert_close(batch.x[1, 0], expected, atol=1e-3, rtol=0)


def test_a_triple_states_energies_of_layers_and_needs_to_know_them(tmp_path, binning):
    path = lemurs(tmp_path / "a.h5")
    convert(path, tmp_path / "b.npz", showers=ShowerOptions(binning))
    with np.load(tmp_path / "b.npz") as archive:
        assert archive["E"].tolist() == [40, 60]
        assert archive["layers"].tolist() == [[0, 30], [50, 0]]
        assert archive["showers"].shape == (2, 24)
        assert str(archive["converted_from"]) == "a.h5, LEMURS HDF5"
    with pytest.raises(InputError, match="energies of layers need a geometry"):
        convert(path, tmp_path / "c.npz")
    with pytest.raises(InputError, match=r"no layout that is written is called .hgcal."):
        convert(path, tmp_path / "d.h5", to="hgcal")
    assert {file.name for file in tmp_path.iterdir()} == {"a.h5", "b.npz", "grid.xml"}
