"""Events as they were before: the baseline of every refinement."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from physgen.batch import Batch, Schema
from physgen.surrogates.base import Surrogate
from physgen.surrogates.refinement.origin import Origin
from physgen.transforms.base import Transform


class Unrefined(Surrogate):
    """Returns the events that it is given, of any domain; there is nothing to train.

    Args:
        schema: of the samples; its conditions hold the same columns of the events.
        transform: is not used.

    Raises:
        RecipeError: the conditions do not hold the columns.

    >>> from physgen.batch import Variable
    >>> model = Unrefined(Schema((1,), (Variable("x"),), (Variable("fast_x"),)))
    >>> model.sample(2, torch.tensor([[1.0], [2.0]]), seed=1).x.tolist()
    [[1.0], [2.0]]
    """

    not_exported = "it returns the events that it is given: there is nothing to export"

    def __init__(self, schema: Schema, transform: Transform | None = None) -> None:
        super().__init__(schema, transform)
        self.origin = Origin.of(schema, "unrefined")

    def initialise(self, data: Batch | None) -> None:
        """Remember events to draw from, and refuse none."""
        super().initialise(data)
        self.conditions.low.fill_(-math.inf)
        self.conditions.high.fill_(math.inf)

    def draw(self, n: int, condition: Tensor | None, generator: torch.Generator) -> Batch:
        """Return the events among (n, C) conditions."""
        assert condition is not None  # The schema has conditions.
        return Batch(self.origin.events(condition), condition)

    @property
    def device(self) -> torch.device:
        """Where the remembered events are: there are no parameters."""
        return self.conditions.low.device

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the remembered events."""
        return self.conditions.low.dtype
