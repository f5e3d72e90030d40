r"""Autoregressive networks of Potts spins of q values, with exact probabilities.

    q(s_i = c | ...) = softmax_c z_i(s_1, ..., s_{i-1}),

q numbers z_i(c) a site being what a masked network gives
(`physgen.surrogates.autoregressive.network`). Where all permutations of the values are as likely,
the network has the configuration whose values are numbered in the order in which they occur first:
its value at a site is at most one more than those before. Of m values, that stands for
q! / (q - m)! configurations.
"""

from __future__ import annotations

import math
from itertools import permutations

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from physgen.batch import Batch, Schema
from physgen.errors import RecipeError
from physgen.io.weights import moments
from physgen.surrogates.autoregressive.heat_bath import value_sublattice
from physgen.surrogates.autoregressive.network import (
    AutoregressiveNetwork,
    MaskedDenseOptions,
    NetworkOptions,
)
from physgen.surrogates.boltzmann.visible import number_of_values
from physgen.systems.base import HasValueFields, System
from physgen.transforms.base import Transform

_LEAST_SHARE = 1e-3
"""Biases are set from data down to this share of a value, so that frozen spins keep them finite."""
_MOST = 8
"""Values whose permutations one uniform number tells apart: 8! of 2^24 in single precision."""


class AutoregressivePotts(AutoregressiveNetwork):
    """Potts spins of any shape, one after the other in raster order (`HasDensity`).

    Args:
        schema: of whole numbers from 0 to q - 1.
        transform: none but the identity.
        system: whose fields the heat bath takes.
        network: of the conditionals.
        heat_bath: draw the sites of one sublattice, or as many as do not interact, last and from
            their exact distribution, given the others.
        permutation_symmetric: q does not change when values are permuted; of at most 8 values.

    Raises:
        RecipeError: samples are no Potts spins, there is a transform, or no fields for the heat
            bath.

    >>> from physgen.systems.potts import Potts
    >>> system = Potts(shape=(4, 4), q=3)
    >>> model = AutoregressivePotts(system.schema, system=system, heat_bath=True)
    >>> batch, log_prob = model.sample_with_log_prob(5, generator=torch.Generator())
    >>> batch.x.shape, log_prob.shape
    (torch.Size([5, 4, 4]), torch.Size([5]))
    """

    absent = -1.0
    permutations: Tensor

    def __init__(
        self,
        schema: Schema,
        transform: Transform | None = None,
        system: System | None = None,
        *,
        network: NetworkOptions = MaskedDenseOptions(),
        heat_bath: bool = False,
        permutation_symmetric: bool = False,
    ) -> None:
        self.check_masks(schema)
        q = number_of_values(schema)
        if q is None:
            raise RecipeError(
                "surrogate.kind: autoregressive-potts takes whole numbers from 0 to q - 1, and "
                f"{schema.variables[0].name} is of the domain {schema.variables[0].domain!r}"
            )
        if permutation_symmetric and q > _MOST:
            raise RecipeError(
                f"surrogate.permutation_symmetric: of at most {_MOST} values, and there are {q}; "
                "leave it out"
            )
        last: list[int] = []
        if heat_bath:
            last = value_sublattice(system, schema.shape, q)
        super().__init__(schema, transform, network, last, q, q)
        self.q, self.permutation_symmetric = q, permutation_symmetric
        self._system: HasValueFields | None = system if isinstance(system, HasValueFields) else None
        names = [*permutations(range(q))] if permutation_symmetric else [range(q)]
        table = torch.tensor(names, dtype=torch.long)
        self.register_buffer("permutations", table, persistent=False)
        self.bias = torch.nn.Parameter(torch.zeros(len(self.first), q))

    def initialise(self, data: Batch | None) -> None:
        """Begin with the shares of the values at every site, unless they are equal by symmetry."""
        super().initialise(data)
        if data is None or self.permutation_symmetric:
            return
        each = one_hot(data.x.flatten(1)[:, self.first].long(), self.q).to(self.dtype)
        with torch.no_grad():
            self.bias.copy_(moments(each, data)[0].clamp(min=_LEAST_SHARE).log())

    def images(self) -> tuple[Tensor, Tensor] | None:
        """Return configurations, and them with each value one higher."""
        if not self.permutation_symmetric:
            return None
        generator = torch.Generator().manual_seed(0)
        x = torch.randint(self.q, (4, *self.schema.shape), generator=generator).float()
        return x, (x + 1) % self.q

    def representative(self, spins: Tensor) -> Tensor:
        """Return values numbered in the order in which they occur first."""
        if not self.permutation_symmetric:
            return spins
        found, place = one_hot(spins.long(), self.q).max(1)
        # Values that do not occur come last, in their own order.
        place = torch.where(found > 0, place, spins.shape[1])
        number = place.argsort(1).argsort(1)
        return number.gather(1, spins.long()).to(spins.dtype)

    def one_of_images(self, spins: Tensor, uniform: Tensor) -> Tensor:
        """Give the values the names of a random permutation."""
        if not self.permutation_symmetric:
            return spins
        number = (uniform * len(self.permutations)).long()
        names = self.permutations[number.clamp(max=len(self.permutations) - 1)]
        return names.gather(1, spins.T.long()).T.to(spins.dtype)

    def numbers(self, spins: Tensor) -> Tensor:
        """Return q numbers, 1 that of the value and 0 the others."""
        return one_hot(spins.long(), self.q).to(self.dtype)

    def network_log_prob(self, spins: Tensor, outputs: Tensor) -> Tensor:
        """Return (B,), the sum of ln softmax, less that of how many configurations they are."""
        logits = outputs + self.bias
        if not self.permutation_symmetric:
            return self._chosen(logits.log_softmax(2), spins).sum(1)
        highest = spins.cummax(1).values
        before = torch.cat([torch.full_like(highest[:, :1], -1), highest[:, :-1]], 1)
        chances = self._possible(logits, before[..., None], 2).log_softmax(2)
        n_values = highest[:, -1] + 1
        images = math.lgamma(self.q + 1) - torch.lgamma(self.q - n_values + 1)
        return self._chosen(chances, spins).sum(1) - images

    def draw_spin(self, spins: Tensor, outputs: Tensor, uniform: Tensor) -> Tensor:
        """Return the next spin, of the values that are possible behind those before."""
        logits = outputs + self.bias[len(spins), :, None]
        most = torch.full_like(uniform, self.q - 1)
        if self.permutation_symmetric:
            highest = spins.amax(0) if len(spins) else torch.full_like(uniform, -1)
            logits = self._possible(logits, highest, 0)
            most = most.minimum(highest + 1)
        return _reached(logits.softmax(0), uniform, 0).to(uniform).minimum(most)

    def last_log_prob(self, x: Tensor, condition: Tensor | None) -> Tensor:
        """Return (B,), of p(s_i = c | rest) = softmax_c f_i(c)."""
        chances = self._fields(x).log_softmax(1).transpose(1, 2)
        return self._chosen(chances, x.flatten(1)[:, self.last]).sum(1)

    def draw_last(self, x: Tensor, uniform: Tensor, condition: Tensor | None) -> Tensor:
        """Draw the last spins from their heat bath."""
        return _reached(self._fields(x).softmax(1), uniform[:, None], 1).clamp(max=self.q - 1)

    def _fields(self, x: Tensor) -> Tensor:
        """Return (B, q, n_last)."""
        assert self._system is not None, "there are last spins"
        return self._system.value_fields(x).flatten(2)[:, :, self.last]

    def _chosen(self, chances: Tensor, spins: Tensor) -> Tensor:
        """Return (B, D) numbers of the values that spins have, of (B, D, q)."""
        return chances.gather(2, spins.long()[..., None])[..., 0]

    def _possible(self, logits: Tensor, highest: Tensor, axis: int) -> Tensor:
        """Return logits where a value is at most one more than the highest before."""
        shape = [1] * logits.ndim
        shape[axis] = self.q
        value = torch.arange(self.q, device=logits.device).reshape(shape)
        return logits.masked_fill(value > highest + 1, -math.inf)


def _reached(chances: Tensor, uniform: Tensor, axis: int) -> Tensor:
    """Return how many of the cumulated chances along an axis are at most the uniform numbers."""
    return (chances.cumsum(axis) <= uniform).sum(axis)
