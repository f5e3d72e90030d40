"""Showers of points in the layout of the library `showerdata`, and the library's own files."""

import json

import h5py
import numpy as np
import pytest
import torch

from physgen.batch import Batch
from physgen.errors import FormatError, InputError
from physgen.io.inspect import inspect
from physgen.io.layouts import open_points
from physgen.io.showerdata import ShowerdataSource, showerdata_writer

ROWS = [
    [[1, 2, 0, 0.5], [3, 4, 1, 0.25]],
    [[0, 1, 7, 0.125]],
    [],
    [[5, 6, 2, 1.0], [7, 8, 3, 2.0], [9, 10, 4, 4.0]],
]


def write(path, rows=ROWS, **changes):
    """A file as the layout's description says, by hand."""
    n, width = len(rows), max((len(row[0]) for row in rows if row), default=4)
    datasets = {
        "energies": np.arange(1.0, n + 1)[:, None],
        "directions": np.tile([0.0, 0.6, 0.8], (n, 1)),
        "pdg": np.full(n, 22, "i4"),
        "num_points": np.array([len(row) for row in rows], "i4"),
        "shape": np.array([n, max(map(len, rows), default=0), width], "i4"),
    } | changes
    with h5py.File(path, "w") as file:
        lists = file.create_dataset("showers", (n,), h5py.vlen_dtype("f4"))
        for number, row in enumerate(rows):
            lists[number] = np.array(row, "f4").ravel()
        for name, value in datasets.items():
            if value is not None:
                file[name] = value
        file.attrs["showerdata_version"] = "0.7.0"
    return path


def test_points_are_read_in_mev_with_their_mask(tmp_path):
    source = ShowerdataSource(write(tmp_path / "a.h5"))
    batch = source.read(1, 4)
    assert (len(source), source.pdg, source.schema.shape) == (4, 22, (3, 4))
    assert source.schema.names == ("x", "y", "layer", "energy")
    assert batch.mask.tolist() == [[True, False, False], [False] * 3, [True] * 3]
    assert batch.x[0].tolist() == [[0, 1, 7, 125], [0] * 4, [0] * 4]
    assert batch.x[2, :, 3].tolist() == [1000, 2000, 4000]
    names = [variable.name for variable in source.schema.condition]
    assert names == ["incident_energies", "direction_x", "direction_y", "direction_z"]
    given = torch.tensor([[2000, 0, 0.6, 0.8], [3000, 0, 0.6, 0.8], [4000, 0, 0.6, 0.8]])
    assert torch.equal(batch.condition, given)
    assert torch.equal(source.read(0, 99).x[1:], batch.x)


def test_depths_that_are_not_whole_are_lengths_and_times_a_fifth_column(tmp_path):
    rows = [[[1, 2, 0.5, 0.5, 3]], [[1, 2, 7, 0.5, 4]]]
    source = ShowerdataSource(write(tmp_path / "a.h5", rows))
    assert source.schema.names == ("x", "y", "z", "energy", "time")
    assert source.read(0, 2).x[:, 0, 4].tolist() == [3, 4]


