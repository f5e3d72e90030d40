"""Event tables: real files in, the same names, types and sums of weights out."""

from pathlib import Path

import awkward as ak
import h5py
import numpy as np
import pytest
import torch
import uproot
import yaml

from physgen.batch import Batch, Schema
from physgen.errors import FormatError, InputError, RecipeError
from physgen.io.split import split
from physgen.samples_in_files import recipe_for
from physgen.systems.base import HasFeatures, HasFiles, HasUnits, System
from physgen.systems.events import EventTable

CARD = Path("wt-loop.yaml")
PACKAGED = "skhep-testdata:"


@pytest.fixture(scope="module")
def wt_loop():
    pytest.importorskip("skhep_testdata")
    table = EventTable(path=str(CARD))
    source = table.open(CARD)
    return table, source, source.read(0, len(source))


def packaged(name, *fields, **options):
    pytest.importorskip("skhep_testdata")
    table = EventTable(path=PACKAGED + name, fields=fields, **options)
    return table, table.open(Path(PACKAGED + name))


def test_the_shipped_card_describes_the_file(wt_loop):
    table, source, batch = wt_loop
    assert isinstance(table, System)
    assert isinstance(table, HasFiles)
    assert isinstance(table, HasFeatures)
    assert isinstance(table, HasUnits)
    assert len(source) == 9812
    assert batch.x.shape == (9812, 12)
    assert table.units["mass_lep1lep2"] == "GeV"
    assert len(np.unique(source.keys())) == 9812
    njets, pt_jet2 = (batch.x[:, table.schema.names.index(n)] for n in ("njets", "pT_jet2"))
    assert torch.equal(njets >= 2, pt_jet2 > 0)
    assert table.sum_of_weights == pytest.approx(384.1746, rel=1e-6)
    types = dict(zip(source.schema.names, (v.dtype for v in source.schema.variables), strict=True))
    assert all(types[v.name] == v.dtype for v in table.schema.variables)


def test_its_schema_needs_no_file_and_survives_json():
    table = EventTable(path=str(CARD))
    assert "_source" not in vars(table)
    schema = table.schema
    assert "_source" not in vars(table)
    assert Schema.from_dict(schema.to_dict()) == schema


def test_observables_are_nan_where_absent_and_features_are_not(wt_loop):
    table, _, batch = wt_loop
    observed = table.observables(batch)
    absent = batch.x[:, table.schema.names.index("njets")] < 2
    assert torch.equal(observed["pT_jet2"].isnan(), absent)
    assert not observed["met"].isnan().any()
    low, high = table.features(batch, "low"), table.features(batch, "high")
    assert low.shape == (9812, 12)
    assert high.shape[1] > 30
    assert low.isfinite().all()
    assert high.isfinite().all()


def test_generated_events_are_written_with_names_types_and_the_sum_of_weights(wt_loop, tmp_path):
    table, _, batch = wt_loop
    with table.writer(tmp_path / "out.root", 1000) as append:
        append(Batch(batch.x[:700]))
        append(Batch(batch.x[700:1000]))
    with uproot.open(tmp_path / "out.root") as file:
        tree = file["WtLoop_nominal"]
        arrays = tree.arrays(library="np")
    assert set(arrays) == {*table.schema.names, "weight_nominal"}
    for variable in table.schema.variables:
        assert arrays[variable.name].dtype == np.dtype(variable.dtype)
    total = arrays["weight_nominal"].sum(dtype="float64")
    assert total == pytest.approx(table.sum_of_weights, rel=1e-6)
    assert arrays["weight_nominal"].dtype == np.float32
    np.testing.assert_array_equal(arrays["njets"], batch.x[:1000, 0].numpy())
    read = table.open(tmp_path / "out.root").read(0, 1000)
    assert torch.equal(read.x, batch.x[:1000])


def test_real_weights_are_kept(wt_loop, tmp_path):
    table, _, batch = wt_loop
    with table.writer(tmp_path / "out.root", 500) as append:
        append(batch[:500])
    read = table.open(tmp_path / "out.root").read(0, 500)
    assert torch.equal(read.weight.double(), batch.weight[:500].double())


