from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import torch
import uproot

from physgen.batch import Batch, Schema, Variable
from physgen.errors import FormatError
from physgen.io.branches import BranchSource
from physgen.io.source import blocks
from physgen.io.split import repeats, split
from physgen.io.trees import Tree
from physgen.io.writer import root_writer

skhep_testdata = pytest.importorskip("skhep_testdata")


def data(name):
    return skhep_testdata.data_path(name)


MUONS = ("Muon_Px", "Muon_Py", "Muon_Charge")


def make(path, jagged=((1.0, 2.0), (), (3.0,)), other=None, kind="f4"):
    arrays = {
        "event": np.arange(len(jagged), dtype="i8"),
        "energy": np.arange(len(jagged), dtype=kind),
        "weight": np.linspace(-1, 1, len(jagged)),
        "hits": ak.values_astype(ak.Array([list(row) for row in jagged]), "float32"),
    }
    arrays["times"] = arrays["hits"] if other is None else ak.Array(other)
    with uproot.recreate(path) as file:
        types = {k: getattr(v, "dtype", None) or v.type.content for k, v in arrays.items()}
        file.mktree("events", types).extend(arrays)
    return path


def test_flat_branches_become_columns_with_their_types():
    fields = ("met", "njets", "pT_lep1")
    source = BranchSource(
        data("uproot-issue63.root"), "WtLoop_nominal", fields, weight="weight_nominal"
    )
    with uproot.open(data("uproot-issue63.root")) as file:
        arrays = file["WtLoop_nominal"].arrays([*fields, "weight_nominal"], library="np")
    batch = source.read(0, len(source))
    assert len(source) == 9812
    for column, name in enumerate(fields):
        np.testing.assert_array_equal(batch.x[:, column], arrays[name])
        assert source.schema.variables[column].dtype == arrays[name].dtype.name
    assert torch.allclose(batch.weight, torch.from_numpy(arrays["weight_nominal"]), atol=0)
    assert source.schema.variables[1].domain == "integer"


@pytest.mark.parametrize("name", ["uproot-HZZ.root", "uproot-HZZ-lz4.root"])
def test_jagged_branches_are_padded_and_masked(name):
    source = BranchSource(data(name), fields=MUONS)
    batch = source.read(0, len(source))
    with uproot.open(data(name)) as file:
        px = file["events"]["Muon_Px"].array()
    assert source.longest == int(ak.max(ak.num(px))) == source.schema.shape[0]
    assert (source.truncated_rows, source.truncated_items) == (0, 0)
    assert (~batch.mask.any(1)).sum() == 59
    assert batch.x[..., 0][batch.mask].tolist() == ak.flatten(px).to_list()
    assert (batch.x[~batch.mask] == 0).all()
    assert source.schema.variables[2].domain == "integer"


def test_what_is_truncated_is_counted():
    source = BranchSource(data("uproot-HZZ.root"), "events", MUONS, max_items=2)
    with uproot.open(data("uproot-HZZ.root")) as file:
        counts = ak.num(file["events"]["Muon_Px"].array()).to_numpy()
    assert source.truncated_rows == (counts > 2).sum() > 0
    assert source.truncated_items == (counts - 2).clip(0).sum()
    batch = source.read(0, len(source))
    assert batch.x.shape == (2421, 2, 3)
    assert batch.mask.sum() == counts.clip(max=2).sum()


@pytest.mark.parametrize("fields", [MUONS, ("NMuon", "NJet")])
def test_any_cut_into_ranges_gives_the_same_rows(fields):
    whole = BranchSource(data("uproot-HZZ.root"), "events", fields)
    cut = BranchSource(data("uproot-HZZ.root"), "events", fields, step_size=10_000)
    assert cut.block < 1000
    assert torch.equal(Batch.concatenate(list(blocks(cut))).x, whole.read(0, len(whole)).x)
    assert whole.digest() == cut.digest()
    assert torch.equal(cut.read(17, 23).x, whole.read(0, 2421).x[17:23])


def test_rows_of_one_event_share_a_key_and_stay_together():
    source = BranchSource(
        data("uproot-Zmumu.root"), "events", ("pt1", "pt2"), group=("Run", "Event")
    )
    keys = source.keys()
    found = repeats(source)
    assert (len(keys), found.groups) == (2304, 500)
    assert found.complete
    parts = split(len(source), keys=keys, seed=3)
    assert not set(keys[parts.train]) & set(keys[parts.test])
    alone = BranchSource(data("uproot-Zmumu.root"), "events", ("pt1", "pt2"))
    assert alone.keys() is None
    assert alone.suspected_group() == ("Run", "Event")
    assert source.suspected_group() == ()


