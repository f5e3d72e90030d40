import errno
import hashlib
import json
import os
import sys
import threading

import h5py
import numpy as np
import pytest
import torch
import uproot

from physgen.batch import Batch, Schema, Variable
from physgen.errors import FormatError, InputError
from physgen.io import writer
from physgen.io.writer import atomic, hdf5_writer, npz_writer, root_writer, sha256

TABLE = Schema(
    shape=(3,),
    variables=(
        Variable("pt", "GeV", "non-negative", "float64"),
        Variable("njets", domain="integer", dtype="int8"),
        Variable("tagged", domain="binary", dtype="bool"),
    ),
    condition=(Variable("run", domain="integer", dtype="int32"),),
)


def table(n, start=0):
    x = torch.tensor([[i + 0.5, i % 5, i % 2] for i in range(start, start + n)])
    return Batch(x, condition=torch.full((n, 1), 7.0), weight=-torch.arange(float(n)))


def write_all(path, *batches):
    with hdf5_writer(path) as append:
        for batch in batches:
            append(batch)


def parts(folder):
    return list(folder.glob("*.part"))


def test_atomic_output_appears_only_when_it_is_whole(tmp_path):
    path = tmp_path / "deep" / "out.bin"
    with atomic(path) as part:
        part.write_bytes(b"physics")
        assert not path.exists()
        assert part.parent == path.parent
    assert path.read_bytes() == b"physics"
    assert sha256(path) == hashlib.sha256(b"physics").hexdigest()
    assert parts(path.parent) == []


def test_failure_leaves_the_old_output_and_no_part(tmp_path):
    path = tmp_path / "out.bin"
    path.write_bytes(b"old")
    with pytest.raises(FileNotFoundError), atomic(path, overwrite=True) as part:
        part.write_bytes(b"half" + (tmp_path / "absent").read_bytes())
    assert path.read_bytes() == b"old"
    assert parts(tmp_path) == []


def test_existing_output_and_directory_are_refused(tmp_path):
    path = tmp_path / "out.bin"
    path.write_bytes(b"old")
    with pytest.raises(InputError, match=r"out\.bin exists; choose another path"), atomic(path):
        pytest.fail("must refuse before anything is done")
    with pytest.raises(InputError, match="is a directory"), atomic(tmp_path, overwrite=True):
        pytest.fail("must refuse before anything is done")