@pytest.mark.parametrize("suffix", [".h5", ".npz"])
def test_other_formats_come_back(wt_loop, tmp_path, suffix):
    table, _, batch = wt_loop
    path = tmp_path / f"out{suffix}"
    with table.writer(path, 300) as append:
        append(batch[:300])
    again = EventTable(path=str(path), fields=("met", "njets")).open(path)
    expected = batch.x[:300][:, [table.schema.names.index(n) for n in ("met", "njets")]]
    read = again.read(0, 300)
    assert torch.equal(read.x, expected)
    assert again.schema.variables[0].unit == "GeV"


def test_columns_of_a_foreign_hdf5_file(tmp_path):
    path = tmp_path / "table.h5"
    with h5py.File(path, "w") as file:
        file["pt"] = np.arange(10.0)
        file["n"] = np.arange(10, dtype="int32") // 2
        file["w"] = np.full(10, 0.5)
    table = EventTable(path=str(path), fields=("pt", "n"), weight="w", group=("n",))
    source = table.open(path)
    batch = source.read(2, 6)
    assert batch.x.tolist() == [[2, 1], [3, 1], [4, 2], [5, 2]]
    assert batch.weight.tolist() == [0.5] * 4
    assert [v.domain for v in table.schema.variables] == ["real", "integer"]
    assert len(np.unique(source.keys())) == 5


def test_rows_of_one_event_stay_on_one_side_of_the_split():
    table, source = packaged(
        "uproot-Zmumu.root", "pt1", "eta1", "phi1", "M", group=("Run", "Event"), tree="events"
    )
    keys = source.keys()
    assert len(source) == 2304
    assert len(np.unique(keys)) == 500
    parts = split(len(source), keys=keys, fractions=(0.6, 0.2, 0.2), seed=1)
    sides = [set(keys[rows]) for rows in (parts.train, parts.validation, parts.test)]
    assert sum(len(side) for side in sides) == len(set.union(*sides)) == 500
    assert table.schema.names == ("pt1", "eta1", "phi1", "M")


def test_jagged_events_become_rows_and_are_written_jagged(tmp_path):
    table, source = packaged(
        "uproot-HZZ.root", "Muon_Px", "Muon_Charge", weight="EventWeight", max_items=3
    )
    batch = source.read(0, len(source))
    assert table.schema == source.schema
    assert table.schema.names[:3] == ("nMuon", "Muon_Px[0]", "Muon_Charge[0]")
    assert batch.x.shape == (2421, 7)
    assert int((batch.x[:, 0] == 0).sum()) == 59
    observed = table.observables(batch)
    assert torch.equal(observed["Muon_Px[1]"].isnan(), batch.x[:, 0] < 2)
    with table.writer(tmp_path / "out.root", len(batch)) as append:
        append(Batch(batch.x))
    with uproot.open(tmp_path / "out.root") as file:
        arrays = file["events"].arrays(library="np")
    assert arrays["nMuon"].tolist() == batch.x[:, 0].int().tolist()
    assert arrays["Muon_Charge"][0].dtype == np.int32
    assert arrays["EventWeight"].sum() == pytest.approx(table.sum_of_weights, rel=1e-5)
    back = table.open(tmp_path / "out.root").read(0, 2421)
    assert torch.equal(back.x, batch.x)


def test_where_no_columns_are_named_those_of_the_file_are(tmp_path):
    with pytest.raises(
        RecipeError,
        match=r"data\.fields; there are .*'Type'.* 8 more; such as 'data.fields=\[E1,px1\]'",
    ):
        _ = EventTable(path=f"{PACKAGED}uproot-Zmumu.root").schema
    with pytest.raises(FormatError, match=r"which tree.*set data\.tree"):
        _ = EventTable(path=f"{PACKAGED}uproot-issue63.root").schema
    np.savez(tmp_path / "a.npz", pt=np.ones(3), eta=np.ones(3))
    with pytest.raises(RecipeError, match=r"'eta', 'pt'; such as 'data\.fields=\[pt,eta\]'"):
        _ = EventTable(path=str(tmp_path / "a.npz")).schema


