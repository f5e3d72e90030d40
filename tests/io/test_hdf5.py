import re
import subprocess
import sys

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from physgen.batch import Batch, Schema, Variable
from physgen.errors import FormatError
from physgen.io.attributes import attribute
from physgen.io.hdf5 import dataset, dataset_names, open_hdf5
from physgen.io.hdf5_source import HDF5Source
from physgen.io.hdf5_tables import Records
from physgen.io.source import ArraySource, blocks, check_finite, digest_of
from physgen.io.stream import Stream
from physgen.io.writer import hdf5_writer


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data.h5"


def write(path, **datasets):
    with h5py.File(path, "w") as file:
        for name, value in datasets.items():
            file[name.replace("__", "/")] = value
    return path


def test_datasets_are_found_by_path_with_what_belongs_to_them(path):
    x = np.arange(24, dtype=">f8").reshape(6, 2, 2)
    write(path, run__x=x, run__e=np.arange(6), w=-np.ones(6, "f4"), event=[0, 0, 1, 1, 2, 2])
    source = HDF5Source(path, x="run/x", condition="/run/e", weight="w", group=("event",))
    batch = source.read(2, 5)
    assert batch.x.dtype == torch.float64
    assert torch.equal(batch.x, torch.from_numpy(x.astype("f8"))[2:5])
    assert batch.condition.tolist() == [[2], [3], [4]]
    assert batch.weight.tolist() == [-1, -1, -1]
    assert source.schema.shape == (2, 2)
    assert source.schema.condition[0].dtype == "int64"
    assert len(np.unique(source.keys())) == 3


def test_a_column_is_a_sample_of_one_value(path):
    source = HDF5Source(write(path, x=np.arange(5.0)))
    assert source.schema.shape == (1,)
    assert source.read(0, 5).x.shape == (5, 1)


def test_what_physgen_wrote_comes_back_with_its_schema(path):
    schema = Schema((2,), (Variable("e", "MeV"),), (Variable("theta", "rad"),))
    batch = Batch(torch.rand(50, 2), condition=torch.rand(50, 1), log_weight=torch.rand(50))
    with hdf5_writer(path, schema=schema) as append:
        append(batch[:30])
        append(batch[30:])
    source = HDF5Source(path)
    assert source.schema == schema
    read = source.read(0, 50)
    assert all(torch.equal(read.fields()[name], value) for name, value in batch.fields().items())
    assert source.digest() == digest_of([batch]) == ArraySource(batch, schema).digest()


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 60), st.integers(1, 20))
def test_digest_is_of_the_samples_and_not_of_their_storage(tmp_path_factory, n, chunk):
    folder = tmp_path_factory.mktemp("digest")
    x = np.random.default_rng(n).random((n, 3))
    write(folder / "plain.h5", x=x)
    with h5py.File(folder / "zip.h5", "w") as file:
        file.create_dataset("y", data=x, chunks=(min(chunk, n), 3), compression="gzip")
    plain = HDF5Source(folder / "plain.h5")
    assert plain.digest() == HDF5Source(folder / "zip.h5", x="y", block=chunk).digest()
    x[0, 0] += 1e-9
    write(folder / "other.h5", x=x)
    assert plain.digest() != HDF5Source(folder / "other.h5").digest()


def test_blocks_are_whole_chunks(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=np.ones((5000, 256), "f4"), chunks=(300, 256))
        file.create_dataset("y", data=np.ones((5000, 2048), "f4"), chunks=(600, 2048))
    assert HDF5Source(path).block == 13 * 300
    assert HDF5Source(path, x="y").block == 600
    assert [len(batch) for batch in blocks(HDF5Source(path))] == [3900, 1100]


def test_streaming_from_a_file_equals_streaming_from_memory(path):
    x = np.random.default_rng(0).random((500, 3)).astype("f4")
    write(path, x=x)
    source = HDF5Source(path, block=32)
    memory = ArraySource(Batch(torch.from_numpy(x)), source.schema, block=32)
    options = {"batch_size": 37, "seed": 2, "buffer_blocks": 3}
    for _, a, b in zip(
        range(40), Stream(source, prefetch=True, **options), Stream(memory, **options), strict=False
    ):
        assert torch.equal(a.x, b.x)


