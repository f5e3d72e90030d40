r"""How variational autoencoders are trained: the bound, and its variants.

plain       -reconstruction - consistency + prior matching
beta        prior matching and -consistency multiplied by beta (Higgins et al., ICLR 2017)
free bits   each entry of the prior matching at least `free_bits` nat, below which nothing pulls it
            further down (Kingma et al., arXiv 1606.04934, appendix C.8; here for each sample, where
            they take the mean of a batch)
importance  -log 1/k \sum_j w_j with k draws (Burda, Grosse & Salakhutdinov, arXiv 1509.00519)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from physgen.batch import Batch
from physgen.errors import RecipeError
from physgen.ranges import NotNegative, Positive, PositiveFloat
from physgen.surrogates.autoencoders.vae import VAE, Terms
from physgen.surrogates.method import Method, StepContext

DEVIATION_RATE = 10.0
"""Learning rate of the deviations of a Gaussian likelihood, in units of that of the networks: the
bound is waiting for them long after the means are learnt."""


class EvidenceLowerBound(Method):
    """Maximise a bound on the log-likelihood.

    The journal holds the terms of the bound whatever the loss makes of them.

    Args:
        surrogate: a `VAE`.
        learning_rate: of AdamW, before the engine's schedule.
        weight_decay: of AdamW.
        beta: multiplies all but the reconstruction.
        free_bits: nat that each entry of the last level may hold for nothing.
        draws: k of the importance-weighted bound; 1 is the plain one.

    Raises:
        RecipeError: the surrogate is another, or the options contradict each other.

    >>> from physgen.batch import Schema, Variable
    >>> model = VAE(Schema((4,), (Variable("x"),)), latent=2)
    >>> EvidenceLowerBound(model, beta=2.0).beta
    2.0
    """

    negative_weights = True

    def __init__(
        self,
        surrogate: VAE,
        *,
        learning_rate: PositiveFloat = 1e-3,
        weight_decay: NotNegative = 0.0,
        beta: NotNegative = 1.0,
        free_bits: NotNegative = 0.0,
        draws: Positive = 1,
    ) -> None:
        super().__init__(surrogate)
        if not isinstance(surrogate, VAE):
            raise RecipeError(
                f"method.kind: evidence-lower-bound trains a vae, not {type(surrogate).__name__}"
            )
        if beta < 0 or free_bits < 0 or draws < 1:
            raise RecipeError(
                f"method: beta={beta:g} and free_bits={free_bits:g} cannot be negative, and "
                f"draws={draws} is at least 1"
            )
        if draws > 1 and (beta != 1 or free_bits):
            raise RecipeError(
                f"method.draws={draws}: the importance-weighted bound has no separate terms for "
                "beta or free_bits to change; leave them out, or take draws=1"
            )
        if free_bits and surrogate.levels.prior is not None:
            raise RecipeError(
                f"method.free_bits={free_bits:g} are of single entries, which a prior of couplings "
                "has not: leave them out, or surrogate.prior_couplings"
            )
        self.autoencoder, self.beta, self.free_bits, self.draws = surrogate, beta, free_bits, draws
        self._means_of_parts: list[dict[str, Tensor]] = []
        deviations = list(surrogate.likelihood.parameters())
        networks = [*surrogate.encoder.parameters(), *surrogate.decoder.parameters()]
        networks += surrogate.levels.parameters()
        groups: list[dict[str, Any]] = [{"params": networks}]
        if deviations:
            groups.append({"params": deviations, "lr": DEVIATION_RATE * learning_rate})
        self.optimisers["autoencoder"] = torch.optim.AdamW(
            groups, lr=learning_rate, weight_decay=weight_decay
        )

    def loss(self, batch: Batch, noise: Tensor) -> Tensor:
        """Return (B,), what is minimised for a prepared batch; `noise` is (B, draws, ...)."""
        terms = self.autoencoder.terms(batch, noise)
        self._means_of_parts.append(self._means(terms, batch.weight))
        if self.draws > 1:
            return -terms.importance_bound
        prior_matching = terms.prior_matching.clamp_min(self.free_bits).sum(-1)
        loss = self.beta * (prior_matching - terms.consistency) - terms.reconstruction
        return loss.squeeze(1)

    def step(self, batches: Mapping[str, Batch], ctx: StepContext) -> dict[str, Tensor]:
        """Take one step; the terms of the bound, in nat, stand beside the loss."""
        self._means_of_parts.clear()
        noise = ctx.randn(self.draws, self.autoencoder.levels.n_noise)
        optimiser = self.optimisers["autoencoder"]
        loss = ctx.minimise(self.loss, optimiser, batches["data"], noise)
        names = self._means_of_parts[0]
        return {"loss": loss} | {
            name: torch.stack([means[name] for means in self._means_of_parts]).mean()
            for name in names
        }

    def _means(self, terms: Terms, weight: Tensor | None) -> dict[str, Tensor]:
        """Return the detached mean of each term over draws and samples."""
        means = {
            "reconstruction": terms.reconstruction,
            "prior_matching": terms.prior_matching.sum(-1),
        }
        if len(self.autoencoder.levels.upwards):
            means["consistency"] = terms.consistency
        return {
            name: (value.mean() if weight is None else (weight * value.mean(1)).mean()).detach()
            for name, value in means.items()
        }