def test_rntuple_reads_like_a_tree(tmp_path):
    path = tmp_path / "ntuple.root"
    hits = ak.values_astype(ak.Array([[1.0, 2.0], [], [3.0]]), "float32")
    with uproot.recreate(path) as file:
        file.mkrntuple("events", {"n": np.arange(3, dtype="i4"), "hits": hits})
    source = BranchSource(path, fields=("hits",))
    assert source.read(0, 3).x[..., 0].tolist() == [[1, 2], [0, 0], [3, 0]]
    assert BranchSource(path, fields=("n",)).schema.variables[0].dtype == "int32"


def test_files_follow_each_other_and_must_agree(tmp_path):
    first = make(tmp_path / "a.root")
    second = make(tmp_path / "b.root", jagged=((7.0, 8.0, 9.0),))
    source = BranchSource([first, second], fields=("hits",), group=("event",), weight="weight")
    assert len(source) == 4
    batch = source.read(2, 4)
    assert batch.x[..., 0].tolist() == [[3, 0, 0], [7, 8, 9]]
    assert len(source.keys()) == 4
    with pytest.raises(FormatError, match=r"'energy' is int16, in .*a\.root it is float32"):
        BranchSource([first, make(tmp_path / "c.root", kind="i2")], fields=("energy",))


def test_members_of_objects_are_reached_by_dots():
    path = data("uproot-issue96.root")
    source = BranchSource(path, "tree", ("jet1P4.fE", "jet1P4.fP.fX"))
    assert source.schema.names == ("jet1P4.fE", "jet1P4.fP.fX")
    assert (source.read(0, 10).x[:, 0] > 0).all()
    with pytest.raises(FormatError, match=r"'jet1P4' holds objects; name a member; .*'jet1P4\.fE'"):
        BranchSource(path, "tree", ("jet1P4",))
    with pytest.raises(FormatError, match="no member 'fQ'"):
        BranchSource(path, "tree", ("jet1P4.fQ",))


def test_empty_trees_have_no_rows_but_a_schema():
    source = BranchSource(data("uproot-empty.root"), fields=("x", "y"))
    assert len(source) == 0
    assert [v.dtype for v in source.schema.variables] == ["int32", "float64"]
    assert source.read(0, 0).x.shape == (0, 2)
    assert list(blocks(source)) == []


def test_files_that_physgen_wrote_come_back_as_they_were(tmp_path):
    schema = Schema(
        (3,),
        (
            Variable("pt", "GeV", dtype="float64"),
            Variable("n", domain="integer", dtype="uint8"),
            Variable("tag", domain="binary", dtype="bool"),
        ),
    )
    x = torch.tensor([[0.1, 3, 1], [2e300, 255, 0]], dtype=torch.float64)
    with root_writer(tmp_path / "t.root", schema) as append:
        append(Batch(x, weight=torch.tensor([-1.0, 0.0])))
    source = BranchSource(
        tmp_path / "t.root", fields=schema.names, weight="weight", units={"pt": "GeV"}
    )
    assert source.schema == schema
    assert torch.equal(source.read(0, 2).x, x)
    assert source.read(0, 2).weight.tolist() == [-1, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tree": "events_", "fields": ("energy",)}, "no tree 'events_'; did you mean 'events'"),
        ({"fields": ("energyy",)}, "no branch 'energyy'; did you mean 'energy'"),
        ({"fields": ("energy",), "weight": "wait"}, "no branch 'wait'"),
        ({"fields": ("energy", "hits")}, r"mixes flat branches \(energy\) with jagged ones"),
        ({"fields": ("energy",), "weight": "hits"}, "'hits' is jagged, which cannot be used as"),
        (
            {"fields": ("energy",), "group": ("hits",)},
            "'hits' is jagged, which cannot be used as",
        ),
        ({"fields": ()}, "name at least one file and one branch"),
    ],
)
def test_wrong_names_are_said_with_near_misses(tmp_path, options, message):
    path = make(tmp_path / "a.root")
    with pytest.raises(FormatError, match=message):
        BranchSource(path, **options)


