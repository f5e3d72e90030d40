"""Files of lattices: what they say of themselves, and layouts of several chains."""

import h5py
import numpy as np
import pytest
import torch

from physgen.batch import Batch
from physgen.errors import FormatError
from physgen.systems.ensemble import Ensemble
from physgen.systems.ising import Ising
from physgen.systems.scalar import Phi4


def h5(path, attributes=(), **datasets):
    with h5py.File(path, "w") as file:
        for name, value in datasets.items():
            file[name] = value
        file.attrs.update(attributes)
    return path


def all_of(ensemble):
    return Batch.concatenate(list(ensemble.parts()))


@pytest.fixture
def fields():
    return np.random.default_rng(0).normal(size=(50, 4, 4))


@pytest.fixture
def spins():
    return np.random.default_rng(1).choice([-1, 1], size=(50, 4, 4)).astype(np.int8)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"m2": -4.0, "lam": np.float32(6.9)}, None),
        ({"M2": -4.0, "Lambda": 6.0}, "says Lambda = 6, and this system has 6.9; set system.lam"),
        ({"m2": -1.0}, "says m2 = -1, and this system has -4; set system.m2"),
        ({"kappa": 0.2}, r"set system.convention=hopping"),
        ({"lam": h5py.Empty("f8"), "m2": "light"}, None),
    ],
)
def test_a_file_of_another_theory_is_refused(tmp_path, fields, said, message):
    path = h5(tmp_path / "a.h5", said, configurations=fields)
    system = Phi4(shape=(4, 4), m2=-4.0, lam=6.9)
    if message is None:
        assert len(system.open(path)) == 50
        return
    with pytest.raises(FormatError, match=message):
        system.open(path)
    np.savez(tmp_path / "a.npz", configurations=fields, **said)
    with pytest.raises(FormatError, match=message):
        system.open(tmp_path / "a.npz")


def test_temperatures_in_a_file_are_compared(tmp_path, spins):
    system = Ising(shape=(4, 4), temperature=2.0)
    assert len(system.open(h5(tmp_path / "a.h5", {"beta": 0.5, "T": 2}, samples=spins))) == 50
    with pytest.raises(
        FormatError, match=r"says beta = 0.4, and this system has 0.5; set system.t"
    ):
        system.open(h5(tmp_path / "b.h5", {"beta": 0.4}, samples=spins))
    mixed = h5(tmp_path / "c.h5", samples=spins, temperature=np.repeat([1.5, 2.0], 25))
    with pytest.raises(FormatError, match=r"'temperature' has 2 values, from 1.5 to 2: .* mixture"):
        system.open(mixed)
    one = h5(tmp_path / "d.h5", samples=spins, temperature=np.full(50, 2.0))
    assert len(system.open(one)) == 50


def test_what_a_system_writes_it_reads_with_its_parameters(tmp_path, spins):
    system = Ising(shape=(4, 4), temperature=2.0, field=0.1)
    for name in ("a.h5", "a.npz"):
        with system.writer(tmp_path / name, 10) as append:
            append(system.simulate(10, 1).replace(log_weight=torch.arange(10.0)))
        read = system.open(tmp_path / name).read(0, 10)
        assert read.log_weight.tolist() == list(range(10))
        with pytest.raises(FormatError, match="says temperature = 2"):
            Ising(shape=(4, 4), temperature=2.1, field=0.1).open(tmp_path / name)


@pytest.mark.parametrize("suffix", [".h5", ".npz"])
@pytest.mark.parametrize("system", [Phi4(shape=(4, 4), m2=-4.0, lam=6.9), Ising(shape=(4, 4))])
def test_weights_that_are_written_are_read(tmp_path, spins, system, suffix):
    batch = Batch(torch.from_numpy(spins).to(torch.float32), weight=torch.rand(50))
    with system.writer(tmp_path / f"a{suffix}", 50) as append:
        append(batch)
    again = system.open(tmp_path / f"a{suffix}").read(10, 50)
    assert torch.equal(again.weight, batch.weight[10:])


