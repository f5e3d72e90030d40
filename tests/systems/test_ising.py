"""The Ising model: its kernels against enumeration, its exact values, its samples, its files."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from physgen.batch import Batch
from physgen.errors import DomainError, FormatError
from physgen.systems.base import HasAction, HasExact, HasFeatures, HasFiles, Simulates, System
from physgen.systems.ising import CRITICAL_TEMPERATURE, Ising
from physgen.systems.kaufman import kaufman
from physgen.systems.kernels import ising as kernel


def states(rows: int, columns: int) -> torch.Tensor:
    """All configurations, in the order of `code`."""
    all_spins = list(itertools.product((-1, 1), repeat=rows * columns))
    return torch.tensor(all_spins, dtype=torch.float64).reshape(-1, rows, columns)


def code(spins: np.ndarray) -> np.ndarray:
    """Number of a configuration: its spins read as bits, highest first."""
    bits = (spins.reshape(len(spins), -1) > 0).astype(np.int64)
    return bits @ (1 << np.arange(bits.shape[1])[::-1])


def probabilities(system: Ising) -> np.ndarray:
    return torch.softmax(-system.action(states(*system.shape)), 0).numpy()


def p_value(spins: np.ndarray, system: Ising) -> float:
    """Of chi-squared between independent configurations and the exact distribution."""
    expected = probabilities(system) * len(spins)
    counts = np.bincount(code(spins), minlength=len(expected))
    # States seen too rarely for the chi-squared law are counted together.
    rare = expected < 5
    pooled = np.append(expected[~rare], expected[rare].sum())
    seen = np.append(counts[~rare], counts[rare].sum())
    keep = pooled > 0
    statistic = ((seen - pooled)[keep] ** 2 / pooled[keep]).sum()
    return float(chi2.sf(statistic, keep.sum() - 1))


@pytest.mark.parametrize(
    ("size", "f", "e", "c"),
    [
        (4, -2.201381412966, -1.565623787638, 0.783266825929),
        (8, -2.132388214643, -1.491589107440, 1.145559239894),
        (16, -2.115326187918, -1.453064852813, 1.498704959400),
    ],
)
def test_kaufman_gives_the_published_values_at_the_critical_point(size, f, e, c):
    exact = Ising(shape=(size, size)).exact()
    assert exact["F/N"] == pytest.approx(f, abs=1e-12)
    assert exact["E/N"] == pytest.approx(e, abs=1e-12)
    assert exact["C/N"] == pytest.approx(c, abs=1e-11)


@pytest.mark.parametrize("shape", [(4, 4), (3, 5), (2, 4), (3, 3)])
@pytest.mark.parametrize("temperature", [0.8, 2.0, CRITICAL_TEMPERATURE, 3.5])
def test_kaufman_agrees_with_enumeration(shape, temperature):
    system = Ising(shape=shape, temperature=temperature)
    x, n = states(*shape), np.prod(shape)
    action = system.action(x)
    log_z = torch.logsumexp(-action, 0)
    p = (-action - log_z).exp()
    energy = action * temperature
    mean = (p * energy).sum()
    exact = system.exact()
    assert exact["F/N"] == pytest.approx(float(-temperature * log_z / n), rel=1e-12)
    assert exact["E/N"] == pytest.approx(float(mean / n), rel=1e-12)
    variance = float((p * (energy - mean) ** 2).sum())
    assert exact["C/N"] == pytest.approx(variance / temperature**2 / n, rel=1e-9)


def test_kaufman_tends_to_onsager_and_overflows_nowhere():
    assert kaufman(256, 256, 2.0)["E/N"] == pytest.approx(-1.7455645753, abs=1e-10)
    assert kaufman(256, 256, 2.5)["E/N"] == pytest.approx(-1.1060792038, abs=1e-9)
    assert kaufman(64, 64, 0.05)["F/N"] == pytest.approx(-2, abs=1e-3)
    assert kaufman(256, 256, 1e3)["E/N"] == pytest.approx(-2e-3, rel=1e-3)
    assert kaufman(6, 17, 2.2) == pytest.approx(kaufman(17, 6, 2.2))


@pytest.mark.parametrize("temperature", [1e-6, 1e-3, 0.05])
def test_all_spins_are_aligned_near_zero_temperature(temperature):
    """Two ground states: F = -2 N - T ln 2, and nothing else within reach."""
    exact = Ising(temperature=temperature).exact()
    assert exact["E/N"] == pytest.approx(-2, abs=1e-12)
    assert exact["F/N"] == pytest.approx(-2 - temperature * np.log(2) / 256, rel=1e-12)
    assert exact["C/N"] == pytest.approx(0, abs=1e-12)
    assert np.isfinite(list(exact.values())).all()


SWEEPS = {
    "checkerboard": ((2, 4), 3.0, 0.0, (0, 60)),
    "checkerboard in a field": ((2, 4), 4.0, 0.4, (0, 60)),
    "in order, odd lengths": ((3, 3), 4.0, -0.3, (0, 60)),
    "clusters": ((3, 3), 3.0, 0.0, (10, 0)),
    "clusters in a field": ((2, 4), 5.0, 0.3, (40, 0)),
}


@pytest.mark.parametrize("name", SWEEPS)
def test_updates_sample_the_exact_distribution(name):
    shape, temperature, field, updates = SWEEPS[name]
    spins, chain = np.ones(shape, np.int8), np.empty((60_000, *shape), np.int8)
    state = kernel.random_state(7)
    kernel.cluster_chain(spins, temperature, field, kernel.Updates(100, 100), chain[:1], state)
    kernel.cluster_chain(spins, temperature, field, kernel.Updates(*updates), chain, state)
    assert p_value(chain, Ising(shape=shape, temperature=temperature, field=field)) > 1e-3


def packed(shape: tuple[int, int], temperature: float, n: int, sweeps: int) -> np.ndarray:
    """(n, 64, rows, columns) spins of the bit-packed kernel."""
    words, state = np.zeros(shape, np.uint64), kernel.random_state(3)
    kernel.metropolis_64(words, temperature, 200, state)
    spins = np.empty((n, 64, *shape), np.int8)
    for block in spins:
        kernel.metropolis_64(words, temperature, sweeps, state)
        kernel.unpack_64(words, block)
    return spins


def test_packed_replicas_sample_the_exact_distribution():
    spins = packed((2, 4), 3.0, 1000, 60)
    assert p_value(spins.reshape(-1, 2, 4), Ising(shape=(2, 4), temperature=3.0)) > 1e-3


def test_packed_replicas_share_no_randomness():
    n = 2000
    magnetisation = packed((4, 4), 4.0, n, 10).mean((2, 3))
    correlation = np.corrcoef(magnetisation.T)[np.triu_indices(64, 1)]
    # The largest of 2016 correlations of independent series is about 3.5 / sqrt(n).
    assert np.abs(correlation).max() < 5 / np.sqrt(n)
    assert n * np.mean(correlation**2) == pytest.approx(1, abs=0.15)


def test_all_kernels_agree_with_the_exact_energy_at_the_critical_point():
    exact, n = kaufman(16, 16, CRITICAL_TEMPERATURE)["E/N"], 1000
    spins, chain = np.ones((16, 16), np.int8), np.empty((n, 16, 16), np.int8)
    updates, state = kernel.Updates(20, 1), kernel.random_state(1)
    kernel.cluster_chain(spins, CRITICAL_TEMPERATURE, 0, updates, chain, state)
    words = packed((16, 16), CRITICAL_TEMPERATURE, 150, 50)[20:].transpose(1, 0, 2, 3)
    for replicas in (chain[None, 100:].reshape(9, 100, 16, 16), words):
        x = torch.from_numpy(np.ascontiguousarray(replicas)).flatten(0, 1)
        e = Ising().observables(Batch(x))["E/N"].reshape(len(replicas), -1).mean(1)
        assert abs(e.mean() - exact) < 4 * e.std() / len(replicas) ** 0.5
        assert e.std() / len(replicas) ** 0.5 < 0.01


def test_the_same_seed_gives_the_same_chain_and_another_another():
    for temperature in (CRITICAL_TEMPERATURE, 3.5):
        system = Ising(shape=(8, 8), temperature=temperature)
        one, two = system.simulate(130, 5).x, system.simulate(130, 5).x
        assert one.shape == (130, 8, 8)
        assert one.dtype == torch.int8
        assert torch.equal(one, two)
        assert not torch.equal(one, system.simulate(130, 6).x)
    assert len(Ising(shape=(8, 8)).simulate(0, 1)) == 0


@pytest.mark.parametrize(
    ("temperature", "field", "stride"),
    [
        (CRITICAL_TEMPERATURE, 0.0, 1),
        (2.0, 0.0, 1),
        (3.0, 0.0, 64),
        (10.0, 0.0, 64),
        (1000.0, 0.0, 64),
        (2.3, 0.1, 1),
    ],
)
def test_simulated_configurations_are_independent(temperature, field, stride):
    n = 6400
    system = Ising(shape=(12, 12), temperature=temperature, field=field)
    batch = system.simulate(n, 2)
    assert batch.chain is None
    observables = system.observables(batch)
    for name in ("E/N", "|m|", "m"):
        x = observables[name] - observables[name].mean()
        correlation = (x[stride:] * x[:-stride]).mean() / x.var()
        assert abs(correlation) < 4.5 / n**0.5
    if "E/N" in system.exact():
        e = observables["E/N"]
        assert abs(e.mean() - system.exact()["E/N"]) < 4 * e.std() / n**0.5


def test_observables_by_hand():
    system = Ising(shape=(4, 6), temperature=2.0, field=0.5)
    up = torch.ones(1, 4, 6, dtype=torch.int8)
    stripes = up.clone()
    stripes[:, ::2] = -1
    o = system.observables(Batch(torch.cat([up, stripes, -up])))
    # All up: 2 bonds and the field a site. Rows in turn: the bonds of a site cancel.
    assert o["E/N"].tolist() == [-2.5, 0.0, -1.5]
    assert o["m"].tolist() == [1, 0, -1]
    assert o["|m|"].tolist() == [1, 0, 1]
    assert o["G(r)"].tolist() == [[1, 1], [0, 1], [1, 1]]
    action = system.action(torch.cat([up, stripes]).double())
    assert action.tolist() == [-2.5 * 24 / 2, 0]
    assert torch.equal(o["E/N"][:2] * 24 / 2, action)


def test_derived_quantities_by_hand():
    derived = Ising(shape=(2, 2), temperature=2.0).derived
    assert derived["C/N"].means == ("(E/N)^2", "E/N")
    assert derived["C/N"].function(np.array([3.0, 1.0])) == 4 * 2 / 4
    assert derived["chi"].function(np.array([0.5, 0.5])) == 4 * 0.25 / 2
    assert derived["U4"].function(np.array([1.0, 1.0])) == pytest.approx(2 / 3)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 5), st.integers(0, 5))
def test_observables_know_the_symmetries(seed, up, left):
    x = torch.randint(2, (3, 6, 6), generator=torch.Generator().manual_seed(seed)) * 2 - 1
    system = Ising(shape=(6, 6))
    before = system.observables(Batch(x))
    after = system.observables(Batch(-x.roll((up, left), (1, 2)).transpose(1, 2)))
    for name, value in before.items():
        sign = -1 if name == "m" else 1
        torch.testing.assert_close(after[name], sign * value)


def test_features_for_classifiers():
    system = Ising(shape=(6, 4))
    batch = system.simulate(5, 1)
    assert torch.equal(system.features(batch, "low"), batch.x.flatten(1).float())
    high = system.features(batch, "high")
    assert high.shape == (5, 3 + 2 + 3)
    assert torch.isfinite(high).all()


def test_the_protocols_are_met():
    system = Ising()
    for protocol in (System, HasAction, HasExact, HasFeatures, HasFiles, Simulates):
        assert isinstance(system, protocol)


@pytest.mark.parametrize(
    "options",
    [
        {"shape": (16,)},
        {"shape": (1, 4)},
        {"temperature": 0.0},
        {"temperature": float("nan")},
        {"field": float("inf")},
    ],
)
def test_impossible_models_are_refused(options):
    with pytest.raises(DomainError, match="ising"):
        Ising(**options)


def test_in_a_field_nothing_is_exact():
    assert Ising(field=0.1).exact() == {}


def test_the_tabulated_binder_cumulant_is_that_of_the_simulation():
    system, n = Ising(shape=(8, 8)), 20_000
    o = system.observables(system.simulate(n, 3))
    u4 = system.derived["U4"].function(np.array([o["m^4"].mean(), o["m^2"].mean()]))
    value, error = system.reference()["U4"]
    assert abs(u4 - value) < 4 * (error + 0.2 / n**0.5)
    assert Ising(shape=(8, 8), temperature=2.0).reference() == {}


def test_a_file_goes_round_and_the_wrong_lattice_is_named(tmp_path):
    system = Ising(shape=(6, 6))
    batch = system.simulate(20, 1)
    for name in ("spins.h5", "spins.npz"):
        with system.writer(tmp_path / name, 20) as append:
            append(batch)
        source = system.open(tmp_path / name)
        assert torch.equal(source.read(0, 20).x, batch.x)
        with pytest.raises(FormatError, match=r"6x6.*system\.shape=\[6, 6\]"):
            Ising(shape=(8, 8)).open(tmp_path / name)
