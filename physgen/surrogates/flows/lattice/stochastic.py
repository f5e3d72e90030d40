r"""Stochastic normalising flow of gauge links: layers of a gradient flow between heat-bath sweeps.

After Wu, Koehler & Noe (NeurIPS 2020, arXiv 2002.06707), Caselle, Cellini, Nada & Panero (JHEP 07
(2022) 015, arXiv 2201.08862) and, for SU(3), Bulgarelli, Cellini & Nada (arXiv 2412.00200). Links
from Haar's measure take turns, k = 1, ..., K, t_k = k / K, in

    U <- layer of the flow from t_{k-1} to t_k, which changes ln q by -J_k = -int dt L Phi_t,
    U <- sweeps of a heat bath at t_k beta (none after the last layer),

and their log-weight with respect to exp(-S) is minus the work (Jarzynski 1997; Crooks 1999),

    ln w = sum_k [S_{k-1}(before layer k) - S_k(behind it) + J_k],    S_k = -(t_k beta / N) W.

Then <w> = Z and <O w> / <w> is the mean of the target, at any K, however little the layers are
trained and the sweeps mix. Without layers, which is how it begins, this is annealed importance
sampling. Backwards, from samples of the target through inverse layers and the sweeps in opposite
order, the same ln w shows what the samples of the flow do not (forward ESS).

Where this takes too many steps, as at the couplings of four-dimensional SU(3), the start can be a
smaller coupling, beta_0, of which each configuration is a heat-bath chain of its own, in turns from
unit and from random links. Then t_0 is its share of beta, S_0 is the action there, and <w> = Z /
Z(beta_0) as far as these chains are thermalised; without layers it is non-equilibrium Monte Carlo.

Of a theory at several couplings, conditions of the samples, beta is the largest, and the ways to
another one are as many layers between 0 and t = its share of the largest.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from physgen.batch import Batch, Schema
from physgen.errors import DomainError, RecipeError
from physgen.ranges import NotNegative, Positive
from physgen.sampling.reweighting import Reference
from physgen.surrogates.flows.lattice.link_flow import LinkFlow, Links, theory_of
from physgen.systems.base import System
from physgen.systems.family import Family
from physgen.systems.kernels import gauge_flow as kernel
from physgen.systems.kernels import gauge_steps
from physgen.systems.kernels.gauge import heatbath
from physgen.systems.kernels.gauge.ensemble import Schedule
from physgen.transforms.base import Transform

Action = Callable[[Tensor, Tensor | None], Tensor]

_STARTS, _SIGMAS = 256, 5.0
"""Chains by which it is checked that the start is thermalised, and how far their halves may be
apart."""


class StochasticGaugeFlow(LinkFlow):
    """Layers of a gradient flow and heat-bath sweeps in turns, with log-weights.

    Args:
        schema: links, as the system has them.
        transform: none, since it would break gauge invariance.
        system: the gauge theory, whose beta is reached at last, or one of several beta.
        layers: K, between which there are sweeps.
        sweeps: heat-bath sweeps after a layer.
        n_times: Legendre polynomials in time.
        integration_steps: Runge-Kutta steps of all layers together; a layer has one at least.
        start_beta: beta_0, whose configurations the first layer takes; 0 is Haar's measure.
        start_sweeps: heat-bath sweeps to there, each with one of overrelaxation.

    Raises:
        RecipeError: the system is no gauge theory, the samples are no links, a transform is given,
            or `start_beta` is not smaller than every beta of the system.

    >>> from physgen.systems.gauge import Gauge
    >>> system = Gauge(group="SU(2)", shape=(4, 4), beta=1.0)
    >>> flow = StochasticGaugeFlow(system.schema, system=system, layers=10)  # annealing: untrained
    >>> batch, log_weight = flow.sample_with_log_weight(
    ...     64, system.action, generator=torch.Generator().manual_seed(1)
    ... )
    >>> abs(float(log_weight.exp().mean().log()) - system.exact()["ln Z"]) < 0.3
    True
    """

    def __init__(
        self,
        schema: Schema,
        transform: Transform | None = None,
        *,
        system: System,
        layers: Positive = 8,
        sweeps: Positive = 1,
        n_times: Positive = 4,
        integration_steps: Positive = 8,
        start_beta: NotNegative = 0.0,
        start_sweeps: Positive = 100,
    ) -> None:
        super().__init__(schema, transform, n_times, integration_steps)
        theory = theory_of(system)
        if theory is None:
            raise RecipeError(
                "surrogate.kind: stochastic-gauge-flow has sweeps of a gauge theory, and the "
                f"system is {type(system).__name__}; set system.kind=gauge"
            )
        if isinstance(system, Family):
            self.conditions.span(*system.bounds)
        lowest = system.bounds[0][0] if isinstance(system, Family) else theory.beta
        if start_beta > 0 and start_beta >= lowest:
            raise RecipeError(
                f"surrogate.start_beta = {start_beta:g}: the flow goes upwards, to beta = "
                f"{float(lowest):g} first; set it below that, or leave it out to start from "
                "random links"
            )
        self._rate = theory.beta / theory.n
        self.start_beta, self.start_sweeps = start_beta, start_sweeps
        self.start = start_beta / theory.beta if start_beta > 0 else 0.0
        self._start_theory = replace(theory, beta=start_beta)
        self.layers, self.sweeps = layers, sweeps

    def draw(self, n: int, condition: Tensor | None, generator: torch.Generator) -> Batch:
        """Draw `n` configurations; without their weights they are not those of the target."""
        links = self._started(n, generator)
        self._transported(links, condition, generator)
        return Batch(self.stored(links), condition)

    def sample_with_log_weight(
        self,
        n: int,
        action: Action,
        condition: Tensor | None = None,
        *,
        generator: torch.Generator,
    ) -> tuple[Batch, Tensor]:
        """Draw `n` configurations and their (n,) log-weights with respect to exp(-action).

        The mean weight is Z, or Z / Z(start_beta).

        Raises:
            DomainError: a coupling is outside the trained range.
        """
        condition = self.conditions.resolve(condition, n, generator)
        links = self._started(n, generator)
        gained = self.to_tensor(self._transported(links, condition, generator))
        batch = Batch(self.stored(links), condition)
        return batch, gained - action(batch.x, condition)

    def log_weight(self, batch: Batch, action: Action, *, generator: torch.Generator) -> Tensor:
        """Return (B,) log-weights of ways back from samples of the target.

        Raises:
            DomainError: a coupling is outside the trained range, or missing.
        """
        links = self.matrices(batch.x)
        gained = self._transported(links, batch.condition, generator, backwards=True)
        return -action(batch.x, batch.condition) - self.to_tensor(gained)

    @property
    def reference(self) -> Reference | None:
        """What the mean weight is Z in units of; `None` where it is Z."""
        if self.start == 0:
            return None
        known = self._start_theory.exact().get("ln Z")
        return Reference(f"Z(beta={self.start_beta:g})", known)

    def initialise(self, data: Batch | None) -> None:
        """Check that the start is thermalised, as far as `_STARTS` chains can show.

        Raises:
            DomainError: those from unit and those from random links differ.
        """
        super().initialise(data)
        if self.start == 0:
            return
        links = self._started(_STARTS, torch.Generator().manual_seed(0))
        slow = self._start_theory.slow(self.stored(links).double().cpu().numpy())
        if "Q" in slow:
            slow["Q^2"] = slow.pop("Q") ** 2
        for name, values in slow.items():
            ends = values[::2], values[1::2]
            (low, a), (high, b) = ((x.mean(), x.std(ddof=1) / math.sqrt(len(x))) for x in ends)
            if abs(low - high) > _SIGMAS * math.hypot(a, b):
                raise DomainError(
                    f"surrogate.start_beta = {self.start_beta:g}: after {self.start_sweeps} sweeps "
                    f"{name} is {low:.4g}({a:.2g}) from unit links and {high:.4g}({b:.2g}) from "
                    "random ones, so that ln Z and all means would be wrong; raise "
                    "surrogate.start_sweeps, or lower surrogate.start_beta"
                )

    def _transport(
        self, links: Links, times: NDArray[np.float64], generator: torch.Generator
    ) -> NDArray[np.float64]:
        """Move configurations in place through layers between `times`, with sweeps in between.

        Downwards all is done in the opposite order.

        Returns:
            (B,) minus the work of the way.
        """
        gained = np.zeros(len(links))
        trace = self._traces(links)
        for k, (before, after) in enumerate(pairwise(times)):
            gained -= before * self._rate * trace
            gained += self.flow(links, float(before), float(after))
            trace = self._traces(links)
            gained += after * self._rate * trace
            if k < len(times) - 2:
                self._sweep(
                    links, float(after), generator, Schedule(self.sweeps, 0, after < before)
                )
                trace = self._traces(links)
        return gained

    def _transported(
        self,
        links: Links,
        condition: Tensor | None,
        generator: torch.Generator,
        *,
        backwards: bool = False,
    ) -> NDArray[np.float64]:
        """Move configurations in place from the start to their couplings, or back.

        Returns:
            (B,) minus the work of the way, without the action -time (beta / N) W of its end at
            these couplings (there), or of its beginning (back).
        """
        gained = np.zeros(len(links))
        for rows, time in self.by_coupling(condition, len(links)):
            part, times = links[rows], np.linspace(self.start, time, self.layers + 1)
            if backwards:
                gained[rows] = time * self._rate * self._traces(part)
                gained[rows] += self._transport(part, times[::-1], generator)
            else:
                gained[rows] = self._transport(part, times, generator)
                gained[rows] -= time * self._rate * self._traces(part)
            links[rows] = part
        return gained

    def _started(self, n: int, generator: torch.Generator) -> Links:
        """Draw `n` independent configurations of the coupling of the start."""
        if self.start == 0:
            return self.haar(n, generator)
        seed = int(torch.randint(2**62, (1,), generator=generator, device=generator.device))
        begun = self._start_theory.beginnings(n, torch.Generator().manual_seed(seed))
        links = self.matrices(begun)
        self._sweep(links, self.start, generator, Schedule(self.start_sweeps, 1, False))
        return links

    def _sweep(
        self, links: Links, time: float, generator: torch.Generator, schedule: Schedule
    ) -> None:
        seed = int(torch.randint(2**62, (1,), generator=generator, device=generator.device))
        shape = len(links), *self.schema.shape
        beta = time * self._rate * self.n
        angles = np.angle(links).reshape(shape) if self.n == 1 else None
        # Of matrices these are the same memory.
        numbers = links.view(np.float64).reshape(shape) if angles is None else angles
        n_heatbath, n_relax, backwards = schedule
        heatbath.sweeps(numbers, beta, n_heatbath, n_relax, seed, backwards=backwards)
        if angles is not None:
            links[...] = np.exp(1j * angles).reshape(links.shape)

    def _traces(self, links: Links) -> NDArray[np.float64]:
        """Return (B,), W = sum_P Re tr P."""
        traces: NDArray[np.float64] = gauge_steps.traces(links, kernel.lattice(self.lattice_shape))
        return traces
