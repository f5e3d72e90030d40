"""Data of physics at given parameters, posteriors of these, and data of files of samples."""

import math

import numpy as np
import pytest
import torch

from physgen.batch import Batch
from physgen.errors import FormatError
from physgen.systems import physics_tasks
from physgen.systems.calorimeter import Calorimeter
from physgen.systems.gauge import Gauge
from physgen.systems.ising import Ising
from physgen.systems.physics_tasks import PHYSICS
from physgen.systems.posterior import Posterior
from physgen.systems.scalar import Phi4
from physgen.systems.simulators import draw_parameters


def mean_at(name, theta, n, seed=1):
    """Return means of n data at one theta, and their errors."""
    x = PHYSICS[name].simulate(np.tile(np.array(theta, float), (n, 1)), seed)
    return x.mean(0), x.std(0) / math.sqrt(n)


@pytest.mark.parametrize("temperature", [1.6, 2.269, 3.4])
def test_energies_of_spins_have_the_mean_and_the_width_of_the_exact_solution(temperature):
    exact = Ising(shape=physics_tasks.SPINS, temperature=temperature).exact()
    n = 20_000
    (mean,), (error,) = mean_at("ising-temperature", [temperature], n)
    assert abs(mean - exact["E/N"]) < 4 * error
    heat = (error * math.sqrt(n)) ** 2 * math.prod(physics_tasks.SPINS) / temperature**2
    assert heat == pytest.approx(exact["C/N"], rel=0.05)


@pytest.mark.parametrize("beta", [0.5, 2.0, 5.5])
def test_plaquettes_have_the_exact_mean(beta):
    exact = Gauge(group="U(1)", shape=physics_tasks.LINKS, beta=beta).exact()["plaquette"]
    (mean,), (error,) = mean_at("u1-beta", [beta], 5000)
    assert abs(mean - exact) < 4 * error


def test_plaquettes_of_few_links_know_that_they_add_up_to_zero(monkeypatch):
    """On 2x2 sites the torus is far from infinite, and the mean from I_1 / I_0."""
    monkeypatch.setattr(physics_tasks, "LINKS", (2, 2))
    exact = Gauge(group="U(1)", shape=(2, 2), beta=1.0).exact()["plaquette"]
    (mean,), (error,) = mean_at("u1-beta", [1.0], 40_000)
    assert abs(mean - exact) < 4 * error
    assert abs(mean - 0.4464) > 10 * error


@pytest.mark.parametrize("name", ["ising-temperature", "u1-beta"])
def test_exact_posteriors_are_calibrated(name):
    """By the ranks of true parameters among draws, uniform for the exact posterior."""
    task, n, n_draws = PHYSICS[name], 1000, 19
    theta = draw_parameters(task.parameters, n, seed=5)
    data = task.simulate(theta, seed=6)
    draws = [task.exact_posterior(x, n_draws, seed=i)[:, 0] for i, x in enumerate(data)]
    ranks = (np.stack(draws) < theta).sum(1)
    counts = np.bincount(ranks // 2, minlength=10)
    assert ((counts - n / 10) ** 2 / (n / 10)).sum() < 27.9  # 0.1% of chi^2, 9 degrees of freedom.


def test_moments_of_fields_are_those_of_long_chains():
    """Where correlations are longest; after 4 trajectories from zero phi^2 is 10 errors off."""
    system = Phi4(shape=physics_tasks.FIELD, m2=-4.0, lam=6.0)
    batch = system.simulate(100_000, seed=1)
    mean, error = mean_at("phi4-couplings", [-4.0, 6.0], 2000)
    for column, power in enumerate((2, 4)):
        moments = batch.x.double().pow(power).flatten(1).mean(1)
        chains = np.array([moments[batch.chain == one].mean() for one in batch.chain.unique()])
        spread = chains.std(ddof=1) / math.sqrt(len(chains))
        assert abs(mean[column] - chains.mean()) < 4 * math.hypot(error[column], spread)


def test_showers_of_the_task_are_those_of_the_calorimeter():
    """Upright ones; and inclined ones move by the tangent of their angle."""
    n, energy = 400, 5e4
    energies = torch.full((n, 1), energy)
    upright = Calorimeter(angle_deg=0.0).simulate(n, 1, energies)
    there = Calorimeter().observables(upright)
    names = [one.name for one in physics_tasks.SHOWER[:-1]]
    mean, error = mean_at("shower-particle", [energy, 0.0], n, seed=2)
    for column, name in enumerate(names):
        assert abs(mean[column] - there[name].mean().item()) < 4 * math.sqrt(2) * error[column]
    shifts = [mean_at("shower-particle", [energy, angle], n)[0][-1] for angle in (10.0, 20.0)]
    expected = math.tan(math.radians(20)) / math.tan(math.radians(10))
    assert shifts[1] / shifts[0] == pytest.approx(expected, rel=0.1)


def test_nobody_knows_the_posterior_of_a_shower():
    assert Posterior(simulator="shower-particle").exact_posterior(torch.zeros(6), 5, 1) is None


SAMPLES = {
    "ising-temperature": lambda: Ising(shape=(16, 16), temperature=2.4),
    "u1-beta": lambda: Gauge(group="U(1)", shape=(8, 8), beta=3.0),
    "phi4-couplings": lambda: Phi4(shape=(8, 8), m2=-2.0, lam=8.0),
    "shower-particle": Calorimeter,
}


@pytest.fixture(params=SAMPLES)
def written(request, tmp_path):
    """Name, samples and a file of them."""
    system = SAMPLES[request.param]()
    batch, path = system.simulate(35, seed=1), tmp_path / "samples.h5"
    with system.writer(path, 35) as append:
        append(Batch(batch.x, batch.condition))
    return request.param, system, batch, path


def test_data_of_files_are_those_of_their_samples(written):
    name, system, batch, path = written
    data = PHYSICS[name].of_file(path)
    seen = system.observables(batch)
    if name == "phi4-couplings":
        squares = batch.x.double().square().flatten(1)[:32]
        expected = (
            squares.mean(1).reshape(2, 16).mean(1),
            squares.square().mean(1).reshape(2, 16).mean(1),
        )
    elif name == "shower-particle":
        expected = [seen[f"E_layer_{layer}"] for layer in (0, 1, 2, 3, 12)]
        data = data[:, :-1]
    else:
        expected = [seen[PHYSICS[name].data[0].name]]
    np.testing.assert_allclose(data, torch.stack(list(expected), 1).numpy(), rtol=1e-5, atol=1e-6)


def test_too_few_fields_are_refused(tmp_path):
    system = Phi4(shape=(8, 8), m2=-2.0, lam=8.0)
    with system.writer(tmp_path / "few.h5", 3) as append:
        append(Batch(system.simulate(3, seed=1).x))
    with pytest.raises(FormatError, match="3 configurations, and an observation"):
        PHYSICS["phi4-couplings"].of_file(tmp_path / "few.h5")