def test_faults_are_named(tmp_path):
    with pytest.raises(FormatError, match=r"did you mean 'uproot-HZZ\.root'"):
        packaged("uproot-HZ.root", "x")
    with pytest.raises(RecipeError, match="unknown key 'units' of pt; did you mean 'unit'"):
        _ = EventTable(path="x.root", fields=({"name": "pt", "units": "GeV"},)).schema
    with pytest.raises(RecipeError, match="domain = 'whole'; there are 'angle'"):
        _ = EventTable(fields=({"name": "n", "dtype": "int32", "domain": "whole"},)).schema
    with pytest.raises(RecipeError, match=r"data\.fields"):
        _ = EventTable(path="x.root").schema
    with pytest.raises(RecipeError, match=r"data\.path"):
        _ = EventTable(fields=("pt",)).schema
    (tmp_path / "x.csv").write_text("pt,eta\n1,2\n")
    with pytest.raises(FormatError, match="event tables are read from ROOT, Parquet, Arrow"):
        _ = EventTable(path=str(tmp_path / "x.csv"), fields=("pt",)).schema
    with pytest.raises(InputError, match="wt-loop"):
        _ = EventTable(path="wt-lop.yaml").schema
    card = tmp_path / "card.yaml"
    card.write_text("read: {path: x.root, field: [a]}")
    with pytest.raises(FormatError, match=r"unknown key 'read\.field'; did you mean 'fields'"):
        _ = EventTable(path=str(card)).schema


def described(**options):
    return EventTable(fields=({"name": "a", "dtype": "float32", **options},)).schema.variables[0]


def test_bounds_are_numbers_in_order():
    read = yaml.safe_load("{low: -1e1, high: 1e3}")
    assert read == {"low": "-1e1", "high": "1e3"}  # YAML wants a dot.
    assert (described(**read).low, described(**read).high) == (-10, 1000)
    with pytest.raises(
        RecipeError, match=r"data\.fields: a has low = 'ten', which is not a number"
    ):
        described(low="ten")
    with pytest.raises(RecipeError, match=r"data\.fields: a has low = 2 above high = 1"):
        described(low=2, high=1)


def test_files_are_known_by_their_content(tmp_path):
    grid = tmp_path / "DAOD_PHYSLITE.34857549._000001.pool.root.1"
    with uproot.recreate(tmp_path / "a.root") as file:
        file.mktree("t", {"a": "f4"}).extend({"a": np.arange(5, dtype="f4")})
    (tmp_path / "a.root").rename(grid)
    table = EventTable(path=str(grid), fields=("a",))
    assert table.open(grid).read(0, 5).x[:, 0].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("name", ["a.h5", "a.npz", "a.root"])
