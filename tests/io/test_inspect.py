import json
import pickle
import shlex
import struct
import subprocess
import sys
import zipfile

import awkward as ak
import h5py
import numpy as np
import pytest
import torch
import uproot
import yaml

from physgen.batch import Batch, Schema, Variable
from physgen.errors import FormatError
from physgen.io import inspect_branches
from physgen.io.inspect import inspect
from physgen.io.statistics import Statistics
from physgen.io.writer import hdf5_writer
from physgen.systems.family import family
from physgen.systems.ising import Ising
from physgen.systems.potts import Potts


def look(path):
    found = inspect(path)
    json.dumps(found, allow_nan=False)
    return found


def hints(found):
    return "\n".join(found["hints"])


def test_calochallenge_files(tmp_path):
    showers = np.zeros((50, 368), "f4")
    showers[:, ::4] = 3.0
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["incident_energies"] = np.full((50, 1), 65536.0)
        file.create_dataset("showers", data=showers, compression="gzip", chunks=(50, 16))
    found = look(tmp_path / "a.hdf5")
    assert found["format"] == "CaloChallenge HDF5"
    assert found["problem"] is None
    described = found["contents"]["showers"]
    assert described["shape"] == [50, 368]
    assert (described["unit"], described["low"], described["high"]) == ("MeV", 0, 3)
    assert described["zeros"] == 0.75
    assert "public CaloChallenge set 1, photons" in hints(found)
    assert "data.binning=" in hints(found)
    assert "h5repack -l showers:CHUNK=1024x368" in hints(found)
    with h5py.File(tmp_path / "a.hdf5", "a") as file:
        file["showers"][3, 5] = -1
        file["incident_energies"][:] = 65.5
    found = look(tmp_path / "a.hdf5")
    assert "row 3, column 5 is -1; energies must be finite and not negative" in found["problem"]
    assert "are they GeV?" in hints(found)


@pytest.mark.parametrize(
    ("low", "said"), [(0, "spins are 0/1"), (-1, "lattice of 4x4"), (-2, "not Ising spins")]
)
def test_spin_files(tmp_path, low, said):
    samples = np.where(np.arange(1600).reshape(100, 16) % 3 == 0, low, 1)
    with h5py.File(tmp_path / "my spins.h5", "w") as file:
        file["samples"] = samples
        file.attrs["temperature"] = 2.5
    found = look(tmp_path / "my spins.h5")
    assert "rbms style" in found["format"]
    assert found["problem"] is None
    assert said in hints(found)
    assert found["contents"]["samples"]["values"] == sorted({low, 1})
    if low != -2:
        path = f"data.path={tmp_path / 'my spins.h5'}"
        words = shlex.split(found["hints"][-1].partition("ising-rbm ")[2])
        assert words == [path, "system.shape=[4,4]", "system.temperature=2.5"]


def test_spins_of_other_bonds_and_potts_spins(tmp_path):
    system = Ising(shape=(4, 4), lattice="triangular", disorder=3)
    with system.writer(tmp_path / "glass.h5", 200) as append:
        append(system.simulate(200, 1))
    words = shlex.split(look(tmp_path / "glass.h5")["hints"][-1].partition("ising-rbm ")[2])
    assert words[-2:] == ["system.disorder=3", "system.lattice=triangular"]
    potts = Potts(shape=(3, 3, 3), q=5, lattice="cubic")
    with potts.writer(tmp_path / "potts.h5", 200) as append:
        append(potts.simulate(200, 1))
    found = look(tmp_path / "potts.h5")
    assert "Potts" in found["format"]
    assert found["problem"] is None
    assert found["hints"][-1].startswith("system.kind=potts system.q=5 system.shape=[3,3,3]")
    with h5py.File(tmp_path / "potts.h5", "r+") as file:
        file["samples"][7, 2] = 5
    assert "row 7 holds 5 where spins of q = 5" in look(tmp_path / "potts.h5")["problem"]