def test_absent_truncated_and_foreign_files(path, tmp_path):
    write(path, x=np.zeros((100, 3)))
    (tmp_path / "cut.h5").write_bytes(path.read_bytes()[:1500])
    (tmp_path / "text.h5").write_text("hello")
    (tmp_path / "nothing.h5").touch()
    with pytest.raises(FormatError, match=r"no such file; did you mean 'data\.h5'"):
        HDF5Source(tmp_path / "dta.h5")
    with pytest.raises(FormatError, match=r"cut\.h5: an HDF5 file that is cut short"):
        HDF5Source(tmp_path / "cut.h5")
    (tmp_path / "text").write_text("hello")
    for name, stated in (
        ("text", "not an HDF5 file; `physgen inspect"),
        ("text.h5", "not a format .* though it is named .h5: cut short, or damaged; copy"),
        ("nothing.h5", "the file is empty"),
    ):
        with pytest.raises(FormatError, match=stated):
            HDF5Source(tmp_path / name)


def test_wrong_names_ranks_and_lengths(path):
    write(path, group__showers=np.zeros((5, 3)), w=np.zeros((5, 1)), few=np.zeros(4))
    with pytest.raises(FormatError, match="'shower' does not exist; did you mean 'group/showers'"):
        HDF5Source(path, x="shower")
    with pytest.raises(FormatError, match="'group' is a group"):
        HDF5Source(path, x="group")
    with pytest.raises(FormatError, match=r"'w' has shape \(5, 1\), 2 dimension\(s\); expected 1"):
        HDF5Source(path, x="group/showers", weight="w")
    with pytest.raises(FormatError, match="unequal length: 'group/showers' has 5, 'few' has 4"):
        HDF5Source(path, x="group/showers", weight="few")
    with pytest.raises(FormatError, match="'few' has 4 rows, the samples 5"):
        HDF5Source(path, x="group/showers", group=("few",)).keys()


def test_links_and_data_in_other_files_are_not_followed(path, tmp_path):
    other = write(tmp_path / "other.h5", x=np.zeros((5, 3)))
    (tmp_path / "raw.bin").write_bytes(bytes(400))
    layout = h5py.VirtualLayout((5, 3), "f8")
    layout[:] = h5py.VirtualSource(other, "x", (5, 3))
    with h5py.File(path, "w") as file:
        file["away"] = h5py.ExternalLink(str(other), "x")
        file["group/up"] = h5py.ExternalLink(str(other), "/")
        file["soft"] = h5py.SoftLink("/away")
        file.create_dataset("raw", (5, 3), "f8", external=[(str(tmp_path / "raw.bin"), 0, 120)])
        file.create_virtual_dataset("virtual", layout)
    other.unlink()
    for name in ("away", "soft", "group/up/x"):
        with pytest.raises(FormatError, match=r"is a link \((External|Soft)Link\), which is not"):
            HDF5Source(path, x=name)
    for name in ("raw", "virtual"):
        with pytest.raises(FormatError, match="keeps its data in other files"):
            HDF5Source(path, x=name)
    with open_hdf5(path) as file:
        assert dataset_names(file) == ["raw", "virtual"]


def test_huge_declared_shapes_unknown_filters_and_objects_are_refused(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("huge", (10**12, 1000), "f4", chunks=(1, 1000))
        file.create_dataset("wide", (2, 2**29), "f4", chunks=(1, 2**20))
        file["text"] = ["a", "b"]
        file["complex"] = np.zeros(3, complex)
        file["pairs"] = np.zeros(3, [("a", "f4"), ("b", "f4")])
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_chunk((5,))
        properties.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, ())
        space = h5py.h5s.create_simple((5,))
        h5py.h5d.create(file.id, b"zstd", h5py.h5t.NATIVE_FLOAT, space, properties)
    with pytest.raises(FormatError, match=r"'huge' declares shape \(1000000000000, 1000\)"):
        HDF5Source(path, x="huge")
    with pytest.raises(FormatError, match="'wide' declares shape"):
        HDF5Source(path, x="wide")
    with pytest.raises(FormatError, match=r"filter 32015.*h5repack -f GZIP=4"):
        HDF5Source(path, x="zstd")
    for name in ("text", "complex"):
        with pytest.raises(FormatError, match=f"{name!r} holds .* not numbers"):
            HDF5Source(path, x=name)
    with pytest.raises(FormatError, match=r"'pairs' is a table of records \(a, b\).*write its col"):
        HDF5Source(path, x="pairs")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_named_by_row(path, bad):
    x = np.zeros((100, 3), "f4")
    x[42, 1] = bad
    source = HDF5Source(write(path, x=x, w=np.zeros(100)), weight="w")
    assert len(source.read(0, 42)) == 42
    with pytest.raises(FormatError, match=f"dataset 'x': row 42 holds {bad}"):
        source.read(30, 60)


