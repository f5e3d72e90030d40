r"""Variational autoencoders (Kingma & Welling, arXiv 1312.6114), with a condition everywhere.

log p(x | c) >= E_q[log p(x | z, c)] - KL(q(z | x, c) || N(0, 1))
                reconstruction         prior matching,

q(z | x, c) = N(\mu, \sigma^2) by a network of x and c, z = \mu + \sigma \epsilon, and

KL = 1/2 \sum_i (\mu_i^2 + \sigma_i^2 - 1 - \log \sigma_i^2).

With k draws z_j the importance-weighted bound (Burda, Grosse & Salakhutdinov, arXiv 1509.00519)

log p(x | c) >= E[log 1/k \sum_j w_j],   w = p(x | z, c) p(z) / q(z | x, c),

rises to log p with k; its k = 1 is the bound above. The likelihood p(x | z, c) lives in the
transform's space. Several levels of z make a Markovian hierarchical VAE, and the prior of the last
may be a flow (`levels`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from physgen.batch import Batch, Schema
from physgen.errors import RecipeError, errors_of
from physgen.networks.bodies import Decoder, Encoder, NetworkOptions
from physgen.networks.mlp import MLPOptions
from physgen.ranges import Count, Positive
from physgen.surrogates.autoencoders.levels import Levels, normal
from physgen.surrogates.autoencoders.likelihoods import (
    Bernoulli,
    Binomial,
    Gaussian,
    LikelihoodKind,
)
from physgen.surrogates.decoding import DecodedNoise
from physgen.transforms.base import Transform
from physgen.transforms.images import Dequantise

DRAWS_AT_ONCE = 8192
"""Latent vectors that an importance-weighted bound decodes together: what limits its memory."""


@dataclass(frozen=True)
class Terms:
    """The terms of the bound on log p(x | c), for k draws of the latent variables of each x.

    Attributes:
        reconstruction: (B, k), log p(x | z_1, c).
        consistency: (B, k), of the lower levels; 0 for one level.
        prior_matching: (B, k, latent), the KL divergence of each entry of the last level; (B, k, 1)
            where the prior is made of couplings.
        log_weight: (B, k), log p(x, z | c) - log q(z | x, c).
    """

    reconstruction: Tensor
    consistency: Tensor
    prior_matching: Tensor
    log_weight: Tensor

    @property
    def bound(self) -> Tensor:
        """Return (B,): the mean over the draws."""
        terms = self.reconstruction + self.consistency - self.prior_matching.sum(-1)
        return terms.mean(1)

    @property
    def importance_bound(self) -> Tensor:
        """Return (B,): the importance-weighted bound of k draws."""
        return self.log_weight.logsumexp(1) - math.log(self.log_weight.shape[1])


class VAE(DecodedNoise):
    """A conditional variational autoencoder (`HasBound`, `FromNoise`).

    Args:
        schema: of the samples.
        transform: from physical samples to what the likelihood describes.
        latent: dimension of z.
        levels: of latent variables, each a network of the one above it.
        prior_couplings: number of couplings that make the prior of the last level of a normal one.
        network: of the encoder; the decoder mirrors it, and its dense layers are those between
            levels too.
        likelihood: "gaussian" for real entries, "bernoulli" for spins, binaries and greys,
            "binomial" for dequantised counts.
        counts: the most that a binomial entry can count.

    Raises:
        RecipeError: a Bernoulli likelihood for other variables, or a network that does not fit.

    >>> from physgen.batch import Variable
    >>> spins = Schema((4, 4), (Variable("spin", domain="spin"),))
    >>> VAE(spins, latent=2, likelihood="bernoulli").sample(5, seed=1).x.unique()
    tensor([-1.,  1.])
    """

    def __init__(
        self,
        schema: Schema,
        transform: Transform | None = None,
        *,
        latent: Positive = 8,
        levels: Positive = 1,
        prior_couplings: Count = 0,
        network: NetworkOptions = MLPOptions(hidden=(128, 128)),
        likelihood: LikelihoodKind = "gaussian",
        counts: Positive = 16,
    ) -> None:
        super().__init__(schema, transform)
        shape = self.transform.latent_shape(schema.shape)
        n_condition = self.transform.latent_condition(len(schema.condition))
        self.likelihood: Gaussian | Bernoulli | Binomial
        if likelihood == "bernoulli" and not self.transform.exact:
            raise RecipeError(
                "surrogate.likelihood: bernoulli describes the pixels themselves, and the "
                "transform spreads or rounds them: leave `transform` out, or choose another one"
            )
        if likelihood == "bernoulli":
            self.likelihood = Bernoulli(math.prod(shape), schema.variables)
        elif likelihood == "binomial":
            for part in self.transform.modules():
                if isinstance(part, Dequantise) and part.levels != counts + 1:
                    raise RecipeError(
                        f"surrogate.counts: {counts} of a binomial likelihood are {counts + 1} "
                        f"levels, and transform dequantise has {part.levels}: set it to "
                        f"{part.levels - 1}"
                    )
            self.likelihood = Binomial(math.prod(shape), counts)
        else:
            self.likelihood = Gaussian(math.prod(shape))
        self.levels = Levels(
            latent,
            levels,
            n_condition,
            hidden=network.hidden,
            activation=network.activation,
            couplings=prior_couplings,
        )
        with errors_of("surrogate.network"):
            self.encoder = Encoder(shape, 2 * latent, n_condition, network)
            self.decoder = Decoder(latent, shape, n_condition, network)

    def initialise(self, data: Batch | None) -> None:
        """Fit the transform; start at the means of the data, or refuse what does not fit."""
        super().initialise(data)
        if data is not None:
            generator = torch.Generator(device=data.x.device).manual_seed(0)
            self.likelihood.fit(self.transform(data, generator)[0])

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return mean and log deviation, each (B, latent), of q(z_1 | x, c) for a mapped batch."""
        return normal(self.encoder(batch.x, batch.condition))

    def terms(self, batch: Batch, noise: Tensor) -> Terms:
        """Return the terms of the bound for a mapped batch.

        `noise` is (B, k, levels * latent), normal: k draws of the latent variables of each x.
        """
        rows = (len(batch), noise.shape[1])
        mean, log_deviation = (part.repeat_interleave(rows[1], 0) for part in self.encode(batch))
        condition = batch.condition
        condition = None if condition is None else condition.repeat_interleave(rows[1], 0)
        path = self.levels.encode_levels(mean, log_deviation, noise.flatten(0, 1), condition)
        decoded = self.decoder(path.first, condition).reshape(*rows, -1)
        reconstruction = self.likelihood.log_prob(batch.x.flatten(1)[:, None], decoded)
        return Terms(
            reconstruction,
            path.consistency.reshape(rows),
            path.prior_matching.reshape(*rows, -1),
            reconstruction + path.log_ratio.reshape(rows),
        )

    def elbo(self, batch: Batch, *, generator: torch.Generator) -> Tensor:
        """Return (B,), an unbiased draw of the bound on log p(x | condition)."""
        mapped, volume = self._mapped(batch, generator)
        return self.terms(mapped, self._noise(len(batch), 1, generator)).bound + volume

    def importance_bound(self, batch: Batch, *, draws: int, generator: torch.Generator) -> Tensor:
        """Return (B,), the importance-weighted bound with `draws` latent vectors a sample."""
        mapped, volume = self._mapped(batch, generator)
        size = max(1, DRAWS_AT_ONCE // draws)
        parts = []
        for start in range(0, len(batch), size):
            some = mapped[start : start + size]
            parts.append(self.terms(some, self._noise(len(some), draws, generator)))
        return torch.cat([part.importance_bound for part in parts]) + volume

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Noise of z, from the last level to the first, and of x given z."""
        return (self.levels.n_noise + self.likelihood.n_noise,)

    @property
    def n_latent(self) -> int:
        """Those of all levels."""
        return self.levels.n_noise

    def decode_noise(self, noise: Tensor, condition: Tensor | None) -> Tensor:
        """Map (B, *noise_shape) and mapped conditions to (B, entries) in the transform's space."""
        latent, rest = noise[:, : self.levels.n_noise], noise[:, self.levels.n_noise :]
        decoded = self.decoder(self.levels.decode_levels(latent, condition), condition)
        return self.likelihood.draw(decoded, rest)

    def _mapped(self, batch: Batch, generator: torch.Generator) -> tuple[Batch, Tensor]:
        """Return the mapped batch, and what its bound needs to be one in physical units.

        The probabilities of a Bernoulli likelihood are the same numbers on both sides.
        """
        if not isinstance(self.likelihood, Bernoulli):
            return self.transform.bound(batch, generator)
        mapped, _ = self.transform(batch, generator)
        return mapped, mapped.x.new_zeros(len(batch))

    def _noise(self, n: int, draws: int, generator: torch.Generator) -> Tensor:
        return torch.randn(
            n,
            draws,
            self.levels.n_noise,
            generator=generator,
            device=self.device,
            dtype=self.dtype,
        )