def test_wrong_files_are_said(tmp_path):
    make(tmp_path / "data.root")
    (tmp_path / "text.root").write_text("not ROOT")
    with uproot.recreate(tmp_path / "none.root") as file:
        file["name"] = "a string"
    with pytest.raises(FormatError, match=r"no such file; did you mean 'data\.root'"):
        BranchSource(tmp_path / "date.root", fields=("energy",))
    with pytest.raises(FormatError, match=r"text\.root: not a format .* though it is named \.root"):
        BranchSource(tmp_path / "text.root", fields=("energy",))
    with pytest.raises(FormatError, match="no tree in this file; there is 'name;1'"):
        BranchSource(tmp_path / "none.root", fields=("energy",))
    with pytest.raises(FormatError, match=r"which tree.*'WtLoop_Fake_nominal'.*set data.tree"):
        BranchSource(data("uproot-issue63.root"), fields=("met",))
    with pytest.raises(FormatError, match="'Type' holds text"):
        BranchSource(data("uproot-Zmumu.root"), fields=("Type",))
    with pytest.raises(FormatError, match="jagged 2 times over"):
        BranchSource(data("uproot-vectorVectorDouble.root"), fields=("x",))


def test_bad_values_are_named_with_branch_and_row(tmp_path):
    path = make(tmp_path / "nan.root", jagged=((1.0,), (2.0, float("nan")), (float("inf"),)))
    with pytest.raises(FormatError, match=r"branch 'hits': row 1 holds nan"):
        BranchSource(path, fields=("hits",)).read(0, 3)
    path = make(tmp_path / "uneven.root", other=[[1.0, 2.0], [5.0], [3.0]])
    with pytest.raises(FormatError, match="row 1 has 0 items of 'hits' but 1 of 'times'"):
        BranchSource(path, fields=("hits", "times")).read(0, 3)
    with uproot.recreate(tmp_path / "big.root") as file:
        file.mktree("t", {"id": "i8"}).extend({"id": np.array([1, 2**53 + 1])})
    with pytest.raises(FormatError, match=r"row 1 holds 9007199254740993.*data\.group"):
        BranchSource(tmp_path / "big.root", fields=("id",)).read(0, 2)


@pytest.mark.parametrize("size", [10, 1000, 60_000, 200_000])
def test_truncated_files_are_refused(tmp_path, size):
    whole = Path(data("uproot-HZZ.root")).read_bytes()
    (tmp_path / "cut.root").write_bytes(whole[:size])
    with pytest.raises(FormatError, match=r"cut\.root.*(damaged|not a ROOT file)"):
        BranchSource(tmp_path / "cut.root", fields=MUONS).digest()


def test_a_flipped_bit_is_noticed(tmp_path):
    content = bytearray(Path(data("uproot-HZZ.root")).read_bytes())
    with uproot.open(data("uproot-HZZ.root")) as file:
        key = file["events"]["Muon_Px"].member("fBasketSeek")[0]
    content[int(key) + 150] ^= 1
    (tmp_path / "flip.root").write_bytes(content)
    with pytest.raises(FormatError, match=r"flip\.root.*'Muon_Px' cannot be decoded"):
        BranchSource(tmp_path / "flip.root", fields=MUONS).digest()


@pytest.mark.parametrize("name", ["run", "Event"])
def test_branches_called_like_event_numbers_that_are_none_refuse_nothing(tmp_path, name):
    columns = {"px": np.arange(4, dtype="f4"), "py": np.ones(4, "f4")}
    text, lists = ["2012B", "2012C"] * 2, ak.Array([[1.0], [2.0, 3.0], [], [4.0]])
    columns[name] = text if name == "run" else lists
    types = {"px": "f4", "py": "f4", name: "string" if name == "run" else "var * float64"}
    with uproot.recreate(tmp_path / "a.root") as file:
        file.mktree("t", types).extend(columns)
    source = BranchSource(tmp_path / "a.root", fields=("px", "py"))
    assert source.notes() == []
    assert source.suspected_group() == ()


class Wide:
    """A tree that counts how often all its branches are walked over."""

    num_entries = 3

    def __init__(self):
        self.walks = 0

    def keys(self):
        self.walks += 1
        return [f"b{i}" for i in range(50)]

    def __getitem__(self, name):
        return self

    def array(self, **_):
        return ak.Array([1.0, 2.0, 3.0])


def test_names_of_branches_are_asked_for_once():
    handle = Wide()
    tree = Tree(handle, "wide")
    for name in tree.names:
        tree.read(name, 0, 3)
    assert handle.walks == 1