def test_large_finite_values_are_not_taken_for_infinite(path):
    x = np.full((10, 3), 3e38, "f4")
    assert HDF5Source(write(path, x=x)).read(0, 10).x.max() > 1e38


@pytest.mark.parametrize("options", [{"fletcher32": True}, {"compression": "gzip"}])
def test_a_flipped_bit_is_named_with_its_rows(path, options):
    x = np.random.default_rng(0).random((64, 8))
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=x, chunks=(16, 8), **options)
        place = file["x"].id.get_chunk_info(2).byte_offset
    content = bytearray(path.read_bytes())
    content[place + 100] ^= 4
    path.write_bytes(content)
    source = HDF5Source(path, block=16)
    source.read(0, 32)
    with pytest.raises(FormatError, match="'x': rows 32 to 47 are damaged"):
        source.digest()


def test_types_become_what_torch_computes_with(path):
    kinds = {
        "u1": "uint8",
        "u2": "int32",
        "u4": "int64",
        "f2": "float32",
        "?": "bool",
        ">i2": "int16",
    }
    write(path, **{f"d{i}": np.ones((4, 2), kind) for i, kind in enumerate(kinds)})
    for i, name in enumerate(kinds.values()):
        assert HDF5Source(path, x=f"d{i}").read(0, 4).x.dtype == getattr(torch, name)
    write(path, x=np.full((3, 1), 2**63, "u8"))
    with pytest.raises(FormatError, match="beyond the range of int64"):
        HDF5Source(path).read(0, 3)


def test_no_rows_is_not_an_error_of_the_format(path):
    source = HDF5Source(write(path, x=np.zeros((0, 3))))
    assert len(source) == 0
    assert list(blocks(source)) == []


def test_scalars_have_no_rows(path):
    with pytest.raises(FormatError, match="0 dimension"), open_hdf5(write(path, x=3.0)) as file:
        dataset(file, "x", rank=(1, 2))


def test_packed_numbers_are_unpacked(tmp_path):
    path = write(tmp_path / "a.h5", x=np.arange(6, dtype="u2"), plain=np.arange(6, dtype="u2"))
    with h5py.File(path, "a") as file:
        file["x"].attrs["scale_factor"] = np.float32(0.5)
        file["x"].attrs["add_offset"] = np.float32(-1)
        file["x"].attrs["units"] = "GeV"
        file["x"].attrs["odd"] = h5py.Empty("f4")
        file["plain"].attrs["scale_factor"] = h5py.Empty("f4")
    source = HDF5Source(path)
    assert source.read(2, 5).x.tolist() == [[0.0], [0.5], [1.0]]
    assert (source.schema.variables[0].dtype, source.schema.variables[0].unit) == ("float32", "GeV")
    assert HDF5Source(path, x="plain").read(0, 2).x.dtype == torch.int32
    with h5py.File(path, "a") as file:
        file["x"].attrs["_FillValue"] = np.uint16(4)
    source = HDF5Source(path)
    with pytest.raises(FormatError, match="row 4 holds 4, which stands for a missing value"):
        source.read(2, 6)
    with h5py.File(path, "a") as file:
        file["x"].attrs["scale_factor"] = "twice"
    with pytest.raises(FormatError, match="attribute scale_factor = 'twice', which is not a numb"):
        HDF5Source(path)


