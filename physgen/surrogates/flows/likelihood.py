"""Maximum likelihood: minimise the mean of -log q(z_i | condition_i) over the weighted events i.

z is the sample in the transform's space, where the transform's own log-determinant is a constant.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from physgen.batch import Batch
from physgen.errors import RecipeError
from physgen.surrogates.base import Surrogate
from physgen.surrogates.method import Method, StepContext


@runtime_checkable
class HasLatentDensity(Protocol):
    """Has a density in the space of its transform: all that maximum likelihood asks for."""

    def latent_log_prob(self, batch: Batch) -> Tensor:
        """Return (B,) log q of a batch that the transform has mapped, differentiable."""
        ...


class MaximumLikelihood(Method):
    """Fit any surrogate with a latent density to data.

    Args:
        surrogate: offers `latent_log_prob` (`HasLatentDensity`).
        learning_rate: of AdamW, before the engine's schedule.
        weight_decay: of AdamW.

    >>> from physgen.batch import Schema, Variable
    >>> from physgen.surrogates.flows.flow import Flow
    >>> method = MaximumLikelihood(Flow(Schema((2,), (Variable("x"),))), learning_rate=1e-3)
    >>> method.loss(Batch(torch.zeros(5, 2))).shape
    torch.Size([5])
    """

    negative_weights = True

    def __init__(
        self, surrogate: Surrogate, *, learning_rate: float = 1e-3, weight_decay: float = 0.0
    ) -> None:
        super().__init__(surrogate)
        if not isinstance(surrogate, HasLatentDensity):
            raise RecipeError(
                f"method.kind: maximum-likelihood needs a surrogate with a latent density, which "
                f"{type(surrogate).__name__} has not; take a flow, or the method of its own family"
            )
        self._density: HasLatentDensity = surrogate
        self.optimisers["flow"] = torch.optim.AdamW(
            surrogate.parameters(), lr=learning_rate, weight_decay=weight_decay
        )

    def loss(self, batch: Batch) -> Tensor:
        """Return (B,) negative log-likelihoods of a prepared batch."""
        return -self._density.latent_log_prob(batch)

    def step(self, batches: Mapping[str, Batch], ctx: StepContext) -> dict[str, Tensor]:
        """Take one step."""
        return {"loss": ctx.minimise(self.loss, self.optimisers["flow"], batches["data"])}
