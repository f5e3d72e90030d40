r"""Simulators of physics whose parameters are inferred: a temperature, couplings, a particle.

Spins and links have weights exp(k s) of one number s of the configuration, so that s is all that
the data say of a parameter, and with ln Z(k) known exactly, so is the posterior:

    p(theta | s) = p(theta) exp(k s) / Z(k),    k = -1 / T, s = E;    k = beta, s = sum cos P.

Of phi^4 the means of phi^2 and phi^4 are sufficient, but Z is not known. Of showers nothing is.
"""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import ive, logsumexp

from physgen.batch import Batch, Variable
from physgen.errors import FormatError
from physgen.io.source import Source
from physgen.systems import spin_exact
from physgen.systems.calorimeter import Calorimeter
from physgen.systems.gauge import Gauge
from physgen.systems.inference_tasks import Task
from physgen.systems.ising import Ising
from physgen.systems.scalar import Phi4
from physgen.systems.simulators import Array, Parameter

SPINS = (16, 16)
LINKS = (8, 8)
FIELD = (8, 8)
CONFIGURATIONS = 16
"""Independent ones of a field, of which the data are means."""
CALORIMETER = Calorimeter()
TEMPERATURE = Parameter("T", 1.5, 3.5)
BETA = Parameter("beta", 0.5, 6.0)
COUPLINGS = Parameter("m2", -4.0, 0.0), Parameter("lam", 6.0, 10.0)
PARTICLE = (
    Parameter("energy", 1e4, 1e5, unit="MeV"),
    Parameter("angle", 0.0, 30.0, unit="deg"),
)
SHOWER = (
    *(Variable(f"E_layer_{layer}", "MeV", low=0.0) for layer in (0, 1, 2, 3, 12)),
    Variable("shift", "mm", low=0.0),
)

_GRID = 2001
_CHARGES = 40
_TRAJECTORIES = 30
_STEP = 0.1
_AT_ONCE = 4096


class Weights(NamedTuple):
    """Weights exp(k s) / Z(k) of a number s, on a grid of a parameter with a uniform prior.

    Attributes:
        grid: (G,) values of the parameter, from end to end.
        k, log_z: (G,) there.

    >>> grid = np.linspace(-8, 8, 999)  # The normal density of mean s, as exp(k s) / Z(k).
    >>> draws = Weights(grid, grid, grid**2 / 2).draws(1.0, 9999, np.random.default_rng(1))
    >>> round(float(draws.mean()), 1), round(float(draws.std()), 1)
    (1.0, 1.0)
    """

    grid: Array
    k: Array
    log_z: Array

    def draws(self, s: float, n: int, generator: np.random.Generator) -> Array:
        """Return (n, 1) draws of the parameter given s."""
        log = self.k * s - self.log_z
        p = np.exp(log - log.max())
        below = np.concatenate([[0.0], np.cumsum((p[1:] + p[:-1]) / 2)])
        return np.asarray(np.interp(generator.uniform(0, below[-1], n), below, self.grid)[:, None])


@functools.cache
def _ising_levels() -> tuple[Array, Array]:
    """Return the energies of the spins, and ln of the number of states of each.

    From the distributions at many temperatures, each where it is largest: p is known to 1e-14.
    """
    found = []
    for temperature in np.geomspace(1.2, 5.0, 12):
        energies, p = spin_exact.energy_levels("square", SPINS, 1, temperature)
        log_z = spin_exact.torus("square", SPINS, 1, temperature)["ln Z"]
        with np.errstate(divide="ignore"):
            found.append(np.log(np.where(p > 1e-9, p, 0.0)) + energies / temperature + log_z)
    return energies, np.max(found, axis=0)


def _ising(theta: Array, generator: np.random.Generator) -> Array:
    energies, log_number = _ising_levels()
    log = log_number - energies / theta
    below = np.exp(log - log.max(1, keepdims=True)).cumsum(1)
    uniform = generator.uniform(0, below[:, -1])
    return energies[(below < uniform[:, None]).sum(1), None] / math.prod(SPINS)


@functools.cache
def _ising_weights() -> Weights:
    grid = np.linspace(TEMPERATURE.first, TEMPERATURE.second, _GRID)
    energies, log_number = _ising_levels()
    log_z = logsumexp(log_number - energies / grid[:, None], axis=1)
    return Weights(grid, -1 / grid, np.asarray(log_z))


def _ising_posterior(x: Array, n: int, generator: np.random.Generator) -> Array:
    return _ising_weights().draws(float(x[0]) * math.prod(SPINS), n, generator)


def _links(theta: Array, generator: np.random.Generator) -> Array:
    """Draw all plaquettes but one, and the last such that all of them add up to zero, or again."""
    n_plaquettes, means = math.prod(LINKS), np.empty((len(theta), 1))
    waiting = np.arange(len(theta))
    while waiting.size:
        beta = theta[waiting]
        angles = generator.vonmises(0.0, beta, (len(waiting), n_plaquettes - 1))
        last = np.cos(angles.sum(1, keepdims=True))
        means[waiting] = (np.cos(angles).sum(1, keepdims=True) + last) / n_plaquettes
        accepted = generator.uniform(size=last.shape) < np.exp(beta * (last - 1))
        waiting = waiting[~accepted[:, 0]]
    return means


