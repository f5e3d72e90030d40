"""Parquet and Arrow files, as pyarrow writes them: columns of numbers and of lists."""

import sys

import awkward as ak
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uproot

from physgen.batch import Batch
from physgen.errors import FormatError, RecipeError
from physgen.io.branches import BranchSource
from physgen.io.inspect import inspect
from physgen.io.source import blocks
from physgen.systems.base import open_files
from physgen.systems.events import EventTable
from physgen.systems.item_sets import ItemSets


def columns(n=1000, seed=0):
    """Return columns of n events of up to 4 jets: flat ones as arrays, the others as lists."""
    generator = np.random.default_rng(seed)
    counts = generator.integers(0, 5, n)
    pt = generator.exponential(30, counts.sum()).astype("f4")
    return {
        "jet_pt": ak.unflatten(pt, counts),
        "jet_eta": ak.unflatten(generator.normal(0, 1, counts.sum()).astype("f4"), counts),
        "met": generator.exponential(20, n).astype("f4"),
        "weight": generator.normal(1, 1, n),
        "event": np.arange(n) // 2,
    }


def write(path, n=1000, seed=0, **options):
    table = {name: ak.to_list(column) for name, column in columns(n, seed).items()}
    types = {name: pa.list_(pa.float32()) for name in ("jet_pt", "jet_eta")}
    arrays = {name: pa.array(values, types.get(name)) for name, values in table.items()}
    arrays["met"] = arrays["met"].cast(pa.float32())
    pq.write_table(pa.table(arrays), path, **options)
    return path


def test_lists_are_padded_and_masked(tmp_path):
    made = columns()
    path = write(tmp_path / "a.parquet", row_group_size=64)
    source = BranchSource(
        path, None, ("jet_pt", "jet_eta"), condition=("met",), weight="weight", group=("event",)
    )
    assert (len(source), source.schema.shape, source.schema.masked) == (1000, (4, 2), True)
    batch = source.read(63, 200)
    assert (batch.mask.sum(1).numpy() == ak.num(made["jet_pt"])[63:200].to_numpy()).all()
    eta = ak.flatten(made["jet_eta"][63:200]).to_numpy()
    assert (batch.x[batch.mask][:, 1].numpy() == eta).all()
    assert (batch.x[~batch.mask] == 0).all()
    assert (batch.condition[:, 0].numpy() == made["met"][63:200]).all()
    assert (batch.weight.numpy() == made["weight"][63:200]).all()
    assert len(np.unique(source.keys())) == 500


def test_what_is_left_out_is_said(tmp_path):
    source = BranchSource(write(tmp_path / "a.parquet"), None, ("jet_pt",), max_items=3)
    longer = int((ak.num(columns()["jet_pt"]) > 3).to_numpy().sum())
    assert f"{longer} of 1000 events have more than 3 items" in source.notes()[0]


@pytest.mark.parametrize("group", [50, 997, 10**6])
def test_rows_are_the_same_however_they_are_grouped_and_read(tmp_path, group):
    path = write(tmp_path / "a.parquet", row_group_size=group)
    source = BranchSource(path, None, ("jet_pt",), step_size=2000)
    whole = source.read(0, 1000)
    pieces = Batch.concatenate(list(blocks(source)))
    assert (pieces.x == whole.x).all()
    # Backwards, so that what was opened is of no use.
    behind = [source.read(start, start + 100) for start in range(900, -1, -100)]
    assert (Batch.concatenate(behind[::-1]).x == whole.x).all()


def test_row_groups_are_blocks(tmp_path):
    path = write(tmp_path / "a.parquet", row_group_size=60)
    assert BranchSource(path, None, ("met",), step_size=1000).block == 120
    assert BranchSource(path, None, ("met",), step_size=100).block == 12


def test_a_file_is_read_in_less_memory_than_it_takes(tmp_path):
    path = tmp_path / "large.parquet"
    values = np.random.default_rng(0).normal(size=2**21)
    pq.write_table(pa.table({"x": values}), path)
    source = BranchSource(path, None, ("x",), step_size=2**17)
    before = pa.total_allocated_bytes()
    held = []
    total = 0.0
    for batch in blocks(source):
        total += float(batch.x.sum())
        held.append(pa.total_allocated_bytes() - before)
    assert total == pytest.approx(values.sum())
    assert max(held) < values.nbytes / 4


