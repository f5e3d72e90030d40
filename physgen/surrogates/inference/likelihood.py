r"""Neural likelihood estimation: a flow of the data given the parameters, for posteriors.

    q(x | \theta) \approx p(x | \theta)   by maximum likelihood on simulated pairs,

and the posterior is prior times q(x | theta) (Papamakarios, Sterratt & Murray, arXiv 1805.07226;
here amortised, without the rounds that look at one observation). The roles of samples and
conditions are exchanged in the space of the transform, whose slope in x no posterior sees.
"""

from __future__ import annotations

import math

from torch import Tensor

from physgen.batch import Batch, Schema
from physgen.io.weights import positive_weight
from physgen.surrogates.flows.bijection import Bijection
from physgen.surrogates.flows.chosen import BijectionOptions
from physgen.surrogates.flows.flow import START_ROWS
from physgen.surrogates.flows.stack import CouplingOptions
from physgen.surrogates.inference.sampled import SampledPosterior
from physgen.systems.base import System
from physgen.transforms.base import Transform


class LikelihoodFlow(SampledPosterior):
    """Posteriors from a flow of the data given the parameters.

    Args:
        schema: of the parameters, whose conditions are the data.
        transform: of both; it adds no noise.
        system: `posterior`.
        bijection: from data to normal noise, given parameters.

    Raises:
        RecipeError: the system is another one, or the bijection does not fit the data.

    >>> import torch
    >>> from physgen.systems.posterior import Posterior
    >>> system = Posterior(simulator="two-moons")
    >>> model = LikelihoodFlow(system.schema, system=system)
    >>> model.sample(3, torch.zeros(3, 2), seed=1).x.shape
    torch.Size([3, 2])
    """

    def __init__(
        self,
        schema: Schema,
        transform: Transform | None = None,
        *,
        system: System,
        bijection: BijectionOptions = CouplingOptions(),
    ) -> None:
        super().__init__(schema, transform, system=system)
        n_data = self.transform.latent_condition(len(schema.condition))
        n_parameters = math.prod(self.transform.latent_shape(schema.shape))
        self.bijection: Bijection = bijection.build((n_data,), n_parameters)

    def initialise(self, data: Batch | None) -> None:
        """Fit the transform; a bijection may start at the data."""
        super().initialise(data)
        if data is not None and self.bijection.starts_at_data:
            first = data[:START_ROWS]
            mapped = self.transform(first)[0].to(dtype=self.dtype)
            assert mapped.condition is not None
            weight = positive_weight(first).to(mapped.x)
            self.bijection.start_at(mapped.condition, mapped.x.flatten(1), weight)

    def latent_log_prob(self, batch: Batch) -> Tensor:
        """Return (B,) log q(x | theta) of a batch that the transform has mapped."""
        assert batch.condition is not None
        return self.bijection.log_prob(batch.condition, batch.x.flatten(1))

    def latent_log_likelihood(self, batch: Batch) -> Tensor:
        """Return (B,) log q(x | theta)."""
        return self.latent_log_prob(batch)

    def held_out_loss(self, batch: Batch) -> Tensor:
        """Return (B,) -log q(x | theta), of data as the transform maps them."""
        return -self.latent_log_prob(self.transform(batch)[0])
