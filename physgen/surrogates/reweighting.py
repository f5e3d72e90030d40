r"""Events of one sample with the weights that make them those of another.

    w(x) = p_target(x) / p_source(x).

A classifier that tells the two apart by minimising the binary cross-entropy on as many events of
each has the log-odds f(x) = log w(x) (Neyman & Pearson 1933; Cranmer, Pavez & Louppe,
arXiv:1506.02169). Generated are source events x with the weight exp f(x): "DCTR" of Andreassen &
Nachman, Phys. Rev. D 101, 091901 (2020), arXiv:1907.08209. Nothing new is where the source has no
events, and where weights differ much, few events count.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import softplus

from physgen.batch import Batch, Schema
from physgen.errors import RecipeError
from physgen.networks.mlp import MLP, MLPOptions
from physgen.ranges import PositiveFloat
from physgen.surrogates.base import Surrogate
from physgen.surrogates.method import Method, StepContext
from physgen.transforms.base import Transform


class Reweighting(Surrogate):
    """Weighs events, its conditions, so that they are distributed as those it was trained on.

    Args:
        schema: of the samples; its conditions are the same columns of the events to weigh.
        transform: from physical events to real vectors.
        network: of the log-odds.

    Raises:
        RecipeError: the conditions are not the columns.

    >>> from physgen.batch import Variable
    >>> schema = Schema((1,), (Variable("pt"),), (Variable("source_pt"),))
    >>> model = Reweighting(schema)
    >>> events = torch.tensor([[1.0], [2.0]])
    >>> batch = model.sample(2, events, seed=1)
    >>> batch.x, batch.weight.shape
    (tensor([[1.],
            [2.]]), torch.Size([2]))
    """

    not_exported = "it weighs events that exist, and makes none of noise; use `physgen refine`"

    def __init__(
        self,
        schema: Schema,
        transform: Transform | None = None,
        *,
        network: MLPOptions = MLPOptions(hidden=(64, 64)),
    ) -> None:
        super().__init__(schema, transform)
        wanted = [(v.name, v.unit) for v in schema.variables]
        given = [(v.name, v.unit) for v in schema.condition]
        if len(given) != math.prod(schema.shape) or not all(
            source[0].endswith(f"_{name}") and source[1] == unit
            for source, (name, unit) in zip(given, wanted, strict=True)
        ):
            raise RecipeError(
                "surrogate.kind: reweighting weighs events of a sample, which need the columns "
                f"{', '.join(map(str, schema.names))}, in this order and these units; its "
                f"conditions are {', '.join(name for name, _ in given) or 'none'}: name the two "
                "samples data.source and data.target, with the same fields"
            )
        features = math.prod(self.transform.latent_shape(schema.shape))
        self.log_odds = MLP(features, 1, hidden=network.hidden, activation=network.activation)

    def latent_log_ratio(self, batch: Batch) -> Tensor:
        """Return (B,) log p_target / p_source of a batch that the transform has mapped."""
        f: Tensor = self.log_odds(batch.x.flatten(1))[:, 0]
        return f

    def log_ratio(self, x: Tensor) -> Tensor:
        """Return (B,) log p_target / p_source of events (B, *shape) in physical units."""
        return self.latent_log_ratio(self.transform(Batch(x))[0])

    def draw(self, n: int, condition: Tensor | None, generator: torch.Generator) -> Batch:
        """Return the (n, C) events given, with their weights."""
        assert condition is not None  # The schema has conditions.
        x = condition.reshape(n, *self.schema.shape)
        return Batch(x, condition, weight=self.log_ratio(x).exp())


def cross_entropy(f_source: Tensor, f_target: Tensor) -> Tensor:
    """Return (B,) binary cross-entropies of pairs, given log-odds of being of the target."""
    return (softplus(f_source) + softplus(-f_target)) / 2


class DensityRatio(Method):
    """Trains the classifier of a `Reweighting` on as many source as target events.

    Args:
        surrogate: weighs events.
        learning_rate: of AdamW, before the engine's schedule.
        weight_decay: of AdamW.

    Raises:
        RecipeError: the surrogate weighs no events.

    >>> DensityRatio.inputs
    ('source', 'target')
    """

    inputs = ("source", "target")

    def __init__(
        self,
        surrogate: Surrogate,
        *,
        learning_rate: PositiveFloat = 1e-3,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(surrogate)
        if not isinstance(surrogate, Reweighting):
            raise RecipeError(
                "method.kind: density-ratio trains the surrogate reweighting, not "
                f"{type(surrogate).__name__}"
            )
        self._model = surrogate
        self.optimisers["classifier"] = torch.optim.AdamW(
            surrogate.parameters(), lr=learning_rate, weight_decay=weight_decay
        )

    def loss(self, source: Batch, target: Batch) -> Tensor:
        """Return (B,) binary cross-entropies of pairs of a source and a target event."""
        return cross_entropy(*map(self._model.latent_log_ratio, (source, target)))

    def step(self, batches: Mapping[str, Batch], ctx: StepContext) -> dict[str, Tensor]:
        """Take one step."""
        optimiser = self.optimisers["classifier"]
        return {"loss": ctx.minimise(self.loss, optimiser, batches["source"], batches["target"])}
