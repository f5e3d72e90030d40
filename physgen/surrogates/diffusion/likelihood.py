r"""The density of a diffusion model, by the ordinary differential equation of its marginals.

On the straight path u = z / (alpha + sigma), tau = sigma / (alpha + sigma), onto which all
schedules fall,

    du / dtau = v = (u - x_hat) / tau,
    d log p / dtau = -div v,    div v = (D - tr dx_hat/du) / tau

(Song et al., arXiv 2011.13456, section 4.3), from a sample, tau ~ 0, to noise, tau ~ 1, whose
density is known. The trace takes D products with the Jacobian, or is estimated by one with a random
e of entries -1 and 1, E[e.J e] = tr J (Hutchinson 1989; Grathwohl et al., arXiv 1810.01367).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from physgen.batch import Batch, Schema
from physgen.errors import RecipeError
from physgen.networks.residual import ResidualOptions
from physgen.ranges import Positive
from physgen.surrogates.base import density_of
from physgen.surrogates.diffusion.denoiser import Denoise, Prediction
from physgen.surrogates.diffusion.model import DenoiserOptions, Diffusion
from physgen.surrogates.diffusion.schedule import Schedule, ScheduleName
from physgen.surrogates.flows.integration import State, runge_kutta
from physgen.surrogates.sampler_options import FEWEST, SamplerOptions
from physgen.transforms.base import INEXACT, Transform

Divergence = Literal["exact", "hutchinson"]
Flow = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Maps u (B, D) at tau () to its velocity (B, D) and the divergence of it, (B,)."""

FINEST = 48
"""Runge-Kutta steps of a bound at least: with few, the integral of the divergence is not the
log-determinant of the map that was followed, and a bound could be passed."""

AT_ONCE = 32
"""Products with the Jacobian that are computed together."""


def probability_flow(denoise: Denoise, schedule: Schedule, probe: Tensor | None = None) -> Flow:
    """Return v and div v on the straight path.

    Args:
        denoise: the denoiser at fixed conditions.
        schedule: whose z the denoiser takes.
        probe: e, (B, D), for an estimated divergence; `None` for the exact one.
    """

    def flow(u: Tensor, tau: Tensor) -> tuple[Tensor, Tensor]:
        log_snr = -2 * tau.logit()
        alpha, sigma = schedule.amplitudes(log_snr)

        def expected(u: Tensor) -> Tensor:
            return denoise(u * (alpha + sigma), log_snr)

        x, pull_back = torch.func.vjp(expected, u)  # type: ignore[misc]
        if probe is not None:
            trace = (pull_back(probe)[0] * probe).sum(1)
        else:
            units = torch.eye(u.shape[1], dtype=u.dtype, device=u.device)

            def entry(unit: Tensor) -> Tensor:
                row: Tensor = pull_back(unit.expand_as(u))[0]
                return (row * unit).sum(1)

            trace = torch.func.vmap(entry, chunk_size=AT_ONCE)(units).sum(0)
        return (u - x) / tau, (u.shape[1] - trace) / tau

    return flow


