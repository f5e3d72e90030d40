r"""Training of a gauge flow by linear regression, on Monte Carlo samples along beta.

If samples at time t have the density p_t ~ exp(t beta W / N), W = sum_P Re tr P, then the
log-weight of a flow with the potential Phi_t = sum_i c_i W_i changes by

    d ln w / dt = (beta / N) W + sum_i c_i X_i(t) - d ln Z_t / dt,
    X_i(t) = L W_i + (t beta / N) <grad W_i, grad W>,

which is linear in c. Its variance, the mean over t of

    Var_t [(beta / N) W + sum_i c_i(t) X_i(t)],

bounds that of ln w and is least where normal equations hold; no gradient of the flow is needed. Of
a flow that starts at another coupling the times are those from there on.
Chains at fixed times, the nodes of Gauss and Legendre, are moved by heat bath and overrelaxation;
each step adds their configurations to the normal equations and solves them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from physgen.batch import Batch
from physgen.errors import RecipeError
from physgen.ranges import Positive
from physgen.surrogates.base import Surrogate
from physgen.surrogates.flows.lattice.link_flow import LinkFlow, theory_of
from physgen.surrogates.method import Method, StepContext
from physgen.systems.base import System
from physgen.systems.family import Family
from physgen.systems.kernels import gauge_flow as kernel
from physgen.systems.kernels import gauge_steps
from physgen.systems.kernels.gauge import heatbath

_WARM = 50
"""Sweeps of the chains before their first configurations."""
_RIDGE = 1e-6
"""Added to the scaled normal equations, whose terms may depend on one another."""


class FlowRegression(Method):
    """Fit the coefficients of a gauge flow to samples of all couplings up to that of the action.

    Args:
        surrogate: a flow of links.
        system: the gauge theory, or one of several beta, up to the largest of which is fitted.
        slabs: times at which there are chains, `engine.batch_size` configurations each.
        sweeps: heat-bath sweeps from one step to the next, each with one of overrelaxation.

    Raises:
        RecipeError: the surrogate is no such flow, or the system no gauge theory.

    >>> from physgen.surrogates.flows.lattice.gauge import GaugeFlow
    >>> from physgen.systems.gauge import Gauge
    >>> system = Gauge(group="U(1)", shape=(4, 4), beta=1.0)
    >>> FlowRegression(GaugeFlow(system.schema), system).inputs
    ()
    """

    inputs = ()

    def __init__(
        self,
        surrogate: Surrogate,
        system: System,
        *,
        slabs: Positive = 10,
        sweeps: Positive = 5,
    ) -> None:
        super().__init__(surrogate)
        if not isinstance(surrogate, LinkFlow):
            raise RecipeError(
                "method.kind: flow-regression trains gauge flows (gauge-flow, "
                f"stochastic-gauge-flow), not {type(surrogate).__name__}"
            )
        theory = theory_of(system)
        if theory is None:
            raise RecipeError(
                "method.kind: flow-regression needs a gauge theory with Wilson's action, not "
                f"{type(system).__name__}; set system.kind=gauge"
            )
        if isinstance(system, Family):
            surrogate.conditions.span(*system.bounds)
        self._flow, self._system, self.sweeps = surrogate, theory, sweeps
        nodes, weights = np.polynomial.legendre.leggauss(slabs)
        length = 1 - surrogate.start
        self._times, self._weights = 1 + (nodes - 1) / 2 * length, weights / 2 * length
        n = surrogate.coefficients.numel()
        self.tensors = {
            "normal": torch.zeros(n, n),
            "right": torch.zeros(n),
            "chains": torch.empty(0),
        }

    def step(self, batches: Mapping[str, Batch], ctx: StepContext) -> dict[str, Tensor]:
        """Move the chains, add them to the normal equations, and solve these.

        The loss is the integral over t of Var_t [d ln w / dt] of what was just added.
        """
        flow, system = self._flow, self._system
        x = self._moved(ctx)
        laplacian, along, total = derivatives(flow, x)
        n_slabs = len(self._times)
        shape = n_slabs, len(total) // n_slabs
        laplacian, along = (part.reshape(*shape, -1) for part in (laplacian, along))
        slope = system.beta / system.n * total.reshape(shape)
        basis = flow.basis(self._times)
        size = flow.coefficients.numel()
        normal, right = np.zeros((size, size)), np.zeros(size)
        columns, values = [], []
        for s, (t, weight) in enumerate(zip(self._times, self._weights, strict=True)):
            terms = laplacian[s] + t * system.beta / system.n * along[s]
            rows = (terms - terms.mean(0))[:, :, None] * basis[s]
            rows = rows.reshape(len(terms), -1)
            y = slope[s] - slope[s].mean()
            normal += weight * rows.T @ rows / len(rows)
            right -= weight * rows.T @ y / len(rows)
            columns.append(rows)
            values.append(y)
        for name, part in (("normal", normal), ("right", right)):
            summed = self.tensors[name].double().cpu() + torch.as_tensor(part)
            # In the type that a checkpoint gives back, so that it resumes exactly.
            self.tensors[name] = summed.to(flow.dtype)
        normal, right = (self.tensors[name].double().numpy() for name in ("normal", "right"))
        solution = _solved(normal, right)
        with torch.no_grad():
            found = torch.from_numpy(solution).reshape(flow.coefficients.shape)
            flow.coefficients.copy_(found)
        residual = [
            weight * np.var(y + rows @ solution)
            for weight, rows, y in zip(self._weights, columns, values, strict=True)
        ]
        return {"loss": torch.tensor(float(np.sum(residual)))}

    def _moved(self, ctx: StepContext) -> Tensor:
        """Return (slabs * batch_size, *shape) links, new ones of the chains."""
        seed = int(torch.randint(2**31, (1,), generator=ctx.generator, device=ctx.generator.device))
        start, n_sweeps = self.tensors["chains"].double().cpu(), self.sweeps
        if len(start) == 0:
            noise = torch.Generator().manual_seed(seed)
            start = self._system.arbitrary(len(self._times) * ctx.batch_size, noise)
            n_sweeps = _WARM
        beta = np.repeat(self._times * self._system.beta, len(start) // len(self._times))
        links = np.array(start.numpy())
        heatbath.sweeps(links, beta, n_sweeps, 1, seed)
        self.tensors["chains"] = torch.from_numpy(links).to(self._flow.dtype)
        return self.tensors["chains"]


def derivatives(
    flow: LinkFlow, x: Tensor
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return L W_i and <grad W_i, grad W>, (B, terms), and W = sum_P Re tr P, (B,), of links."""
    links = flow.matrices(x)
    where, terms = kernel.lattice(flow.lattice_shape), np.array(flow.terms)
    laplacian, along, total = gauge_steps.derivatives(links, where, terms)
    return laplacian, along, total


def _solved(normal: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the solution of normal equations whose diagonal is scaled to one."""
    scale = np.sqrt(np.maximum(np.diag(normal), 1e-300))
    matrix = normal / scale / scale[:, None] + _RIDGE * np.eye(len(scale))
    return np.asarray(np.linalg.solve(matrix, right / scale) / scale)
