"""Spin files: both codings, flat and square, and what is wrong with a file said plainly."""

import h5py
import numpy as np
import pytest
import torch

from physgen.batch import Batch
from physgen.errors import FormatError, InputError
from physgen.io.source import Source
from physgen.io.spins import SpinSource, spin_writer


@pytest.fixture
def spins():
    return np.random.default_rng(1).choice([-1, 1], size=(50, 4, 4)).astype(np.int8)


def write(path, *batches):
    with spin_writer(path, tuple(batches[0].x.shape[1:])) as append:
        for batch in batches:
            append(batch)


def h5(path, samples, variable_type=None, **datasets):
    with h5py.File(path, "w") as file:
        file["samples"] = samples
        if variable_type is not None:
            file["variable_type"] = variable_type
        for name, value in datasets.items():
            file[name] = value
    return path


CODINGS = {
    "bytes of -1/+1": (lambda s: s, None),
    "flat floats of -1/+1": (lambda s: s.reshape(50, 16).astype("f4"), "ising"),
    "flat floats of 0/1": (lambda s: (s.reshape(50, 16) + 1.0) / 2, "Bernoulli"),
    "undeclared 0/1": (lambda s: ((s + 1) // 2).astype("u1"), None),
    "booleans": (lambda s: s > 0, None),
    "unsigned bytes with 255 for -1": (lambda s: s.astype("u1"), None),
}


@pytest.mark.parametrize("name", CODINGS)
def test_every_coding_is_read_as_the_same_spins(tmp_path, spins, name):
    encode, declared = CODINGS[name]
    source = SpinSource(h5(tmp_path / "a.h5", encode(spins), declared))
    plain = SpinSource(h5(tmp_path / "b.h5", spins))
    assert isinstance(source, Source)
    assert source.schema.shape == (4, 4)
    assert source.schema.variables[0].domain == "spin"
    assert len(source) == 50
    batch = source.read(10, 20)
    assert batch.x.dtype == torch.int8
    assert np.array_equal(batch.x.numpy(), spins[10:20])
    assert source.digest() == plain.digest()
    assert source.keys() is None


@pytest.mark.parametrize("name", ["a.h5", "a.npz"])
def test_written_files_go_round_with_chain_and_weights(tmp_path, spins, name):
    batch = Batch(
        torch.from_numpy(spins), weight=torch.rand(50), chain=torch.arange(50).sort().values // 25
    )
    write(tmp_path / name, batch[:20], batch[20:])
    back = SpinSource(tmp_path / name).read(0, 50)
    for field, value in batch.fields().items():
        assert torch.equal(getattr(back, field), value)
    with pytest.raises(InputError, match="exists"):
        write(tmp_path / name, batch)
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_the_layout_is_the_one_other_programs_read(tmp_path, spins):
    write(tmp_path / "a.h5", Batch(torch.from_numpy(spins)))
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["samples"].shape == (50, 16)
        assert file["variable_type"][()].decode() == "ising"


@pytest.mark.parametrize("name", ["a.h5", "a.npz"])
def test_a_rectangle_comes_back_as_one(tmp_path, spins, name):
    rectangles = torch.from_numpy(spins.reshape(50, 2, 8))
    write(tmp_path / name, Batch(rectangles))
    source = SpinSource(tmp_path / name)
    assert torch.equal(source.read(0, 50).x, rectangles)


def test_another_dataset_and_chain_can_be_named(tmp_path, spins):
    path = h5(tmp_path / "a.h5", spins[:1], **{"run/cfg": spins, "run/id": np.repeat([3, 4], 25)})
    batch = SpinSource(path, dataset="run/cfg", chain="run/id").read(24, 26)
    assert batch.chain.tolist() == [3, 4]


def test_zero_and_minus_one_mixed_are_refused_with_the_row(tmp_path, spins):
    mixed = spins.copy()
    mixed[7, 1, 2] = 0
    with pytest.raises(FormatError, match="row 7 holds 0 where spins are -1 or 1: -1, 0 and 1 all"):
        SpinSource(h5(tmp_path / "a.h5", mixed)).read(5, 10)
    mixed[3, 0, 0] = 0
    mixed[0, 0, 0] = 1
    mixed[0, 0, 1] = 0
    with pytest.raises(FormatError, match="row 0 holds 0 where spins are -1 or 1"):
        SpinSource(h5(tmp_path / "b.h5", mixed)).read(0, 50)


def test_a_declaration_that_does_not_hold_is_refused(tmp_path, spins):
    source = SpinSource(h5(tmp_path / "a.h5", spins, "bernoulli"))
    with pytest.raises(FormatError, match=r"holds -1 where spins are 0 or 1.*'ising'"):
        source.read(0, 50)


@pytest.mark.parametrize("value", [0.5, 2, float("nan")])
def test_other_values_are_refused_with_the_row(tmp_path, spins, value):
    wrong = spins.astype("f8")
    wrong[9, 0, 0] = value
    path = h5(tmp_path / "a.h5", wrong)
    with pytest.raises(FormatError, match=r"a\.h5.*row 9 holds"):
        SpinSource(path).read(0, 50)


def test_what_is_not_there_is_named(tmp_path, spins):
    path = h5(tmp_path / "a.h5", spins)
    with pytest.raises(FormatError, match="'sample' does not exist; did you mean 'samples'"):
        SpinSource(path, dataset="sample")
    with pytest.raises(FormatError, match="no such file"):
        SpinSource(tmp_path / "b.h5")
    np.savez(tmp_path / "a.npz", configs=spins)
    with pytest.raises(FormatError, match=r"no array 'samples'.*'configs'"):
        SpinSource(tmp_path / "a.npz")
    (tmp_path / "c.npz").write_bytes(b"not an archive")
    with pytest.raises(FormatError, match=r"though it is named \.npz: cut short, or damaged"):
        SpinSource(tmp_path / "c.npz")


def test_other_variables_and_other_sizes_are_named(tmp_path, spins):
    with pytest.raises(FormatError, match="'categorical': not spins"):
        SpinSource(h5(tmp_path / "a.h5", spins, "categorical"))
    flat = h5(tmp_path / "b.h5", spins.reshape(50, 16))
    with pytest.raises(FormatError, match=r"a lattice of 4x4.*8x8; set system.shape=\[4, 4\]"):
        SpinSource(flat, shape=(8, 8))
    assert SpinSource(flat, shape=(2, 8)).schema.shape == (2, 8)


def test_what_is_beside_the_spins_refuses_no_file(tmp_path, spins):
    companions = {
        "note": h5py.Empty("f4"),
        "weights": h5py.Empty("f4"),
        "variable_type": np.array(["ising"], dtype=h5py.string_dtype()),
    }
    path = h5(tmp_path / "a.h5", spins.reshape(50, 16), **companions)
    for shape in ("4x4", h5py.Empty("i8"), -1):
        with h5py.File(path, "a") as file:
            file.attrs["shape"] = shape
        assert SpinSource(path).schema.shape == (4, 4)
        assert len(SpinSource(path).read(0, 50)) == 50
    with h5py.File(path, "a") as file:
        del file["variable_type"]
        file["variable_type"] = h5py.Empty("S5")
    assert len(SpinSource(path).read(0, 50)) == 50


@pytest.mark.parametrize(("axes", "swap"), [(("chain", "time"), False), (("time", "chain"), True)])
@pytest.mark.parametrize("name", ["a.h5", "a.npz"])
def test_several_chains_are_read_as_the_axes_say(tmp_path, spins, axes, swap, name):
    chains = spins.reshape(5, 10, 4, 4)
    stored = chains.swapaxes(0, 1) if swap else chains
    path = tmp_path / name
    np.savez(path, spins=stored) if name == "a.npz" else h5(path, spins, spins=stored)
    with pytest.raises(FormatError, match=r"several chains of lattices of 4x4; say .*data\.axes="):
        SpinSource(path, dataset="spins", shape=(4, 4))
    source = SpinSource(path, dataset="spins", shape=(4, 4), axes=axes)
    assert len(source) == 50
    batch = source.read(7, 43)
    whole = source.read(0, 50)
    assert torch.equal(batch.x, whole.x[7:43])
    assert torch.equal(batch.chain, whole.chain[7:43])
    for chain in range(5):
        assert np.array_equal(whole.x[whole.chain == chain], chains[chain])


def test_transposed_spins_are_said_to_be(tmp_path, spins):
    path = h5(tmp_path / "a.h5", spins.reshape(50, 16).T)
    with pytest.raises(FormatError, match=r"\(16, 50\): transposed\? .* write samples\.T"):
        SpinSource(path, shape=(4, 4))


def test_only_spins_are_written(tmp_path):
    with pytest.raises(FormatError, match="spins are -1 or \\+1"):
        write(tmp_path / "a.h5", Batch(torch.zeros(2, 4)))
    assert not list(tmp_path.iterdir())
