import pickle

import numpy as np
import pytest
import torch

from physgen.batch import Batch, Schema, Variable
from physgen.errors import FormatError
from physgen.io.npz import NpzSource
from physgen.io.writer import npz_writer


def test_arrays_come_back_with_their_schema(tmp_path):
    schema = Schema((2,), (Variable("e", "MeV"),))
    batch = Batch(torch.rand(9, 2), weight=-torch.ones(9))
    with npz_writer(tmp_path / "a.npz", schema=schema) as append:
        append(batch)
    source = NpzSource(tmp_path / "a.npz")
    assert source.schema == schema
    assert torch.equal(source.read(0, 9).x, batch.x)
    assert torch.equal(source.read(0, 9).weight, batch.weight)


def test_foreign_arrays_are_found_by_name(tmp_path):
    np.savez(tmp_path / "a.npz", samples=np.arange(4.0), condition=np.arange(4))
    source = NpzSource(tmp_path / "a.npz", x="samples")
    assert source.read(1, 3).x.tolist() == [[1], [2]]
    assert source.schema.condition[0].dtype == "int64"
    with pytest.raises(FormatError, match="no array 'sample'; did you mean 'samples'"):
        NpzSource(tmp_path / "a.npz", x="sample")


class Trap:
    def __reduce__(self):
        return print, ("a pickle was run",)


def test_pickles_are_refused_and_not_run(tmp_path, capsys):
    np.savez(tmp_path / "objects.npz", x=np.array([Trap()], dtype=object))
    (tmp_path / "pickle.npz").write_bytes(pickle.dumps(Trap()))
    for name, said in (("objects.npz", "Python objects, which are refused"), ("pickle.npz", "zip")):
        with pytest.raises(FormatError, match=said):
            NpzSource(tmp_path / name)
    assert capsys.readouterr().out == ""


def test_lengths_types_and_values_are_checked(tmp_path):
    path = tmp_path / "a.npz"
    for arrays, message in (
        ({"x": np.array(["a"])}, "holds <U1, not rows of numbers"),
        ({"x": np.array([0, np.nan])}, "row 1 holds nan"),
    ):
        np.savez(path, **arrays)
        with pytest.raises(FormatError, match=message):
            NpzSource(path)
    np.savez(path, x=np.zeros(3), weight=np.zeros(4))
    with pytest.raises(FormatError, match="'weight' has 4 rows, 'x' has 3"):
        NpzSource(path, weight="weight")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(FormatError, match="is cut short, damaged"):
        NpzSource(path)
    with pytest.raises(FormatError, match="no such file"):
        NpzSource(tmp_path / "absent.npz")


def test_arrays_that_nobody_asked_for_refuse_nothing(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, x=np.zeros(3), chain=np.zeros(4), note=np.array([{}], dtype=object))
    with pytest.warns(UserWarning, match="'chain' has 4 rows, 'x' has 3; it is not used"):
        source = NpzSource(path)
    assert set(source.read(0, 3).fields()) == {"x"}
