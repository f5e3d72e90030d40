"""A damaged file of samples is named before anything is asked of the user."""

import h5py
import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from physgen import pipeline
from physgen.errors import FormatError


def table(path):
    parquet.write_table(pyarrow.table({"a": np.arange(5000.0)}), path)


def archive(path):
    with path.open("wb") as file:
        np.savez(file, x=np.arange(5000.0)[:, None])


def datasets(path):
    with h5py.File(path, "w") as file:
        file["x"] = np.arange(5000.0)[:, None]


@pytest.mark.parametrize("write", [table, archive, datasets])
@pytest.mark.parametrize("candidate", [True, False])
def test_a_file_cut_short_is_named_on_either_side(tmp_path, write, candidate):
    good, bad = tmp_path / "good", tmp_path / "cut"
    write(good)
    content = good.read_bytes()
    bad.write_bytes(content[: len(content) * 6 // 10])
    sides = (bad, good) if candidate else (good, bad)
    with pytest.raises(FormatError, match=r"cut\b.*(cut short|damaged).*copy or make it again"):
        pipeline.validate_files(*sides)