def test_a_scan_of_temperatures_is_said(tmp_path):
    scan = family(Ising, {"shape": (4, 4), "temperature": (2.0, 2.5)})
    with scan.writer(tmp_path / "scan.h5", 200) as append:
        append(scan.simulate(200, 1))
    assert "system.temperature=[2,2.5]" in hints(look(tmp_path / "scan.h5"))
    assert len(scan.open(tmp_path / "scan.h5")) == 200


def test_spins_of_three_values_are_a_problem_of_a_row(tmp_path):
    samples = np.where(np.arange(160).reshape(10, 16) % 3 == 0, -1, 1)
    samples[6, 2] = 0
    with h5py.File(tmp_path / "spins.h5", "w") as file:
        file["samples"] = samples
    problem = look(tmp_path / "spins.h5")["problem"]
    assert "dataset 'samples': row 6 holds 0" in problem
    assert "-1, 0 and 1 all occur" in problem


@pytest.mark.parametrize("declared", [None, "bernoulli"])
def test_spins_that_the_reader_refuses_are_not_proposed(tmp_path, declared):
    potts = np.random.default_rng(0).integers(0, 21, (500, 16))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["samples"] = potts if declared is None else np.where(potts > 9, -1, 1)
        if declared:
            file["variable_type"] = declared
    found = look(tmp_path / "a.h5")
    assert "ising-rbm" not in hints(found)
    if declared is None:
        assert "not Ising spins" in hints(found)
    else:
        assert "row 0 holds -1 where spins are 0 or 1" in found["problem"]


def test_tables_of_records_and_lists_have_no_reader_and_it_is_said_why(tmp_path):
    with h5py.File(tmp_path / "records.h5", "w") as file:
        file["df/table"] = np.zeros(200, [("index", "i8"), ("pt", "f4")])
    with h5py.File(tmp_path / "lists.h5", "w") as file:
        file.create_dataset("hits", (200,), h5py.vlen_dtype("f4"))
    for name, said in (
        ("records.h5", "a table of records (index, pt), for which there is no reader; write its"),
        ("lists.h5", "holds lists of unequal length, for which there is no reader"),
    ):
        found = look(tmp_path / name)
        assert found["reader"] == "no"
        assert said in found["problem"]
        assert found["hints"] == []


def test_columns_of_hdf5_are_proposed_as_they_are_read(tmp_path):
    rows = np.random.default_rng(0).normal(size=200)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["pt"], file["ev/eta"], file["weight"] = rows, rows + 1, rows**2
        file["none"], file["names"] = h5py.Empty("f4"), np.array(["a"], "S1")
        file["pt"].attrs["scale_factor"] = 0.5
        file["pt"].attrs["unit"] = "GeV"
    found = look(tmp_path / "a.h5")
    assert found["problem"] is None
    assert found["contents"]["pt"]["unit"] == "GeV"
    assert found["contents"]["pt"]["high"] == pytest.approx(rows.max() / 2, rel=1e-5)
    assert "holds nothing" in found["contents"]["none"]["not read"]
    proposed = next(text for text in found["hints"] if "train on" in text)
    words = shlex.split(proposed.partition("events-flow ")[2])
    assert words == [f"data.path={tmp_path / 'a.h5'}", "data.fields=[ev/eta,pt]"]


@pytest.mark.parametrize("shape", [(50, 368), (50, 5, 4)])
def test_a_geometry_is_proposed_only_if_there_is_one(tmp_path, shape):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["incident_energies"] = np.full((50, 1), 65536.0)
        file["showers"] = np.ones(shape, "f4")
    found = look(tmp_path / "a.h5")
    assert ("data.binning=calo-368.xml" in hints(found)) == (len(shape) == 2)
    if len(shape) == 3:
        assert "not known which axis is which" in found["problem"]


def test_a_binning_is_no_table_of_text(tmp_path):
    path = tmp_path / "binning.xml"
    path.write_text("<Bins>\n</Bins>\n")
    found = inspect(path)
    assert found["format"] == "XML"
    assert found["hints"] == ["binning of showers? it goes with them, data.binning=FILE"]


