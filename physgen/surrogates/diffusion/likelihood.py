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
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from physgen.batch import Batch, Schema
from physgen.errors import RecipeError
from physgen.surrogates.diffusion.denoiser import Denoise, Prediction
from physgen.surrogates.diffusion.model import Diffusion
from physgen.surrogates.diffusion.schedule import Schedule, ScheduleName
from physgen.transforms.base import Transform

Divergence = Literal["exact", "hutchinson"]
Flow = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Maps u (B, D) at tau () to its velocity (B, D) and the divergence of it, (B,)."""

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
    """Follow a flow from the first level tau to the last by classical Runge-Kutta steps.

    Returns u there, (B, D), and the integral of the divergence, (B,).
    """
    total = torch.zeros_like(u[:, 0])
    for here, there in pairwise(levels.unbind()):
        step, middle = there - here, (here + there) / 2
        k1, d1 = flow(u, here)
        k2, d2 = flow(u + step / 2 * k1, middle)
        k3, d3 = flow(u + step / 2 * k2, middle)
        k4, d4 = flow(u + step * k3, there)
        u = u + step / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        total = total + step / 6 * (d1 + 2 * d2 + 2 * d3 + d4)
    return u, total


class DiffusionFlow(Diffusion):
    """A diffusion model as a continuous flow, with its density (`HasDensity`).

    Samples are those of the probability flow, integrated by Runge-Kutta steps of fourth order both
    ways, so that densities and samples belong to one another. The density is exact up to the error
    of these steps.

    Args:
        schema: of the samples.
        transform: from physical samples to real numbers of order one; exact.
        schedule, prediction, network, hidden, depth, channels, periodic: see `Diffusion`.
        integration_steps: Runge-Kutta steps, at least 2, of four evaluations each.
        divergence: "exact", or "hutchinson": an unbiased estimate of log q at a cost that does not
            grow with the size of a sample, with probes that depend on the batch's size alone.

    Raises:
        RecipeError: the transform has no log-determinant, or there are too few steps.
    """

    def __init__(
        self,
        schema: Schema,
        transform: Transform | None = None,
        *,
        schedule: ScheduleName = "straight",
        prediction: Prediction = "velocity",
        network: Literal["mlp", "unet"] = "mlp",
        hidden: int = 256,
        depth: int = 3,
        channels: tuple[int, ...] = (32, 64),
        periodic: bool = False,
        integration_steps: int = 24,
        divergence: Divergence = "exact",
    ) -> None:
        super().__init__(
            schema,
            transform,
            schedule=schedule,
            prediction=prediction,
            network=network,
            hidden=hidden,
            depth=depth,
            channels=channels,
            periodic=periodic,
            sampler="heun",
            sampler_steps=integration_steps,
            spacing="noise",
        )
        if not self.transform.exact:
            raise RecipeError(
                "surrogate.kind: diffusion-flow has an exact density, but the transform adds noise "
                "or holds discrete parts; use kind: diffusion"
            )
        self.divergence = divergence

    def log_prob(self, batch: Batch) -> Tensor:
        """Return (B,) log q(x | condition) in physical units, differentiable."""
        mapped, log_det = self.transform(batch)
        levels = self._levels(mapped.x).flip(0)
        x = mapped.x.flatten(1)
        u, total = integrate(self._flow(batch.condition, x), (1 - levels[0]) * x, levels)
        volume = self.features * (1 - levels[0]).log()
        log_prob: Tensor = self._base_log_prob(u) + total + volume + log_det
        return log_prob

    def sample_with_log_prob(
        self, n: int, condition: Tensor | None = None, *, generator: torch.Generator
    ) -> tuple[Batch, Tensor]:
        """Draw samples and return their (n,) log-density, both differentiable."""
        condition = self.conditions.settle(condition, n, generator)
        noise = torch.randn(
            n, self.features, generator=generator, device=self.device, dtype=self.dtype
        )
        levels, u = self._levels(noise), self._base_scale() * noise
        end, total = integrate(self._flow(condition, u), u, levels)
        samples = Batch(self.physical(end / (1 - levels[-1]), condition), condition)
        volume = self.features * (1 - levels[-1]).log()
        _, log_det = self.transform(samples)
        log_prob: Tensor = self._base_log_prob(u) - total + volume + log_det
        return samples, log_prob

    def _walk(
        self, start: Tensor, condition: Tensor | None, noise: Callable[[int], Tensor]
    ) -> Tensor:
        """Integrate without the divergence."""
        denoise, schedule = self.denoise(condition), self.schedule

        def flow(u: Tensor, tau: Tensor) -> tuple[Tensor, Tensor]:
            log_snr = -2 * tau.logit()
            alpha, sigma = schedule.amplitudes(log_snr)
            return (u - denoise(u * (alpha + sigma), log_snr)) / tau, torch.zeros_like(u[:, 0])

        levels = self._levels(start)
        end, _ = integrate(flow, self._base_scale() * start, levels)
        return self.physical(end / (1 - levels[-1]), condition)

    def _flow(self, condition: Tensor | None, u: Tensor) -> Flow:
        probe = None
        if self.divergence == "hutchinson":
            generator = torch.Generator(device=u.device).manual_seed(len(u))
            bits = torch.randint(2, u.shape, generator=generator, device=u.device)
            probe = (2 * bits - 1).to(u)
        return probability_flow(self.denoise(condition), self.schedule, probe)

    def _levels(self, like: Tensor) -> Tensor:
        """Return tau from t = 1 to t = 0."""
        grid = self.schedule.grid(self.sampler_steps + 1, self.spacing, like)
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