@functools.cache
def _links_weights() -> Weights:
    """Z is the sum of I_q(beta)^V over all charges q."""
    n_plaquettes, beta = math.prod(LINKS), np.linspace(BETA.first, BETA.second, _GRID)
    bessel = ive(np.arange(_CHARGES)[:, None], beta)
    ratio = 2 * ((bessel[1:] / bessel[0]) ** n_plaquettes).sum(0)
    log_z = n_plaquettes * (np.log(bessel[0]) + beta) + np.log1p(ratio)  # ive has exp(-beta).
    return Weights(beta, beta, np.asarray(log_z))


def _links_posterior(x: Array, n: int, generator: np.random.Generator) -> Array:
    return _links_weights().draws(float(x[0]) * math.prod(LINKS), n, generator)


def _field(theta: Array, generator: np.random.Generator) -> Array:
    """Run a group of chains of Hybrid Monte Carlo at each pair of couplings."""
    from physgen.systems.kernels import scalar

    table, rows = scalar.neighbours(FIELD), []
    steps = scalar.Steps(_STEP, round(1 / _STEP))
    for (m2, lam), seed in zip(theta, generator.integers(2**31, size=len(theta)), strict=True):
        states, phi = scalar.streams(int(seed), scalar.LANES), np.zeros((len(table), scalar.LANES))
        out = np.empty((1, scalar.LANES, len(table)))
        theory = scalar.Theory(table, m2, lam)
        scalar.trajectories(phi, states, theory, steps, _TRAJECTORIES, out)
        rows.append(_moments(out[0]).mean(0))
    return np.stack(rows)


def _moments(phi: Array) -> Array:
    """Return the (N, 2) means of phi^2 and phi^4 of (N, V) fields."""
    square = phi**2
    return np.stack([square.mean(1), (square**2).mean(1)], 1)


def _showers(theta: Array, generator: np.random.Generator) -> Array:
    from physgen.systems.kernels.shower import showers

    detector, seeds = CALORIMETER.detector, generator.integers(2**31, size=len(theta))
    rows = []
    for (energy, degrees), seed in zip(theta, seeds, strict=True):
        angle = math.radians(degrees)
        beam = detector.beam._replace(least_angle=angle, angle=angle)
        rows.append(showers(np.array([energy]), detector._replace(beam=beam), int(seed))[0])
    return _shower_summary(Batch(torch.from_numpy(np.concatenate(rows))))


def _shower_summary(batch: Batch) -> Array:
    """Return energies of the layers, and how far the shower's centre moves from layer 1 to 2."""
    x = batch.x.double()
    seen = CALORIMETER.observables(Batch(x, torch.ones(len(x), 1)))
    moved = [seen[f"centre_{axis}_2"] - seen[f"centre_{axis}_1"] for axis in ("eta", "phi")]
    columns = [seen[name.name] for name in SHOWER[:-1]]
    # A layer without energy has no centre.
    columns.append(torch.stack(moved).square().sum(0).sqrt().nan_to_num(0.0))
    return torch.stack(columns, 1).numpy()


def _of_spins(path: Path) -> Array:
    system = Ising(shape=SPINS)
    batch = _whole(system.open(path, varying=("temperature",)))
    return system.observables(batch)["E/N"].double().numpy()[:, None]


def _of_links(path: Path) -> Array:
    system = Gauge(group="U(1)", shape=LINKS)
    batch = _whole(system.open(path, varying=("beta",)))
    return system.observables(batch)["plaquette"].double().numpy()[:, None]


def _of_fields(path: Path) -> Array:
    """Return a row of data for every `CONFIGURATIONS` of the file, one after the other."""
    batch = _whole(Phi4(shape=FIELD).open(path, varying=("m2", "lam")))
    moments = _moments(batch.x.flatten(1).double().numpy())
    n = len(moments) // CONFIGURATIONS * CONFIGURATIONS
    if not n:
        raise FormatError(
            f"{path}: {len(moments)} configurations, and an observation are the means of "
            f"{CONFIGURATIONS}; give a file of at least so many"
        )
    return np.asarray(moments[:n].reshape(-1, CONFIGURATIONS, 2).mean(1))


def _of_showers(path: Path) -> Array:
    source = CALORIMETER.open(path)
    starts = range(0, len(source), _AT_ONCE)
    parts = [source.read(one, min(one + _AT_ONCE, len(source))) for one in starts]
    return np.concatenate([_shower_summary(part) for part in parts])


def _whole(source: Source) -> Batch:
    return source.read(0, len(source))


PHYSICS = {
    "ising-temperature": Task(
        (TEMPERATURE,), (Variable("E/N"),), _ising, _ising_posterior, of_file=_of_spins
    ),
    "u1-beta": Task((BETA,), (Variable("plaquette"),), _links, _links_posterior, of_file=_of_links),
    "phi4-couplings": Task(
        COUPLINGS, (Variable("phi^2"), Variable("phi^4")), _field, of_file=_of_fields
    ),
    "shower-particle": Task(PARTICLE, SHOWER, _showers, of_file=_of_showers),
}
"""By name."""
