"""The Potts model: exact values and updates against enumeration, the Ising model, its files."""

import math

import numpy as np
import pytest
import torch

from physgen.batch import Batch
from physgen.errors import DomainError, FormatError
from physgen.io.potts import PottsSource
from physgen.systems.base import HasAction, HasExact, HasFeatures, HasFiles, Simulates, System
from physgen.systems.ising import Ising
from physgen.systems.kernels import potts as kernel
from physgen.systems.kernels.ising import random_state
from physgen.systems.potts import Potts, critical_temperature
from physgen.systems.potts_torus import potts_torus
from physgen.systems.spin_exact import potts_strip
from physgen.systems.spin_lattices import neighbours
from tests.systems.enumeration import imbalance, p_value, states, thermodynamics

SHEETS = ("square", "triangular")


@pytest.mark.parametrize(
    "system",
    [
        Potts(shape=(6,), q=3, lattice="chain", temperature=0.6),
        Potts(shape=(5,), q=4, lattice="chain", temperature=0.2),
        Potts(shape=(3, 4), q=2, temperature=1.1),
        Potts(shape=(3, 3), q=3, temperature=0.9),
        Potts(shape=(2, 4), q=3, temperature=0.8),
        Potts(shape=(4, 2), q=3, temperature=0.8),
        Potts(shape=(3, 2), q=4, lattice="triangular", temperature=1.7),
        Potts(shape=(3, 3), q=3, lattice="triangular", temperature=1.7),
        Potts(shape=(3, 3), q=2, lattice="triangular", temperature=1.9),
    ],
)
def test_exact_values_are_those_of_enumeration(system):
    wanted = thermodynamics(system, range(system.q))
    known = system.exact()
    assert {"F/N", "E/N", "C/N", "ln Z"} <= known.keys()
    for name, value in known.items():
        assert value == pytest.approx(wanted[name], rel=1e-9), name


@pytest.mark.parametrize("shape", [(8, 8), (5, 7), (9, 4)])
def test_transfer_matrices_and_the_ising_model_agree(shape):
    t = 1.3
    ising = {name: Potts(shape=shape, q=2, lattice=name, temperature=t).exact() for name in SHEETS}
    assert potts_torus(shape, 2, t) == pytest.approx(ising["square"], rel=1e-11)
    assert potts_strip("triangular", shape, 2, t) == pytest.approx(ising["triangular"], rel=1e-11)


def test_energies_and_specific_heats_are_derivatives_of_the_free_energy():
    t, step = critical_temperature(3), 1e-4
    known = [Potts(shape=(6, 7), temperature=t + d).exact() for d in (-step, 0.0, step)]
    low, middle, high = (one["ln Z"] / 42 for one in known)
    above, below = (t + step) * t * (high - middle), (t - step) * t * (middle - low)
    assert known[1]["E/N"] == pytest.approx((above + below) / (2 * step), rel=1e-6)
    slope = (known[2]["E/N"] - known[0]["E/N"]) / (2 * step)
    assert known[1]["C/N"] == pytest.approx(slope, rel=1e-6)


def test_wide_lattices_are_not_known_and_cold_ones_are_ordered():
    assert Potts(shape=(9, 9), q=3).exact() == {}
    assert Potts(shape=(6, 6), q=3, lattice="triangular").exact() == {}
    cold = Potts(shape=(4, 4), q=4, temperature=1e-3).exact()
    assert cold["E/N"] == pytest.approx(-2, abs=1e-12)
    assert cold["ln Z"] == pytest.approx(32e3 + math.log(4), rel=1e-12)


def test_two_values_are_the_ising_model_at_twice_the_temperature():
    t = critical_temperature(2)
    potts, ising = Potts(shape=(16, 16), q=2, temperature=t), Ising(temperature=2 * t)
    x = torch.randint(2, (5, 16, 16), generator=torch.Generator().manual_seed(1)).double()
    difference = potts.action(x) - ising.action(2 * x - 1)
    assert torch.allclose(difference, difference[:1].expand(5))
    assert potts.exact()["E/N"] == pytest.approx(-1.453064852813 / 2 - 1, abs=1e-11)
    assert potts.exact()["C/N"] == pytest.approx(1.498704959400, abs=1e-10)


@pytest.mark.parametrize(
    ("shape", "q", "lattice"),
    [((2, 3), 3, "square"), ((5,), 4, "chain"), ((2, 3), 3, "triangular")],
)
@pytest.mark.parametrize("updates", ["metropolis", "clusters"])
def test_updates_sample_the_exact_distribution(shape, q, lattice, updates):
    system = Potts(shape=shape, q=q, lattice=lattice, temperature=1.5)
    table, n_sites = neighbours(lattice, shape), math.prod(shape)
    spins, chain = np.zeros(n_sites, np.int8), np.empty((40_000, n_sites), np.int8)
    state = random_state(5)
    for row in chain:
        getattr(kernel, updates)(spins, table, (q, 1.5), 16, state)
        row[:] = spins
    assert p_value(chain[100:], system, range(q)) > 1e-3