def integrate(flow: Flow, u: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
    """Follow a flow from the first level tau to the last, a Runge-Kutta step between any two.

    Returns u there, (B, D), and the integral of the divergence, (B,).
    """

    def slope(tau: Tensor, state: State) -> State:
        return flow(state[0], tau)

    u, total = runge_kutta(slope, (u, torch.zeros_like(u[:, 0])), levels.unbind())
    return u, total


class DiffusionFlow(Diffusion):
    """A diffusion model whose samples are those of the probability flow.

    They are integrated by Runge-Kutta steps of fourth order, as are densities the other way, which
    are exact up to the error of these steps.

    Args:
        schema: of the samples.
        transform: from physical samples to real numbers of order one.
        schedule, prediction, network: see `Diffusion`.
        integration_steps: Runge-Kutta steps, at least 2, of four evaluations each.
        divergence: "exact", or "hutchinson": an unbiased estimate of log q at a cost that does not
            grow with the size of a sample.

    Raises:
        RecipeError: there are too few steps.

    >>> from physgen.batch import Variable
    >>> flow = DiffusionFlow(Schema((2,), (Variable("x"),)), integration_steps=4)
    >>> samples, log_q = flow.sample_with_log_prob(5, generator=torch.Generator())
    >>> torch.allclose(flow.log_prob(samples), log_q, atol=1e-3)
    True
    """

    def __init__(
        self,
        schema: Schema,
        transform: Transform | None = None,
        *,
        schedule: ScheduleName = "straight",
        prediction: Prediction = "velocity",
        network: DenoiserOptions = ResidualOptions(),
        integration_steps: Positive = 24,
        divergence: Divergence = "exact",
    ) -> None:
        if integration_steps < FEWEST["heun"]:
            raise RecipeError(
                f"surrogate.integration_steps is {integration_steps}: it is at least "
                f"{FEWEST['heun']}"
            )
        super().__init__(
            schema, transform, schedule=schedule, prediction=prediction, network=network
        )
        self.integration_steps = integration_steps
        self.divergence = divergence

    def _check_exact(self) -> None:
        if density_of(self) is None:
            raise RecipeError(f"{type(self).__name__} has no exact density here: {INEXACT}")

    def use_sampler(self, options: SamplerOptions) -> None:
        """Refuse other samplers: samples and density are of one integration."""
        raise RecipeError(
            f"sampling.sampler: {type(self).__name__} integrates its samples as it does their "
            "density, by surrogate.integration_steps; leave it out"
        )

    def integrated_log_prob(
        self, latent: Batch, condition: Tensor | None, probe: Tensor, steps: int
    ) -> Tensor:
        """Return (B,) the log-density of a mapped batch at its physical conditions (B, C).

        `probe` is (B, D) of entries -1 and 1; only an estimated divergence takes it.
        """
        levels = self._levels(latent.x, steps).flip(0)
        x = latent.x.flatten(1)
        u, total = integrate(self._flow(condition, probe), (1 - levels[0]) * x, levels)
        log_prob: Tensor = self._base_log_prob(u) + total + self.features * (1 - levels[0]).log()
        return log_prob

    def probe(self, n: int, generator: torch.Generator) -> Tensor:
        """Return (n, D) random signs."""
        bits = torch.randint(
            2, (n, self.features), generator=generator, device=self.device, dtype=self.dtype
        )
        return 2 * bits - 1

    def _sample_from(
        self, start: Tensor, condition: Tensor | None, noise: Callable[[int], Tensor]
    ) -> Tensor:
        """Integrate without the divergence."""
        denoise, schedule = self.denoise(condition), self.schedule

        def flow(u: Tensor, tau: Tensor) -> tuple[Tensor, Tensor]:
            log_snr = -2 * tau.logit()
            alpha, sigma = schedule.amplitudes(log_snr)
            return (u - denoise(u * (alpha + sigma), log_snr)) / tau, torch.zeros_like(u[:, 0])

        levels = self._levels(start, self.integration_steps)
        end, _ = integrate(flow, self._base_scale() * start, levels)
        return self.physical(end / (1 - levels[-1]), condition)

    def _flow(self, condition: Tensor | None, probe: Tensor) -> Flow:
        estimated = self.divergence == "hutchinson"
        return probability_flow(
            self.denoise(condition), self.schedule, probe if estimated else None
        )

    def _levels(self, like: Tensor, steps: int) -> Tensor:
        """Return tau from t = 1 to t = 0."""
        grid = self.schedule.grid(steps + 1, "noise", like)
        return (-grid.log_snr[:-1] / 2).sigmoid()

    def _base_scale(self) -> Tensor:
        """Return the deviation of u at t = 1, ()."""
        log_snr = self.schedule.log_snr(self.denoiser.scale.new_ones(()))
        alpha, sigma = self.schedule.amplitudes(log_snr)
        return self.start() / (alpha + sigma)

    def _base_log_prob(self, u: Tensor) -> Tensor:
        scale = self._base_scale()
        square = (u / scale).square().sum(1)
        return -0.5 * square - u.shape[1] * (scale.log() + 0.5 * math.log(2 * math.pi))

    def log_prob(self, batch: Batch) -> Tensor:
        """Return (B,) log q(x | condition) in physical units, differentiable.

        The probes of an estimated divergence depend on the batch's size alone.

        Raises:
            RecipeError: the transform leaves no exact density.
        """
        self._check_exact()
        mapped, log_det = self.transform(batch)
        probe, steps = self._fixed_probe(len(batch)), self.integration_steps
        log_prob: Tensor = self.integrated_log_prob(mapped, batch.condition, probe, steps) + log_det
        return log_prob

    def sample_with_log_prob(
        self, n: int, condition: Tensor | None = None, *, generator: torch.Generator
    ) -> tuple[Batch, Tensor]:
        """Draw samples and return their (n,) log-density, both differentiable.

        Raises:
            RecipeError: the transform leaves no exact density.
        """
        self._check_exact()
        condition = self.conditions.resolve(condition, n, generator)
        noise = torch.randn(
            n, self.features, generator=generator, device=self.device, dtype=self.dtype
        )
        levels, u = self._levels(noise, self.integration_steps), self._base_scale() * noise
        end, total = integrate(self._flow(condition, self._fixed_probe(n)), u, levels)
        samples = Batch(self.physical(end / (1 - levels[-1]), condition), condition)
        volume = self.features * (1 - levels[-1]).log()
        _, log_det = self.transform(samples)
        log_prob: Tensor = self._base_log_prob(u) - total + volume + log_det
        return samples, log_prob

    def _fixed_probe(self, n: int) -> Tensor:
        return self.probe(n, torch.Generator(device=self.device).manual_seed(n))

    def elbo(self, batch: Batch, *, generator: torch.Generator) -> Tensor:
        """Return (B,), a draw of the bound on log p(x | condition) in physical units.

        It is that of the flow itself, integrated by `FINEST` steps at least, and unbiased up to
        their error; samples may be drawn with fewer.
        """
        latent, volume = self.transform.bound(batch, generator)
        probe, steps = self.probe(len(batch), generator), max(FINEST, self.integration_steps)
        total: Tensor = self.integrated_log_prob(latent, batch.condition, probe, steps) + volume
        return total
