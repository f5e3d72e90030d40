r"""Variational autoregressive networks: spins of -1 and +1 with exact probabilities.

    q(s_i | ...) = sigmoid(s_i z_i(s_1, ..., s_{i-1})),

z_i being what a masked network gives (`physgen.surrogates.autoregressive.network`). With the global
flip s -> -s, q is the mean of a network's densities of s and -s whose first spin is up: one of them
vanishes, so that the network sees spins relative to the first.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from physgen.batch import Batch, Schema
from physgen.errors import RecipeError
from physgen.io.weights import moments
from physgen.surrogates.autoregressive.heat_bath import Action, fields, of_sublattice
from physgen.surrogates.autoregressive.network import (
    AutoregressiveNetwork,
    MaskedDenseOptions,
    NetworkOptions,
)
from physgen.systems.base import System
from physgen.transforms.base import Transform

_LARGEST_MEAN = 0.99
"""Biases are set from data up to this |mean|, so that frozen spins keep them finite."""


class AutoregressiveSpins(AutoregressiveNetwork):
    """Spins of any shape, one after the other in raster order (`HasDensity`).

    Args:
        schema: of spins.
        transform: none but the identity.
        system: whose action the heat bath takes.
        network: of the conditionals.
        heat_bath: draw the sites of one sublattice, or as many as do not interact, last and from
            their exact distribution, given the others.
        spin_flip_symmetric: q(-s) = q(s).

    Raises:
        RecipeError: samples are no spins, there is a transform, or no action for the heat bath.

    >>> from physgen.systems.ising import Ising
    >>> system = Ising(shape=(4, 4))
    >>> model = AutoregressiveSpins(system.schema, system=system, heat_bath=True)
    >>> batch, log_prob = model.sample_with_log_prob(5, generator=torch.Generator())
    >>> batch.x.shape, log_prob.shape
    (torch.Size([5, 4, 4]), torch.Size([5]))
    """

    def __init__(
        self,
        schema: Schema,
        transform: Transform | None = None,
        system: System | None = None,
        *,
        network: NetworkOptions = MaskedDenseOptions(),
        heat_bath: bool = False,
        spin_flip_symmetric: bool = False,
    ) -> None:
        self.check_masks(schema)
        if any(variable.domain != "spin" for variable in schema.variables):
            raise RecipeError(
                "surrogate.kind: autoregressive-spins takes samples of -1 and +1, and "
                f"{schema.variables[0].name} is of the domain {schema.variables[0].domain!r}"
            )
        last: list[int] = []
        action: Action | None = None
        if heat_bath:
            action, last = of_sublattice(system, schema.shape)
        super().__init__(schema, transform, network, last, 1, 1)
        self._action = action
        self.spin_flip_symmetric = spin_flip_symmetric
        self.bias = torch.nn.Parameter(torch.zeros(len(self.first)))

    def initialise(self, data: Batch | None) -> None:
        """Begin with the means of the data at every site, unless they vanish by symmetry."""
        super().initialise(data)
        if data is None or self.spin_flip_symmetric:
            return
        mean = moments(data.x.to(self.dtype).flatten(1), data)[0][self.first]
        with torch.no_grad():
            self.bias.copy_(2 * mean.clamp(-_LARGEST_MEAN, _LARGEST_MEAN).atanh())

    def images(self) -> tuple[Tensor, Tensor] | None:
        """Return configurations, and them with all spins turned."""
        if not self.spin_flip_symmetric:
            return None
        generator = torch.Generator().manual_seed(0)
        x = 2.0 * torch.randint(2, (4, *self.schema.shape), generator=generator) - 1
        return x, -x

    def representative(self, spins: Tensor) -> Tensor:
        """Return spins relative to the first."""
        return spins * spins[:, :1] if self.spin_flip_symmetric else spins

    def one_of_images(self, spins: Tensor, uniform: Tensor) -> Tensor:
        """Turn all spins with a probability of one half."""
        return spins * torch.where(uniform < 0.5, 1.0, -1.0) if self.spin_flip_symmetric else spins

    def numbers(self, spins: Tensor) -> Tensor:
        """Return the spins themselves."""
        return spins[..., None]

    def network_log_prob(self, spins: Tensor, outputs: Tensor) -> Tensor:
        """Return (B,), the sum of ln sigmoid(s z)."""
        odds = outputs[..., 0] + self.bias
        if self.spin_flip_symmetric:
            odds = torch.cat([torch.zeros_like(odds[:, :1]), odds[:, 1:]], 1)
        return functional.logsigmoid(spins * odds).sum(1)

    def draw_spin(self, spins: Tensor, outputs: Tensor, uniform: Tensor) -> Tensor:
        """Return the next spin; the first is up where the flip is built in."""
        if self.spin_flip_symmetric and not len(spins):
            return torch.ones_like(uniform)
        chance = (outputs[0] + self.bias[len(spins)]).sigmoid()
        return torch.where(uniform < chance, 1.0, -1.0)

    def last_log_prob(self, x: Tensor, condition: Tensor | None) -> Tensor:
        """Return (B,), of p(s_i | rest) = sigmoid(2 s_i f_i)."""
        odds = 2 * x * self._fields(x, condition)
        return functional.logsigmoid(odds.flatten(1)[:, self.last]).sum(1)

    def draw_last(self, x: Tensor, uniform: Tensor, condition: Tensor | None) -> Tensor:
        """Draw the last spins from their heat bath."""
        chance = (2 * self._fields(x, condition)).sigmoid().flatten(1)[:, self.last]
        return torch.where(uniform < chance, 1.0, -1.0)

    def _fields(self, x: Tensor, condition: Tensor | None) -> Tensor:
        assert self._action is not None, "there are last spins"
        return fields(self._action, x, condition)