def test_a_file_is_open_only_while_it_is_read(tmp_path):
    path = write(tmp_path / "a.h5", x=np.arange(5.0))
    source = HDF5Source(path)
    assert len(source.read(0, 5)) == 5
    # A file that this process still read could not be opened for writing.
    with h5py.File(path, "a") as file:
        file["x"][0] = 7
    with pytest.raises(FormatError, match=r"a\.h5 was changed while it was in use"):
        source.read(0, 5)
    assert HDF5Source(path).read(0, 1).x.item() == 7


WRITER = """
import sys, h5py
with h5py.File(sys.argv[1], "w") as file:
    file["x"] = [1.0, 2.0]
    print("open", flush=True)
    sys.stdin.read()
"""


def test_a_file_that_another_program_is_writing_is_not_called_damaged(path):
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout.readline() == b"open\n"
        with pytest.raises(FormatError, match=r"data\.h5 is being written: another program has"):
            open_hdf5(path)
        writer.stdin.close()
    assert len(HDF5Source(path)) == 2


def test_what_nobody_asked_for_refuses_no_file(tmp_path):
    path, schema = tmp_path / "a.h5", Schema((2,), (Variable("a"), Variable("b")))
    with hdf5_writer(path, schema=schema) as append:
        append(Batch(torch.rand(9, 2)))
    with h5py.File(path, "a") as file:
        file["weight"] = h5py.Empty("f4")
        file["mask"] = np.zeros((9, 2), "S1")
        file.create_group("condition")
        file["chain"] = np.arange(4)
    with (
        pytest.warns(UserWarning, match="dataset 'mask' holds .* it is not used"),
        pytest.warns(UserWarning, match="dataset 'chain' has 4 rows, the samples 9; it is not us"),
    ):
        source = HDF5Source(path)
    assert set(source.read(0, 9).fields()) == {"x"}
    with open_hdf5(path) as file, pytest.raises(FormatError, match="'weight' holds nothing"):
        dataset(file, "weight")


@pytest.mark.parametrize(
    ("shape", "place", "said"),
    [
        ((3,), (), "row 2 holds nan;"),
        ((3, 1), (0,), "row 2 holds nan;"),
        ((3, 4), (1,), "row 2 holds nan, column 1;"),
        ((3, 4, 5), (3, 1), "row 2 holds nan, element [3, 1];"),
    ],
)
def test_the_first_value_that_is_not_finite_is_named_by_its_place(shape, place, said):
    array = np.zeros(shape)
    array[(2, *place)] = np.nan
    with pytest.raises(FormatError, match=re.escape(said)):
        check_finite(array, 0, "file: data set")


def test_records_of_rare_numbers_are_refused_before_they_overwrite_memory(tmp_path):
    rare = h5py.h5t.IEEE_F32LE.copy()
    rare.set_ebias(119)
    kind = h5py.h5t.create(h5py.h5t.COMPOUND, 12)
    for place, (name, number) in enumerate(((b"theta", rare), (b"energy", h5py.h5t.IEEE_F32LE))):
        kind.insert(name, 4 * place, number)
    with h5py.File(tmp_path / "rare.h5", "w") as file:
        h5py.h5d.create(file.id, b"events", kind, h5py.h5s.create_simple((9,)))
        h5py.h5a.create(file.id, b"unit", kind, h5py.h5s.create_simple((9,)))
        file["numbers"] = np.ones(3)
    with open_hdf5(tmp_path / "rare.h5") as file:
        with pytest.raises(
            FormatError, match=r"'events' .*\(theta, energy\) some of which overlap"
        ):
            Records(file, "events")
        assert attribute(file, "unit") is None


def test_records_with_gaps_are_read(tmp_path):
    kind = np.dtype({"names": ["b", "a"], "formats": ["f4", "u1"], "offsets": [8, 1]}, align=False)
    with h5py.File(tmp_path / "gaps.h5", "w") as file:
        file["events"] = np.ones(4, kind)
    with open_hdf5(tmp_path / "gaps.h5") as file:
        assert Records(file, "events").read(0, 4)["b"].tolist() == [1.0] * 4