def test_what_is_written_is_laid_out_like_the_input_and_read_with_all_that_was_known(
    tmp_path, name
):
    rows = np.random.default_rng(0).normal(size=(20, 2)) * 100
    with h5py.File(tmp_path / "in.h5", "w") as file:
        file["time"], file["code"] = rows[:, 0], rows[:, 1].astype("i2")
        file["time"].attrs["unit"] = "ns"
        file["w"] = np.arange(20.0)
    options = {"fields": ("time", "code"), "weight": "w"}
    table = EventTable(path=str(tmp_path / "in.h5"), **options)
    assert table.units["time"] == "ns"
    batch = table.open(tmp_path / "in.h5").read(0, 20)
    more = batch.replace(log_weight=-torch.arange(20.0), chain=torch.arange(20) // 10)
    with table.writer(tmp_path / name, 20) as append:
        append(more)
    if name == "a.h5":
        with h5py.File(tmp_path / name) as file:
            assert (file["time"].attrs["unit"], file["code"].dtype) == ("ns", "int16")
    again = EventTable(path=str(tmp_path / name), **options)
    variables = {variable.name: variable for variable in again.schema.variables}
    assert (variables["time"].unit, variables["code"].dtype) == ("ns", "int16")
    read = again.open(tmp_path / name).read(0, 20)
    for field, value in more.fields().items():
        assert torch.equal(getattr(read, field), value), field


@pytest.mark.parametrize("name", ["a.h5", "a.npz"])
def test_jagged_events_written_as_tables_are_read_as_such(tmp_path, name):
    with uproot.recreate(tmp_path / "in.root") as file:
        hits = ak.unflatten(np.arange(9.0), [2, 0, 3, 4])
        file.mktree("t", {"Hit": "var * {e: float64, t: float64}"})
        file["t"].extend({"Hit": ak.zip({"e": hits, "t": hits + 1})})
    table = EventTable(path=str(tmp_path / "in.root"), fields=("Hit_e", "Hit_t"))
    batch = table.open(tmp_path / "in.root").read(0, 4)
    with table.writer(tmp_path / name, 4) as append:
        append(batch)
    source = table.open(tmp_path / name)
    assert source.schema.names == table.schema.names
    assert torch.equal(source.read(0, 4).x, batch.x)


def test_units_of_the_file_and_of_the_recipe_are_compared(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["e"] = np.ones(5)
        file["e"].attrs["units"] = "MeV"
    for unit in ("MeV", None):
        fields = ({"name": "e", **({"unit": unit} if unit else {})},)
        assert EventTable(fields=fields).open(tmp_path / "a.h5").schema.variables[0].unit == "MeV"
    with pytest.raises(FormatError, match=r"'e' is in MeV, and data.fields says GeV; convert"):
        EventTable(fields=({"name": "e", "unit": "GeV"},)).open(tmp_path / "a.h5")


def test_other_files_have_the_groups_whose_columns_they_have(tmp_path):
    events = np.repeat(np.arange(5), 2)
    for name, columns in (("a", ("m", "event")), ("b", ("m", "event")), ("c", ("m",))):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            for column in columns:
                file[column] = events.astype("f8" if column == "m" else "i8")
    table = EventTable(path=str(tmp_path / "a.h5"), fields=("m",), group=("event",))
    for name, grouped in (("a", True), ("b", True), ("c", False)):
        keys = table.open(tmp_path / f"{name}.h5").keys()
        assert (keys is not None and len(np.unique(keys)) == 5) == grouped


def test_a_table_that_is_not_of_the_card_is_asked_for_its_columns(tmp_path):
    ak.to_parquet(ak.Array({"pt": [1.0, 2.0]}), tmp_path / "a.parquet")
    with uproot.recreate(tmp_path / "a.root") as file:
        file["mine"] = {"pt": np.arange(2.0)}
    (tmp_path / "card.yaml").write_text(
        "read: {path: b.root, tree: events, fields: [{name: met, dtype: float32}]}"
    )
    table = EventTable(path=str(tmp_path / "card.yaml"))
    for name in ("a.parquet", "a.root"):
        message = rf"{name}: has no column that .*card\.yaml describes \(met.*data\.fields.*'pt'"
        with pytest.raises(FormatError, match=message):
            table.open(tmp_path / name)
    ak.to_parquet(ak.Array({"met": np.arange(3, dtype="f4")}), tmp_path / "generated.parquet")
    assert len(table.open(tmp_path / "generated.parquet")) == 3


def test_tables_are_said_to_be_those_of_events_flow(tmp_path):
    ak.to_parquet(ak.Array({"pt": [1.0, 2.0]}), tmp_path / "a.parquet")
    with pytest.raises(
        InputError, match=r"a\.parquet is Parquet: .* --system events-flow .*fields="
    ):
        recipe_for(tmp_path / "a.parquet", None, {"data.fields": ["pt"]})


def test_a_recipe_without_data_of_its_own_takes_the_file(tmp_path):
    path = tmp_path / "points.h5"
    assert recipe_for(path, "calo-points-flow", {}).data.path == str(path)
    assert recipe_for(path, "calo-points-flow", {"data.path": "/b/c.h5"}).data.path == "/b/c.h5"
    assert recipe_for(path, "calo-flow", {}).data.path is None, "it simulates its own"
