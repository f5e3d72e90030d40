r"""The latent variables of a Markovian hierarchical VAE: x <- z_1 <- z_2 <- ... <- z_T.

p(x, z | c) = p(x | z_1, c) p(z_1 | z_2, c) ... p(z_{T-1} | z_T, c) N(z_T; 0, 1)
q(z | x, c) = q(z_1 | x, c) q(z_2 | z_1, c) ... q(z_T | z_{T-1}, c),

all of them normal with diagonal covariance, their moments networks of what they depend on. With
z_0 = x,

log p(x | c) >= E_q[log p(x | z_1, c)]                                           reconstruction
    + \sum_{t=1}^{T-1} E_q[log p(z_t | z_{t+1}, c) - log q(z_t | z_{t-1}, c)]    consistency
    - E_q KL(q(z_T | z_{T-1}, c) || N(0, 1))                                     prior matching.

T = 1 is the ordinary VAE. A prior of couplings stands for N(z_T; 0, 1) where `couplings` are asked
for: it learns the shape of what the encoder makes of the data, which the divergence from a normal
one charges for (Chen et al., arXiv 1611.02731, section 3.2).

With q that only adds noise, and levels as large as x, the chain is a diffusion model (Luo, arXiv
2208.11970, section "Variational Diffusion Models").
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from physgen.errors import RecipeError
from physgen.networks.bodies import joined
from physgen.networks.mlp import MLP, Activation
from physgen.surrogates.flows.spline import softclip
from physgen.surrogates.flows.stack import CouplingOptions, CouplingStack

LOG_DEVIATION_LIMIT = 8.0
"""Bound on |log deviation| of latent distributions."""


@dataclass(frozen=True)
class EncodedLevels:
    """Latent variables drawn from q, and what they add to the bound.

    Attributes:
        first: (B, latent), z_1.
        consistency: (B,), that of the lower levels; 0 for one level.
        prior_matching: (B, latent), the KL divergence of each entry of the last level; (B, 1), a
            draw of that of all, from a prior of couplings.
        log_ratio: (B,), log p(z | c) - log q(z | x, c) at what was drawn.
    """

    first: Tensor
    consistency: Tensor
    prior_matching: Tensor
    log_ratio: Tensor


class Levels(nn.Module):
    """The chain of latent variables, upwards as q and downwards as p.

    Args:
        latent: dimension of each z_t.
        levels: T.
        n_condition: C.
        hidden: widths of the networks between levels.
        activation: of them.
        couplings: number of affine couplings of the prior of z_T; 0 for a standard normal one.

    Raises:
        RecipeError: there is no level.

    >>> levels = Levels(2, 3, 0, hidden=(8,), activation="silu", couplings=0)
    >>> levels.decode_levels(torch.zeros(5, levels.n_noise), None).shape
    torch.Size([5, 2])
    """

    def __init__(
        self,
        latent: int,
        levels: int,
        n_condition: int,
        *,
        hidden: tuple[int, ...],
        activation: Activation,
        couplings: int,
    ) -> None:
        super().__init__()
        if levels < 1 or latent < 1 or couplings < 0:
            raise RecipeError(
                f"surrogate.levels={levels}, surrogate.latent={latent}: both are at least 1; "
                f"surrogate.prior_couplings={couplings}: 0 or more"
            )
        self.latent, self.n_noise = latent, levels * latent

        def network() -> MLP:
            return MLP(latent + n_condition, 2 * latent, hidden=hidden, activation=activation)

        self.upwards = nn.ModuleList(network() for _ in range(levels - 1))
        self.downwards = nn.ModuleList(network() for _ in range(levels - 1))
        self.prior: CouplingStack | None = None
        if couplings:
            options = CouplingOptions(
                n_layers=couplings, hidden=hidden, layer="affine", activation=activation
            )
            self.prior = CouplingStack(latent, n_condition, options)

    def encode_levels(
        self, mean: Tensor, log_deviation: Tensor, noise: Tensor, condition: Tensor | None
    ) -> EncodedLevels:
        """Draw all z_t from q by (B, T * latent) noise, given the moments of q(z_1 | x, c)."""
        noises = torch.split(noise, self.latent, -1)
        z = first = mean + log_deviation.exp() * noises[0]
        consistency = torch.zeros_like(z[:, 0])
        for up, down, below, above in zip(
            self.upwards, self.downwards, noises, noises[1:], strict=False
        ):
            log_q = normal_log_prob(below) - log_deviation.sum(-1)
            mean, log_deviation = normal(up(joined(z, condition)))
            higher = mean + log_deviation.exp() * above
            centre, log_width = normal(down(joined(higher, condition)))
            log_p = normal_log_prob((z - centre) * (-log_width).exp()) - log_width.sum(-1)
            consistency = consistency + log_p - log_q
            z = higher
        log_q = normal_log_prob(noises[-1]) - log_deviation.sum(-1)
        if self.prior is None:
            log_ratio = normal_log_prob(z) - log_q
            prior_matching = kl_to_standard_normal(mean, log_deviation)
        else:
            log_ratio = self.prior.log_prob(z, condition) - log_q
            prior_matching = -log_ratio[:, None]
        return EncodedLevels(first, consistency, prior_matching, consistency + log_ratio)

    def decode_levels(self, noise: Tensor, condition: Tensor | None) -> Tensor:
        """Return (B, latent), z_1 from the prior, by (B, T * latent) noise of z_T, ..., z_1."""
        z, *noises = torch.split(noise, self.latent, -1)
        if self.prior is not None:
            z = self.prior.from_noise(z, condition)
        for down, level in zip(reversed(self.downwards), noises, strict=True):
            mean, log_deviation = normal(down(joined(z, condition)))
            z = mean + log_deviation.exp() * level
        first: Tensor = z
        return first


def normal(raw: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and log deviation, each (B, D), from the (B, 2 D) of a network."""
    mean, log_deviation = raw.chunk(2, -1)
    return mean, softclip(log_deviation, LOG_DEVIATION_LIMIT)


def normal_log_prob(z: Tensor) -> Tensor:
    """Return (B,) log N(z; 0, 1) of (B, D)."""
    return -0.5 * z.square().sum(-1) - 0.5 * z.shape[-1] * math.log(2 * math.pi)


def kl_to_standard_normal(mean: Tensor, log_deviation: Tensor) -> Tensor:
    """Return KL(N(mean, deviation^2) || N(0, 1)) of each entry."""
    return 0.5 * (mean.square() + (2 * log_deviation).exp() - 1) - log_deviation
