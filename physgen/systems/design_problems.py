"""Stochastic simulators whose parameters are to be chosen, and what is to be small of their data.

The first three are those of Shirobokov et al., arXiv 2002.04632, section 4.1: noise hides where to
go, and the inputs x of the simulator add most of it. The last one is a calorimeter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import torch
from torch import Tensor

from physgen.batch import Variable
from physgen.systems.calorimeter import Calorimeter
from physgen.systems.simulators import Array, Parameter, Simulator

Objective = Callable[[Tensor], Tensor]
"""Maps (N, D) data to (N,) numbers, differentiable: the mean of these is what is to be small."""

_DIMENSIONS = 10
"""Of the space in which the submanifold lies."""
DEPTH_MM = 400.0
"""Of the calorimeter whose absorber is chosen."""
_GEV = 10
"""Of its photons."""


@dataclass(frozen=True)
class DesignProblem:
    """A simulator, and what is to be small.

    Attributes:
        simulator: whose uniform priors are the bounds of the parameters.
        objective: of its data.
        start: where a search begins.
        inputs: names of the data that the simulator draws and then uses: they do not depend on the
            parameters.

    >>> problem = PROBLEMS["three-hump"]
    >>> data = problem.simulator.simulate(np.array([[2.0, 0.0]] * 5), seed=1)
    >>> data.shape, problem.objective(torch.from_numpy(data)).shape
    ((5, 3), torch.Size([5]))
    """

    simulator: Simulator
    objective: Objective
    start: Mapping[str, float]
    inputs: Sequence[str] = ()


@dataclass(frozen=True)
class Drawn:
    """A simulator in closed form.

    Attributes:
        parameters: with their bounds.
        data: what a row holds.
        draw: (N, P) parameters and a generator to (N, D) data.

    >>> simulator = PROBLEMS["rosenbrock"].simulator
    >>> simulator.simulate(np.zeros((4, 10)), seed=1).shape
    (4, 2)
    """

    parameters: tuple[Parameter, ...]
    data: tuple[Variable, ...]
    draw: Callable[[Array, np.random.Generator], Array] = field(repr=False)

    def simulate(self, theta: Array, seed: int) -> Array:
        """Return (N, D) data at (N, P) parameters."""
        return self.draw(theta, np.random.default_rng([seed, 1]))


def three_hump(psi: Array) -> Array:
    """Return (N,) values of the three-hump camel function at (N, 2) parameters."""
    a, b = psi.T
    h: Array = 2 * a**2 - 1.05 * a**4 + a**6 / 6 + a * b + b**2
    return h


def _hump(psi: Array, generator: np.random.Generator) -> Array:
    """Draw x1 ~ U(-2, 0), x2 ~ U(2, 5); y ~ N(m, 1), m ~ N(x_i h(psi), 1), i with odds |psi_i|."""
    n = len(psi)
    x = np.stack([generator.uniform(-2, 0, n), generator.uniform(2, 5, n)], 1)
    size = np.abs(psi)
    share = size[:, 0] / np.maximum(size.sum(1), 1e-12)
    chosen = np.where(generator.random(n) < share, x[:, 0], x[:, 1])
    y = generator.normal(generator.normal(chosen * three_hump(psi), 1.0), 1.0)
    return np.column_stack([x, y])


def between_0_and_10(data: Tensor) -> Tensor:
    """Return the smooth share of y outside [0, 10], less 1: sigma(y - 10) - sigma(y)."""
    y = data[:, -1]
    return torch.sigmoid(y - 10) - torch.sigmoid(y)


def rosenbrock(psi: Array) -> Array:
    """Return (N,) sums of (psi_i+1 - psi_i^2)^2 + (1 - psi_i)^2; least, 0, at ones."""
    total: Array = ((psi[:, 1:] - psi[:, :-1] ** 2) ** 2 + (1 - psi[:, :-1]) ** 2).sum(1)
    return total


def _with_noise(value: Callable[[Array], Array]) -> Callable[[Array, np.random.Generator], Array]:
    """Draw y ~ N(x' + value, 1), x' ~ N(x, 1), x ~ U(-10, 10)."""

    def draw(psi: Array, generator: np.random.Generator) -> Array:
        x = generator.uniform(-10, 10, len(psi))
        y = generator.normal(generator.normal(x, 1.0) + value(psi), 1.0)
        return np.column_stack([x, y])

    return draw


@cache
def submanifold(n: int) -> Array:
    """Return (n, 10) orthonormal columns: the directions of n parameters that matter."""
    random = np.random.default_rng(1337).standard_normal((n, _DIMENSIONS))
    q: Array = np.linalg.qr(random)[0]
    return q


def rosenbrock_submanifold(psi: Array) -> Array:
    """Return `rosenbrock` at the projections of (N, P) parameters."""
    return rosenbrock(psi @ submanifold(psi.shape[1]))


def last_column(data: Tensor) -> Tensor:
    """Return y."""
    return data[:, -1]


def _box(n: int, bound: float) -> tuple[Parameter, ...]:
    return tuple(Parameter(f"psi{i}", -bound, bound) for i in range(n))


def _noisy(n: int, value: Callable[[Array], Array]) -> DesignProblem:
    simulator = Drawn(_box(n, 10.0), (Variable("x"), Variable("y")), _with_noise(value))
    return DesignProblem(simulator, last_column, {f"psi{i}": 2.0 for i in range(n)}, ("x",))


@dataclass(frozen=True)
class SamplingStack:
    """Two photons a row in a stack of lead and liquid argon of a fixed depth in mm.

    Thin absorber samples often, and lets showers leak out at the back. A row holds the logarithms
    of the energies that are seen, over that of the photon.
    """

    parameters: tuple[Parameter, ...] = (Parameter("absorber", 0.4, 6.0, unit="mm"),)
    data: tuple[Variable, ...] = (Variable("first"), Variable("second"))

    def simulate(self, theta: Array, seed: int) -> Array:
        """Return (N, 2) data at (N, 1) thicknesses."""
        x = np.empty((len(theta), 2))
        values, place = np.unique(theta[:, 0], return_inverse=True)
        for i, absorber in enumerate(values):
            rows = np.flatnonzero(place == i)
            stack = calorimeter(float(absorber))
            key = np.random.SeedSequence([seed, i]).generate_state(1)[0]
            showers = stack.simulate(2 * len(rows), int(key))
            seen = showers.x.double().sum(1).numpy() / (1e3 * _GEV)
            x[rows] = np.log(np.maximum(seen, 1e-3)).reshape(-1, 2)
        return x


def calorimeter(absorber_mm: float) -> Calorimeter:
    """Return the calorimeter of an absorber thickness, its layers of equal depth in mm."""
    one = Calorimeter(absorber_mm=absorber_mm)
    layers = len(one.geometry.layers)
    total = DEPTH_MM / one.effective_medium.x0_mm
    return Calorimeter(
        absorber_mm=absorber_mm,
        depths=tuple(total * i / layers for i in range(layers + 1)),
        energies_mev=(1e3 * _GEV,),
        spectrum="discrete",
        cut_mev=0.0,
    )


def relative_variance(data: Tensor) -> Tensor:
    """Return half the squared difference of two logarithms: its mean is (sigma/E)^2."""
    return (data[:, 0] - data[:, 1]).square() / 2


PROBLEMS = {
    "three-hump": DesignProblem(
        Drawn(_box(2, 5.0), (Variable("x1"), Variable("x2"), Variable("y")), _hump),
        between_0_and_10,
        {"psi0": 2.0, "psi1": 0.0},
        ("x1", "x2"),
    ),
    "rosenbrock": _noisy(10, rosenbrock),
    "submanifold": _noisy(100, rosenbrock_submanifold),
    "absorber": DesignProblem(SamplingStack(), relative_variance, {"absorber": 4.0}),
}
"""By name."""