def test_files_of_arrays_are_looked_at_without_what_computes_with_them(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["samples"] = np.ones((200, 16), "i1")
    code = (
        "import sys; from pathlib import Path; from physgen.io.inspect import inspect; "
        "print(inspect(Path(sys.argv[1]))['hints']); "
        "print({'torch', 'uproot', 'awkward', 'pydantic', 'scipy'} & set(sys.modules))"
    )
    said = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.h5")],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert "ising-rbm" in said[0]
    assert said[1] == "set()"


def test_what_physgen_wrote_has_units(tmp_path):
    schema = Schema((2,), (Variable("e", "MeV"),), (Variable("theta", "rad"),))
    with hdf5_writer(tmp_path / "a.h5", schema=schema) as append:
        append(Batch(torch.rand(9, 2), condition=torch.rand(9, 1)))
    found = look(tmp_path / "a.h5")
    assert found["variables"] == {"e": "MeV"}
    assert found["conditions"] == {"theta": "rad"}


def test_first_problem_is_named_and_the_rest_is_still_described(tmp_path):
    x = np.zeros((40, 3))
    x[7, 1], x[9, 0], x[9, 2] = np.nan, np.inf, -np.inf
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["deep/x"] = x
        file["none"] = np.zeros((0, 3))
        file.create_dataset("huge", (10**12, 1000), "f4", chunks=(1, 1000))
        file["away"] = h5py.ExternalLink("other.h5", "x")
    found = look(tmp_path / "a.h5")
    assert "dataset 'deep/x': row 7 holds NaN or infinity" in found["problem"]
    assert (found["contents"]["deep/x"]["nan"], found["contents"]["deep/x"]["inf"]) == (1, 2)
    assert "declares shape" in found["contents"]["huge"]["not read"]
    assert "away" not in found["contents"]


def test_truncated_and_damaged_files_are_problems_not_crashes(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset(
            "x", data=np.random.default_rng(0).random((64, 8)), chunks=(16, 8), fletcher32=True
        )
        place = file["x"].id.get_chunk_info(1).byte_offset
    content = bytearray(path.read_bytes())
    (tmp_path / "cut.h5").write_bytes(content[:1000])
    content[place] ^= 1
    path.write_bytes(content)
    assert "cut short" in look(tmp_path / "cut.h5")["problem"]
    assert "damaged" in look(path)["problem"]


def test_root_files_say_types_weights_and_events():
    data_path = pytest.importorskip("skhep_testdata").data_path
    found = look(data_path("uproot-Zmumu.root"))
    branches = found["contents"]["events"]["branches"]
    assert found["format"] == "ROOT TTree"
    assert found["contents"]["events"]["entries"] == 2304
    assert branches["Q1"]["values"] == [-1, 1]
    assert "text" in branches["Type"]["not read"]
    assert "2304 rows of 500 events" in hints(found)
    assert "'data.group=[Run,Event]'" in hints(found)
    assert "'data.fields=[E1,px1,py1,pz1]'" in hints(found)
    found = look(data_path("uproot-HZZ.root"))
    assert found["contents"]["events"]["branches"]["Muon_Px"]["jagged"] == "lists"
    assert "data.weight=EventWeight" in hints(found)
    found = look(data_path("uproot-from-geant4.root"))
    assert "4808 rows of 453 events" in hints(found)
    assert "'data.fields=[Energy,Laystrip]'" in hints(found)
    assert "Details" not in hints(found)
    assert "sentinel" not in hints(found)
    tracks = hints(look(data_path("uproot-issue96.root")))
    assert "'system.collections=[jet1TrksP4,jet2TrksP4]' 'system.jets=[jet1P4,jet2P4]'" in tracks
    assert "is empty" in look(data_path("uproot-empty.root"))["problem"]
    assert "no tree in this file, only TH1F" in look(data_path("uproot-histograms.root"))["problem"]


def test_columns_to_train_on_vary_measure_something_and_are_quoted(tmp_path):
    rows = np.arange(200)
    flat = {
        "Run": rows // 100,
        "Event": rows * 1.0,
        "trackIndex": rows,
        "nHit": rows % 3,
        "always": np.ones(200),
        "hole": np.where(rows == 3, np.nan, rows),
        "gen_weight": rows / 200,
        "flag": rows % 2 == 0,
    }
    hits = ak.unflatten(np.arange(1000.0), np.full(200, 5))
    jagged = {"Hit_x": hits, "Hit_on": ak.values_astype(hits, "int32"), "Cell_e": hits}

    def proposed(name, columns):
        with uproot.recreate(tmp_path / name) as file:
            types = {k: getattr(v, "dtype", None) or v.type.content for k, v in columns.items()}
            file.mktree("a tree", types).extend(columns)
        said = [text for text in look(tmp_path / name)["hints"] if "train on" in text]
        return [shlex.split(text.partition("events-flow ")[2]) for text in said]

    ((path, tree, fields),) = proposed("a file.root", {**flat, **jagged, "y": rows, "p": rows / 3})
    assert path == f"data.path={tmp_path / 'a file.root'}"
    assert tree == "data.tree=a tree"
    assert yaml.safe_load(fields.removeprefix("data.fields=")) == ["p", "y"]
    ((*_, most, fields),) = proposed("jagged.root", {**flat, **jagged})
    assert (fields, most) == ("data.fields=[Hit_x,Hit_on]", "system.max_items=4")
    del flat["nHit"]  # Without the hits it counts something else.
    assert proposed("nothing.root", flat) == []
    assert proposed("short.root", {"p": rows[:5] / 3}) == []


def test_rntuple_sentinels_and_nan_in_root(tmp_path):
    with uproot.recreate(tmp_path / "a.root") as file:
        file.mkrntuple("ntuple", {"pt": np.array([1.0, -999.0, np.nan])})
    found = look(tmp_path / "a.root")
    assert found["format"] == "ROOT RNTuple"
    assert "reaches exactly -999: a sentinel" in hints(found)
    assert "branch 'pt' row 2 holds NaN" in found["problem"]


class Trap:
    def __reduce__(self):
        return print, ("a pickle was run",)


def test_pickles_are_refused_and_not_run(tmp_path, capsys):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(Trap(), protocol=4))
    torch.save({"w": torch.zeros(2)}, tmp_path / "a.pt")
    np.savez(tmp_path / "a.npz", x=np.array([Trap()], dtype=object), y=np.arange(3))
    for name in ("a.pkl", "a.pt"):
        found = look(tmp_path / name)
        assert found["reader"] == "refused"
        assert "can run anything" in found["problem"]
    found = look(tmp_path / "a.npz")
    assert "array 'x' holds Python objects" in found["problem"]
    assert found["contents"]["y"]["high"] == 2
    assert capsys.readouterr().out == ""


def test_other_files_are_told_apart(tmp_path):
    giant = struct.pack("<Q", 2**40) + b'{"a":'
    for name, content, kind, problem in (
        ("a.safetensors", giant, "safetensors", "declares a header of 1099511627776 bytes"),
        ("b.safetensors", struct.pack("<Q", 2) + b"{}", "safetensors", None),
        ("a.csv", b"1,2\n3,4\n", "text", None),
        ("a.json", b'{"a": 1}', "JSON", None),
        ("a.gz", b"\x1f\x8b\x08\0\0\0", "gzip", None),
        ("a.bin", bytes(range(256)), "unknown", "not a format that physgen knows"),
        ("a.h5", b"", "empty", "the file is empty"),
        ("one.h5", b"x", "unknown", "though it is named .h5: cut short, or damaged"),
        ("one.root", b"ro", "unknown", "though it is named .root: cut short, or damaged"),
        ("a.npy", b"\x93NUMPY\x01\0", "NumPy array", None),
        ("a.npz", b"PK\x03\x04 cut", "zip archive", "cut short, damaged"),
    ):
        (tmp_path / name).write_bytes(content)
        found = look(tmp_path / name)
        assert found["format"] == kind
        assert (found["problem"] is None) == (problem is None)
        assert (problem or "") in (found["problem"] or "")
    with zipfile.ZipFile(tmp_path / "slip.zip", "w") as archive:
        archive.writestr("../../outside.txt", "x")
    assert look(tmp_path / "slip.zip")["reader"] == "no"
    assert not (tmp_path.parent.parent / "outside.txt").exists()
    with pytest.raises(FormatError, match=r"no such file; did you mean 'a\.csv'"):
        inspect(tmp_path / "a.cvs")
    with pytest.raises(FormatError, match="is a directory"):
        inspect(tmp_path)


@pytest.mark.parametrize("order", "<>")
def test_gauge_configurations_are_recognised_by_their_magic(tmp_path, order):
    path = tmp_path / "conf"
    path.write_bytes(struct.pack(f"{order}5i", 20103, 4, 4, 4, 8) + bytes(100))
    assert "MILC gauge configuration header of 8x4x4x4" in look(path)["problem"]
    path.write_bytes(struct.pack("<4id", 8, 4, 4, 4, 1.5) + bytes(512 * 576))
    assert look(path)["format"] == "openQCD gauge configuration"
    assert look(path)["contents"]["dimensions (x, y, z, t)"] == [4, 4, 4, 8]
    path.write_bytes(b"BEGIN_HEADER\nDATATYPE = 4D_SU3_GAUGE\nEND_HEADER\n" + bytes(9))
    assert "the NERSC header has no FLOATING_POINT" in look(path)["problem"]
    path.write_bytes(bytes.fromhex("456789ab") + bytes(12) + b"ildg-format" + bytes(200))
    assert "LIME record 1 (after 'ildg-format', at byte 144)" in look(path)["problem"]


def test_a_range_is_shown_that_six_digits_do_not_tell_apart():
    times = Statistics()
    times.update(1.7e9 + np.array([0.25, 40.0]))
    assert times.to_dict() | {"values": None} == {
        "low": 1.7e9 + 0.25,
        "high": 1.7e9 + 40,
        "values": None,
    }


def test_an_archive_with_no_array_that_can_be_read_has_no_reader(tmp_path):
    np.savez_compressed(tmp_path / "bomb.npz", x=np.zeros(2**28, "u1"))
    found = look(tmp_path / "bomb.npz")
    assert found["reader"] == "no"
    assert "made to exhaust the memory" in found["problem"]


def test_statistics_do_not_depend_on_the_blocks():
    values = np.random.default_rng(0).integers(-3, 4, (100, 5)).astype("f4")
    values[60, 2] = np.nan
    whole, parts = Statistics(), Statistics()
    whole.update(values)
    for start in range(0, 100, 7):
        parts.update(values[start : start + 7], start)
    assert whole == parts
    assert whole.first_bad_row == 60
    assert whole.to_dict()["values"] == [-3, -2, -1, 0, 1, 2, 3]
    whole.update(np.arange(100.0))
    assert "values" not in whole.to_dict()


def long_tree(path, n=60_000):
    x, y = np.zeros(n, "f4"), np.ones(n, "f4")
    x[-1], y[-1] = 1000.0, np.nan
    with uproot.recreate(path) as file:
        file.mktree("events", {"x": "f4", "y": "f4"}).extend({"x": x, "y": y})
    return path


def test_all_rows_of_a_long_tree_are_looked_at(tmp_path):
    found = look(long_tree(tmp_path / "long.root"))
    branches = found["contents"]["events"]["branches"]
    assert branches["x"]["high"] == 1000
    assert branches["y"]["nan"] == 1
    assert "branch 'y' row 59999 holds NaN" in found["problem"]


def test_of_a_tree_too_large_to_read_it_is_said_what_was_looked_at(tmp_path, monkeypatch):
    monkeypatch.setattr(inspect_branches, "BYTES_READ", 48_000)
    events = look(long_tree(tmp_path / "long.root"))["contents"]["events"]
    assert events["looked at"].endswith("of 60000 entries, in 16 blocks")
    assert events["branches"]["x"]["high"] == 1000
