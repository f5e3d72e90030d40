r"""The variational diffusion model (Kingma et al., arXiv 2107.00630): diffusion with a bound.

With p(z_1) = N(0, s_1^2), p(x | z_0) = N(z_0 / alpha_0, (sigma_0 / alpha_0)^2), and infinitely many
steps between,

    log p(x) >= reconstruction - prior matching - denoising matching
    reconstruction      E_q[log p(x | z_0)] = -D/2 (1 + log 2 pi - lambda(0))
    prior matching      KL(q(z_1 | x) || p(z_1))
    denoising matching  1/2 E_{t, eps}[-lambda'(t) SNR(t) |x - x_hat(z_t, t)|^2]

(their equations 11 to 17; SNR |x - x_hat|^2 = |eps - eps_hat|^2). The bound depends on the schedule
through its ends only; its inner shape is learned to lower the variance of the last term over t.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from physgen.batch import Batch
from physgen.errors import RecipeError
from physgen.ranges import NotNegative, PositiveFloat
from physgen.surrogates.diffusion.model import Diffusion
from physgen.surrogates.diffusion.schedule import Learned, Schedule
from physgen.surrogates.method import Method, StepContext

TIMES = 8
"""Times, one in each eighth of [0, 1], that a draw of the bound averages over."""

SHAPE_EVERY = 8
"""Steps of the denoiser to one of the schedule's shape, which changes slowly and costs as much."""


class Terms(NamedTuple):
    """The three terms of the bound in nats, each (B,); the last two are divergences."""

    reconstruction: Tensor
    prior_matching: Tensor
    denoising_matching: Tensor

    @property
    def bound(self) -> Tensor:
        """Their sum, (B,), which lies below log p(x) on average."""
        return self.reconstruction - self.prior_matching - self.denoising_matching


def bound_terms(
    denoise: Callable[[Tensor, Tensor], Tensor],
    schedule: Schedule,
    x: Tensor,
    time: Tensor,
    noise: Tensor,
    scale: Tensor,
) -> Terms:
    """Evaluate the three terms, the last one at a single time for each sample.

    Args:
        denoise: maps z (B, D) at lambda (B,) to the clean sample expected.
        schedule: of the noise.
        x: (B, D), clean samples.
        time: (B,), uniform in [0, 1].
        noise: (B, D), normal.
        scale: deviation of p(z_1), ().
    """
    n = x.shape[1]
    log_snr, pull_back = torch.func.vjp(schedule.log_snr, time)  # type: ignore[misc]
    (slope,) = pull_back(torch.ones_like(time))
    alpha, sigma = schedule.amplitudes(log_snr[:, None])
    error = x - denoise(alpha * x + sigma * noise, log_snr)
    first, last = schedule.log_snr(time.new_tensor([0.0, 1.0])).unbind()
    alpha, sigma = schedule.amplitudes(last)
    ratio = (sigma / scale).square()
    pull = (alpha / scale * x).square()
    return Terms(
        reconstruction=(-0.5 * n * (1 + math.log(2 * math.pi) - first)).expand(len(x)),
        prior_matching=0.5 * (pull + ratio - 1 - ratio.log()).sum(1),
        denoising_matching=-0.5 * slope * (log_snr.exp() * error.square().sum(1)),
    )