def test_units_of_attributes_are_honoured(tmp_path):
    path = write(tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        file["showers"].attrs["unit"] = "MeV"
    batch = ShowerdataSource(path).read(0, 1)
    assert (batch.x[0, 0, 3], batch.condition[0, 0]) == (0.5, 1000)
    with h5py.File(path, "a") as file:
        file["energies"].attrs["unit"] = "mm"
    with pytest.raises(FormatError, match=r"'energies' is in 'mm'; energies are read in eV"):
        ShowerdataSource(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"energies": np.ones((3, 1))}, r"'energies' is \(3, 1\).*has \(4, 1\)"),
        ({"energies": None}, "'energies' does not exist"),
        ({"directions": np.ones((4, 2))}, r"'directions' is \(4, 2\)"),
        ({"shape": np.array([9, 3, 4])}, r"'shape' is \[9, 3, 4\].*\[4, most points, 4 or 5\]"),
        ({"shape": np.array([4, 3, 6])}, r"'shape' is \[4, 3, 6\]"),
        ({"num_points": np.array([2, 1, 0, -3])}, "'num_points' row 3 is -3"),
        ({"num_points": np.array([2, 1, 0, 10**9])}, "'num_points' row 3 is 1000000000"),
        ({"num_points": np.array([2, 1, 0, 2])}, "row 3 holds 12 numbers.*says 2 points of 4"),
        ({"rows": [[[1, 2, 0, 0.0]]] * 4}, "row 0, point 0 has no energy, and 'num_points' counts"),
        ({"rows": [ROWS[0], [[1, 2, 0, -1]]]}, "row 1, point 0 has the energy -1"),
        ({"rows": [ROWS[3], [[1, np.nan, 0, 1]]]}, "'showers': row 1 holds nan"),
        ({"rows": []}, "holds no showers"),
    ],
)
def test_bad_files_are_refused_by_dataset_and_row(tmp_path, changes, message):
    with pytest.raises(FormatError, match=message):
        ShowerdataSource(write(tmp_path / "a.h5", **changes))


@pytest.mark.parametrize(
    ("energy", "message"),
    [(0.0, "'energies' row 2, column 0 is 0;"), (np.nan, "'energies': row 2 holds nan")],
)
def test_particles_without_energy_are_refused_on_reading(tmp_path, energy, message):
    source = ShowerdataSource(
        write(tmp_path / "a.h5", energies=np.array([[1], [1], [energy], [1]]))
    )
    source.read(0, 2)
    with pytest.raises(FormatError, match=message):
        source.read(1, 4)


def test_a_file_without_the_energies_of_particles_is_known_and_refused(tmp_path):
    path = write(tmp_path / "a.h5", energies=None)
    with pytest.raises(FormatError, match="'energies' does not exist"):
        open_points(path)
    assert "'energies' does not exist" in inspect(path)["problem"]


