"""Ising spins on lattices of any bonds: exact values and updates against enumeration, files."""

import math

import numpy as np
import pytest
import torch

from physgen.batch import Batch
from physgen.errors import DomainError, FormatError
from physgen.systems.ising import Ising
from physgen.systems.kernels import spins as kernel
from physgen.systems.kernels.ising import random_state
from physgen.systems.spin_lattices import neighbours
from tests.systems.enumeration import imbalance, p_value, states, thermodynamics

EXACT = {
    "square antiferromagnet": Ising(shape=(4, 4), coupling=-1, temperature=2.0),
    "triangular": Ising(shape=(3, 4), lattice="triangular", temperature=3.0),
    "triangular at Tc": Ising(shape=(4, 4), lattice="triangular", temperature=4 / np.log(3)),
    "triangular of two rows": Ising(shape=(2, 5), lattice="triangular", temperature=5.0),
    "triangular antiferromagnet": Ising(
        shape=(3, 4), lattice="triangular", coupling=-1, temperature=0.5
    ),
    "chain": Ising(shape=(7,), lattice="chain", temperature=1.3),
    "chain in a field": Ising(shape=(7,), lattice="chain", temperature=1.3, field=-0.4),
    "chain antiferromagnet": Ising(
        shape=(8,), lattice="chain", coupling=-1, temperature=0.9, field=0.7
    ),
}


@pytest.mark.parametrize("name", EXACT)
def test_exact_values_are_those_of_enumeration(name):
    system = EXACT[name]
    known, wanted = system.exact(), thermodynamics(system)
    assert {"F/N", "E/N", "C/N", "ln Z", "m"} <= known.keys()
    for key, value in known.items():
        assert value == pytest.approx(wanted[key], rel=1e-9, abs=1e-12), key


def test_exact_values_of_large_lattices_are_those_of_infinite_ones():
    """At low and high temperature too; the triangular antiferromagnet keeps its entropy."""
    triangular = Ising(shape=(96, 96), lattice="triangular", temperature=4 / np.log(3))
    assert triangular.exact()["E/N"] == pytest.approx(-2, abs=0.02)  # Houtappel, at Tc
    cold = Ising(shape=(48, 48), lattice="triangular", coupling=-1, temperature=1e-3).exact()
    assert cold["E/N"] == pytest.approx(-1, abs=1e-9)
    entropy = cold["ln Z"] / 48**2 - 1e3
    assert entropy == pytest.approx(0.323066, abs=5e-3)  # Wannier
    for shape, lattice in (((48, 48), "triangular"), ((500,), "chain")):
        for temperature in (1e-3, 0.1, 1e3):
            values = Ising(shape=shape, lattice=lattice, temperature=temperature).exact().values()
            assert np.isfinite(list(values)).all()


MODELS = {
    "cubic": Ising(shape=(2, 2, 2), lattice="cubic", temperature=9.0),
    "cubic in a field": Ising(shape=(2, 2, 2), lattice="cubic", temperature=9.0, field=0.5),
    "chain": Ising(shape=(8,), lattice="chain", temperature=1.5),
    "triangular": Ising(shape=(3, 3), lattice="triangular", temperature=8.0),
    "antiferromagnet in a field": Ising(shape=(2, 4), coupling=-1, temperature=3.0, field=1.0),
    "random bonds": Ising(shape=(3, 3), disorder=5, temperature=2.0),
    "frustrated": Ising(shape=(3, 3), lattice="triangular", coupling=-1, temperature=2.0),
}


@pytest.mark.parametrize("name", MODELS)
def test_updates_sample_the_exact_distribution(name):
    """Clusters hold for frustrated bonds too, if slowly."""
    model = MODELS[name].model
    bonds = kernel.Bonds(model.neighbours, model.signs, model.field)
    for updates in (kernel.Updates(0, 12), kernel.Updates(24, 0)):
        spins, chain = np.ones(len(bonds.neighbours), np.int8), np.empty((30_000, 9), np.int8)
        chain, state = chain[:, : len(spins)].copy(), random_state(4)
        kernel.cluster_chain(spins, bonds, model.temperature, updates, chain, state)
        assert p_value(chain[100:], MODELS[name]) > 1e-3


