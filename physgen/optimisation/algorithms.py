"""How parameters are chosen: descent along gradients of several kinds, or trials of optuna.

Each is asked, step by step, at which parameters to simulate, and told the data: what it does next
follows from these, and from the steps before, alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from scipy.stats import qmc

from physgen.engine.options import Engine
from physgen.errors import InputError
from physgen.optimisation.local import Estimate, LocalSurrogate, within
from physgen.optimisation.plan import Array, Problem, tensor

_BETAS, _TINY = np.array([[0.9], [0.999]]), 1e-12
"""Of Adam (Kingma and Ba, arXiv 1412.6980)."""


class Algorithm(Protocol):
    """Chooses parameters.

    Attributes:
        psi: (P,) which it asks about, known once the step is designed.
    """

    psi: Array

    def design(self, seed: int) -> Array:
        """Return (N, P) parameters to simulate in this step."""
        ...

    def estimate(self, theta: Array, data: Array, seed: int) -> Estimate:
        """Return what the data of this step say of the objective at `psi`."""
        ...

    def advance(self, estimate: Estimate, theta: Array, data: Array) -> None:
        """Go on to the next step, knowing what this one came to."""
        ...


class Descent:
    """Adam along gradients, within bounds, in units of the region."""

    def __init__(self, problem: Problem) -> None:
        self.problem, self.psi = problem, problem.start.copy()
        self._moments = np.zeros((2, len(self.psi)))
        self._step = 0

    def design(self, seed: int) -> Array:
        """Return (N, P) parameters."""
        raise NotImplementedError

    def estimate(self, theta: Array, data: Array, seed: int) -> Estimate:
        """Return mean and gradient."""
        raise NotImplementedError

    def advance(self, estimate: Estimate, theta: Array, data: Array) -> None:
        """Take a step of Adam."""
        self._step += 1
        slope = estimate.gradient * self.problem.region
        self._moments += (1 - _BETAS) * (np.stack([slope, slope**2]) - self._moments)
        mean, square = self._moments / (1 - _BETAS**self._step)
        plan = self.problem.plan
        rate = Engine(steps=plan.steps, schedule=plan.schedule).learning_rate_factor(self._step)
        size = rate * plan.learning_rate * self.problem.region
        self.psi = self._bounded(self.psi - size * mean / (np.sqrt(square) + _TINY))

    def _bounded(self, psi: Array) -> Array:
        return np.clip(psi, self.problem.low, self.problem.high)

    def _values(self, data: Array) -> Array:
        values: Array = self.problem.values(tensor(data)).detach().numpy()
        return values

    def _repeated(self, points: Array) -> Array:
        return np.repeat(points, self.problem.plan.draws, 0)


class SurrogateDescent(Descent):
    """L-GSO: gradients through local surrogates, which learn from earlier calls in reach too."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self._theta: list[Array] = []
        self._data: list[Array] = []

    def design(self, seed: int) -> Array:
        """Return a Latin hypercube in the trust region."""
        plan, region = self.problem.plan, self.problem.region
        cube = qmc.LatinHypercube(len(self.psi), seed=np.random.default_rng(seed))
        low, high = self._bounded(self.psi - region), self._bounded(self.psi + region)
        return self._repeated(low + (high - low) * cube.random(plan.points))

    def estimate(self, theta: Array, data: Array, seed: int) -> Estimate:
        """Train a surrogate on all calls in the region, and ask it."""
        rows, seen = np.concatenate([*self._theta, theta]), np.concatenate([*self._data, data])
        near = within(rows, self.psi, self.problem.plan.reach * self.problem.region)
        surrogate = LocalSurrogate(self.problem, rows[near], seen[near], seed)
        return surrogate.estimate(self.psi, seed)

    def advance(self, estimate: Estimate, theta: Array, data: Array) -> None:
        """Take a step of Adam; later steps learn from these calls too."""
        self._theta.append(theta)
        self._data.append(data)
        super().advance(estimate, theta, data)