def test_full_disk_is_an_input_error_that_names_the_output(tmp_path):
    path = tmp_path / "out.bin"
    with pytest.raises(InputError, match=r"cannot write .*out\.bin: No space left"), atomic(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert not path.exists()


def test_hdf5_grows_in_row_chunks_with_checksums(tmp_path):
    path = tmp_path / "table.h5"
    with hdf5_writer(path, schema=TABLE, attributes={"note": "x"}) as append:
        append(table(5))
        append(table(4, start=5))
    with h5py.File(path) as file:
        assert file["x"].shape == (9, 3)
        np.testing.assert_array_equal(file["x"][:, 0], np.arange(9) + 0.5)
        assert file["x"].fletcher32
        assert file["x"].chunks[1:] == (3,)
        assert file["weight"].chunks[0] == file["x"].chunks[0]
        assert Schema.from_dict(json.loads(file.attrs["physgen_schema"])) == TABLE
        assert file.attrs["note"] == "x"


def test_hdf5_chunks_hold_about_a_mebibyte_of_whole_rows(tmp_path):
    with hdf5_writer(tmp_path / "wide.h5") as append:
        append(Batch(torch.zeros(2, 40_500)))
    with h5py.File(tmp_path / "wide.h5") as file:
        assert file["x"].chunks == (4, 40_500)


def test_batches_that_do_not_fit_the_earlier_ones_are_refused(tmp_path):
    path = tmp_path / "bad.h5"
    with pytest.raises(FormatError, match="weight came or went"):
        write_all(path, table(2), table(2).replace(weight=None))
    with pytest.raises(FormatError, match="rows of 'x' have shape"):
        write_all(path, Batch(torch.zeros(2, 3)), Batch(torch.zeros(2, 4)))
    assert list(tmp_path.iterdir()) == []


def test_root_keeps_names_types_and_weights(tmp_path):
    path = tmp_path / "table.root"
    with root_writer(path, TABLE, weight="w") as append:
        append(table(3))
        append(table(2, start=3))
    with uproot.open(path) as file:
        tree = file["events"]
        assert tree.typenames() == {
            "pt": "double",
            "njets": "int8_t",
            "tagged": "bool",
            "run": "int32_t",
            "w": "float",
        }
        assert tree["njets"].array(library="np").tolist() == [0, 1, 2, 3, 4]
        assert tree["w"].array(library="np").sum() == -4


def test_root_integers_are_clipped_and_never_wrap(tmp_path):
    path = tmp_path / "clipped.root"
    x = torch.tensor([[0.0, 1e6, 0.9], [0.0, -1e6, 0.1], [0.0, 2.6, 0.0]])
    with root_writer(path, TABLE) as append:
        append(Batch(x, condition=torch.full((3, 1), 1e30)))
    with uproot.open(path) as file:
        arrays = file["events"].arrays(library="np")
        assert arrays["njets"].tolist() == [127, -128, 3]
        assert arrays["tagged"].tolist() == [True, False, False]
        assert arrays["run"].tolist() == [2**31 - 1] * 3


def test_root_has_no_half_precision(tmp_path):
    schema = Schema((1,), (Variable("half", dtype="float16"),))
    with root_writer(tmp_path / "a.root", schema) as append:
        append(Batch(torch.tensor([[1.5], [-2.0]])))
    with uproot.open(tmp_path / "a.root") as file:
        array = file["events"]["half"].array(library="np")
    assert array.dtype == np.float32
    assert array.tolist() == [1.5, -2.0]


def test_root_masked_samples_become_jagged_branches_with_one_counter(tmp_path):
    path = tmp_path / "jagged.root"
    schema = Schema((3, 2), (Variable("Muon_pt", "GeV"), Variable("Muon_charge", dtype="int32")))
    x = torch.tensor([[[1.0, -1], [2, 1], [0, 0]], [[0, 0], [0, 0], [0, 0]]])
    mask = torch.tensor([[True, True, False], [False, False, False]])
    with root_writer(path, schema) as append:
        append(Batch(x, mask=mask))
    with uproot.open(path) as file:
        tree = file["events"]
        assert set(tree.keys()) == {"nMuon", "Muon_pt", "Muon_charge"}
        assert tree["Muon_pt"].array().to_list() == [[1, 2], []]
        assert tree["Muon_charge"].typename == "int32_t[]"


def test_npz_holds_all_batches(tmp_path):
    path = tmp_path / "table.npz"
    with npz_writer(path, schema=TABLE) as append:
        append(table(2))
        append(table(3, start=2))
    with np.load(path, allow_pickle=False) as arrays:
        assert arrays["x"].shape == (5, 3)
        assert arrays["weight"].shape == (5,)


def left_by_a_dead_process(path):
    """What a process that was killed in the middle of an output leaves."""
    child = os.fork()
    if child == 0:
        part = writer.part_of(path)
        part.write_bytes(b"half")
        os._exit(0)
    os.waitpid(child, 0)


def test_the_next_output_sweeps_what_a_dead_process_left(tmp_path):
    path = tmp_path / "out [1].bin"
    left_by_a_dead_process(path)
    assert len(parts(tmp_path)) == 1
    mine = writer.part_of(path)
    mine.write_bytes(b"in the works")
    (tmp_path / "out [1].bin.part").write_bytes(b"somebody's")
    left_by_a_dead_process(tmp_path / "other.bin")
    with atomic(path) as part:
        part.write_bytes(b"physics")
    left = {part.name for part in parts(tmp_path)}
    assert mine.name in left
    assert "out [1].bin.part" in left
    assert sum(name.startswith("other.bin") for name in left) == 1
    assert len(left) == 3


def test_parts_of_another_machine_are_left_for_a_week(tmp_path, monkeypatch):
    path = tmp_path / "out.bin"
    with monkeypatch.context() as patch:
        patch.setattr(writer, "_machine", lambda: "0123abcd")
        left_by_a_dead_process(path)
    writer.sweep(path)
    (part,) = parts(tmp_path)
    old = part.stat().st_mtime - 8 * 24 * 3600
    os.utime(part, (old, old))
    writer.sweep(path)
    assert parts(tmp_path) == []


def test_equal_samples_are_equal_bytes_though_a_profiler_holds_frames(tmp_path):
    """Datasets that frames keep alive are closed later, and HDF5 places chunks at the close."""
    over, writing = threading.Event(), threading.get_ident()

    def profile():
        held = []
        while not over.wait(0.0005):
            held = [sys._current_frames()[writing]]
            while held[-1].f_back is not None:
                held.append(held[-1].f_back)

    profiler = threading.Thread(target=profile)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    profiler.start()
    batch, found = Batch(torch.zeros(4096, 16), chain=torch.arange(4096)), set()
    try:
        for _ in range(60):
            with hdf5_writer(tmp_path / "a.h5", overwrite=True) as append:
                for _ in range(3):
                    append(batch)
            found.add(sha256(tmp_path / "a.h5"))
    finally:
        over.set()
        profiler.join()
        sys.setswitchinterval(interval)
    assert len(found) == 1
