"""Simulators that methods of inference are compared by (Lueckmann et al., arXiv 2101.04653).

Written from the definitions in the appendix T of that paper.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from physgen.batch import Variable
from physgen.sampling.particles import sample
from physgen.systems.simulators import Array, Parameter, draw_parameters, log_prior

_VARIANCE = 0.1
_POPULATION = 1e6
_TRIALS = 1000
_DAYS = 17
_STEPS = 4


def particle_posterior(
    parameters: Sequence[Parameter],
    log_likelihood: Callable[[Array, Array], Array],
    x: Array,
    n: int,
    seed: int,
) -> Array:
    """Return (n, P) draws of a posterior by `physgen.sampling.particles`, P n particles of them."""
    n_parameters = len(parameters)
    start = torch.from_numpy(draw_parameters(parameters, n_parameters * n, seed))[None]

    def prior(theta: Tensor) -> Tensor:
        return torch.from_numpy(log_prior(parameters, theta.numpy()))

    def likelihood(theta: Tensor) -> Tensor:
        with np.errstate(all="ignore"):
            return torch.from_numpy(log_likelihood(theta.numpy(), x))

    generator = torch.Generator().manual_seed(seed)
    moves = 4 * n_parameters**2
    draws = sample(start, prior, likelihood, moves, generator=generator)[0]
    return np.asarray(draws[torch.randperm(len(draws), generator=generator)[:n]].numpy())


def _two_moons(theta: Array, generator: np.random.Generator) -> Array:
    angle = generator.uniform(-math.pi / 2, math.pi / 2, len(theta))
    radius = generator.normal(0.1, 0.01, len(theta))
    x = radius * np.cos(angle) + 0.25 - np.abs(theta.sum(1)) / math.sqrt(2)
    y = radius * np.sin(angle) + (theta[:, 1] - theta[:, 0]) / math.sqrt(2)
    return np.stack([x, y], 1)


def _two_moons_posterior(x: Array, n: int, generator: np.random.Generator) -> Array:
    """Solve the definition for theta at the noise of its prior, which has the Jacobian 1."""
    drawn: list[Array] = []
    while sum(map(len, drawn)) < n:
        angle = generator.uniform(-math.pi / 2, math.pi / 2, n)
        radius = generator.normal(0.1, 0.01, n)
        total = math.sqrt(2) * (radius * np.cos(angle) + 0.25 - x[0])
        apart = math.sqrt(2) * (x[1] - radius * np.sin(angle))
        total = np.where(total >= 0, total, np.nan) * generator.choice([-1.0, 1.0], n)
        theta = np.stack([total - apart, total + apart], 1) / 2
        drawn.append(theta[(np.abs(theta) <= 1).all(1)])
    return np.concatenate(drawn)[:n]


def _gaussian_linear(theta: Array, generator: np.random.Generator) -> Array:
    return generator.normal(theta, math.sqrt(_VARIANCE))


def _gaussian_linear_posterior(x: Array, n: int, generator: np.random.Generator) -> Array:
    return generator.normal(x / 2, math.sqrt(_VARIANCE / 2), (n, 10))


def _slcp(theta: Array, generator: np.random.Generator) -> Array:
    z = generator.standard_normal((len(theta), 4, 2))
    s1, s2, rho = theta[:, 2:3] ** 2, theta[:, 3:4] ** 2, np.tanh(theta[:, 4:5])
    first = theta[:, 0:1] + s1 * z[:, :, 0]
    second = theta[:, 1:2] + s2 * (rho * z[:, :, 0] + np.sqrt(1 - rho**2) * z[:, :, 1])
    return np.stack([first, second], 2).reshape(len(theta), 8)


def _slcp_log_likelihood(theta: Array, x: Array) -> Array:
    s1, s2, rho = theta[..., 2:3] ** 2, theta[..., 3:4] ** 2, np.tanh(theta[..., 4:5])
    a = (x[0::2] - theta[..., 0:1]) / s1
    b = (x[1::2] - theta[..., 1:2]) / s2
    square = (a**2 - 2 * rho * a * b + b**2) / (1 - rho**2)
    return np.asarray((-square / 2 - np.log(s1 * s2) - np.log(1 - rho**2) / 2).sum(-1))


def infected(theta: Array) -> Array:
    """Return (N, 10) shares of the infected in an epidemic, every 17 days from its beginning.

    One of a million is infected at first; theta (N, 2) are the rates of contact and of recovery a
    day. Integrated by Runge-Kutta steps of fourth order, four a day.

    >>> round(float(infected(np.array([[0.4, 0.125]]))[0, 0] * 1e6), 6)
    1.0
    """
    contact, recovery = theta.T
    state = np.stack([np.full(len(theta), 1 - 1 / _POPULATION), np.full(len(theta), 1e-6)])

    def change(state: Array) -> Array:
        new = contact * state[0] * state[1]
        return np.stack([-new, new - recovery * state[1]])

    shares, h = [state[1]], 1 / _STEPS
    for _ in range(9):
        for _ in range(_DAYS * _STEPS):
            a = change(state)
            b = change(state + h / 2 * a)
            c = change(state + h / 2 * b)
            d = change(state + h * c)
            state = state + h / 6 * (a + 2 * b + 2 * c + d)
        shares.append(state[1])
    return np.stack(shares, 1)


def _sir(theta: Array, generator: np.random.Generator) -> Array:
    return generator.binomial(_TRIALS, infected(theta).clip(0, 1)).astype(float)


def _sir_log_likelihood(theta: Array, x: Array) -> Array:
    from scipy.stats import binom

    shares = infected(np.where(theta > 0, theta, np.nan).reshape(-1, 2)).clip(0, 1)
    return np.asarray(binom.logpmf(x, _TRIALS, shares).sum(1).reshape(theta.shape[:-1]))


@dataclass(frozen=True)
class Task:
    """A simulator of an analytic model.

    Attributes:
        parameters: with their priors.
        data: what a row of data holds.
        draw: (N, P) parameters and a generator to (N, D) data.
        posterior: (D,) data, a number and a generator to so many parameters, if that is known.
        log_likelihood: (..., P) parameters and (D,) data to (...), up to a constant, if known.
        mirrored: columns of theta of which the data do not know the sign.
        of_file: from a file of samples to their (N, D) data, where they come of samples.

    >>> task = TASKS["two-moons"]
    >>> task.simulate(np.zeros((3, 2)), seed=1).shape
    (3, 2)
    """

    parameters: tuple[Parameter, ...]
    data: tuple[Variable, ...]
    draw: Callable[[Array, np.random.Generator], Array]
    posterior: Callable[[Array, int, np.random.Generator], Array] | None = None
    log_likelihood: Callable[[Array, Array], Array] | None = None
    mirrored: tuple[int, ...] = ()
    of_file: Callable[[Path], Array] | None = None

    def simulate(self, theta: Array, seed: int) -> Array:
        """Return (N, D) data at (N, P) parameters."""
        return self.draw(theta, np.random.default_rng([seed, 1]))

    def exact_posterior(self, x: Array, n: int, seed: int) -> Array | None:
        """Return (n, P) draws of the posterior of (D,) data, exact or by particles, if known.

        >>> draws = TASKS["gaussian-linear"].exact_posterior(np.full(10, 0.6), 5000, seed=1)
        >>> round(float(draws.mean()), 2), round(float(draws.var()), 2)
        (0.3, 0.05)
        """
        generator = np.random.default_rng([seed, 2])
        if self.posterior is not None:
            return self.posterior(x, n, generator)
        if self.log_likelihood is None:
            return None
        draws = particle_posterior(self.parameters, self.log_likelihood, x, n, seed)
        for column in self.mirrored:
            draws[:, column] *= generator.choice([-1.0, 1.0], n)
        return draws


def _numbers(n: int) -> tuple[Variable, ...]:
    return tuple(Variable(f"x{i}") for i in range(n))


def _uniform(n: int, bound: float) -> tuple[Parameter, ...]:
    return tuple(Parameter(f"theta{i}", -bound, bound) for i in range(n))


TASKS = {
    "two-moons": Task(_uniform(2, 1.0), _numbers(2), _two_moons, _two_moons_posterior),
    "gaussian-linear": Task(
        tuple(Parameter(f"theta{i}", 0.0, math.sqrt(_VARIANCE), "normal") for i in range(10)),
        _numbers(10),
        _gaussian_linear,
        _gaussian_linear_posterior,
    ),
    "slcp": Task(
        _uniform(5, 3.0), _numbers(8), _slcp, log_likelihood=_slcp_log_likelihood, mirrored=(2, 3)
    ),
    "sir": Task(
        (
            Parameter("contact", math.log(0.4), 0.5, "log-normal", "1/day"),
            Parameter("recovery", math.log(1 / 8), 0.2, "log-normal", "1/day"),
        ),
        _numbers(10),
        _sir,
        log_likelihood=_sir_log_likelihood,
    ),
}
"""By name."""