def test_every_replica_of_parallel_tempering_samples_the_exact_distribution():
    system = Ising(shape=(3, 3), disorder=2, temperature=1.0, field=0.2)
    model, temperatures = system.model, np.array([1.0, 1.5, 2.5])
    bonds = kernel.Bonds(model.neighbours, model.signs, model.field)
    replicas, state = np.ones((3, 9), np.int8), random_state(8)
    chains = np.empty((3, 30_000, 9), np.int8)
    coldest = np.empty((1, 9), np.int8)
    for row in range(30_000):
        rates = kernel.tempering(replicas, bonds, temperatures, 14, coldest, state)
        assert np.array_equal(coldest[0], replicas[0])
        chains[:, row] = replicas
    assert (rates > 0).any()
    for temperature, chain in zip(temperatures, chains, strict=True):
        at = Ising(shape=(3, 3), disorder=2, temperature=float(temperature), field=0.2)
        assert p_value(chain[50:], at) > 1e-3


def test_clusters_are_in_detailed_balance():
    """With a field and bonds of both signs."""
    system = Ising(shape=(4,), lattice="chain", disorder=1, temperature=1.5, field=0.3)
    model, state = system.model, random_state(3)
    bonds = kernel.Bonds(model.neighbours, model.signs, model.field)
    assert imbalance(lambda spins: kernel.clusters(spins, bonds, 1.5, 1, state), system) < 5


def test_simulated_configurations_agree_with_exact_energies():
    for system in (
        Ising(shape=(8, 8), lattice="triangular", temperature=3.5),
        Ising(shape=(8, 8), lattice="triangular", coupling=-1, temperature=0.7),
        Ising(shape=(8, 8), coupling=-1, temperature=2.3),
        Ising(shape=(32,), lattice="chain", temperature=0.8, field=0.1),
    ):
        n = 2000
        batch = system.simulate(n, 3)
        assert (batch.chain is None) == (not system.frustrated)
        values = system.observables(batch)
        for name in ("E/N", "m"):
            x = values[name]
            # Kept configurations are about independent.
            error = 1.5 * x.std() / n**0.5
            assert abs(x.mean() - system.exact()[name]) < 4 * error, (system, name)
        assert torch.equal(batch.x, system.simulate(n, 3).x)


@pytest.mark.parametrize(
    "system",
    [
        Ising(shape=(4, 4), coupling=-1, temperature=1.0, field=0.5),
        Ising(shape=(4, 4), temperature=1.0, field=1e-4),
        Ising(shape=(4, 4, 4), lattice="cubic", coupling=-1, temperature=2.0, field=0.2),
    ],
)
def test_both_ordered_states_are_drawn_in_a_field(system):
    """Clusters of nearly all spins, ten between two states, would lead back to where they began."""
    n = 2000
    first = system.simulate(n, 3).x.reshape(n, -1)[:, 0].double()
    assert abs(first.mean()) < 4 / n**0.5
    assert abs((first[1:] * first[:-1]).mean()) < 4 / n**0.5


def test_observables_by_hand():
    up = Batch(x=torch.ones(1, 4, 4, 4))
    cubic = Ising(shape=(4, 4, 4), lattice="cubic", field=0.5)
    assert cubic.observables(up)["E/N"].item() == -3.5
    anti = Ising(shape=(4, 4), coupling=-1)
    board = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(2, 2)[None]
    values = anti.observables(Batch(x=board))
    assert (values["E/N"].item(), values["m"].item(), values["|ms|"].item()) == (-2, 0, 1)
    stripes = torch.tensor([[1.0], [-1.0]]).repeat(2, 4)[None]
    triangular = Ising(shape=(4, 4), lattice="triangular", coupling=-1)
    assert triangular.observables(Batch(x=stripes))["E/N"].item() == -1
    assert triangular.features(Batch(x=stripes), "high").isfinite().all()


@pytest.mark.parametrize("name", MODELS)
def test_tables_and_fields_have_the_same_bonds(name):
    system = MODELS[name]
    x = states(system.shape)[::7]
    model = system.model
    bonds = kernel.Bonds(model.neighbours, model.signs, model.field)
    energies = [kernel.energy(one.numpy().astype(np.int8).ravel(), bonds) for one in x]
    assert np.allclose(energies, system.action(x) * system.temperature)
    for site, near in enumerate(model.neighbours):
        assert all(site in model.neighbours[other] for other in near)