def test_ensembles_of_spins_are_read_as_spins(tmp_path, spins):
    wanted = torch.from_numpy(spins)
    for name, stored in {
        "samples": spins > 0,
        "spins": (spins + 1) / 2,
        "x": spins.astype("u1"),
        "phi": spins,
    }.items():
        read = all_of(Ensemble(path=str(h5(tmp_path / f"{name}.h5", **{name: stored}))))
        assert torch.equal(read.x.to(torch.int8), wanted), name
    whole = h5(tmp_path / "fields.h5", phi=np.where(spins > 0, 1.0, 0.0))
    assert all_of(Ensemble(path=str(whole))).x.min() == 0
    real = h5(tmp_path / "real.h5", samples=0.7 * spins)
    assert torch.equal(all_of(Ensemble(path=str(real))).x, 0.7 * wanted.double())
    said = h5(tmp_path / "said.h5", samples=0.7 * spins, variable_type=b"ising")
    with pytest.raises(FormatError, match="0 holds"):
        all_of(Ensemble(path=str(said)))


def test_ensembles_of_several_chains_are_asked_about(tmp_path, fields):
    path = str(h5(tmp_path / "a.h5", phi=fields.reshape(5, 10, 4, 4)))
    with pytest.raises(FormatError, match=r"5 lattices of 10x4x4, several chains of 4x4, or trans"):
        all_of(Ensemble(path=path))
    read = all_of(Ensemble(path=path, axes=("chain", "time")))
    assert torch.equal(read.x, torch.from_numpy(fields))
    assert read.chain.bincount().tolist() == [10] * 5
    whole = all_of(Ensemble(path=path, shape=(10, 4, 4)))
    assert whole.x.shape == (5, 10, 4, 4)
    assert whole.chain.unique().tolist() == [0]


def test_spins_of_several_chains_are_asked_about(tmp_path, spins):
    path = str(h5(tmp_path / "a.h5", spins=spins.reshape(5, 10, 4, 4)))
    with pytest.raises(FormatError, match="5 lattices of 10x4x4, several chains of 4x4, or trans"):
        all_of(Ensemble(path=path))
    assert all_of(Ensemble(path=path, axes=("chain", "time"))).chain.bincount().tolist() == [10] * 5
    flat = h5(tmp_path / "b.h5", {"shape": (2, 8)}, samples=spins.reshape(50, 16))
    assert all_of(Ensemble(path=str(flat))).x.shape == (50, 2, 8)


def test_series_of_several_chains_are_asked_about(tmp_path):
    series = np.random.default_rng(0).normal(size=(4, 100))
    path = str(h5(tmp_path / "a.h5", energy=series))
    with pytest.raises(
        FormatError, match=r"\(4, 100\): 4 lattices of 100, several chains of one n"
    ):
        all_of(Ensemble(path=path))
    ensemble = Ensemble(path=path, axes=("chain", "time"))
    batch = all_of(ensemble)
    assert torch.equal(ensemble.observables(batch)["value"], torch.from_numpy(series).flatten())
    assert batch.chain.bincount().tolist() == [100] * 4


def test_flat_rows_are_lattices_of_the_shape_that_is_said(tmp_path, fields):
    path = str(h5(tmp_path / "a.h5", phi=fields.reshape(50, 16)))
    assert all_of(Ensemble(path=path, shape=(4, 4))).x.shape == (50, 4, 4)
    with pytest.raises(FormatError, match=r"rows of shape \(16,\), which are no lattices of 5x5"):
        all_of(Ensemble(path=path, shape=(5, 5)))


def test_rows_of_numbers_may_be_a_table(tmp_path):
    path = str(h5(tmp_path / "table.h5", x=np.random.default_rng(3).normal(size=(50, 3))))
    with pytest.raises(FormatError, match=r"or a table\? Say --set system.shape=\[3\]"):
        all_of(Ensemble(path=path))
    assert all_of(Ensemble(path=path, shape=(3,))).x.shape == (50, 3)