def test_members_of_structures_have_dotted_names(tmp_path):
    table = pa.table(
        {
            "jets": [
                [{"pt": 1.5, "b": True}, {"pt": 2.5, "b": False}],
                [],
                [{"pt": 3.5, "b": True}],
            ],
            "met": [{"pt": 4.5, "phi": 0.5}, {"pt": 5.5, "phi": 0.25}, {"pt": 6.5, "phi": 0.75}],
            "kind": pa.array([1, 2, 1]).dictionary_encode(),
            "pair": pa.array([[1, 2], [3, 4], [5, 6]], pa.list_(pa.int32(), 2)),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    with pa.ipc.new_file(tmp_path / "a.arrow", table.schema) as file:
        file.write_table(table, max_chunksize=2)
    for name in ("a.parquet", "a.arrow"):
        source = BranchSource(
            tmp_path / name, None, ("jets.pt", "jets.b"), condition=("met.phi", "kind")
        )
        batch = source.read(0, 3)
        assert batch.x[batch.mask].tolist() == [[1.5, 1], [2.5, 0], [3.5, 1]]
        assert batch.condition.tolist() == [[0.5, 1], [0.25, 2], [0.75, 1]]
        pair = BranchSource(tmp_path / name, None, ("pair",)).read(1, 3)
        assert pair.x[..., 0].tolist() == [[3, 4], [5, 6]]
        with pytest.raises(FormatError, match="column 'met' holds objects; name a member"):
            BranchSource(tmp_path / name, None, ("met",))


def test_root_and_parquet_files_are_one_sample(tmp_path):
    write(tmp_path / "part_1.parquet", seed=1)
    made = columns(seed=2)
    with uproot.recreate(tmp_path / "part_2.root") as file:
        file["events"] = {name: made[name] for name in ("jet_pt", "jet_eta", "met", "weight")}
    sets = ItemSets(fields=("jet_pt", "jet_eta"), condition=("met",), weight="weight")
    source = open_files(sets, str(tmp_path / "part_*"))
    assert len(source) == 2000
    table = EventTable(path=str(tmp_path / "part_*"), fields=("jet_pt", "jet_eta"), weight="weight")
    batch = table.open(tmp_path / "part_1.parquet").read(0, 1000)
    both = table.source.read(0, 2000)
    assert len(table.source) == 2000
    for first, seed in ((0, 1), (1000, 2)):
        part = both[first : first + 1000]
        pt = ak.flatten(columns(seed=seed)["jet_pt"]).to_numpy()
        assert (part.x[part.mask][:, 0].numpy() == pt).all()
    assert (batch.x[:, 0].numpy() == ak.num(columns(seed=1)["jet_pt"]).to_numpy()).all()


@pytest.mark.parametrize("suffix", [".parquet", ".root", ".h5", ".npz"])
def test_flat_columns_stand_beside_jagged_ones(tmp_path, suffix):
    made = columns()
    path = write(tmp_path / "in.parquet")
    table = EventTable(
        path=str(path), fields=("jet_pt", "met", "jet_eta"), condition=("event",), max_items=2
    )
    assert table.schema.names == (
        *("met", "njet", "jet_pt[0]", "jet_eta[0]", "jet_pt[1]", "jet_eta[1]"),
    )
    assert [v.name for v in table.schema.condition] == ["event"]
    batch = table.open(path).read(0, 1000)
    assert (batch.x[:, 0].float().numpy() == made["met"]).all()
    assert batch.x[:, 1].tolist() == np.minimum(ak.num(made["jet_pt"]), 2).tolist()
    assert batch.condition[:, 0].tolist() == made["event"].tolist()
    assert table.observables(batch)["jet_pt[1]"].isnan().sum() == (batch.x[:, 1] < 2).sum()
    with table.writer(tmp_path / f"out{suffix}", 1000) as append:
        append(batch[:300])
        append(batch[300:])
    again = table.open(tmp_path / f"out{suffix}").read(0, 1000)
    assert (again.x == batch.x).all()
    fields = ("jet_pt", "met", "jet_eta")
    alone = EventTable(path=str(tmp_path / f"out{suffix}"), fields=fields, max_items=2)
    assert alone.schema.names == table.schema.names
    assert (alone.open(tmp_path / f"out{suffix}").read(0, 1000).x == batch.x).all()
    assert (again.condition == batch.condition).all()


def test_a_counter_is_no_column_beside_what_it_counts(tmp_path):
    pq.write_table(
        pa.table({"jet_pt": [[1.0], [2.0, 3.0]], "njet": [1, 2]}), tmp_path / "a.parquet"
    )
    table = EventTable(path=str(tmp_path / "a.parquet"), fields=("njet", "jet_pt"))
    with pytest.raises(RecipeError, match="njet is the number of items of the jagged columns"):
        _ = table.schema


def test_sets_of_items_refuse_flat_columns(tmp_path):
    sets = ItemSets(path=str(write(tmp_path / "a.parquet")), fields=("jet_pt", "met"))
    with pytest.raises(FormatError, match=r"mixes flat branches \(met\) with jagged ones"):
        _ = sets.schema


def test_parquet_is_written_for_others_to_read(tmp_path):
    sets = ItemSets(path=str(write(tmp_path / "a.parquet")), fields=("jet_pt", "jet_eta"))
    batch = sets.open(tmp_path / "a.parquet").read(0, 1000)
    with sets.writer(tmp_path / "b.parquet", 1000, {"recipe": "mine"}) as append:
        append(batch[:400])
        append(batch[400:])
    written = pq.ParquetFile(tmp_path / "b.parquet")
    assert written.metadata.num_row_groups == 2
    assert written.schema_arrow.metadata[b"recipe"] == b"mine"
    assert written.read()["jet_pt"].to_pylist() == columns()["jet_pt"].to_list()
    assert (sets.open(tmp_path / "b.parquet").read(0, 1000).x == batch.x).all()


def with_null(path):
    pq.write_table(pa.table({"x": [1.0, None, 3.0]}), path)


def with_text(path):
    pq.write_table(pa.table({"x": ["a", "b"]}), path)


def with_nan(path):
    pq.write_table(pa.table({"x": [1.0, float("nan")]}), path)


def cut_short(path):
    write(path)
    path.write_bytes(path.read_bytes()[:-100])


def flipped(path):
    pq.write_table(pa.table({"x": np.arange(10_000.0)}), path, write_page_checksum=True)
    content = bytearray(path.read_bytes())
    content[2000] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (with_null, r"column 'x', rows 0 to 1?\d*: 1 values are missing \(null\)"),
        (with_text, "column 'x' holds string; only columns of numbers"),
        (with_nan, "branch 'x': row 1 holds nan"),
        (cut_short, "a Parquet file that is cut short or damaged: it does not end in PAR1"),
        (flipped, "cut short, damaged, or of an unsupported kind .*checksum"),
        (lambda path: pq.write_table(pa.table({"xx": [1.0]}), path), "no column 'x'; did you mean"),
        (lambda path: pq.write_table(pa.table({"x": [[[1.0]]]}), path), "is jagged 2 times over"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path, make, message):
    path = tmp_path / "a.parquet"
    make(path)
    with pytest.raises(FormatError, match=message):
        BranchSource(path, None, ("x",)).digest()


def test_files_of_other_types_and_trees_are_refused(tmp_path):
    first, second = tmp_path / "a.parquet", tmp_path / "b.parquet"
    pq.write_table(pa.table({"x": [1.0]}), first)
    pq.write_table(pa.table({"x": [1]}), second)
    with pytest.raises(FormatError, match=r"'x' is int64, in .* it is float64"):
        BranchSource([first, second], None, ("x",))
    with pytest.raises(FormatError, match=r"no trees in such files; leave data\.tree out"):
        BranchSource(first, "events", ("x",))


def test_without_pyarrow_the_remedy_is_said(tmp_path, monkeypatch):
    path = write(tmp_path / "a.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(FormatError, match=r"pip install 'physgen\[parquet\]'"):
        BranchSource(path, None, ("met",))


def test_inspection_describes_columns_and_tries_what_it_proposes(tmp_path):
    report = inspect(write(tmp_path / "a.parquet", row_group_size=100))
    assert (report["format"], report["reader"], report["problem"]) == ("Parquet", "yes", None)
    table = report["contents"]["table"]
    assert table["entries"] == 1000
    assert table["rows of the largest group"] == 100
    assert table["branches"]["jet_pt"]["most items"] == 4
    assert table["branches"]["met"]["dtype"] == "float32"
    assert any("physgen train events-flow" in hint for hint in report["hints"])
    assert any("1000 rows of 500 events" in hint for hint in report["hints"])
    cut_short(tmp_path / "cut.parquet")
    assert inspect(tmp_path / "cut.parquet")["reader"] == "no"
    (tmp_path / "none.parquet").write_bytes(b"\0" * 100)
    assert "named .parquet: cut short" in inspect(tmp_path / "none.parquet")["problem"]