def test_disorder_is_that_of_its_seed():
    one, two = (Ising(shape=(8, 8), disorder=seed).bonds for seed in (1, 2))
    assert one.shape == (2, 8, 8)
    assert set(np.unique(one)) == {-1, 1}
    assert (one != two).any()
    assert (one == Ising(shape=(8, 8), disorder=1, temperature=9.0).bonds).all()
    assert one[0, 0].tolist() == [1, 1, -1, 1, -1, 1, 1, -1]  # on every machine
    assert len(neighbours("cubic", (3, 4, 5))) == 60


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lattice": "chain"}, r"one extent.*system\.shape=\[64\]"),
        ({"shape": (8, 8, 8)}, r"rows and columns"),
        ({"shape": (3, 4), "coupling": -1}, r"odd extents.*make system\.shape even"),
        ({"coupling": 2}, r"system\.coupling=2: it is 1 or -1"),
        ({"disorder": -3}, r"a seed is not negative"),
        ({"disorder": 3, "coupling": -1}, r"leave the coupling out"),
    ],
)
def test_impossible_models_are_refused(options, words):
    with pytest.raises(DomainError, match=words):
        Ising(**options)


def test_files_of_other_bonds_are_refused(tmp_path):
    systems = {
        "disorder": Ising(shape=(4, 4), disorder=3),
        "coupling": Ising(shape=(4, 4), coupling=-1),
        "lattice": Ising(shape=(4, 4), lattice="triangular"),
    }
    for key, system in systems.items():
        for suffix in (".h5", ".npz"):
            path = tmp_path / f"{key}{suffix}"
            with system.writer(path, 3) as append:
                append(system.simulate(3, 1))
            assert len(system.open(path)) == 3
            with pytest.raises(FormatError, match=rf"{key}.*set system\.{key}="):
                Ising(shape=(4, 4)).open(path)
    with pytest.raises(FormatError, match=r"disorder = 3.*disorder = 4.*set system\.disorder=3"):
        Ising(shape=(4, 4), disorder=4).open(tmp_path / "disorder.h5")
    with pytest.raises(FormatError, match=r"set system\.coupling=-1 and leave .*disorder out"):
        Ising(shape=(4, 4), disorder=4).open(tmp_path / "coupling.h5")


def test_the_distribution_of_energies_is_that_of_beale():
    """Numbers of configurations of 4x4 by energy, from -32 in steps of 4."""
    count = [2, 0, 32, 64, 424, 1728, 6688, 13568, 20524]
    levels = Ising(shape=(4, 4), temperature=1e9).distributions()["E/N"]
    assert levels.values.tolist() == [(-32 + 4 * k) / 16 for k in range(17)]
    assert 2**16 * levels.probabilities == pytest.approx([*count, *count[-2::-1]], abs=1e-3)
    # Of 16x16 at low temperature, the ground states, and one spin or a pair turned round.
    cold = Ising(temperature=1.2).distributions()["E/N"].probabilities
    assert cold[2] / cold[0] == pytest.approx(256 * math.exp(-8 / 1.2), rel=1e-10)
    assert cold[3] / cold[0] == pytest.approx(512 * math.exp(-12 / 1.2), rel=1e-9)
    for options in ({"field": 0.1}, {"disorder": 1}, {"shape": (64, 64)}):
        assert Ising(**options).distributions() == {}


@pytest.mark.parametrize("temperature", [0.7, 3.7, 50.0])
@pytest.mark.parametrize("coupling", [1, -1])
def test_distributions_have_the_exact_moments(temperature, coupling):
    lattice = "triangular"
    system = Ising(shape=(6, 8), lattice=lattice, coupling=coupling, temperature=temperature)
    values, p = system.distributions()["E/N"]
    exact = system.exact()
    assert values @ p == pytest.approx(exact["E/N"], abs=1e-11)
    spread = values**2 @ p - (values @ p) ** 2
    assert 48 * spread / temperature**2 == pytest.approx(exact["C/N"], abs=1e-9)
