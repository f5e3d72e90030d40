r"""Independent items: the simplest density of sets of any number of items.

    q(x_1, ..., x_n, n | c) = p(n | c) prod_i q(x_i | n, c),

p(n | c) a categorical distribution, q(x_i | n, c) a coupling flow in the space of the transform. It
is symmetric in the items, and knows nothing of correlations among them but by way of n: a baseline.
"""

from __future__ import annotations

import torch
from torch import Tensor

from physgen.batch import Batch, Schema
from physgen.errors import RecipeError
from physgen.ranges import Positive, Widths
from physgen.surrogates.base import Surrogate
from physgen.surrogates.flows.bijection import standard_normal
from physgen.surrogates.flows.stack import CouplingOptions, CouplingStack
from physgen.surrogates.number import NumberOfItems
from physgen.transforms.base import INEXACT, Transform


class IndependentItems(Surrogate):
    """Items of a masked sample, independent given their number (`HasDensity`).

    Args:
        schema: of the samples, masked.
        transform: from physical items to real vectors.
        n_layers: couplings of the flow of an item.
        hidden: widths of their networks, and of that of the number of items.

    Raises:
        RecipeError: the samples have no mask, or the transform has no log-determinant.

    >>> from physgen.batch import Variable
    >>> jets = Schema((3, 2), (Variable("pt"), Variable("eta")), masked=True)
    >>> batch = IndependentItems(jets).sample(5, seed=1)
    >>> batch.x.shape, batch.mask.shape
    (torch.Size([5, 3, 2]), torch.Size([5, 3]))
    """

    knows_masks = True

    not_exported = (
        "samples are sets of as many items as are drawn, whose mask the model has no output for; "
        "export to pyfunc"
    )

    def __init__(
        self,
        schema: Schema,
        transform: Transform | None = None,
        *,
        n_layers: Positive = 6,
        hidden: Widths = (64, 64),
    ) -> None:
        super().__init__(schema, transform)
        if not schema.masked:
            raise RecipeError(
                "surrogate.kind: independent-items models sets of items, and these samples have "
                "no mask; take another surrogate, or the system item-sets"
            )
        if not self.transform.exact or self.transform.leaks:
            raise RecipeError(
                f"surrogate.kind: independent-items has an exact density, but {INEXACT}; items "
                "with a column of integers take the surrogate point-diffusion, which has no density"
            )
        self.n_items, features = self.transform.latent_shape(schema.shape)
        n_condition = self.transform.latent_condition(len(schema.condition))
        self.number = NumberOfItems(self.n_items, n_condition, hidden=hidden)
        options = CouplingOptions(n_layers=n_layers, hidden=hidden)
        self.flow = CouplingStack(features, n_condition + 1, options)

    def latent_log_prob(self, batch: Batch) -> Tensor:
        """Return (B,) the log-density of a masked batch in the transform's space."""
        if batch.mask is None:
            raise RecipeError("independent-items models masked samples, and these have no mask")
        n = batch.mask.sum(1)
        of_number = self.number.log_p(batch.condition, len(batch)).gather(1, n[:, None])[:, 0]
        sample = batch.mask.nonzero()[:, 0]
        given = self._given(n, batch.condition)[sample]
        of_items = self.flow.log_prob(batch.x[batch.mask], given)
        return of_number.index_add(0, sample, of_items.to(of_number))

    def log_prob(self, batch: Batch) -> Tensor:
        """Return (B,) log q(x, n | condition) in physical units, differentiable."""
        latent, log_det = self.transform(batch)
        total: Tensor = self.latent_log_prob(latent) + log_det
        return total

    def draw(self, n: int, condition: Tensor | None, generator: torch.Generator) -> Batch:
        """Draw `n` masked samples in physical units."""
        return self.sample_with_log_prob(n, condition, generator=generator)[0]

    def sample_with_log_prob(
        self, n: int, condition: Tensor | None = None, *, generator: torch.Generator
    ) -> tuple[Batch, Tensor]:
        """Draw samples and return their (n,) log-density."""
        condition = self.conditions.resolve(condition, n, generator)
        mapped = None if condition is None else self.transform.map_condition(condition)
        u = torch.rand(n, generator=generator, device=self.device, dtype=self.dtype)
        number = self.number.quantile(u, mapped)[:, None]
        mask = torch.arange(self.n_items, device=self.device) < number
        sample = mask.nonzero()[:, 0]
        shape = len(sample), self.flow.features
        noise = torch.randn(shape, generator=generator, device=self.device, dtype=self.dtype)
        items, log_det = self.flow.inverse(noise, self._given(number[:, 0], mapped)[sample])
        of_items = standard_normal(noise) - log_det
        latent = items.new_zeros(n, self.n_items, self.flow.features)
        latent = latent.index_put((mask,), items)
        physical = self.transform.inverse(Batch(latent, mapped, mask=mask)).x
        batch = Batch(physical, condition, mask=mask)
        log_prob = (
            self.number.log_p(mapped, n).gather(1, number)[:, 0].index_add(0, sample, of_items)
        )
        _, transform_log_det = self.transform(batch)
        return batch, log_prob + transform_log_det

    def _given(self, n: Tensor, condition: Tensor | None) -> Tensor:
        """Return (B, C + 1): what the flow of an item is told."""
        share = (n / self.n_items).to(self.dtype)[:, None]
        return share if condition is None else torch.cat([condition, share], 1)
