r"""Neural ratio estimation: a classifier of parameters and data that belong together.

    r(x, \theta) = p(x, \theta) / (p(x) p(\theta)) = p(x | \theta) / p(x)

are the odds of a classifier that tells simulated pairs from parameters beside the data of others,
trained by the binary cross-entropy on as many of each, as in `physgen.surrogates.reweighting`
(Hermans, Begy & Louppe, arXiv 1903.04057). The posterior is prior times r, already normalised if
the classifier is perfect.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from physgen.batch import Batch, Schema
from physgen.errors import RecipeError
from physgen.networks.mlp import MLP, MLPOptions
from physgen.ranges import PositiveFloat
from physgen.surrogates.base import Surrogate
from physgen.surrogates.inference.sampled import SampledPosterior
from physgen.surrogates.method import Method, StepContext
from physgen.surrogates.reweighting import cross_entropy
from physgen.systems.base import System
from physgen.transforms.base import Transform


class LikelihoodRatio(SampledPosterior):
    """Posteriors from the likelihood in units of its mean over the prior, by a classifier.

    Args:
        schema: of the parameters, whose conditions are the data.
        transform: of both.
        system: `posterior`.
        network: of the log-odds.

    Raises:
        RecipeError: the system is another one.

    >>> import torch
    >>> from physgen.systems.posterior import Posterior
    >>> system = Posterior(simulator="two-moons")
    >>> model = LikelihoodRatio(system.schema, system=system)
    >>> model.sample(3, torch.zeros(3, 2), seed=1).x.shape
    torch.Size([3, 2])
    """

    def __init__(
        self,
        schema: Schema,
        transform: Transform | None = None,
        *,
        system: System,
        network: MLPOptions = MLPOptions(hidden=(64, 64, 64, 64)),
    ) -> None:
        super().__init__(schema, transform, system=system)
        n_data = self.transform.latent_condition(len(schema.condition))
        n_parameters = math.prod(self.transform.latent_shape(schema.shape))
        self.log_odds = MLP(
            n_parameters + n_data, 1, hidden=network.hidden, activation=network.activation
        )

    def latent_log_likelihood(self, batch: Batch) -> Tensor:
        """Return (B,) log r of a batch that the transform has mapped."""
        assert batch.condition is not None
        f: Tensor = self.log_odds(torch.cat([batch.x.flatten(1), batch.condition], 1))[:, 0]
        return f

    def log_ratio(self, batch: Batch) -> Tensor:
        """Return (B,) log p(x | theta) / p(x) of parameters and data in physical units."""
        return self.latent_log_likelihood(self.transform(batch)[0])

    def held_out_loss(self, batch: Batch) -> Tensor:
        """Return (B,) cross-entropies of pairs, and of each datum beside the parameters before."""
        pairs = self.transform(batch)[0]
        return cross_entropy(*map(self.latent_log_likelihood, (exchanged(pairs), pairs)))


class JointRatio(Method):
    """Trains the classifier of a `LikelihoodRatio` on pairs, and on pairs that were exchanged.

    Args:
        surrogate: the classifier.
        learning_rate: of AdamW, before the engine's schedule.
        weight_decay: of AdamW.

    Raises:
        RecipeError: the surrogate is no such classifier.

    >>> JointRatio.inputs
    ('data',)
    """

    def __init__(
        self,
        surrogate: Surrogate,
        *,
        learning_rate: PositiveFloat = 1e-3,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(surrogate)
        if not isinstance(surrogate, LikelihoodRatio):
            raise RecipeError(
                "method.kind: joint-ratio trains the surrogate likelihood-ratio, not "
                f"{type(surrogate).__name__}"
            )
        self._model = surrogate
        self.optimisers["classifier"] = torch.optim.AdamW(
            surrogate.parameters(), lr=learning_rate, weight_decay=weight_decay
        )

    def loss(self, apart: Batch, together: Batch) -> Tensor:
        """Return (B,) binary cross-entropies, half of each."""
        return cross_entropy(*map(self._model.latent_log_likelihood, (apart, together)))

    def step(self, batches: Mapping[str, Batch], ctx: StepContext) -> dict[str, Tensor]:
        """Take one step."""
        pairs = batches["data"]
        apart = exchanged(pairs)
        return {"loss": ctx.minimise(self.loss, self.optimisers["classifier"], apart, pairs)}


def exchanged(pairs: Batch) -> Batch:
    """Return every datum with the parameters of the row before.

    >>> exchanged(Batch(torch.tensor([[1.0], [2.0], [3.0]]))).x[:, 0].tolist()
    [3.0, 1.0, 2.0]
    """
    return pairs.replace(x=pairs.x.roll(1, 0))
