"""Distances of jets: closed forms, a linear program, and the definitions written out."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from scipy.stats import wasserstein_distance

from physgen.batch import Batch
from physgen.errors import InputError, NotMeasurable, RecipeError
from physgen.systems.jets import Jets
from physgen.systems.kernels.energy_mover import energy_mover
from physgen.systems.scalar import Phi4
from physgen.validation.comparison import Comparison
from physgen.validation.energy_mover import EnergyMover, coverage_and_distance
from physgen.validation.jet_wasserstein import POLYNOMIALS, JetWasserstein

SYSTEM = Jets(particles=8)


def jets(n, seed, width=0.1, particles=8):
    """Return n jets of 1 to 8 particles whose pT sums to 1."""
    generator = np.random.default_rng(seed)
    mask = np.arange(particles) < generator.integers(1, particles + 1, n)[:, None]
    pt = np.where(mask, generator.exponential(1.0, (n, particles)), 0.0)
    pt /= pt.sum(1, keepdims=True)
    x = np.concatenate([generator.normal(0, width, (n, particles, 2)), pt[..., None]], 2)
    return Batch(torch.tensor(x * mask[..., None]), mask=torch.tensor(mask))


def by_linear_program(a, b, radius):
    cost = np.linalg.norm(a[:, None, :2] - b[None, :, :2], axis=2) / radius
    n, m = cost.shape
    limits = np.concatenate([np.repeat(np.eye(n), m, axis=1), np.tile(np.eye(m), n)])
    moved = min(a[:, 2].sum(), b[:, 2].sum())
    result = linprog(
        cost.ravel(), limits, np.concatenate([a[:, 2], b[:, 2]]), np.ones((1, n * m)), [moved]
    )
    return result.fun + abs(a[:, 2].sum() - b[:, 2].sum())


@pytest.mark.parametrize("radius", [1.0, 0.1])
def test_the_energy_movers_distance_is_that_of_a_linear_program(radius):
    first, second = jets(5, 1), jets(5, 2)
    x, y = first.x.numpy(), second.x.numpy() * [1, 1, 0.8]
    found = energy_mover(x, first.mask.numpy(), y, second.mask.numpy(), radius)
    for i, j in itertools.product(range(5), range(5)):
        wanted = by_linear_program(x[i][first.mask[i]], y[j][second.mask[j]], radius)
        assert found[i, j] == pytest.approx(wanted, abs=1e-9)


def test_the_distance_of_two_particles_in_closed_form():
    """min(z, z') theta / R + |z - z'|, at any distance."""
    x = np.array([[[0.0, 0.0, 1.0]], [[0.3, 0.4, 0.7]], [[3.0, 0.0, 0.5]]])
    there = np.ones((3, 1), bool)
    found = energy_mover(x, there, x, there, radius=0.5)
    near = 0.7 * 0.5 / 0.5 + 0.3
    far, farther = 0.5 * np.hypot(2.7, 0.4) / 0.5 + 0.2, 0.5 * 3.0 / 0.5 + 0.5
    wanted = [[0, near, farther], [near, 0, far], [farther, far, 0]]
    assert found == pytest.approx(np.array(wanted))


def test_two_particles_each_exchange_the_cheaper_way():
    """Of pT .6 + .4 against .4 + .6 on the same places, .2 moves."""
    x = np.array([[[0.0, 0.0, 0.6], [0.5, 0.0, 0.4]]])
    y = np.array([[[0.0, 0.0, 0.4], [0.5, 0.0, 0.6]]])
    there = np.ones((1, 2), bool)
    assert energy_mover(x, there, y, there).item() == pytest.approx(0.2 * 0.5)
    assert energy_mover(x, there, y, ~there).item() == pytest.approx(1.0)


def test_distances_are_a_metric():
    sample = jets(15, 3)
    d = energy_mover(sample.x.numpy(), sample.mask.numpy(), sample.x.numpy(), sample.mask.numpy())
    assert d == pytest.approx(d.T, abs=1e-12)
    assert np.diag(d) == pytest.approx(np.zeros(15), abs=1e-12)
    assert (d[:, :, None] <= d[:, None, :] + d[None, :, :].transpose(0, 2, 1) + 1e-12).all()


def test_coverage_and_distance_are_those_of_their_definitions():
    truth, generated = jets(8, 4), jets(8, 5)
    table = np.zeros((8, 8))
    for i, j in itertools.product(range(8), range(8)):
        ours, theirs = generated.x[i][generated.mask[i]], truth.x[j][truth.mask[j]]
        table[i, j] = by_linear_program(ours.numpy(), theirs.numpy(), 1.0)
    covered, distance = coverage_and_distance(truth, generated)
    assert covered == len(set(table.argmin(1))) / 8
    assert distance == pytest.approx(table.min(0).mean())


def comparison(width=0.1, n=600):
    return Comparison(SYSTEM, jets(n, 1, width), truth=jets(n, 2), floor=jets(n, 3), seed=7)


def test_distances_of_wasserstein_are_those_of_scipy():
    samples = comparison(width=0.12)
    rows = {row.name: row for row in JetWasserstein().rows(samples)}
    ours, truth = samples.generated, samples.truth
    a, b = (SYSTEM.observables(batch) for batch in (ours, truth))
    mass = wasserstein_distance(a["relative mass"], b["relative mass"])
    assert rows["W1M"].value == pytest.approx(mass)
    number = wasserstein_distance(a["number of particles"], b["number of particles"])
    assert rows["W1N"].value == pytest.approx(number)
    assert number > 0
    features = [
        wasserstein_distance(ours.x[ours.mask][:, i], truth.x[truth.mask][:, i]) for i in range(3)
    ]
    assert rows["W1P"].value == pytest.approx(np.mean(features))
    assert rows["W1P phirel"].value == pytest.approx(features[1])
    assert len(POLYNOMIALS) == 5
    efps = [wasserstein_distance(a[f"EFP {g}"], b[f"EFP {g}"]) for g in POLYNOMIALS]
    assert rows["W1EFP"].value == pytest.approx(np.mean(efps))


def test_what_the_mask_hides_counts_nowhere():
    samples = comparison(width=0.12)

    def hidden(batch):
        return batch.replace(x=torch.where(batch.mask[..., None], batch.x, 0.3))

    noisy = replace(
        samples,
        generated=hidden(samples.generated),
        truth=hidden(samples.truth),
        floor=hidden(samples.floor),
    )
    wanted = [(row.name, row.value, row.floor) for row in JetWasserstein().rows(samples)]
    found = [(row.name, row.value, row.floor) for row in JetWasserstein().rows(noisy)]
    assert found == wanted


def test_too_wide_jets_are_told_from_the_floor_and_limits_decide():
    rows = {row.name: row for row in JetWasserstein().rows(comparison(width=0.15))}
    for name in ("W1M", "W1P", "W1EFP"):
        assert rows[name].value > rows[name].floor + 5 * rows[name].error > 0
    limits = {"W1M": 0.02, "W1P ptrel": 0.02}
    judged = {r.name: r for r in JetWasserstein(tolerance=limits).rows(comparison(width=0.15))}
    assert judged["W1M"].verdict == "fail"
    assert judged["W1P ptrel"].verdict == "pass"


def test_the_protocol_of_the_reference_draws_with_replacement_from_a_seed():
    """Its mean is that of W1 of samples of that size; the same seed gives the same."""
    asked = JetWasserstein(samples=500, batches=20)
    rows, again = asked.rows(comparison()), asked.rows(comparison())
    assert [row.value for row in rows] == [row.value for row in again]
    mass = rows[0]
    assert mass.error > 0
    generator = np.random.default_rng(0)
    a, b = (SYSTEM.observables(jets(600, seed))["relative mass"].numpy() for seed in (1, 2))
    drawn = [
        wasserstein_distance(generator.choice(a, 500), generator.choice(b, 500)) for _ in range(200)
    ]
    # Twenty against two hundred batches: four standard errors of the former.
    assert mass.value == pytest.approx(np.mean(drawn), abs=4 * np.std(drawn) / 20**0.5)


def test_coverage_falls_where_modes_are_missing():
    truth, missing = comparison(), jets(600, 1, width=0.02)
    same = {row.name: row for row in EnergyMover(n=50, draws=5).rows(truth)}
    less = Comparison(SYSTEM, missing, truth=truth.truth, floor=truth.floor)
    other = {row.name: row for row in EnergyMover(n=50, draws=5).rows(less)}
    assert abs(same["COV, energy mover"].value - same["COV, energy mover"].floor) < 0.1
    assert other["COV, energy mover"].value < same["COV, energy mover"].value - 0.2
    distance = same["MMD, energy mover"]
    assert other["MMD, energy mover"].value > distance.value + 10 * distance.error
    assert "5 draws of 50 jets" in same["MMD, energy mover"].note


def test_what_cannot_be_measured_is_said():
    x = torch.randn(3, 50, 4, generator=torch.Generator().manual_seed(0))
    spins = Comparison(Phi4(shape=(4,)), *map(Batch, x))
    for metric in (JetWasserstein(), EnergyMover()):
        with pytest.raises(RecipeError, match=r"is for jets: it needs system\.kind=jets"):
            metric.rows(spins)
        with pytest.raises(InputError, match="needs a sample of the truth"):
            metric.rows(Comparison(SYSTEM, jets(50, 1)))
    with pytest.raises(NotMeasurable, match="too few jets for 10 draws"):
        EnergyMover().rows(comparison(n=10))
    with pytest.raises(RecipeError, match="stated for 'W1X', which is not measured"):
        JetWasserstein(tolerance={"W1X": 1.0}).rows(comparison())


def test_the_error_is_that_of_the_mean_of_the_draws():
    generated, truth = jets(600, 5, width=0.2), jets(600, 6)
    metric = EnergyMover(n=20, draws=10)
    rows = {row.name: row for row in metric.rows(Comparison(SYSTEM, generated, truth))}
    draws = [slice(start, start + 20) for start in range(0, 600, 20)]
    parts = [coverage_and_distance(truth[rows], generated[rows])[1] for rows in draws]
    expected = np.std(parts, ddof=1) / np.sqrt(10)
    assert expected / 2 < rows["MMD, energy mover"].error < 2 * expected