def test_clusters_are_in_detailed_balance():
    system = Potts(shape=(3,), q=3, lattice="chain", temperature=0.8)
    table, state = neighbours("chain", (3,)), random_state(6)

    def update(spins):
        kernel.clusters(spins, table, (3, 0.8), 1, state)

    assert imbalance(update, system, range(3)) < 5


def test_simulated_energies_are_exact():
    n = 3000
    for system in (
        Potts(shape=(8, 8), q=2, temperature=critical_temperature(2)),
        Potts(shape=(24,), q=5, lattice="chain", temperature=0.5),
        Potts(shape=(5, 6), q=3),
    ):
        e = system.observables(system.simulate(n, 1))["E/N"]
        assert abs(e.mean() - system.exact()["E/N"]) < 4 * e.std() / n**0.5


def test_simulated_configurations_prefer_no_value_and_are_those_of_the_seed():
    system = Potts(shape=(6, 6), q=4, temperature=0.7)
    one = system.simulate(400, 2)
    assert one.x.dtype == torch.int8
    assert torch.equal(one.x, system.simulate(400, 2).x)
    assert not torch.equal(one.x, system.simulate(400, 3).x)
    shares = torch.bincount(one.x.flatten().long(), minlength=4) / one.x.numel()
    assert shares.numpy() == pytest.approx(0.25, abs=0.1)
    system.schema.check(one.x)


def test_the_energy_at_tc_is_known_by_duality():
    """In the infinite lattice; at 64 x 64 within its finite-size correction, which is negative."""
    system = Potts(shape=(64, 64), q=3, temperature=critical_temperature(3))
    e = float(system.observables(system.simulate(200, 4))["E/N"].mean())
    assert -1.60 < e < -(1 + 1 / math.sqrt(3)) + 0.002


def test_observables_by_hand():
    system = Potts(shape=(4, 4), q=4)
    x = torch.zeros(2, 4, 4)
    x[1, ::2] = 3
    o = system.observables(Batch(x))
    assert o["E/N"].tolist() == [-2, -1]
    assert o["m"].tolist() == [1, pytest.approx(1 / 3)]
    assert o["fractions"].tolist() == [[1, 0, 0, 0], [0.5, 0.5, 0, 0]]
    assert system.features(Batch(x), "low").shape == (2, 64)
    assert system.features(Batch(x), "high").shape == (2, 6)
    assert torch.equal(system.action(x) * system.temperature, torch.tensor([-32.0, -16.0]))
    c = system.derived["C/N"]
    assert c.function(np.array([3.0, 1.0])) == pytest.approx(32 / system.temperature**2)


def test_the_protocols_are_met():
    for protocol in (System, HasAction, HasExact, HasFeatures, HasFiles, Simulates):
        assert isinstance(Potts(), protocol)


def test_a_file_goes_round_and_another_q_is_named(tmp_path):
    system = Potts(shape=(4, 6), q=3)
    batch = system.simulate(20, 1)
    for name in ("spins.h5", "spins.npz"):
        path = tmp_path / name
        with system.writer(path, 20) as append:
            append(batch)
        assert torch.equal(system.open(path).read(0, 20).x, batch.x)
        with pytest.raises(FormatError, match=r"says q = 3, .* has 5; set system\.q=3"):
            Potts(shape=(4, 6), q=5).open(path)
        with pytest.raises(FormatError, match=r"temperature = 0\.99.*set system\.temperature"):
            Potts(shape=(4, 6), temperature=1.5).open(path)
    assert PottsSource(tmp_path / "spins.h5").q == 3


def test_values_that_are_no_spins_are_named(tmp_path):
    x = states((3,), range(1, 4)).numpy()
    np.savez(tmp_path / "from1.npz", samples=x)
    with pytest.raises(FormatError, match=r"holds 3 where .* are 0 to 2;.*count from 1"):
        Potts(shape=(3,), q=3, lattice="chain").open(tmp_path / "from1.npz").read(0, 27)
    np.savez(tmp_path / "half.npz", samples=x / 2)
    with pytest.raises(FormatError, match=r"row 0 holds 0\.5"):
        Potts(shape=(3,), q=3, lattice="chain").open(tmp_path / "half.npz").read(0, 27)
    np.savez(tmp_path / "ising.npz", samples=x, variable_type="ising")
    with pytest.raises(FormatError, match=r"'ising'.*system\.kind=ising"):
        Potts(shape=(3,), q=3, lattice="chain").open(tmp_path / "ising.npz")
    with (
        pytest.raises(FormatError, match="Potts spins are 0 to 2"),
        Potts(shape=(3,), lattice="chain").writer(tmp_path / "new.h5", 1) as append,
    ):
        append(Batch(x=torch.tensor([[0, 1, 3]])))


@pytest.mark.parametrize(
    "options", [{"q": 1}, {"q": 101}, {"shape": (4,)}, {"temperature": 0.0}, {"lattice": "kagome"}]
)
def test_impossible_models_are_refused(options):
    with pytest.raises(DomainError, match="potts"):
        Potts(**options)
