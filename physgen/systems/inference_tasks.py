"""Simulators that methods of inference are compared by (Lueckmann et al., arXiv 2101.04653).

Written from the definitions in the appendix T of that paper.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from physgen.batch import Variable
from physgen.systems.simulators import Array, Parameter

_VARIANCE = 0.1
_POPULATION = 1e6
_TRIALS = 1000
_DAYS = 17
_STEPS = 4


def _two_moons(theta: Array, generator: np.random.Generator) -> Array:
    angle = generator.uniform(-math.pi / 2, math.pi / 2, len(theta))
    radius = generator.normal(0.1, 0.01, len(theta))
    x = radius * np.cos(angle) + 0.25 - np.abs(theta.sum(1)) / math.sqrt(2)
    y = radius * np.sin(angle) + (theta[:, 1] - theta[:, 0]) / math.sqrt(2)
    return np.stack([x, y], 1)


def _gaussian_linear(theta: Array, generator: np.random.Generator) -> Array:
    return generator.normal(theta, math.sqrt(_VARIANCE))


def _slcp(theta: Array, generator: np.random.Generator) -> Array:
    z = generator.standard_normal((len(theta), 4, 2))
    s1, s2, rho = theta[:, 2:3] ** 2, theta[:, 3:4] ** 2, np.tanh(theta[:, 4:5])
    first = theta[:, 0:1] + s1 * z[:, :, 0]
    second = theta[:, 1:2] + s2 * (rho * z[:, :, 0] + np.sqrt(1 - rho**2) * z[:, :, 1])
    return np.stack([first, second], 2).reshape(len(theta), 8)


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


@dataclass(frozen=True)
class Task:
    """A simulator of an analytic model.

    Attributes:
        parameters: with their priors.
        n_data: numbers of a row of data.
        draw: (N, P) parameters and a generator to (N, n_data) data.

    >>> task = TASKS["two-moons"]
    >>> task.simulate(np.zeros((3, 2)), seed=1).shape
    (3, 2)
    """

    parameters: tuple[Parameter, ...]
    n_data: int
    draw: Callable[[Array, np.random.Generator], Array]

    @property
    def data(self) -> tuple[Variable, ...]:
        """The data, x0, x1, ..."""
        return tuple(Variable(f"x{i}") for i in range(self.n_data))

    def simulate(self, theta: Array, seed: int) -> Array:
        """Return (N, n_data) data at (N, P) parameters."""
        return self.draw(theta, np.random.default_rng([seed, 1]))


def _uniform(n: int, bound: float) -> tuple[Parameter, ...]:
    return tuple(Parameter(f"theta{i}", -bound, bound) for i in range(n))


TASKS = {
    "two-moons": Task(_uniform(2, 1.0), 2, _two_moons),
    "gaussian-linear": Task(
        tuple(Parameter(f"theta{i}", 0.0, math.sqrt(_VARIANCE), "normal") for i in range(10)),
        10,
        _gaussian_linear,
    ),
    "slcp": Task(_uniform(5, 3.0), 8, _slcp),
    "sir": Task(
        (
            Parameter("contact", math.log(0.4), 0.5, "log-normal", "1/day"),
            Parameter("recovery", math.log(1 / 8), 0.2, "log-normal", "1/day"),
        ),
        10,
        _sir,
    ),
}
"""By name."""
