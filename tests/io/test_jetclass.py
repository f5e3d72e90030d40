"""Files with the columns of JetClass, as the libraries write them, are jets."""

import awkward as ak
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uproot

from physgen.errors import FormatError
from physgen.io.inspect import inspect
from physgen.io.jetclass import LABELS
from physgen.systems.base import open_files
from physgen.systems.jets import Jets


def jets():
    """Return two jets at pT of 500 and 1000 GeV, of 3 and 1 particles, not in the order of pT."""
    return {
        "part_deta": [[0.1, -0.1, 0.2], [0.0]],
        "part_dphi": [[0.0, 0.3, 0.1], [0.5]],
        "part_px": [[30.0, 300.0, 100.0], [600.0]],
        "part_py": [[40.0, 0.0, 0.0], [-800.0]],
        "jet_pt": [500.0, 1000.0],
        "jet_eta": [0.0, 1.0],
        "jet_energy": [502.0, 1600.0],
        "jet_nparticles": [3, 1],
    }


def write(path, columns):
    if path.suffix == ".root":
        with uproot.recreate(path) as file:
            file["tree"] = {n: ak.Array(v) for n, v in columns.items()}
    else:
        pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize("name", ["a.parquet", "a.root"])
def test_momenta_are_relative_and_ordered(tmp_path, name):
    path = write(tmp_path / name, jets())
    batch = Jets(condition=("mass", "num_particles"), particles=4).open(path).read(0, 2)
    assert batch.mask.tolist() == [[True, True, True, False], [True, False, False, False]]
    first = [[-0.1, 0.3, 0.6], [0.2, 0.1, 0.2], [0.1, 0.0, 0.1], [0.0, 0.0, 0.0]]
    assert batch.x[0].numpy() == pytest.approx(np.array(first))
    assert batch.x[1, 0].tolist() == pytest.approx([0.0, 0.5, 1.0])
    mass = [np.sqrt(502.0**2 - 500.0**2), np.sqrt(1600.0**2 - (1000 * np.cosh(1.0)) ** 2)]
    assert batch.condition.numpy() == pytest.approx(
        np.array([[mass[0], 3], [mass[1], 1]]), rel=1e-5
    )
    report = inspect(path)
    assert (report["format"], report["reader"]) == ("jets as in JetClass", "yes")


def test_the_hardest_particles_are_kept_and_this_is_said(tmp_path):
    source = Jets(particles=2).open(write(tmp_path / "a.parquet", jets()))
    assert source.read(0, 1).x[0, :, 2].tolist() == pytest.approx([0.6, 0.2])
    assert "jets of up to 3 particles, of which those of largest pT" in source.notes()[0]


def test_files_of_both_formats_are_one_sample(tmp_path):
    write(tmp_path / "a.parquet", jets())
    write(tmp_path / "b.root", jets())
    source = open_files(Jets(), [str(tmp_path / "a.parquet"), str(tmp_path / "b.root")])
    assert source.schema.shape == (128, 3)
    assert (source.read(0, 2).x == source.read(2, 4).x).all()


def test_faults_are_named(tmp_path):
    with pytest.raises(FormatError, match=r"row 1 has jet_pt = 0"):
        Jets().open(write(tmp_path / "a.parquet", {**jets(), "jet_pt": [500.0, 0.0]})).read(0, 2)
    without = {name: column for name, column in jets().items() if name != "part_deta"}
    with pytest.raises(FormatError, match="no column 'part_deta'"):
        Jets().open(write(tmp_path / "b.parquet", without))


def test_labels_are_classes(tmp_path):
    labels = {f"label_{name}": [0.0, 0.0] for name in LABELS}
    labels |= {"label_Hbb": [0.0, 1.0], "label_Tbl": [1.0, 0.0]}
    path = write(tmp_path / "a.parquet", {**jets(), **labels})
    source = Jets(condition=("class", "num_particles")).open(path)
    assert source.schema.condition[0].classes == LABELS
    assert source.read(0, 2).condition.tolist() == [[9, 3], [1, 1]]
    path = write(tmp_path / "b.parquet", {**jets(), **labels, "label_QCD": [0.0, 1.0]})
    with pytest.raises(FormatError, match=r"row 1 has label_QCD, label_Hbb.* = 1, 1, 0"):
        Jets(condition=("class",)).open(path).read(0, 2)
