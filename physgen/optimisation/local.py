r"""Gradients through local surrogates (L-GSO: Shirobokov et al., arXiv 2002.04632, algorithm 1).

A conditional surrogate y = S(z, x; psi), with noise z, is trained on the data of a trust region
around the parameters psi. The objective is then differentiable along its samples,

    grad E[R(y)] ~ (1/n) sum_i  dR/dy dS(z_i, x_i; psi)/dpsi ,

with inputs x_i as the simulator draws them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from physgen.batch import Batch, Schema, Variable
from physgen.components import surrogate_of
from physgen.engine.loop import fit
from physgen.errors import InputError, RecipeError, Stopped, TrainingError
from physgen.io.source import ArraySource
from physgen.io.stream import Stream
from physgen.isolation import global_generators
from physgen.optimisation.plan import Array, Problem, tensor
from physgen.registry import build
from physgen.surrogates.base import FromNoise, HasDensity, Surrogate, density_of

DRAWS = 8_192
"""Samples of a surrogate that a gradient is the mean over."""
_USABLE = 0.99
"""Share of them that must have a finite derivative."""


@dataclass(frozen=True)
class Estimate:
    """What is known of the objective at some parameters.

    Attributes:
        objective: its mean.
        error: standard error of that.
        gradient: (P,), of the mean by the parameters; empty where there is none.
        pull: by how many errors the surrogate's mean over the simulated rows is from theirs.
    """

    objective: float
    error: float
    gradient: Array
    pull: float = 0.0


class LocalSurrogate:
    """A surrogate of a problem's data given parameters and inputs.

    Args:
        problem: whose plan says which surrogate, and how it is trained.
        theta: (N, P) parameters.
        data: (N, D) data there.
        seed: of the training.

    Raises:
        RecipeError: the surrogate does not fit, or its samples have no derivatives.
        Stopped: a signal came while it was trained.
    """

    def __init__(self, problem: Problem, theta: Array, data: Array, seed: int) -> None:
        self.problem = problem
        self._inputs = [problem.columns.index(name) for name in problem.design.inputs]
        self._outputs = [i for i in range(data.shape[1]) if i not in self._inputs]
        variables = problem.design.simulator.data
        # Bounds say where to search, and nothing of what a network is given.
        given = [Variable(f"parameter {name}") for name in problem.names]
        given += [variables[i] for i in self._inputs]
        outputs = tuple(variables[i] for i in self._outputs)
        schema = Schema((len(outputs),), outputs, tuple(given))
        self.rows = Batch(
            tensor(data[:, self._outputs]).float(),
            tensor(np.concatenate([theta, data[:, self._inputs]], 1)).float(),
        )
        self.simulated = problem.values(tensor(data))
        self.surrogate = self._trained(schema, seed)

    def _trained(self, schema: Schema, seed: int) -> Surrogate:
        plan = self.problem.plan
        engine = replace(plan.engine, seed=seed)
        with global_generators(seed):
            surrogate = surrogate_of(plan.transform, plan.surrogate, schema, None)
            surrogate.initialise(self.rows)
            context = {"surrogate": surrogate, "system": None, "steps": engine.steps}
            method = build("methods", plan.method, context)
        if tuple(method.inputs) != ("data",):
            raise RecipeError(f"method.kind: {plan.method.kind} does not learn from samples alone")
        surrogate.conditions.extrapolate = True
        stream = Stream(
            ArraySource(self.rows, schema), batch_size=engine.batch_size, seed=engine.seed
        )
        with TemporaryDirectory(prefix="physgen-") as folder:
            result = fit(surrogate, method, {"data": stream}, Path(folder), engine)
        if not result.finished:
            raise Stopped("stopped by a signal; run the same command again to go on")
        return surrogate

    def values(self, psi: Tensor, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """Return (n,) objectives of a sample at each row of parameters (n, P) and inputs (n, I)."""
        surrogate, n = self.surrogate, len(psi)
        condition = torch.cat([psi, inputs], 1).to(surrogate.device, surrogate.dtype)
        if density_of(surrogate) is not None and isinstance(surrogate, HasDensity):
            y = surrogate.sample_with_log_prob(n, condition, generator=generator)[0].x
        elif isinstance(surrogate, FromNoise):
            shape = n, *surrogate.noise_shape
            noise = torch.randn(
                shape, generator=generator, device=surrogate.device, dtype=surrogate.dtype
            )
            y = surrogate.from_noise(noise, condition)
        else:
            raise RecipeError(
                f"surrogate.kind: samples of {self.problem.plan.surrogate.kind} have no "
                "derivatives by the parameters; take flow, generator or diffusion-flow"
            )
        y = y.double().cpu()
        columns: list[Tensor] = [y.new_empty(0)] * (y.shape[1] + inputs.shape[1])
        for place, column in zip(self._outputs, y.unbind(1), strict=True):
            columns[place] = column
        for place, column in zip(self._inputs, inputs.unbind(1), strict=True):
            columns[place] = column
        return self.problem.values(torch.stack(columns, 1))

    def estimate(self, psi: Array, seed: int) -> Estimate:
        """Return the objective at (P,) parameters and its gradient, by samples of the surrogate.

        Raises:
            InputError: the objective cannot be differentiated.
            TrainingError: nor can the surrogate.
        """
        generator = torch.Generator(self.surrogate.device).manual_seed(seed)
        condition = self.rows.condition
        assert condition is not None  # Parameters are conditions.
        n, n_parameters = len(condition), len(psi)
        random = np.random.default_rng(seed)
        inputs = condition[random.integers(n, size=DRAWS), n_parameters:].double()
        plan = self.problem.plan
        away = plan.smoothing * self.problem.region * random.uniform(-1, 1, (DRAWS, n_parameters))
        at = tensor(psi + away).requires_grad_()
        values = self.values(at, inputs, generator)
        if not values.requires_grad:
            raise InputError(
                f"objective {plan.objective}: has no derivative by the data; write it with torch, "
                "without .item(), .numpy() or detach()"
            )
        slopes = torch.autograd.grad(values.sum(), at)[0]
        # Where a spline meets its bound the derivative of its inverse may be that of a root of 0.
        usable = slopes.isfinite().all(1)
        if usable.double().mean() < _USABLE:
            raise TrainingError(
                f"the surrogate has no finite derivatives at {int((~usable).sum())} of {DRAWS} "
                "samples: it diverged; lower method.learning_rate, or set engine.clip"
            )
        with torch.no_grad():
            values = self.values(tensor(psi).expand(DRAWS, -1), inputs, generator)
            again = self.values(
                condition[:, :n_parameters].double(),
                condition[:, n_parameters:].double(),
                generator,
            )
        spread, noise = self.simulated.var(), values.var()
        error = float((spread / n + noise / DRAWS).sqrt())
        apart = float(again.mean() - self.simulated.mean())
        pull = apart / max(float((2 * spread / n).sqrt()), 1e-300)
        return Estimate(float(values.mean()), error, slopes[usable].mean(0).numpy(), pull)


def within(theta: Array, psi: Array, region: Array) -> NDArray[np.bool_]:
    """Return (N,) which rows lie in the trust region around (P,) parameters.

    >>> within(np.array([[0.4], [0.6]]), np.zeros(1), np.array([0.5])).tolist()
    [True, False]
    """
    return np.asarray((np.abs(theta - psi) <= region * (1 + 1e-9)).all(1), np.bool_)