class Differences(Descent):
    """Central differences, one parameter after the other; at a bound, as far as it lets them.

    >>> from physgen.optimisation.plan import problem_of, read_optimisation
    >>> plan = read_optimisation("three-hump", {"draws": 1})
    >>> Differences(problem_of(plan)).design(seed=1).tolist()
    [[1.5, 0.0], [2.5, 0.0], [2.0, -0.5], [2.0, 0.5]]
    """

    def design(self, seed: int) -> Array:
        """Return two points a parameter."""
        steps = np.diag(self.problem.region)
        pairs = np.stack([self.psi - steps, self.psi + steps], 1).reshape(-1, len(self.psi))
        return self._repeated(self._bounded(pairs))

    def estimate(self, theta: Array, data: Array, seed: int) -> Estimate:
        """Return the mean over all points, and differences over distances."""
        n = len(self.psi)
        values = self._values(data).reshape(n, 2, -1)
        ends = theta.reshape(n, 2, -1, n)[:, :, 0]
        distance = np.diagonal(ends[:, 1] - ends[:, 0])
        means = values.mean(2)
        error = values.std() / np.sqrt(values.size)
        slope = (means[:, 1] - means[:, 0]) / distance
        return Estimate(float(means.mean()), float(error), slope)


class ScoreFunction(Descent):
    """Policy gradient of a normal distribution of the parameters around psi.

    grad E[R] = E[(R - b) (theta - psi) / sigma^2] (REINFORCE: Williams, Mach. Learn. 8 (1992) 229;
    of simulators: Ruiz, Schulter and Chandraker, arXiv 1810.02513), with b the mean.
    """

    def design(self, seed: int) -> Array:
        """Return points of the normal distribution, those beyond a bound on it."""
        noise = np.random.default_rng(seed).standard_normal(
            (self.problem.plan.points, len(self.psi))
        )
        return self._repeated(self._bounded(self.psi + self.problem.region * noise))

    def estimate(self, theta: Array, data: Array, seed: int) -> Estimate:
        """Return the mean over all points and its gradient."""
        values = self._values(data)
        away = (theta - self.psi) / self.problem.region**2
        slope = ((values - values.mean())[:, None] * away).mean(0)
        return Estimate(float(values.mean()), float(values.std() / np.sqrt(len(values))), slope)


class Bayesian:
    """Trials that optuna chooses by a Gaussian process of their means.

    Raises:
        InputError: optuna is not installed, or a parameter has no bounds.
    """

    def __init__(self, problem: Problem) -> None:
        try:
            import optuna
        except ImportError as error:
            raise InputError("optuna is not installed: pip install 'physgen[scale]'") from error
        if not np.isfinite([problem.low, problem.high]).all():
            raise InputError("bayesian: trials need bounds: give all parameters uniform priors")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.problem = problem
        sampler = optuna.samplers.GPSampler(seed=problem.plan.seed, deterministic_objective=False)
        self._study = optuna.create_study(direction="minimize", sampler=sampler)
        self._study.enqueue_trial(dict(zip(problem.names, problem.start.tolist(), strict=True)))
        self._trial: Any = None
        self.psi = problem.start.copy()

    def design(self, seed: int) -> Array:
        """Return the next trial."""
        bounds = zip(self.problem.names, self.problem.low, self.problem.high, strict=True)
        self._trial = self._study.ask()
        self.psi = np.array([self._trial.suggest_float(name, a, b) for name, a, b in bounds])
        return np.repeat(self.psi[None], self.problem.plan.draws, 0)

    def estimate(self, theta: Array, data: Array, seed: int) -> Estimate:
        """Return the mean of the trial."""
        values = self.problem.values(tensor(data)).detach().numpy()
        error = values.std() / np.sqrt(len(values))
        return Estimate(float(values.mean()), float(error), np.empty(0))

    def advance(self, estimate: Estimate, theta: Array, data: Array) -> None:
        """Tell the mean."""
        self._study.tell(self._trial, estimate.objective)


ALGORITHMS: dict[str, Callable[[Problem], Algorithm]] = {
    "l-gso": SurrogateDescent,
    "differences": Differences,
    "score-function": ScoreFunction,
    "bayesian": Bayesian,
}
"""By name."""