def test_a_file_of_another_layout_is_refused(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = np.ones(3)
    with pytest.raises(FormatError, match=r"holds no showers in a layout.*showerdata HDF5"):
        open_points(tmp_path / "a.h5")


def test_what_is_written_reads_back_and_no_half_file_is_left(tmp_path):
    batch = ShowerdataSource(write(tmp_path / "a.h5")).read(0, 4)
    path = tmp_path / "b.h5"
    with showerdata_writer(path, 4, pdg=22, facts={"recipe": "x"}) as append:
        append(batch[:1])
        append(batch[1:])
    again = ShowerdataSource(path)
    assert again.pdg == 22
    assert torch.equal(again.read(0, 4).x, batch.x)
    assert torch.equal(again.read(0, 4).condition, batch.condition)
    assert again.digest() == ShowerdataSource(tmp_path / "a.h5").digest()
    with h5py.File(path) as file:
        assert file.attrs["recipe"] == "x"
        assert file["shape"][()].tolist() == [4, 3, 4]
        assert file["shower_ids"][()].tolist() == [0, 1, 2, 3]
    with (
        pytest.raises(InputError, match="need a mask"),
        showerdata_writer(tmp_path / "c.h5", 4) as append,
    ):
        append(Batch(batch.x))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.h5", "b.h5"]


def test_weights_are_read_again_and_all_showers_have_them_or_none(tmp_path):
    batch = ShowerdataSource(write(tmp_path / "a.h5")).read(0, 4)
    assert batch.weight is None
    batch = batch.replace(weight=torch.tensor([0.5, -1.0, 2.0, 3.0]))
    with showerdata_writer(tmp_path / "b.h5", 4) as append:
        append(batch[:1])
        append(batch[1:])
    again = open_points(tmp_path / "b.h5").read(1, 4)
    assert again.weight.tolist() == [-1.0, 2.0, 3.0]
    assert torch.equal(again.x, batch.x[1:])
    without = batch.replace(weight=None)
    for first, second in ((batch, without), (without, batch)):
        with showerdata_writer(tmp_path / "c.h5", 4, overwrite=True) as append:
            append(first)
            with pytest.raises(FormatError, match="same columns; weight came or went"):
                append(second)


def test_files_of_the_library_itself(tmp_path):
    showerdata = pytest.importorskip("showerdata")
    generator = np.random.default_rng(0)
    points = generator.uniform(0.1, 1, (20, 9, 5)).astype("f4")
    points[..., 2] = generator.integers(0, 30, (20, 9))
    counts = generator.integers(1, 10, 20)
    points[np.arange(9) >= counts[:, None]] = 0
    energies = generator.uniform(10, 90, (20, 1)).astype("f4")
    theirs = showerdata.Showers(points, energies, 211, num_points=counts)
    theirs.save(tmp_path / "theirs.h5")
    source = ShowerdataSource(tmp_path / "theirs.h5")
    batch = source.read(0, 20)
    assert (source.pdg, source.schema.names[4]) == (211, "time")
    assert batch.mask.sum(1).tolist() == counts.tolist()
    most = counts.max()
    np.testing.assert_allclose(batch.x[..., 3], 1000 * points[:, :most, 3], rtol=1e-6)
    with showerdata_writer(tmp_path / "ours.h5", 5, pdg=211) as append:
        append(batch.replace(weight=torch.ones(20)))
    ours = showerdata.load(tmp_path / "ours.h5")
    assert ours.points.shape == (20, most, 5)
    np.testing.assert_allclose(ours.points, points[:, :most], rtol=1e-6)
    np.testing.assert_allclose(ours.energies, energies, rtol=1e-6)
    assert (ours.pdg == 211).all()
    assert (ours.directions == theirs.directions).all()


def test_inspect_describes_points_and_compares_energies(tmp_path):
    report = inspect(write(tmp_path / "a.h5"))
    json.dumps(report, allow_nan=False)
    assert (report["format"], report["reader"], report["problem"]) == (
        "showerdata HDF5",
        "yes",
        None,
    )
    shown = report["showers"]
    assert (shown["showers"], shown["points"]["high"]) == (4, 3)
    assert (shown["layer"]["high"], shown["energy"]["high"], shown["energy"]["unit"]) == (
        7,
        4000,
        "MeV",
    )
    assert shown["median of E_tot/E_inc"] == pytest.approx((0.0625 + 0.75) / 2, rel=1e-3)
    empty, judge = report["hints"]
    assert empty == "1 of 4 showers have no energy at all, the first in row 2"
    assert f"physgen validate GENERATED --against {tmp_path / 'a.h5'}" in judge
    hollow = inspect(write(tmp_path / "d.h5", [[], []]))
    assert "2 of 2 showers have no energy at all, the first in row 0" in hollow["problem"]
    mixed = inspect(write(tmp_path / "b.h5", energies=np.full((4, 1), 2e-3)))
    assert "deposit 219 times the energy of their particle" in mixed["problem"]
    mixed = inspect(write(tmp_path / "c.h5", energies=np.full((4, 1), 2000.0)))
    assert "deposit 0.000219 of the energy of their particle" in mixed["problem"]
    assert "attribute `unit`" in mixed["problem"]


def test_inspect_names_the_first_row_that_cannot_be_read(tmp_path):
    report = inspect(write(tmp_path / "a.h5", energies=np.array([[1], [1], [0], [1]])))
    assert "'energies' row 2, column 0 is 0" in report["problem"]
    broken = inspect(write(tmp_path / "b.h5", num_points=np.array([2, 1, 0, -3])))
    assert broken["reader"] == "no"
    assert "'num_points' row 3 is -3" in broken["problem"]


def test_a_code_of_no_particle_is_refused(tmp_path):
    path = write(tmp_path / "s.h5", pdg=np.array([22, 999_999, 22, 22], "i4"))
    with pytest.raises(FormatError, match="'pdg' row 1 is 999999, the code of no particle"):
        ShowerdataSource(path)
    for code in (0, -211, 1_000_060_120):
        path = write(tmp_path / f"{code}.h5", pdg=np.full(4, code, "i4"))
        assert ShowerdataSource(path).pdg == code