class VariationalDiffusion(Diffusion):
    """A diffusion model with a bound on its density (`HasBound`); see `Diffusion` for its options.

    Any schedule has the bound; schedule "learned" makes it tighter, and easier to learn.

    >>> from physgen.batch import Schema, Variable
    >>> model = VariationalDiffusion(Schema((2,), (Variable("x"),)), schedule="learned")
    >>> model.elbo(Batch(torch.zeros(5, 2)), generator=torch.Generator()).shape
    torch.Size([5])
    """

    def terms(self, batch: Batch, time: Tensor, noise: Tensor) -> Terms:
        """Return the terms of the bound for a batch in the transform's space.

        Args:
            batch: x (B, ...) and condition, mapped.
            time: (B,), uniform in [0, 1].
            noise: (B, D), normal.
        """

        def denoise(z: Tensor, log_snr: Tensor) -> Tensor:
            expected: Tensor = self.denoiser(z, log_snr, batch.condition)
            return expected

        x = batch.x.flatten(1)
        return bound_terms(denoise, self.schedule, x, time, noise, self.start())

    def elbo(self, batch: Batch, *, generator: torch.Generator) -> Tensor:
        """Return (B,), an unbiased draw of the bound on log p(x | condition)."""
        mapped, volume = self.transform.bound(batch, generator)
        draws = []
        for part in range(TIMES):
            x = mapped.x.flatten(1)
            time = torch.rand(len(x), generator=generator, dtype=x.dtype, device=x.device)
            noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
            time = (part + time) / TIMES
            draws.append(self.terms(mapped, time, noise).bound)
        return torch.stack(draws).mean(0) + volume


class DiffusionBound(Method):
    """Maximise the bound of a `VariationalDiffusion`.

    Args:
        surrogate: a `VariationalDiffusion`.
        learning_rate: of AdamW, before the engine's schedule.
        weight_decay: of AdamW.

    Raises:
        RecipeError: the surrogate is another one, or hides conditions.

    >>> from physgen.batch import Schema, Variable
    >>> model = VariationalDiffusion(Schema((2,), (Variable("x"),)), schedule="learned")
    >>> sorted(DiffusionBound(model).optimisers)
    ['denoiser', 'shape']
    """

    negative_weights = True

    def __init__(
        self,
        surrogate: VariationalDiffusion,
        *,
        learning_rate: PositiveFloat = 1e-3,
        weight_decay: NotNegative = 0.0,
    ) -> None:
        super().__init__(surrogate)
        if not isinstance(surrogate, VariationalDiffusion):
            raise RecipeError(
                "method.kind: diffusion-bound trains a variational-diffusion, not "
                f"{type(surrogate).__name__}"
            )
        if surrogate.condition_dropout:
            raise RecipeError(
                "surrogate.condition_dropout: a bound on log p(x | condition) hides no conditions; "
                "leave it out, or take method.kind: denoising"
            )
        self.model = surrogate
        schedule = surrogate.schedule
        shape = schedule.shape if isinstance(schedule, Learned) else []
        apart = {id(parameter) for parameter in shape}
        self.optimisers["denoiser"] = torch.optim.AdamW(
            [p for p in surrogate.parameters() if id(p) not in apart],
            lr=learning_rate,
            weight_decay=weight_decay,
        )
        if shape:
            self.optimisers["shape"] = torch.optim.AdamW(shape, lr=10 * learning_rate)

    def loss(self, batch: Batch, time: Tensor, noise: Tensor) -> Tensor:
        """Return (B,), draws of minus the bound for a prepared batch."""
        return -self.model.terms(batch, time, noise).bound

    def spread(self, batch: Batch, time: Tensor, noise: Tensor) -> Tensor:
        """Return (B,), whose mean is the variance of the last term, up to what is fixed.

        In units of the size of a sample, squared.
        """
        return (
            self.model.terms(batch, time, noise).denoising_matching / batch.x[0].numel()
        ).square()

    def step(self, batches: Mapping[str, Batch], ctx: StepContext) -> dict[str, Tensor]:
        """Take one step, and now and then one of the schedule's shape."""
        draws = batches["data"], ctx.rand(), ctx.randn(self.model.features)
        metrics = {"loss": ctx.minimise(self.loss, self.optimisers["denoiser"], *draws)}
        if "shape" in self.optimisers and ctx.step % SHAPE_EVERY == 0:
            metrics["spread"] = ctx.minimise(self.spread, self.optimisers["shape"], *draws)
        return metrics
