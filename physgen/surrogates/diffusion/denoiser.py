r"""Denoisers: the clean sample expected behind a noisy one, E[x | z].

A network F sees z = alpha x + sigma eps and predicts some mixture of x and eps; from it

    x_hat = c_skip z + c_out F(c_in z, clock(lambda), condition),

with s the root mean square of the data, c_in = 1 / sqrt(alpha^2 s^2 + sigma^2), and

    prediction   F learns                        c_skip                  c_out
    epsilon      eps                             1 / alpha               -sigma / alpha
    x0           x                               0                       1
    v            alpha eps - sigma x             alpha / q               -sigma / q
    velocity     eps - x                         1 / (alpha + sigma)     -sigma / (alpha + sigma)
    edm          what is left, at unit variance  alpha s^2 c_in^2        sigma s c_in

where q = alpha^2 + sigma^2

(Ho et al., arXiv 2006.11239; Salimans & Ho, arXiv 2202.00512; Lipman et al., arXiv 2210.02747;
Karras et al., arXiv 2206.00364, table 1). Each learns by the plain squared error of F, whose target
(x - c_skip z) / c_out is ((1 - c_skip alpha) x - c_skip sigma eps) / c_out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from physgen.surrogates.diffusion.schedule import Schedule

Prediction = Literal["epsilon", "x0", "v", "velocity", "edm"]

Denoise = Callable[[Tensor, Tensor], Tensor]
"""Maps noisy samples (B, D) at one lambda, (), to the clean ones expected, (B, D)."""


class Denoiser(nn.Module):
    """A network and how its output is read.

    Args:
        schedule: says alpha and sigma at lambda.
        body: called as (x (B, *shape), time (B,), condition), returns (B, *shape).
        shape: of what the body takes; samples are flat everywhere else.
        prediction: what it learns.

    >>> from physgen.networks.residual import ResidualMLP
    >>> from physgen.surrogates.diffusion.schedule import Cosine
    >>> denoiser = Denoiser(Cosine(), ResidualMLP(3), (3,), "x0")
    >>> denoiser(torch.zeros(5, 3), torch.zeros(5)).shape
    torch.Size([5, 3])
    """

    scale: Tensor

    def __init__(
        self, schedule: Schedule, body: nn.Module, shape: tuple[int, ...], prediction: Prediction
    ) -> None:
        super().__init__()
        self.schedule, self.body, self.shape, self.prediction = schedule, body, shape, prediction
        self.register_buffer("scale", torch.ones(()))

    def forward(self, z: Tensor, log_snr: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return E[x | z], (B, D), for z (B, D) at lambda (B,) and a mapped condition."""
        c_skip, c_out, _, _ = self._coefficients(log_snr[:, None])
        return c_skip * z + c_out * self._output(z, log_snr, condition)

    def loss(
        self, x: Tensor, noise: Tensor, log_snr: Tensor, condition: Tensor | None = None
    ) -> Tensor:
        """Return (B,), the mean squared error of F over the entries of a sample.

        Args:
            x, noise: (B, D), clean samples and what is mixed into them.
            log_snr: (B,), how noisy the mixtures are.
            condition: (B, C), mapped.
        """
        c_skip, c_out, alpha, sigma = self._coefficients(log_snr[:, None])
        target = ((1 - c_skip * alpha) * x - c_skip * sigma * noise) / c_out
        output = self._output(alpha * x + sigma * noise, log_snr, condition)
        return (output - target).square().mean(1)

    def _output(self, z: Tensor, log_snr: Tensor, condition: Tensor | None) -> Tensor:
        alpha, sigma = self.schedule.amplitudes(log_snr[:, None])
        c_in = (alpha.square() * self.scale.square() + sigma.square()).rsqrt()
        # Runs from 0 (clean) to 1 (noise) and resolves all levels that matter.
        clock = (-log_snr / 4).sigmoid()
        output: Tensor = self.body((c_in * z).reshape(-1, *self.shape), clock, condition)
        return output.flatten(1)

    def _coefficients(self, log_snr: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return c_skip, c_out, alpha, sigma."""
        alpha, sigma = self.schedule.amplitudes(log_snr)
        if self.prediction == "epsilon":
            c_skip, c_out = 1 / alpha, -sigma / alpha
        elif self.prediction == "x0":
            c_skip, c_out = torch.zeros_like(alpha), torch.ones_like(alpha)
        elif self.prediction == "v":
            square = alpha.square() + sigma.square()
            c_skip, c_out = alpha / square, -sigma / square
        elif self.prediction == "velocity":
            c_skip, c_out = 1 / (alpha + sigma), -sigma / (alpha + sigma)
        else:
            square = (alpha * self.scale).square() + sigma.square()
            c_skip = alpha * self.scale.square() / square
            c_out = sigma * self.scale * square.rsqrt()
        return c_skip, c_out, alpha, sigma
