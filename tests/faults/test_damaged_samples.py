"""A damaged file of samples is named before anything is asked of the user."""

import h5py
import numpy as np
import pyarrow
import pytest
import uproot
from pyarrow import feather, parquet

from physgen import pipeline
from physgen.against import Criteria
from physgen.errors import FormatError, InputError
from physgen.io.inspect import inspect


def table(path):
    parquet.write_table(pyarrow.table({"a": np.arange(5000.0)}), path)


def arrow(path):
    feather.write_feather(pyarrow.table({"a": np.random.default_rng(1).random(5000)}), str(path))


def tree(path):
    with uproot.recreate(path) as file:
        file.mktree("events", {"a": np.float64})
        file["events"].extend({"a": np.random.default_rng(1).random(5000)})


def archive(path):
    with path.open("wb") as file:
        np.savez(file, x=np.arange(5000.0)[:, None])


def datasets(path):
    with h5py.File(path, "w") as file:
        file["x"] = np.arange(5000.0)[:, None]


FORMATS = {"Parquet": table, "Arrow": arrow, "ROOT": tree, "npz": archive, "HDF5": datasets}


def cut(path, tmp_path, share=0.6):
    content = path.read_bytes()
    result = tmp_path / f"cut{path.suffix}"
    result.write_bytes(content[: int(len(content) * share)])
    return result


@pytest.mark.parametrize("write", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("candidate", [True, False])
def test_a_file_cut_short_is_named_on_either_side(tmp_path, write, candidate):
    good = tmp_path / "good"
    write(good)
    bad = cut(good, tmp_path)
    sides = (bad, good) if candidate else (good, bad)
    with pytest.raises(FormatError, match=r"cut\b.*(cut short|damaged).*copy or make it again"):
        pipeline.validate_files(*sides)


@pytest.mark.parametrize("kind", ["Parquet", "Arrow", "ROOT"])
@pytest.mark.parametrize("share", [0.6, 0.99])
def test_a_file_cut_short_and_alone_is_said_to_be_one(tmp_path, kind, share):
    good = tmp_path / "good"
    FORMATS[kind](good)
    bad = cut(good, tmp_path, share)
    stated = rf"cut: an? {kind} file that is cut short or damaged: .*; copy or make it again"
    for system in (None, "phi4-flow"):  # Whatever it is taken for.
        with pytest.raises(FormatError, match=stated):
            pipeline.validate_files(bad, None, Criteria(recipe=system))
    assert "copy or make it again" in (inspect(bad)["problem"] or "")
    assert inspect(bad)["reader"] == "no"


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".root", ".h5", ".npz"])
@pytest.mark.parametrize("content", [b"", b"P", bytes(5000)])
def test_what_is_left_of_a_file_is_told_by_its_name(tmp_path, suffix, content):
    bad = tmp_path / f"left{suffix}"
    bad.write_bytes(content)
    stated = "cut short, or damaged" if content else "empty"
    with pytest.raises(FormatError, match=rf"left{suffix}.*{stated}.*copy or make it again"):
        pipeline.validate_files(bad)


@pytest.mark.parametrize("kind", ["Parquet", "Arrow", "ROOT"])
def test_a_whole_file_of_another_format_is_not_called_damaged(tmp_path, kind):
    good = tmp_path / "good"
    FORMATS[kind](good)
    with pytest.raises(FormatError, match=f"good: {kind}, neither HDF5 nor npz"):
        pipeline.validate_files(good)


@pytest.mark.parametrize("write", FORMATS.values(), ids=FORMATS)
def test_damaged_training_rows_are_named_before_a_system_is_asked_for(tmp_path, write):
    good = tmp_path / "good"
    write(good)
    bad = cut(good, tmp_path)
    with pytest.raises(FormatError, match=r"cut\b.*(cut short|damaged).*copy or make it again"):
        pipeline.validate_files(good, good, Criteria(training=str(bad)))
    with pytest.raises(InputError, match="--system"):
        pipeline.validate_files(good, good, Criteria(training=good))
